// linear_i8_avx2.cc: int8 products with AVX2, exact in int32. C headers only, see kernels.h.

#include <immintrin.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avx2

namespace earshot {
namespace avx2 {
namespace {

constexpr bool kCorrected = false;

// maddubs multiplies unsigned by signed bytes and saturates pairs at 32767. As |w| times x with the
// sign of w a pair reaches 2 * 127 * 127 = 32258 at most, so nothing saturates; that is why -128 is
// in neither operand.
struct Weights {
  __m256i magnitude;
  __m256i sign;
};

inline Weights Prepare(__m256i w) { return {_mm256_abs_epi8(w), w}; }

inline __m256i Broadcast(const int8_t* x) {
  int four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

inline __m256i MultiplyAdd(__m256i acc, const Weights& w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(x, w.sign));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

}  // namespace
}  // namespace avx2
}  // namespace earshot

#include "kernels/linear_i8_ymm.inc"
