// linear_i8_neondot.cc: int8 products with NEON and its dot product extension. C headers only, see kernels.h.

#include <arm_neon.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE neondot

#include "kernels/linear_i8_neon.inc"
