// checksum_avx2.cc: CRC-32 by carry-less multiplication, which every CPU with AVX2 has. C headers only,
// see kernels.h.

#include <immintrin.h>

#include "kernels/tables.h"

namespace earshot {
namespace avx2 {
namespace {

// x^n mod P for the distances that a fold bridges, bits reflected. Source: Gopal et al., "Fast CRC
// computation for generic polynomials using PCLMULQDQ instruction", Intel, 2009.
inline __m128i Folded(__m128i value, __m128i distance, __m128i next) {
  const __m128i low = _mm_clmulepi64_si128(value, distance, 0x00);
  const __m128i high = _mm_clmulepi64_si128(value, distance, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

inline __m128i Load(const uint8_t* p) { return _mm_loadu_si128((const __m128i*)p); }

}  // namespace

uint32_t Crc32(uint32_t crc, const uint8_t* p, size_t size) {
  if (size < 128) return scalar::Crc32(crc, p, size);
  const __m128i four_vectors = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
  const __m128i one_vector = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  __m128i x[4];
  for (size_t i = 0; i < 4; ++i) x[i] = Load(p + 16 * i);
  x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)~crc));
  for (p += 64, size -= 64; size >= 64; p += 64, size -= 64) {
    for (size_t i = 0; i < 4; ++i) x[i] = Folded(x[i], four_vectors, Load(p + 16 * i));
  }
  __m128i rest = x[0];
  for (size_t i = 1; i < 4; ++i) rest = Folded(rest, one_vector, x[i]);
  for (; size >= 16; p += 16, size -= 16) rest = Folded(rest, one_vector, Load(p));
  // What is left has the checksum of all that was folded: ~0 makes the register start at 0.
  uint8_t folded[16];
  _mm_storeu_si128((__m128i*)folded, rest);
  return scalar::Crc32(scalar::Crc32(~0u, folded, 16), p, size);
}

}  // namespace avx2
}  // namespace earshot
