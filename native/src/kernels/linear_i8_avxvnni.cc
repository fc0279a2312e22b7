// linear_i8_avxvnni.cc: int8 products with vpdpbusd in 32 bytes. C headers only, see kernels.h.

#include <immintrin.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avxvnni

namespace earshot {
namespace avxvnni {
namespace {

// Unsigned x + 128 times signed w; the row sums take the 128 away (see the AVX-512 file).
constexpr bool kCorrected = true;

using Weights = __m256i;

inline Weights Prepare(__m256i w) { return w; }

inline __m256i Broadcast(const int8_t* x) {
  unsigned four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(static_cast<int>(four ^ 0x80808080u));
}

inline __m256i MultiplyAdd(__m256i acc, const Weights& w, __m256i x) {
  return _mm256_dpbusd_avx_epi32(acc, x, w);
}

}  // namespace
}  // namespace avxvnni
}  // namespace earshot

#include "kernels/linear_i8_ymm.inc"
