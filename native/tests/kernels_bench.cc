// kernels_bench.cc: how long the linear kernels take, per instruction set. Prints a table.
//
// Every shape runs over a ring of weight copies of about 1 MiB in all, so that the weights come from the
// second-level cache as they do in a recogniser, where the layers take turns.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "kernels/kernels.h"

namespace {

// The tenth percentile: other work on the machine only ever adds time.
template <typename Function>
double Microseconds(Function&& call) {
  std::vector<double> times;
  for (int round = 0; round < 101; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 10; ++i) call();
    const std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - start;
    times.push_back(taken.count() / 10);
  }
  std::nth_element(times.begin(), times.begin() + 10, times.end());
  return times[10];
}

}  // namespace

int main() {
  std::printf("%-11s %-10s %10s %3s %9s %8s\n", "isa", "kernel", "M x K", "T", "us", "GMAC/s");
  for (const char* const* isa = earshot::available_isas(); *isa != nullptr; ++isa) {
    const earshot::Kernels& kernels = *earshot::kernels_for(*isa);
    for (const size_t M : {320, 1280}) {
      const size_t K = 320, kp = 320;
      const size_t copies = std::max<size_t>(1, (size_t{1} << 20) / (M * kp));
      // Aligned as in a model file.
      std::vector<int8_t> buffer(copies * M * kp + 63);
      int8_t* tiles = buffer.data() + (-reinterpret_cast<uintptr_t>(buffer.data()) & 63);
      for (size_t i = 0; i < copies * M * kp; ++i) tiles[i] = static_cast<int8_t>(i * 37 % 255 - 127);
      std::vector<float> packed(M * K, 0.01f), scale(M, 0.01f), bias(M, 0.1f);
      std::vector<int32_t> rowsum(M);
      for (const size_t T : {1, 4, 8}) {
        std::vector<int8_t> xq(T * kp, 3);
        std::vector<float> xscale(T, 0.01f), x(T * K, 0.5f), y(T * M);
        const double macs = static_cast<double>(M * K * T);
        size_t turn = 0;
        const double i8 = Microseconds([&] {
          kernels.linear_i8(tiles + turn * M * kp, scale.data(), rowsum.data(), bias.data(),
                            M, K, xq.data(), xscale.data(), T, y.data(), M, false);
          turn = (turn + 1) % copies;
        });
        std::printf("%-11s %-10s %5zu x %zu %3zu %9.2f %8.1f\n", *isa, "linear_i8", M, K, T, i8,
                    macs / i8 / 1e3);
        const double f32 = Microseconds([&] {
          kernels.linear_f32(packed.data(), bias.data(), M, K, x.data(), K, T, y.data(), M, false);
        });
        std::printf("%-11s %-10s %5zu x %zu %3zu %9.2f %8.1f\n", *isa, "linear_f32", M, K, T, f32,
                    macs / f32 / 1e3);
      }
    }
    std::vector<float> pre(1280, 0.3f), c(320, 0.1f), h(320);
    std::vector<int8_t> q(320);
    const double gates = Microseconds([&] { kernels.lstm_gates(pre.data(), 320, c.data(), h.data()); });
    const double quantise = Microseconds([&] { kernels.quantize_s8(pre.data(), 320, 320, q.data()); });
    std::printf("%-11s lstm_gates 320: %.3f us, quantize_s8 320: %.3f us\n", *isa, gates, quantise);
  }
  return 0;
}
