// float_avx2.cc: float kernels in 8 lanes. C headers only, see kernels.h.

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avx2

namespace earshot {
namespace avx2 {
namespace {

using V = __m256;
constexpr size_t kLanes = 8;
constexpr size_t kLoneBlocks = 4;   // 8 sums
constexpr size_t kGroupBlocks = 1;  // 4 x 2 sums, 2 columns, 1 value of the 16 registers

inline V Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, V v) { _mm256_storeu_ps(p, v); }
inline V Set1(float v) { return _mm256_set1_ps(v); }
inline V Add(V a, V b) { return _mm256_add_ps(a, b); }
inline V Sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V Mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V Div(V a, V b) { return _mm256_div_ps(a, b); }
inline V Fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V Fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
inline V Max(V a, V b) { return _mm256_max_ps(a, b); }
inline V Min(V a, V b) { return _mm256_min_ps(a, b); }
inline V Round(V v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline V Pow2(V n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline V Abs(V v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
inline V CopySign(V magnitude, V sign) {
  const V mask = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_and_ps(mask, sign), _mm256_andnot_ps(mask, magnitude));
}
inline void StoreS8(int8_t* q, V v) {
  const __m256i whole = _mm256_cvtps_epi32(v);
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(q), _mm_packs_epi16(words, words));
}

}  // namespace
}  // namespace avx2
}  // namespace earshot

#include "kernels/float_vector.inc"
