// lstm_gradient.h: the element-wise half of an LSTM layer's backward pass, for training on CPUs.
//
// The products are the caller's, over all frames at once where that is possible: that is what makes
// it faster than a backward pass that adds up the weights' gradient frame by frame. Gates are in
// torch's order i, f, g, o; arrays are row-major with frames outermost.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace earshot {

struct LstmShape {
  size_t frames, batch, hidden;  // T, B, H
};

// Finishes the forward pass whose products are known. gates (T, B, 4H): W x + R h in, activations
// out; bias (4H); c0 (B, H); cells and cell_tanh (T, B, H) are written.
void LstmGates(const LstmShape& shape, const float* bias, const float* c0, float* gates, float* cells,
               float* cell_tanh, const Kernels& kernels);

// One frame of the backward pass. d_output (T, B, H); recurrent (B, H) in bf16: the next frame's
// gate gradient times R, null at the last frame; d_cell (B, H) is carried from frame to frame;
// d_gates (T, B, 4H) in bf16: row `t` is written.
void LstmBackwardFrame(const LstmShape& shape, size_t t, const float* gates, const float* cells,
                       const float* cell_tanh, const float* c0, const float* d_output,
                       const uint16_t* recurrent, float* d_cell, uint16_t* d_gates);

}  // namespace earshot
