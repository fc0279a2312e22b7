// linear_packed_avx2.cc: block-sparse and 4-bit products with AVX2. C headers only, see kernels.h.

#include <immintrin.h>
#include <string.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avx2

namespace earshot {
namespace avx2 {
namespace {

constexpr bool kBiased = false;

#include "kernels/multiply_add_avx2.inc"

inline __m256i Broadcast(const uint8_t* x) {
  int four;
  memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

}  // namespace
}  // namespace avx2
}  // namespace earshot

#include "kernels/linear_packed_ymm.inc"
