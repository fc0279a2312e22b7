// transducer_loss.h: negative log likelihood of a label sequence under a transducer, with gradient.
//
// One utterance at a time and in place: the (T, U + 1, V) logits are the largest thing in training
// and nothing of that size is allocated here.
#ifndef EARSHOT_TRANSDUCER_LOSS_H_
#define EARSHOT_TRANSDUCER_LOSS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace earshot {

struct TransducerLossOptions {
  int32_t blank = 0;
  // false: emitting a label stays on the frame (Graves 2012). true: it also goes to the next frame, so
  // every frame emits one label or blank, and U must not exceed T.
  bool one_symbol_per_frame = false;
  // Weighs the gradient of label arcs by 1 + lambda (FastEmit, Yu et al. 2021); the value stays.
  double fastemit_lambda = 0.0;
};

// Returns -log p(labels | logits) in nats and overwrites logits[T][U + 1][V] with its gradient.
// labels[U] lie in 0..V-1 and are not blank; T >= 1. Where no path exists the loss is infinite and
// the gradient zero. Single-threaded; the same input gives the same bits.
double TransducerLoss(float* logits, size_t T, size_t U, size_t V, const int32_t* labels,
                      const TransducerLossOptions& options, const Kernels& kernels);

// The same of logits in bf16, to which bias (V) is added first: reads and writes half the memory, and
// the products before and after it want bf16. The lattice is computed as above; the gradient is rounded
// to bf16, and before that added to d_bias (V).
double TransducerLoss(uint16_t* logits, const float* bias, size_t T, size_t U, size_t V,
                      const int32_t* labels, const TransducerLossOptions& options,
                      const Kernels& kernels, float* d_bias);

// The joiner of one utterance: joint[t][u] = tanh(encoded[t] + predicted[u]) in bf16, (T, U + 1, J).
void JoinTanh(const float* encoded, const float* predicted, size_t T, size_t U, size_t J,
              const Kernels& kernels, uint16_t* joint);

// Its gradient: d_joint and joint are (T, U + 1, J) in bf16; d_encoded (T, J) and d_predicted
// (U + 1, J) are overwritten.
void JoinTanhBackward(const uint16_t* d_joint, const uint16_t* joint, size_t T, size_t U, size_t J,
                      float* d_encoded, float* d_predicted);

}  // namespace earshot

#endif  // EARSHOT_TRANSDUCER_LOSS_H_
