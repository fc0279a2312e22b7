"""An LSTM layer whose backward pass is quick on CPUs.

torch's bf16 LSTM on CPUs adds up the gradient of its weights frame by frame, reading and writing
all of it each time; for small batches that takes most of a training step. Here the forward pass is
torch's own, and the backward pass recomputes the gates from the outputs, which are known, so that
all products but the recurrent one are done once over all frames. On other devices and in float32
torch's layer is used as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from earshot import _native


class _QuickBackward(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, lstm: nn.LSTM, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            out, (h, c) = lstm(x, (h0, c0))
        ctx.save_for_backward(x, h0[0], c0[0], out, *weights)
        ctx.mark_non_differentiable(h, c)
        return out, h, c

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, h0, c0, out, w_input, w_hidden, b_input, b_hidden = ctx.saved_tensors
        low = torch.bfloat16
        frames, batch, hidden = out.shape
        inputs = x.shape[2]
        both = torch.empty(frames, batch, inputs + hidden, dtype=low)
        both[..., :inputs] = x
        both[0, :, inputs:] = h0
        both[1:, :, inputs:] = out[:-1]
        both = both.reshape(frames * batch, -1)
        recurrent_weight = w_hidden.to(low)
        weight = torch.cat([w_input.to(low), recurrent_weight], dim=1)

        gates = (both @ weight.t()).float().reshape(frames, batch, 4 * hidden)
        cells = torch.empty(frames, batch, hidden)
        cell_tanh = torch.empty_like(cells)
        start = c0.float().contiguous().numpy()
        _native.lstm_gates(
            gates.numpy(), (b_input + b_hidden).numpy(), start, cells.numpy(), cell_tanh.numpy()
        )

        d_output = d_out.float().contiguous().numpy()
        d_gates = torch.empty(frames, batch, 4 * hidden, dtype=low)
        d_cell = torch.zeros(batch, hidden).numpy()
        recurrent = torch.empty(batch, hidden, dtype=low)
        rows, product = d_gates.view(torch.int16).numpy(), recurrent.view(torch.int16).numpy()
        known = (gates.numpy(), cells.numpy(), cell_tanh.numpy(), start, d_output)
        for t in reversed(range(frames)):
            last = t == frames - 1
            if not last:
                torch.mm(d_gates[t + 1], recurrent_weight, out=recurrent)
            _native.lstm_backward_frame(t, *known, None if last else product, d_cell, rows)

        flat = d_gates.reshape(frames * batch, 4 * hidden)
        d_weight = (flat.t() @ both).float()
        d_bias = (torch.ones(1, len(flat), dtype=low) @ flat).float()[0]  # faster than a sum
        d_x = (flat @ weight[:, :inputs]).reshape(x.shape)
        return (
            d_x.to(x.dtype),
            None,
            None,
            None,
            d_weight[:, :inputs],
            d_weight[:, inputs:],
            d_bias,
            d_bias,
        )


def run_lstm(
    lstm: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one unidirectional layer.

    Args:
        lstm: One layer, not `batch_first`, with biases.
        x: (T, B, inputs).
        state: h and c, (1, B, hidden) each. While training under bf16 autocast on a CPU they get
            no gradient.

    Returns:
        Outputs (T, B, hidden), and the last h and c, (1, B, hidden) each.
    """
    quick = (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    if quick:
        weights = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)
        out, h, c = _QuickBackward.apply(x, *state, lstm, *weights)  # type: ignore[no-untyped-call]
        return out, h, c
    out, (h, c) = lstm(x, state)
    return out, h, c
