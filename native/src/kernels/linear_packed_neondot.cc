// linear_packed_neondot.cc: block-sparse and 4-bit products with NEON and its dot product extension. C headers
// only, see kernels.h.

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE neondot

#include "kernels/linear_packed_neon.inc"
