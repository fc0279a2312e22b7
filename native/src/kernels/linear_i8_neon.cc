// linear_i8_neon.cc: int8 products with NEON. C headers only, see kernels.h.

#include <arm_neon.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE neon

#include "kernels/linear_i8_neon.inc"
