// linear_packed_neon.cc: block-sparse and 4-bit products with NEON. C headers
// only, see kernels.h.

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE neon

#include "kernels/linear_packed_neon.inc"
