// float_scalar.cc: the meaning of the float kernels, written for reading. See kernels.h.

#include <float.h>
#include <math.h>

#include "kernels/tables.h"

namespace earshot {
namespace scalar {
namespace {

float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

}  // namespace

void LinearF32(const float* w, const float* bias, size_t M, size_t K, const float* x, size_t ldx,
               size_t T, float* y, size_t ldy, bool accumulate) {
  for (size_t t = 0; t < T; ++t) {
    for (size_t block = 0; block * 16 < M; ++block) {
      float acc[16] = {0.0f};
      const float* column = w + block * 16 * K;
      for (size_t k = 0; k < K; ++k, column += 16) {
        for (size_t r = 0; r < 16; ++r) acc[r] += column[r] * x[t * ldx + k];
      }
      for (size_t r = 0; r < 16 && block * 16 + r < M; ++r) {
        const size_t m = block * 16 + r;
        const float value = bias != nullptr ? acc[r] + bias[m] : acc[r];
        float* out = y + t * ldy + m;
        *out = accumulate ? *out + value : value;
      }
    }
  }
}

float QuantizeS8(const float* x, size_t K, size_t Kp, int8_t* q) {
  float peak = 0.0f;
  for (size_t k = 0; k < K; ++k) peak = fmaxf(peak, fabsf(x[k]));
  const float s = peak / 127.0f;
  const bool zero = !(s >= FLT_MIN);
  for (size_t k = 0; k < Kp; ++k) {
    float v = 0.0f;
    if (!zero && k < K) {
      v = x[k] / s;
      v = v > -127.0f ? v : -127.0f;  // NaN becomes -127: garbage in, but no undefined conversion
      v = v < 127.0f ? v : 127.0f;
    }
    // Adding and taking away 1.5 * 2^23 rounds half to even in the default rounding mode.
    q[k] = static_cast<int8_t>((v + 12582912.0f) - 12582912.0f);
  }
  return zero ? 0.0f : s;
}

void LstmGates(const float* pre, size_t H, float* c, float* h) {
  for (size_t block = 0; block < H; block += 16, pre += 64) {
    for (size_t u = 0; u < 16; ++u) {
      const float state =
          Sigmoid(pre[16 + u]) * c[block + u] + Sigmoid(pre[u]) * tanhf(pre[32 + u]);
      c[block + u] = state;
      h[block + u] = Sigmoid(pre[48 + u]) * tanhf(state);
    }
  }
}

void TanhF32(float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] = tanhf(x[i]);
}

void SigmoidF32(float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] = Sigmoid(x[i]);
}

float LogSumExpF32(const float* x, size_t n) {
  float peak = x[0];
  for (size_t i = 1; i < n; ++i) peak = fmaxf(peak, x[i]);
  float sum = 0.0f;
  for (size_t i = 0; i < n; ++i) sum += expf(x[i] - peak);
  return peak + logf(sum);
}

void LogSoftmaxF32(float* x, size_t n) {
  const float total = LogSumExpF32(x, n);
  for (size_t i = 0; i < n; ++i) x[i] -= total;
}

void ExpShiftF32(float* x, size_t n, float shift) {
  for (size_t i = 0; i < n; ++i) x[i] = expf(x[i] + shift);
}

}  // namespace scalar
}  // namespace earshot
