// transducer_loss.cc: forward-backward over the lattice of (frame, labels emitted).
//
// Sums over V run in float with vector kernels; the lattice itself is small and runs in double, so that
// long utterances do not lose the occupancies, which are differences of large log probabilities.

#include "transducer_loss.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "bf16.h"

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

// Logits in float, changed in place.
struct FloatRows {
  float* logits;
  size_t V;
  float* Load(size_t cell) { return logits + cell * V; }
  void Store(size_t) {}
  void Zero(size_t cell) { std::memset(logits + cell * V, 0, V * sizeof(float)); }
};

// Logits in bf16 without their bias: a row at a time in float.
struct Bf16Rows {
  uint16_t* logits;
  const float* bias;
  size_t V;
  float* d_bias;
  std::vector<float> row;
  float* Load(size_t cell) {
    const uint16_t* from = logits + cell * V;
    for (size_t v = 0; v < V; ++v) row[v] = FloatFromBf16(from[v]) + bias[v];
    return row.data();
  }
  void Store(size_t cell) {
    uint16_t* to = logits + cell * V;
    for (size_t v = 0; v < V; ++v) {
      d_bias[v] += row[v];
      to[v] = Bf16FromFloat(row[v]);
    }
  }
  void Zero(size_t cell) { std::memset(logits + cell * V, 0, V * sizeof(uint16_t)); }
};

// `rows` gives and takes the V logits of a cell: Load(cell) for reading and changing, Store(cell) when
// they have become the gradient, Zero(cell) where there is none.
template <typename Rows>
double LossOf(Rows& rows, size_t T, size_t U, size_t V, const int32_t* labels,
              const TransducerLossOptions& options, const Kernels& kernels) {
  const size_t width = U + 1;
  const size_t cells = T * width;
  if (options.one_symbol_per_frame && U > T) {
    for (size_t cell = 0; cell < cells; ++cell) rows.Zero(cell);
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
      const float* z = rows.Load(cell);
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
    for (size_t cell = 0; cell < cells; ++cell) rows.Zero(cell);
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
      const double occupancy = alpha[cell] + beta[cell] - log_likelihood;
      if (occupancy < kSmallestLogOccupancy) {
        rows.Zero(cell);
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
      float* z = rows.Load(cell);
      kernels.exp_shift_f32(z, V, static_cast<float>(log_mass - lse[cell]));
      z[options.blank] -= static_cast<float>(blank_mass);
      if (u < U) z[labels[u]] -= static_cast<float>(label_mass);
      rows.Store(cell);
    }
  }
  return -log_likelihood;
}

}  // namespace

double TransducerLoss(float* logits, size_t T, size_t U, size_t V, const int32_t* labels,
                      const TransducerLossOptions& options, const Kernels& kernels) {
  FloatRows rows{logits, V};
  return LossOf(rows, T, U, V, labels, options, kernels);
}

double TransducerLoss(uint16_t* logits, const float* bias, size_t T, size_t U, size_t V,
                      const int32_t* labels, const TransducerLossOptions& options,
                      const Kernels& kernels, float* d_bias) {
  Bf16Rows rows{logits, bias, V, d_bias, std::vector<float>(V)};
  return LossOf(rows, T, U, V, labels, options, kernels);
}

void JoinTanh(const float* encoded, const float* predicted, size_t T, size_t U, size_t J,
              const Kernels& kernels, uint16_t* joint) {
  std::vector<float> row(J);
  for (size_t t = 0; t < T; ++t) {
    for (size_t u = 0; u <= U; ++u, joint += J) {
      for (size_t k = 0; k < J; ++k) row[k] = encoded[t * J + k] + predicted[u * J + k];
      kernels.tanh_f32(row.data(), J);
      for (size_t k = 0; k < J; ++k) joint[k] = Bf16FromFloat(row[k]);
    }
  }
}

void JoinTanhBackward(const uint16_t* d_joint, const uint16_t* joint, size_t T, size_t U, size_t J,
                      float* d_encoded, float* d_predicted) {
  std::memset(d_encoded, 0, T * J * sizeof(float));
  std::memset(d_predicted, 0, (U + 1) * J * sizeof(float));
  for (size_t t = 0; t < T; ++t) {
    for (size_t u = 0; u <= U; ++u, joint += J, d_joint += J) {
      for (size_t k = 0; k < J; ++k) {
        const float y = FloatFromBf16(joint[k]);
        const float d = FloatFromBf16(d_joint[k]) * (1.0f - y * y);
        d_encoded[t * J + k] += d;
        d_predicted[u * J + k] += d;
      }
    }
  }
}

}  // namespace earshot
