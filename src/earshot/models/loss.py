"""The transducer loss: a merged joint + loss that never pads, and a pure-torch reference.

The merged form computes joiner, loss and gradient utterance by utterance, so one utterance's
(T, U+1, V) logits are all that is alive. The kernel on the logits is the engine's C++
(`_native.transducer_loss`); the reference states the same recursion in torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from earshot import _native

_ROWS = 256


class _MergedTransducerLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        encoded: Tensor,
        predicted: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        frames: Tensor,
        label_lengths: Tensor,
        one_symbol_per_frame: bool,
        fastemit_lambda: float,
        compute_dtype: torch.dtype,
    ) -> Tensor:
        if encoded.device.type == "cpu" and compute_dtype == torch.bfloat16:
            losses = _losses_in_bf16
        else:
            losses = _losses
        inputs = (encoded, predicted, weight, bias)
        gradients = tuple(torch.zeros_like(x, dtype=torch.float32) for x in inputs)
        total = losses(
            inputs,
            gradients,
            labels.to("cpu", torch.int32),
            # No alignment exists for the others; the data pipeline drops such clips.
            [
                (index, count, pieces)
                for index, (count, pieces) in enumerate(
                    zip(frames.tolist(), label_lengths.tolist(), strict=True)
                )
                if not (one_symbol_per_frame and pieces > count)
            ],
            compute_dtype,
            {"one_symbol_per_frame": one_symbol_per_frame, "fastemit_lambda": fastemit_lambda},
        )
        ctx.save_for_backward(*(g.to(x.dtype) for g, x in zip(gradients, inputs, strict=True)))
        return torch.tensor(total, dtype=torch.float32, device=encoded.device)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grads = tuple(grad * scale.to(grad.dtype) for grad in ctx.saved_tensors)
        return (*grads, *(None,) * 6)


def _losses(
    inputs: tuple[Tensor, ...],
    gradients: tuple[Tensor, ...],
    labels: Tensor,
    utterances: list[tuple[int, int, int]],
    dtype: torch.dtype,
    options: dict[str, Any],
) -> float:
    """Summed loss of the (index, frames, pieces) in `utterances`; adds to `gradients`."""
    encoded, predicted, weight, bias = inputs
    grad_encoded, grad_predicted, grad_weight, grad_bias = gradients
    low_weight = weight.to(dtype)
    total = 0.0
    for index, count, pieces in utterances:
        e = encoded[index, :count].float()
        p = predicted[index, : pieces + 1].float()
        joint = torch.tanh(e[:, None] + p[None])  # (T, U+1, J)
        flat = joint.reshape(-1, joint.shape[-1]).to(dtype)
        logits = torch.mm(flat, low_weight.t()).float().add_(bias.float())
        grad = logits.reshape(count, pieces + 1, -1).cpu()
        total += _native.transducer_loss(grad.numpy(), labels[index, :pieces].numpy(), **options)
        grad = grad.to(encoded.device).reshape(len(flat), -1)
        grad_bias += grad.sum(0)
        low_grad = grad.to(dtype)
        grad_weight += torch.mm(low_grad.t(), flat)
        back = torch.mm(low_grad, low_weight).float().reshape(joint.shape)
        back *= 1.0 - joint.square()
        grad_encoded[index, :count] = back.sum(1)
        grad_predicted[index, : pieces + 1] = back.sum(0)
    return total


def _losses_in_bf16(
    inputs: tuple[Tensor, ...],
    gradients: tuple[Tensor, ...],
    labels: Tensor,
    utterances: list[tuple[int, int, int]],
    dtype: torch.dtype,
    options: dict[str, Any],
) -> float:
    """The same on a CPU: all but the products is the engine's, which reads and writes bf16."""
    encoded, predicted, weight, bias = inputs
    grad_encoded, grad_predicted, grad_weight, grad_bias = gradients
    low_weight = weight.to(dtype)
    encodings, predictions = encoded.float().numpy(), predicted.float().numpy()
    biases = bias.float().numpy()
    total = 0.0
    for index, count, pieces in utterances:
        # Whole multiples of _ROWS: low-precision products are compiled once per shape.
        rows = -(-count * (pieces + 1) // _ROWS) * _ROWS
        joint = torch.empty(rows, weight.shape[1], dtype=dtype)
        bits = joint.view(torch.int16).numpy()
        _native.join_tanh(encodings[index, :count], predictions[index, : pieces + 1], bits)
        logits = torch.mm(joint, low_weight.t())
        total += _native.transducer_loss_bf16(
            logits.view(torch.int16).numpy(),
            biases,
            labels[index, :pieces].numpy(),
            count,
            grad_bias.numpy(),
            **options,
        )
        grad_weight += torch.mm(logits.t(), joint)
        back = torch.mm(logits, low_weight)
        _native.join_tanh_backward(
            back.view(torch.int16).numpy(),
            bits,
            grad_encoded[index, :count].numpy(),
            grad_predicted[index, : pieces + 1].numpy(),
        )
    return total


def merged_transducer_loss(
    encoded: Tensor,
    predicted: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    frames: Tensor,
    label_lengths: Tensor,
    *,
    one_symbol_per_frame: bool = False,
    fastemit_lambda: float = 0.0,
) -> Tensor:
    """Joint network and transducer loss in one, summed over the batch.

    Under bf16 autocast the joiner's products run in bf16; the loss itself is always float32.

    Args:
        encoded: (B, T, J) encoder outputs.
        predicted: (B, U + 1, J) predictor outputs.
        weight: (V, J) joiner matrix.
        bias: (V,) joiner bias.
        labels: (B, U) piece ids, int64; blank is 0.
        frames: (B,) encoder frames of each utterance.
        label_lengths: (B,) pieces of each utterance.
        one_symbol_per_frame: A piece also consumes its frame, so at most one is emitted per
            frame. Utterances with more pieces than frames have no alignment and count nothing.
        fastemit_lambda: Extra weight of label arcs in the gradient (FastEmit); the value is
            unchanged.

    Returns:
        Scalar, nats.

    Source:
        Graves 2012; function merging after Li et al., "Improving RNN transducer modeling for
        end-to-end speech recognition", ASRU 2019; Yu et al., "FastEmit", ICASSP 2021.
    """
    device = encoded.device.type
    low = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if low else torch.float32
    result: Tensor = _MergedTransducerLoss.apply(  # type: ignore[no-untyped-call]
        encoded,
        predicted,
        weight,
        bias,
        labels,
        frames,
        label_lengths,
        one_symbol_per_frame,
        fastemit_lambda,
        dtype,
    )
    return result


def reference_transducer_loss(
    logits: Tensor, labels: Tensor, *, one_symbol_per_frame: bool = False
) -> Tensor:
    """The loss of one utterance, by the forward recursion in plain torch.

    For tests and for reading: differentiable by autograd, in any float type, O(T U) python steps.

    Args:
        logits: (T, U + 1, V).
        labels: (U,) piece ids; blank is 0.
        one_symbol_per_frame: As in `merged_transducer_loss`.

    Returns:
        Scalar, nats; inf when no alignment exists.
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    frames, positions = logits.shape[:2]
    impossible = logits.new_tensor(-1e30)  # finite: logaddexp of two infinities has no gradient
    alpha = [logits.new_zeros(())] + [impossible] * (positions - 1)
    for t in range(frames):
        blank = [alpha[u] + log_probs[t, u, 0] for u in range(positions)]
        label = [alpha[u] + log_probs[t, u, labels[u]] for u in range(positions - 1)]
        if one_symbol_per_frame:
            alpha = [blank[0]] + [
                torch.logaddexp(blank[u], label[u - 1]) for u in range(1, positions)
            ]
            continue
        within = [alpha[0]]  # alpha[t, u]: labels of this frame come before its blank
        for u in range(1, positions):
            step = within[u - 1] + log_probs[t, u - 1, labels[u - 1]]
            within.append(torch.logaddexp(alpha[u], step))
        alpha = [within[u] + log_probs[t, u, 0] for u in range(positions)]
    return -alpha[-1] if alpha[-1] > -1e29 else logits.new_tensor(torch.inf)
