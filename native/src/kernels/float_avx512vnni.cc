// float_avx512vnni.cc: float kernels in 16 lanes. C headers only, see kernels.h.

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avx512vnni

namespace earshot {
namespace avx512vnni {
namespace {

using V = __m512;
constexpr size_t kLanes = 16;
constexpr size_t kLoneBlocks = 8;   // 8 sums
constexpr size_t kGroupBlocks = 4;  // 4 x 4 sums, 4 columns, 1 value of the 32 registers

inline V Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, V v) { _mm512_storeu_ps(p, v); }
inline V Set1(float v) { return _mm512_set1_ps(v); }
inline V Add(V a, V b) { return _mm512_add_ps(a, b); }
inline V Sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V Mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V Div(V a, V b) { return _mm512_div_ps(a, b); }
inline V Fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V Fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
inline V Max(V a, V b) { return _mm512_max_ps(a, b); }
inline V Min(V a, V b) { return _mm512_min_ps(a, b); }
inline V Round(V v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline V Pow2(V n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
inline V Abs(V v) { return _mm512_abs_ps(v); }
inline V CopySign(V magnitude, V sign) {
  const __m512i mask = _mm512_set1_epi32(INT32_MIN);
  // 0xCA: bit of the second operand where the mask is set, else of the third.
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(mask, _mm512_castps_si512(sign),
                                                       _mm512_castps_si512(magnitude), 0xCA));
}
inline void StoreS8(int8_t* q, V v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

}  // namespace
}  // namespace avx512vnni
}  // namespace earshot

#include "kernels/float_vector.inc"
