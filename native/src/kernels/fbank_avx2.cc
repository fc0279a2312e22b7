// fbank_avx2.cc: features in four lanes. C headers only, see kernels.h.

#include <float.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avx2
#define EARSHOT_LANES 4

#include "kernels/fbank_lanes.inc"
