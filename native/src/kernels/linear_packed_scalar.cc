// linear_packed_scalar.cc: the meaning of linear_packed, written for reading. See kernels.h.

#include <string.h>

#include "kernels/tables.h"

namespace earshot {
namespace scalar {
namespace {

float Bfloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// Value of packed column `place` in a row of 16.
int32_t Weight(const PackedWeights& w, const uint8_t* vectors, size_t place, size_t row) {
  if (w.levels == nullptr) return static_cast<int8_t>(vectors[place / 4 * 64 + row * 4 + place % 4]);
  const uint8_t pair = vectors[place / 8 * 64 + row * 4 + place % 4];
  return w.levels[place % 8 < 4 ? pair & 15 : pair >> 4];
}

}  // namespace

void LinearPacked(const PackedWeights* w, const float* bias, const int8_t* xq, const float* xscale,
                  size_t T, float* y, size_t ldy, bool accumulate, uint8_t* /*scratch*/) {
  const size_t kp = (w->columns + 63) / 64 * 64;
  const size_t words = (kp / w->block_columns + 63) / 64;
  for (size_t t = 0; t < T; ++t) {
    const uint8_t* vectors = w->vectors;
    for (size_t block = 0; block * 16 < w->rows; ++block) {
      int32_t acc[16] = {0};
      size_t place = 0;
      for (size_t k = 0; k < kp; ++k) {
        if (w->masks != nullptr) {
          const size_t bit = k / w->block_columns;
          if (!(w->masks[block * words + bit / 64] >> (bit % 64) & 1)) continue;
        }
        for (size_t r = 0; r < 16; ++r) {
          acc[r] += Weight(*w, vectors, place, r) * int32_t{xq[t * kp + k]};
        }
        ++place;
      }
      const size_t per_vector = w->levels != nullptr ? 8 : 4;
      vectors += (place + per_vector - 1) / per_vector * 64;
      for (size_t r = 0; r < 16 && block * 16 + r < w->rows; ++r) {
        const size_t m = block * 16 + r;
        float value = static_cast<float>(acc[r]) * (xscale[t] * Bfloat16(w->scale[m]));
        if (bias != nullptr) value += bias[m];
        float* out = y + t * ldy + m;
        *out = accumulate ? *out + value : value;
      }
    }
  }
}

}  // namespace scalar
}  // namespace earshot
