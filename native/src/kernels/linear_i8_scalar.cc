// linear_i8_scalar.cc: the meaning of linear_i8, written for reading. See kernels.h.

#include "kernels/tables.h"

namespace earshot {
namespace scalar {

void LinearI8(const int8_t* tiles, const float* scale, const int32_t* /*rowsum*/,
              const float* bias, size_t M, size_t K, const int8_t* xq, const float* xscale,
              size_t T, float* y, size_t ldy, bool accumulate) {
  const size_t kp = (K + 63) / 64 * 64;
  for (size_t t = 0; t < T; ++t) {
    const int8_t* x = xq + t * kp;
    for (size_t block = 0; block * 16 < M; ++block) {
      int32_t acc[16] = {0};
      const int8_t* tile = tiles + block * 16 * kp;
      for (size_t k = 0; k < kp; k += 4, tile += 64) {
        for (size_t r = 0; r < 16; ++r) {
          for (size_t j = 0; j < 4; ++j) acc[r] += int32_t{tile[4 * r + j]} * int32_t{x[k + j]};
        }
      }
      for (size_t r = 0; r < 16 && block * 16 + r < M; ++r) {
        const size_t m = block * 16 + r;
        float value = static_cast<float>(acc[r]) * (xscale[t] * scale[m]);
        if (bias != nullptr) value += bias[m];
        float* out = y + t * ldy + m;
        *out = accumulate ? *out + value : value;
      }
    }
  }
}

}  // namespace scalar
}  // namespace earshot
