// linear_i8_avx512vnni.cc: 16 rows x 4 columns per vpdpbusd. C headers only, see kernels.h.

#include <immintrin.h>

#include "kernels/tables.h"

namespace earshot {
namespace avx512vnni {
namespace {

// vpdpbusd multiplies unsigned by signed bytes: x XOR 0x80 is x + 128 unsigned, and
// sum(w * (x + 128)) = sum(w * x) + rowsum. Four products of 255 * -127 fit in the 32-bit lane,
// and the sum over K < 131072 columns wraps at worst once, which the subtraction undoes.
template <size_t Blocks, size_t Frames>
void Tiles(const int8_t* tiles, const float* scale, const int32_t* rowsum, const float* bias,
           size_t rows, size_t kp, const int8_t* xq, const float* xscale, float* y, size_t ldy,
           bool accumulate) {
  // Two sums a block for a lone frame: eight in flight hide the latency.
  constexpr size_t kWays = Blocks * Frames >= 8 ? 1 : 2;
  __m512i acc[kWays][Frames][Blocks];
#pragma GCC unroll 32
  for (size_t i = 0; i < kWays * Frames * Blocks; ++i) (&acc[0][0][0])[i] = _mm512_setzero_si512();
  for (size_t k = 0; k < kp; k += 4 * kWays) {
#pragma GCC unroll 2
    for (size_t way = 0; way < kWays; ++way) {
      __m512i tile[Blocks];
#pragma GCC unroll 32
      for (size_t b = 0; b < Blocks; ++b) {
        tile[b] = _mm512_loadu_si512(tiles + b * 16 * kp + (k + 4 * way) * 16);
      }
#pragma GCC unroll 32
      for (size_t f = 0; f < Frames; ++f) {
        unsigned four;
        __builtin_memcpy(&four, xq + f * kp + k + 4 * way, 4);
        const __m512i x = _mm512_set1_epi32(static_cast<int>(four ^ 0x80808080u));
#pragma GCC unroll 32
        for (size_t b = 0; b < Blocks; ++b) {
          acc[way][f][b] = _mm512_dpbusd_epi32(acc[way][f][b], x, tile[b]);
        }
      }
    }
  }
#pragma GCC unroll 32
  for (size_t b = 0; b < Blocks; ++b) {
    const size_t m = b * 16;
    const __mmask16 mask =
        rows - m >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << (rows - m)) - 1);
    const __m512i correction = _mm512_loadu_si512(rowsum + m);
    const __m512 row_scale = _mm512_loadu_ps(scale + m);
#pragma GCC unroll 32
    for (size_t f = 0; f < Frames; ++f) {
      __m512i sum = acc[0][f][b];
      if (kWays == 2) sum = _mm512_add_epi32(sum, acc[kWays - 1][f][b]);
      sum = _mm512_sub_epi32(sum, correction);
      __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum),
                                   _mm512_mul_ps(_mm512_set1_ps(xscale[f]), row_scale));
      if (bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias + m));
      float* out = y + f * ldy + m;
      if (accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), value);
      _mm512_mask_storeu_ps(out, mask, value);
    }
  }
}

}  // namespace

void LinearI8(const int8_t* tiles, const float* scale, const int32_t* rowsum, const float* bias,
              size_t M, size_t K, const int8_t* xq, const float* xscale, size_t T, float* y,
              size_t ldy, bool accumulate) {
  const size_t kp = (K + 63) / 64 * 64;
  const size_t blocks = (M + 15) / 16;
#define EARSHOT_TILES(count, frames)                                                             \
  Tiles<count, frames>(tiles + m * kp, scale + m, rowsum + m, bias ? bias + m : nullptr, M - m,  \
                       kp, xq + t * kp, xscale + t, y + t * ldy + m, ldy, accumulate)
  size_t b = 0;
  for (; b + 4 <= blocks; b += 4) {
    const size_t m = b * 16;
    size_t t = 0;
    for (; t + 4 <= T; t += 4) EARSHOT_TILES(4, 4);
    for (; t < T; ++t) EARSHOT_TILES(4, 1);
  }
  for (; b < blocks; ++b) {
    const size_t m = b * 16;
    size_t t = 0;
    for (; t + 4 <= T; t += 4) EARSHOT_TILES(1, 4);
    for (; t < T; ++t) EARSHOT_TILES(1, 1);
  }
#undef EARSHOT_TILES
}

}  // namespace avx512vnni
}  // namespace earshot
