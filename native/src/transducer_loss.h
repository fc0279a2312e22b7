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

}  // namespace earshot

#endif  // EARSHOT_TRANSDUCER_LOSS_H_
