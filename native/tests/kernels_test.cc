// kernels_test.cc: every instruction set that runs here against the scalar kernels, without Python,
// so that it also runs on devices and under emulation. Exits 1 at a mismatch.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernels.h"

namespace {

using earshot::Kernels;

int failures = 0;

void Expect(bool ok, const char* isa, const char* what, size_t a, size_t b, size_t c) {
  if (ok) return;
  if (++failures <= 20) std::printf("%s: %s differs (%zu, %zu, %zu)\n", isa, what, a, b, c);
}

bool Near(const std::vector<float>& a, const std::vector<float>& b, float tolerance) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) <= tolerance * (1.0f + std::fabs(b[i])))) return false;
  }
  return true;
}

bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class Source {
 public:
  float Normal(float spread = 1.0f) { return spread * normal_(engine_); }
  std::vector<float> Normals(size_t n, float spread = 1.0f) {
    std::vector<float> values(n);
    for (float& v : values) v = Normal(spread);
    return values;
  }
  int8_t Byte(bool extreme) {
    const int v = static_cast<int>(engine_() % 255) - 127;
    return static_cast<int8_t>(extreme ? (v < 0 ? -127 : 127) : v);
  }

 private:
  std::mt19937 engine_{1};
  std::normal_distribution<float> normal_;
};

void CheckLinear(const Kernels& scalar, const Kernels& other, size_t M, size_t K, size_t T,
                 bool extreme, Source& source) {
  const size_t mp = (M + 15) / 16 * 16, kp = (K + 63) / 64 * 64;
  std::vector<int8_t> tiles(mp * kp), xq(T * kp);
  std::vector<int32_t> rowsum(mp);
  std::vector<float> scale(mp), packed(mp * K);
  for (size_t m = 0; m < M; ++m) {
    scale[m] = 0.01f + std::fabs(source.Normal());
    for (size_t k = 0; k < K; ++k) {
      const int8_t w = source.Byte(extreme);
      tiles[m / 16 * 16 * kp + k / 4 * 64 + m % 16 * 4 + k % 4] = w;
      rowsum[m] += 128 * w;
      packed[m / 16 * 16 * K + k * 16 + m % 16] = source.Normal();
    }
  }
  for (size_t t = 0; t < T; ++t) {
    for (size_t k = 0; k < K; ++k) xq[t * kp + k] = source.Byte(extreme);
  }
  const std::vector<float> bias = source.Normals(M), xscale = source.Normals(T);
  const std::vector<float> x = source.Normals(T * K);
  const size_t ldy = M + 3;  // what lies between the rows must stay as it is
  const std::vector<float> before = source.Normals(T * ldy);
  for (int variant = 0; variant < 4; ++variant) {
    const float* b = variant % 2 ? bias.data() : nullptr;
    const bool accumulate = variant / 2;
    std::vector<float> expected = before, got = before;
    scalar.linear_i8(tiles.data(), scale.data(), rowsum.data(), b, M, K, xq.data(), xscale.data(),
                     T, expected.data(), ldy, accumulate);
    other.linear_i8(tiles.data(), scale.data(), rowsum.data(), b, M, K, xq.data(), xscale.data(),
                    T, got.data(), ldy, accumulate);
    Expect(Same(got, expected), other.isa, "linear_i8", M, K, T);

    expected = got = before;
    scalar.linear_f32(packed.data(), b, M, K, x.data(), K, T, expected.data(), ldy, accumulate);
    other.linear_f32(packed.data(), b, M, K, x.data(), K, T, got.data(), ldy, accumulate);
    // Fused and unfused sums of K terms of size 1.
    Expect(Near(got, expected, 1e-6f * (4.0f + std::sqrt(static_cast<float>(K)))), other.isa,
           "linear_f32", M, K, T);
    for (size_t t = 0; t < T; ++t) {
      Expect(std::memcmp(&got[t * ldy + M], &before[t * ldy + M], 3 * sizeof(float)) == 0,
             other.isa, "memory beyond the row", M, K, T);
    }

    std::vector<float> one_by_one = before;
    for (size_t t = 0; t < T; ++t) {
      other.linear_f32(packed.data(), b, M, K, x.data() + t * K, K, 1,
                       one_by_one.data() + t * ldy, ldy, accumulate);
    }
    Expect(Same(one_by_one, got), other.isa, "linear_f32 frame by frame", M, K, T);
  }
}

// Random sections in every codec of version 2, checked against the scalar kernel, which the Python
// tests check against numpy.
void CheckPacked(const Kernels& scalar, const Kernels& other, size_t M, size_t K, size_t T,
                 size_t block_columns, bool sparse, bool four_bits, Source& source) {
  const size_t mp = (M + 15) / 16 * 16, kp = (K + 63) / 64 * 64;
  const size_t words = (kp / block_columns + 63) / 64, per_vector = four_bits ? 8 : 4;
  int8_t levels[16];
  for (int i = 0; i < 16; ++i) levels[i] = static_cast<int8_t>(-127 + i * 17 - (i == 15 ? 1 : 0));
  std::vector<uint64_t> masks(mp / 16 * words);
  std::vector<uint16_t> scale(mp);
  std::vector<int32_t> rowsum(mp);
  std::vector<uint8_t> vectors;
  std::vector<int8_t> xq(T * kp);
  for (size_t m = 0; m < M; ++m) scale[m] = static_cast<uint16_t>(0x3C00 + source.Byte(false));
  for (size_t block = 0; block < mp / 16; ++block) {
    size_t stored = 0;
    for (size_t bit = 0; bit * block_columns < kp; ++bit) {
      if (sparse && (bit * block_columns >= K || source.Byte(false) < 60)) continue;
      masks[block * words + bit / 64] |= uint64_t{1} << (bit % 64);
      stored += block_columns;
    }
    const size_t count = (stored + per_vector - 1) / per_vector, at = vectors.size();
    vectors.resize(at + 64 * count);
    for (size_t place = 0; place < stored; ++place) {
      for (size_t r = 0; r < 16; ++r) {
        const int8_t value = source.Byte(T % 2 == 0);
        uint8_t& byte = vectors[at + place / per_vector * 64 + r * 4 + place % 4];
        if (!four_bits) {
          byte = static_cast<uint8_t>(value);
          rowsum[block * 16 + r] += 128 * value;
        } else {
          const uint8_t code = static_cast<uint8_t>(value) & 15;
          byte = static_cast<uint8_t>(byte | (place % 8 < 4 ? code : code << 4));
          rowsum[block * 16 + r] += 128 * levels[code];
        }
      }
    }
  }
  for (size_t t = 0; t < T; ++t) {
    for (size_t k = 0; k < K; ++k) xq[t * kp + k] = source.Byte(T % 2 == 0);
  }
  const earshot::PackedWeights w{M, K, block_columns, sparse ? masks.data() : nullptr,
                                 four_bits ? levels : nullptr, scale.data(), rowsum.data(),
                                 vectors.data(), vectors.data() + vectors.size()};
  const std::vector<float> bias = source.Normals(M), xscale = source.Normals(T);
  const size_t ldy = M + 3;
  const std::vector<float> before = source.Normals(T * ldy);
  std::vector<uint8_t> scratch(earshot::packed_scratch_bytes(K, T));
  for (int variant = 0; variant < 4; ++variant) {
    const float* b = variant % 2 ? bias.data() : nullptr;
    std::vector<float> expected = before, got = before;
    scalar.linear_packed(&w, b, xq.data(), xscale.data(), T, expected.data(), ldy, variant / 2,
                         scratch.data());
    other.linear_packed(&w, b, xq.data(), xscale.data(), T, got.data(), ldy, variant / 2,
                        scratch.data());
    Expect(Same(got, expected), other.isa, four_bits ? "linear_packed 4" : "linear_packed 8", M, K,
           T);
  }
}

void CheckChecksum(const Kernels& scalar, const Kernels& other, Source& source) {
  std::vector<uint8_t> bytes(1000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(source.Byte(false));
  const uint8_t digits[] = {'1', '2', '3', '4', '5', '6', '7', '8', '9'};
  Expect(other.crc32(0, digits, 9) == 0xCBF43926u, other.isa, "crc32", 9, 0, 0);
  for (size_t from = 0; from < 20; ++from) {
    for (size_t n = 0; n + from <= bytes.size(); n += 1 + n / 40) {
      Expect(other.crc32(static_cast<uint32_t>(n), bytes.data() + from, n) ==
                 scalar.crc32(static_cast<uint32_t>(n), bytes.data() + from, n),
             other.isa, "crc32", from, n, 0);
    }
  }
}

// Tables as fbank.cc makes them but for the triangles, and what they mean, by the sums of the definition.
struct FbankCase {
  static constexpr size_t kPoints = earshot::kFbankPoints;
  std::vector<double> window, cosine, sine, split_cosine, split_sine, weights;
  std::vector<size_t> first = {0, 3, 250, 7, 90}, end = {0, 4, 256, 200, 107};
  earshot::FbankTables tables = {};

  explicit FbankCase(Source& source) {
    const double turn = 2.0 * std::acos(-1.0);
    for (size_t i = 0; i < earshot::kFbankWindow; ++i) {
      window.push_back(0.5 - 0.5 * std::cos(turn * i / earshot::kFbankWindow));
    }
    for (size_t k = 0; k < kPoints; ++k) {
      cosine.push_back(std::cos(turn * k / kPoints));
      sine.push_back(-std::sin(turn * k / kPoints));
      split_cosine.push_back(std::cos(turn * k / (2 * kPoints)));
      split_sine.push_back(-std::sin(turn * k / (2 * kPoints)));
    }
    for (size_t i = 0; i < 300; ++i) weights.push_back(std::fabs(source.Normal()));
    tables = {first.size(),        window.data(),     cosine.data(), sine.data(), split_cosine.data(),
              split_sine.data(), first.data(), end.data(),    weights.data()};
  }

  std::vector<double> Energies(const float* x) const {
    double mean = 0.0;
    for (size_t i = 0; i < earshot::kFbankWindow; ++i) mean += x[i];
    mean /= earshot::kFbankWindow;
    std::vector<double> frame, power;
    for (size_t i = 0; i < earshot::kFbankWindow; ++i) {
      frame.push_back((x[i] - mean - 0.97 * (x[i > 0 ? i - 1 : 0] - mean)) * window[i]);
    }
    for (size_t k = 0; k < kPoints; ++k) {
      double re = 0.0, im = 0.0;
      for (size_t i = 0; i < frame.size(); ++i) {
        const size_t at = i * k % (2 * kPoints);
        const double sign = at < kPoints ? 1.0 : -1.0;
        re += frame[i] * sign * split_cosine[at % kPoints];
        im += frame[i] * sign * split_sine[at % kPoints];
      }
      power.push_back(re * re + im * im);
    }
    std::vector<double> energies;
    const double* weight = weights.data();
    for (size_t b = 0; b < first.size(); ++b) {
      double energy = 0.0;
      for (size_t k = first[b]; k < end[b]; ++k) energy += power[k] * *weight++;
      energies.push_back(energy);
    }
    return energies;
  }
};

void CheckFbank(const Kernels& scalar, const Kernels& other, size_t T, float level, Source& source) {
  const FbankCase known(source);
  const size_t bins = known.tables.bins, shift = earshot::kFbankShift;
  std::vector<float> x = source.Normals((T - 1) * shift + earshot::kFbankWindow + 1);
  for (float& sample : x) sample *= level;
  alignas(32) static double scratch[earshot::kFbankScratch];
  std::vector<float> expected(T * bins), got(expected);
  const float* from = x.data() + 1;  // no alignment is promised
  for (size_t t = 0; t < T; ++t) {   // each window by itself
    scalar.fbank(&known.tables, from + t * shift, 1, scratch, &expected[t * bins]);
  }
  other.fbank(&known.tables, from, T, scratch, got.data());
  Expect(Same(got, expected), other.isa, "fbank", T, 0, 0);
  for (size_t t = 0; t < T; ++t) {
    const std::vector<double> energies = known.Energies(from + t * shift);
    for (size_t b = 0; b < bins; ++b) {
      const double log = std::log(std::max(energies[b], static_cast<double>(FLT_EPSILON)));
      Expect(std::fabs(got[t * bins + b] - log) < 1e-5 * (1.0 + std::fabs(log)), other.isa,
             "fbank by its definition", T, t, b);
    }
  }
}

void CheckVectors(const Kernels& scalar, const Kernels& other, size_t n, Source& source) {
  for (const float spread : {0.0f, 1e-3f, 1.0f, 30.0f, 1e30f}) {
    const std::vector<float> x = source.Normals(n, spread);
    const size_t kp = (n + 63) / 64 * 64;
    std::vector<int8_t> q1(kp, 9), q2(kp, 9);
    const float s1 = scalar.quantize_s8(x.data(), n, kp, q1.data());
    const float s2 = other.quantize_s8(x.data(), n, kp, q2.data());
    Expect(s1 == s2 && q1 == q2, other.isa, "quantize_s8", n, 0, 0);

    const auto compare = [&](const char* what, void (*a)(float*, size_t),
                             void (*b)(float*, size_t), float tolerance) {
      std::vector<float> y1 = x, y2 = x;
      a(y1.data(), n);
      b(y2.data(), n);
      Expect(Near(y2, y1, tolerance), other.isa, what, n, 0, 0);
    };
    compare("tanh_f32", scalar.tanh_f32, other.tanh_f32, 5e-7f);
    compare("sigmoid_f32", scalar.sigmoid_f32, other.sigmoid_f32, 5e-7f);
    if (spread > 1e3f) continue;
    compare("log_softmax_f32", scalar.log_softmax_f32, other.log_softmax_f32,
            2e-6f * (1.0f + spread));  // relative to the largest |x|
    const float a = scalar.log_sum_exp_f32(x.data(), n), b = other.log_sum_exp_f32(x.data(), n);
    Expect(std::fabs(a - b) <= 2e-6f * (1.0f + std::fabs(a)), other.isa, "log_sum_exp_f32", n, 0, 0);
    std::vector<float> y1 = x, y2 = x;
    scalar.exp_shift_f32(y1.data(), n, -a);
    other.exp_shift_f32(y2.data(), n, -a);
    Expect(Near(y2, y1, 5e-7f), other.isa, "exp_shift_f32", n, 0, 0);
  }
}

void CheckGates(const Kernels& scalar, const Kernels& other, size_t H, Source& source) {
  for (const float spread : {1.0f, 10.0f, 200.0f}) {
    const std::vector<float> pre = source.Normals(4 * H, spread), c = source.Normals(H, 2.0f);
    std::vector<float> c1 = c, c2 = c, h1(H), h2(H);
    scalar.lstm_gates(pre.data(), H, c1.data(), h1.data());
    other.lstm_gates(pre.data(), H, c2.data(), h2.data());
    Expect(Near(c2, c1, 1e-6f) && Near(h2, h1, 1e-6f), other.isa, "lstm_gates", H, 0, 0);
  }
}

}  // namespace

int main() {
  const Kernels& scalar = *earshot::kernels_for("scalar");
  for (const char* const* isa = earshot::available_isas(); *isa != nullptr; ++isa) {
    const Kernels& other = *earshot::kernels_for(*isa);
    const int failures_before = failures;
    Source source;
    for (const size_t M : {1, 4, 15, 16, 17, 64, 65, 130}) {
      for (const size_t K : {1, 3, 63, 64, 65, 130}) {
        for (size_t T = 1; T <= 9; ++T) CheckLinear(scalar, other, M, K, T, T % 2 == 0, source);
      }
    }
    CheckLinear(scalar, other, 33, 131071, 5, true, source);
    for (const size_t M : {1, 17, 64, 90}) {
      for (const size_t K : {1, 63, 64, 130, 700}) {
        for (const size_t T : {1, 2, 4, 7, 9}) {
          for (const bool four_bits : {false, true}) {
            CheckPacked(scalar, other, M, K, T, 1, true, four_bits, source);
            CheckPacked(scalar, other, M, K, T, 4, true, four_bits, source);
          }
          CheckPacked(scalar, other, M, K, T, 1, false, true, source);
        }
      }
    }
    CheckChecksum(scalar, other, source);
    for (size_t T = 1; T <= 13; ++T) CheckFbank(scalar, other, T, 0.1f, source);
    for (const float level : {0.0f, 1e-42f, 1e-8f, 3e4f, 1e37f}) CheckFbank(scalar, other, 5, level, source);
    for (size_t n = 1; n <= 70; ++n) CheckVectors(scalar, other, n, source);
    CheckVectors(scalar, other, 1000, source);
    for (const size_t H : {16, 48, 320}) CheckGates(scalar, other, H, source);
    std::printf("%-10s %s\n", *isa, failures == failures_before ? "agrees with scalar" : "DIFFERS");
  }
  if (earshot::kernels_for("no such thing") != nullptr) ++failures;
  return failures == 0 ? 0 : 1;
}
