// transducer_loss.cc: forward-backward over the lattice of (frame, labels emitted).
//
// Sums over V run in float with vector kernels; the lattice itself is small and runs in double, so that
// long utterances do not lose the occupancies, which are differences of large log probabilities.

#include "transducer_loss.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace earshot {
namespace {

constexpr double kImpossible = -std::numeric_limits<double>::infinity();
// Cells that fewer than e^-30 of the paths cross get no gradient: it would vanish in float anyway.
constexpr double kSmallestLogOccupancy = -30.0;

double LogAdd(double a, double b) {
  const double high = a > b ? a : b;
  const double low = a > b ? b : a;
  const double difference = low - high;
  // Also taken when both are impossible: their difference is not a number. Not taken when one of
  // them is not a number, so that bad logits show up in the loss.
  if (low == kImpossible || difference < -40.0) return high;
  return high + std::log1p(std::exp(difference));
}

}  // namespace

double TransducerLoss(float* logits, size_t T, size_t U, size_t V, const int32_t* labels,
                      const TransducerLossOptions& options, const Kernels& kernels) {
  const size_t width = U + 1;
  const size_t cells = T * width;
  if (options.one_symbol_per_frame && U > T) {
    std::memset(logits, 0, cells * V * sizeof(float));
    return std::numeric_limits<double>::infinity();
  }

  // Nodes are (t, u) for t = 0..T. A blank arc goes to (t + 1, u), a label arc to (t + step, u + 1).
  // Paths start at (0, 0) and end at (T, U). With step 0 the last frame's labels must not lead to
  // row T, which holds the final node alone.
  const size_t step = options.one_symbol_per_frame ? 1 : 0;
  std::vector<double> blank(cells), label(cells), lse(cells);
  for (size_t t = 0; t < T; ++t) {
    for (size_t u = 0; u < width; ++u) {
      const size_t cell = t * width + u;
      const float* z = logits + cell * V;
      lse[cell] = kernels.log_sum_exp_f32(z, V);
      blank[cell] = z[options.blank] - lse[cell];
      label[cell] = u < U ? z[labels[u]] - lse[cell] : kImpossible;
    }
  }

  std::vector<double> alpha((T + 1) * width, kImpossible), beta((T + 1) * width, kImpossible);
  alpha[0] = 0.0;
  for (size_t t = 0; t <= T; ++t) {
    for (size_t u = 0; u < width; ++u) {
      double sum = t == 0 && u == 0 ? 0.0 : kImpossible;
      if (t > 0) sum = LogAdd(sum, alpha[(t - 1) * width + u] + blank[(t - 1) * width + u]);
      if (u > 0 && t >= step && t - step < T) {
        const size_t from = (t - step) * width + u - 1;
        sum = LogAdd(sum, alpha[from] + label[from]);
      }
      alpha[t * width + u] = sum;
    }
  }
  const double log_likelihood = alpha[T * width + U];
  if (log_likelihood == kImpossible) {  // logits of minus infinity close every path: no direction is better
    std::memset(logits, 0, cells * V * sizeof(float));
    return std::numeric_limits<double>::infinity();
  }

  beta[T * width + U] = 0.0;
  for (size_t t = T; t-- > 0;) {
    for (size_t u = width; u-- > 0;) {
      const size_t cell = t * width + u;
      double sum = blank[cell] + beta[cell + width];
      if (u < U) sum = LogAdd(sum, label[cell] + beta[(t + step) * width + u + 1]);
      beta[cell] = sum;
    }
  }

  for (size_t t = 0; t < T; ++t) {
    for (size_t u = 0; u < width; ++u) {
      const size_t cell = t * width + u;
      float* z = logits + cell * V;
      const double occupancy = alpha[cell] + beta[cell] - log_likelihood;
      if (occupancy < kSmallestLogOccupancy) {
        std::memset(z, 0, V * sizeof(float));
        continue;
      }
      const double before = alpha[cell] - log_likelihood;
      const double blank_mass = std::exp(before + blank[cell] + beta[cell + width]);
      double label_mass = 0.0;
      if (u < U) {
        label_mass = std::exp(before + label[cell] + beta[(t + step) * width + u + 1]);
        label_mass *= 1.0 + options.fastemit_lambda;
      }
      // d/dz of -(blank_mass * blank + label_mass * label): softmax times the total mass, less the
      // mass at the two symbols.
      const double log_mass = options.fastemit_lambda == 0.0 ? occupancy
                                                             : std::log(blank_mass + label_mass);
      kernels.exp_shift_f32(z, V, static_cast<float>(log_mass - lse[cell]));
      z[options.blank] -= static_cast<float>(blank_mass);
      if (u < U) z[labels[u]] -= static_cast<float>(label_mass);
    }
  }
  return -log_likelihood;
}

}  // namespace earshot
