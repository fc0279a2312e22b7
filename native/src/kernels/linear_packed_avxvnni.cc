// linear_packed_avxvnni.cc: block-sparse and 4-bit products with vpdpbusd in 32 bytes. C headers only,
// see kernels.h.

#include <immintrin.h>
#include <string.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avxvnni

namespace earshot {
namespace avxvnni {
namespace {

// Unsigned x + 128 times signed w; the row sums take the 128 away.
constexpr bool kBiased = true;

using Weights = __m256i;

inline __m256i Prepare(__m256i w) { return w; }

inline __m256i MultiplyAdd(__m256i acc, __m256i w, __m256i x) {
  return _mm256_dpbusd_avx_epi32(acc, x, w);
}

inline __m256i Broadcast(const uint8_t* x) {
  int four;
  memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

}  // namespace
}  // namespace avxvnni
}  // namespace earshot

#include "kernels/linear_packed_ymm.inc"
