// linear_i8_avx2.cc: int8 products with AVX2, exact in int32. C headers only, see kernels.h.

#include <immintrin.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avx2

namespace earshot {
namespace avx2 {
namespace {

constexpr bool kCorrected = false;

#include "kernels/multiply_add_avx2.inc"

inline __m256i Broadcast(const int8_t* x) {
  int four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

}  // namespace
}  // namespace avx2
}  // namespace earshot

#include "kernels/linear_i8_ymm.inc"
