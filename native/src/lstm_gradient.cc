// lstm_gradient.cc: see lstm_gradient.h. Loops are plain: compilers vectorise them, and the products
// around them take longer.
#include "lstm_gradient.h"

#include "bf16.h"

namespace earshot {

void LstmGates(const LstmShape& shape, const float* bias, const float* c0, float* gates, float* cells,
               float* cell_tanh, const Kernels& kernels) {
  const size_t H = shape.hidden;
  for (size_t t = 0; t < shape.frames; ++t) {
    for (size_t b = 0; b < shape.batch; ++b) {
      const size_t row = t * shape.batch + b;
      float* z = gates + row * 4 * H;
      for (size_t k = 0; k < 4 * H; ++k) z[k] += bias[k];
      kernels.sigmoid_f32(z, 2 * H);
      kernels.tanh_f32(z + 2 * H, H);
      kernels.sigmoid_f32(z + 3 * H, H);
      const float* before = t > 0 ? cells + (row - shape.batch) * H : c0 + b * H;
      float* c = cells + row * H;
      float* squashed = cell_tanh + row * H;
      for (size_t k = 0; k < H; ++k) squashed[k] = c[k] = z[H + k] * before[k] + z[k] * z[2 * H + k];
      kernels.tanh_f32(squashed, H);
    }
  }
}

void LstmBackwardFrame(const LstmShape& shape, size_t t, const float* gates, const float* cells,
                       const float* cell_tanh, const float* c0, const float* d_output,
                       const uint16_t* recurrent, float* d_cell, uint16_t* d_gates) {
  const size_t H = shape.hidden;
  for (size_t b = 0; b < shape.batch; ++b) {
    const size_t row = t * shape.batch + b;
    const float* i = gates + row * 4 * H;
    const float *f = i + H, *g = i + 2 * H, *o = i + 3 * H;
    const float* before = t > 0 ? cells + (row - shape.batch) * H : c0 + b * H;
    const float* squashed = cell_tanh + row * H;
    const float* dy = d_output + row * H;
    const uint16_t* from_next = recurrent == nullptr ? nullptr : recurrent + b * H;
    float* dc = d_cell + b * H;
    uint16_t* out = d_gates + row * 4 * H;
    for (size_t k = 0; k < H; ++k) {
      const float dh = dy[k] + (from_next == nullptr ? 0.0f : FloatFromBf16(from_next[k]));
      const float d = dc[k] + dh * o[k] * (1.0f - squashed[k] * squashed[k]);
      out[k] = Bf16FromFloat(d * g[k] * i[k] * (1.0f - i[k]));
      out[H + k] = Bf16FromFloat(d * before[k] * f[k] * (1.0f - f[k]));
      out[2 * H + k] = Bf16FromFloat(d * i[k] * (1.0f - g[k] * g[k]));
      out[3 * H + k] = Bf16FromFloat(dh * squashed[k] * o[k] * (1.0f - o[k]));
      dc[k] = d * f[k];
    }
  }
}

}  // namespace earshot
