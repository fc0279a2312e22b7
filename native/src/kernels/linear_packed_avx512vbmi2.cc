// linear_packed_avx512vbmi2.cc: block-sparse and 4-bit products; vpcompressb gathers, vpdpbusd sums.
// C headers only, see kernels.h.

#include <immintrin.h>
#include <string.h>

#include "kernels/tables.h"

#define EARSHOT_ISA_SPACE avx512vbmi2

namespace earshot {
namespace avx512vbmi2 {
namespace {

constexpr bool kBiased = true;
constexpr size_t kFrames = 4;
constexpr size_t kAhead = 4;
// As far ahead as the stream runs while a line comes from the third-level cache.
constexpr size_t kPrefetchBytes = 2048;

// Registers are compressed and stored whole: the memory form of vpcompressb is many times slower.
inline size_t GatherColumns(const uint64_t* mask, size_t words, const uint8_t* x, uint8_t* out) {
  size_t n = 0;
  for (size_t i = 0; i < words; ++i) {
    const uint64_t word = mask[i];
    const __m512i chosen = _mm512_maskz_compress_epi8(word, _mm512_loadu_si512(x + 64 * i));
    _mm512_storeu_si512(out + n, chosen);
    n += (size_t)_mm_popcnt_u64(word);
  }
  return n;
}

inline size_t GatherGroups(const uint64_t* mask, size_t bytes, const uint8_t* x, uint8_t* out) {
  size_t n = 0;
  for (size_t i = 0; i < bytes / 64; ++i) {
    uint16_t bits;
    memcpy(&bits, (const uint8_t*)mask + 2 * i, 2);
    const __m512i chosen = _mm512_maskz_compress_epi32(bits, _mm512_loadu_si512(x + 64 * i));
    _mm512_storeu_si512(out + n, chosen);
    n += 4 * (size_t)_mm_popcnt_u32(bits);
  }
  return n;
}

inline __m512i Broadcast(const uint8_t* x) {
  int four;
  memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}

template <size_t Frames, bool kFour, bool kExact>
void Product(const uint8_t* vectors, size_t count, const uint8_t* x, size_t stride,
             const PackedWeights& w, size_t row, const float* bias, const float* xscale, float* y,
             size_t ldy, bool accumulate) {
  // A lone frame has four sums, with 4 bits eight: enough in flight to hide the latency of vpdpbusd.
  constexpr size_t kWays = Frames == 1 ? kAhead : 2;
  constexpr size_t kHalves = kFour && Frames == 1 ? 2 : 1;
  __m512i acc[kWays][kHalves][Frames];
#pragma GCC unroll 32
  for (size_t i = 0; i < kWays * kHalves * Frames; ++i) (&acc[0][0][0])[i] = _mm512_setzero_si512();
  __m512i levels = _mm512_setzero_si512();
  if (kFour) {
    levels = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)w.levels));  // four times
  }
  const auto step = [&](size_t i, size_t way) __attribute__((always_inline)) {
    const __m512i v = _mm512_loadu_si512(vectors + 64 * i);
    _mm_prefetch((const char*)vectors + 64 * i + kPrefetchBytes, _MM_HINT_T0);
    if (kFour) {
      // vpermb looks at six bits; that the table repeats hides the two that are not ours.
      const __m512i low = _mm512_permutexvar_epi8(v, levels);
      const __m512i high = _mm512_permutexvar_epi8(_mm512_srli_epi16(v, 4), levels);
#pragma GCC unroll 4
      for (size_t f = 0; f < Frames; ++f) {
        const uint8_t* from = x + f * stride + 8 * i;
        acc[way][0][f] = _mm512_dpbusd_epi32(acc[way][0][f], Broadcast(from), low);
        acc[way][kHalves - 1][f] =
            _mm512_dpbusd_epi32(acc[way][kHalves - 1][f], Broadcast(from + 4), high);
      }
    } else {
#pragma GCC unroll 4
      for (size_t f = 0; f < Frames; ++f) {
        acc[way][0][f] = _mm512_dpbusd_epi32(acc[way][0][f], Broadcast(x + f * stride + 4 * i), v);
      }
    }
  };
  size_t i = 0;
  if (kExact) {
    for (; i < count; ++i) step(i, 0);
  } else {
    for (; i < count; i += kAhead) {
#pragma GCC unroll 8
      for (size_t way = 0; way < kAhead; ++way) step(i + way, way % kWays);
    }
  }
  const size_t rows = w.rows - row;
  const __mmask16 mask =
      rows >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << rows) - 1);
  const __m512i correction = _mm512_loadu_si512(w.rowsum + row);
  const __m512 row_scale = _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(w.scale + row))), 16));
#pragma GCC unroll 4
  for (size_t f = 0; f < Frames; ++f) {
    __m512i sum = acc[0][0][f];
#pragma GCC unroll 32
    for (size_t j = 1; j < kWays * kHalves; ++j) {
      sum = _mm512_add_epi32(sum, acc[j / kHalves][j % kHalves][f]);
    }
    sum = _mm512_sub_epi32(sum, correction);
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum),
                                 _mm512_mul_ps(_mm512_set1_ps(xscale[f]), row_scale));
    if (bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias));
    float* out = y + f * ldy;
    if (accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), value);
    _mm512_mask_storeu_ps(out, mask, value);
  }
}

}  // namespace
}  // namespace avx512vbmi2
}  // namespace earshot

#include "kernels/linear_packed.inc"
