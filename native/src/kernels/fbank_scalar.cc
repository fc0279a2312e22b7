// fbank_scalar.cc: features in two lanes: the baseline of every 64-bit CPU. C headers only, see kernels.h.

#include <float.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE scalar
#define EARSHOT_LANES 2

#include "kernels/fbank_lanes.inc"
