"""The transducer loss: joiner and loss in one pass, and a pure-torch reference.

On a CPU joiner, loss and gradient are computed utterance by utterance, so one utterance's
(T, U+1, V) logits are all that is alive and nothing is padded; the kernel on the logits is the
engine's C++ (`_native.transducer_loss`). Other devices take many utterances at once, padded, and
walk the recursion frame by frame in torch. The reference states the same recursion for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from earshot import _native

_ROWS = 256
_NODES = 1 << 21  # (T, U+1) nodes of utterances that are computed at once: 3 GB of 384 logits
_NEVER = -1e30  # log probability; finite, so that differences exist
_NO_ARC = -1e4  # the same where logs are summed up along a frame


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
        losses: Callable[..., float | Tensor]
        if encoded.device.type != "cpu":
            losses = _losses_together
        elif compute_dtype == torch.bfloat16:
            losses = _losses_in_bf16
        else:
            losses = _losses
        inputs = (encoded, predicted, weight, bias)
        gradients = tuple(torch.zeros_like(x, dtype=torch.float32) for x in inputs)
        total = losses(
            inputs,
            gradients,
            labels,
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
        return torch.as_tensor(total, dtype=torch.float32, device=encoded.device)

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
    """Summed loss on a CPU of the (index, frames, pieces) in `utterances`; adds to `gradients`."""
    encoded, predicted, weight, bias = inputs
    grad_encoded, grad_predicted, grad_weight, grad_bias = gradients
    low_weight = weight.to(dtype)
    total = 0.0
    for index, count, pieces in utterances:
        e = encoded[index, :count].float()
        p = predicted[index, : pieces + 1].float()
        joint, logits = _joined(e, p, low_weight, bias)
        ids = labels[index, :pieces].int()
        total += _native.transducer_loss(logits.numpy(), ids.numpy(), **options)
        back = _back_through(logits, joint, low_weight, grad_weight, grad_bias)
        grad_encoded[index, :count] = back.sum(1)
        grad_predicted[index, : pieces + 1] = back.sum(0)
    return total


def _joined(e: Tensor, p: Tensor, low_weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Of (..., T, J) and (..., U + 1, J) the joint (..., T, U + 1, J) and logits (..., V)."""
    joint = torch.tanh(e[..., :, None, :] + p[..., None, :, :])
    flat = joint.reshape(-1, joint.shape[-1]).to(low_weight.dtype)
    logits = torch.mm(flat, low_weight.t()).float().add_(bias.float())
    return joint, logits.reshape(*joint.shape[:-1], -1)


def _back_through(
    grad: Tensor, joint: Tensor, low_weight: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> Tensor:
    """The gradient before tanh, shaped as `joint`; adds to those of matrix and bias."""
    flat_grad = grad.reshape(-1, grad.shape[-1])
    grad_bias += flat_grad.sum(0)
    low_grad = flat_grad.to(low_weight.dtype)
    grad_weight += torch.mm(low_grad.t(), joint.reshape(len(low_grad), -1).to(low_weight.dtype))
    back = torch.mm(low_grad, low_weight).float().reshape(joint.shape)
    back *= 1.0 - joint.square()
    return back


def _losses_in_bf16(
    inputs: tuple[Tensor, ...],
    gradients: tuple[Tensor, ...],
    labels: Tensor,
    utterances: list[tuple[int, int, int]],
    dtype: torch.dtype,
    options: dict[str, Any],
) -> float:
    """The same in bf16: all but the products is the engine's, which reads and writes bf16."""
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
            labels[index, :pieces].int().numpy(),
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


def _losses_together(
    inputs: tuple[Tensor, ...],
    gradients: tuple[Tensor, ...],
    labels: Tensor,
    utterances: list[tuple[int, int, int]],
    dtype: torch.dtype,
    options: dict[str, Any],
) -> Tensor:
    """The same on any device, many utterances at once."""
    encoded, predicted, weight, bias = inputs
    grad_encoded, grad_predicted, grad_weight, grad_bias = gradients
    low_weight = weight.to(dtype)
    total = torch.zeros((), device=encoded.device)
    for part in _parts(utterances):
        index, frames, pieces = torch.tensor(part, device=encoded.device).unbind(1)
        longest, rows = max(count for _, count, _ in part), max(count for *_, count in part) + 1
        e = encoded[index, :longest].float()
        p = predicted[index, :rows].float()
        joint, logits = _joined(e, p, low_weight, bias)
        ids = functional.pad(labels[index, : rows - 1], (0, 1))
        total += _lattice_gradient(logits, ids, frames, pieces, **options)
        back = _back_through(logits, joint, low_weight, grad_weight, grad_bias)
        grad_encoded[index, :longest] = back.sum(2)
        grad_predicted[index, :rows] = back.sum(1)
    return total


def _parts(utterances: list[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Utterances in groups of at most `_NODES` nodes, padding counted; those of a length first."""
    part: list[tuple[int, int, int]] = []
    longest = rows = 0
    for utterance in sorted(utterances, key=lambda item: item[1] * (item[2] + 1)):
        _, count, pieces = utterance
        longest, rows = max(longest, count), max(rows, pieces + 1)
        if part and (len(part) + 1) * longest * rows > _NODES:
            yield part
            part, longest, rows = [], count, pieces + 1
        part.append(utterance)
    if part:
        yield part


def _lattice_gradient(
    logits: Tensor,
    labels: Tensor,
    frames: Tensor,
    pieces: Tensor,
    *,
    one_symbol_per_frame: bool,
    fastemit_lambda: float,
) -> Tensor:
    """Summed loss of padded lattices; their gradient takes the place of `logits`.

    Args:
        logits: (N, T, U + 1, V) float32.
        labels: (N, U + 1) piece ids, padded with anything in 0..V-1.
        frames: (N,).
        pieces: (N,).
        one_symbol_per_frame: As in `merged_transducer_loss`.
        fastemit_lambda: Likewise.
    """
    longest, rows = logits.shape[1:3]
    device = logits.device
    normaliser = logits.logsumexp(-1)
    targets = labels[:, None, :, None].expand(-1, longest, -1, 1)
    # Beyond an utterance's frames a blank is free and no label is to be had: all that was reached
    # stays. (T, N, U+1): frame by frame is how they are read.
    inside = (torch.arange(longest, device=device) < frames[:, None])[..., None]
    precise = torch.float32 if device.type == "mps" else torch.float64  # which that one lacks
    blank = torch.where(inside, logits[..., 0] - normaliser, 0.0).to(precise).transpose(0, 1)
    allowed = inside & (torch.arange(rows, device=device) < pieces[:, None])[:, None]
    label = torch.where(allowed, logits.gather(3, targets)[..., 0] - normaliser, _NO_ARC)
    label = label.to(precise).transpose(0, 1)
    walk = _walk_one_symbol if one_symbol_per_frame else _walk_many_symbols
    forward, backward, after_label = walk(blank.contiguous(), label.contiguous(), pieces)
    value = forward[-1].gather(1, pieces[:, None])[:, 0]
    before = forward[:-1] - value[:, None]
    through_blank = (before + blank + backward[1:]).exp().transpose(0, 1).float() * inside
    through_label = (before + label + after_label).exp().transpose(0, 1).float() * allowed
    through_label *= 1.0 + fastemit_lambda
    logits.sub_(normaliser[..., None]).exp_().mul_((through_blank + through_label)[..., None])
    logits[..., 0] -= through_blank
    logits.scatter_add_(3, targets, -through_label[..., None])
    return -value.sum().float()


def _ends(like: Tensor, pieces: Tensor) -> Tensor:
    """Log probabilities (N, U + 1), as `like`, of being at the end: 0 after the last piece."""
    ends = like.new_full(like.shape, _NEVER)
    return ends.scatter_(1, pieces[:, None], 0.0)


def _walk_one_symbol(blank: Tensor, label: Tensor, pieces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both recursions where a label takes its frame with it.

    Args:
        blank: (T, N, U + 1) log probabilities of the arcs from each node.
        label: Likewise.
        pieces: (N,).

    Returns:
        Forward and backward log probabilities (T + 1, N, U + 1), and the backward ones
        (T, N, U + 1) of where each node's label leads.
    """
    longest, count, rows = blank.shape
    # The way back is a way ahead from the other corner, so one walk does both, side by side. Arcs
    # (T, 2, 2 N, U + 1) into each node: labels from the place before it, blanks from its own.
    arcs = blank.new_full((longest, 2, 2 * count, rows), _NEVER)
    arcs[:, 0, :count, 1:] = label[..., :-1]
    arcs[:, 1, :count] = blank
    arcs[:, 0, count:] = label.flip(0, 2)
    arcs[:, 1, count:] = blank.flip(0, 2)
    walked = blank.new_full((longest + 1, 2 * count, rows + 1), _NEVER)  # with a column before
    walked[0, :count, 1] = 0.0
    walked[0, count:, 1:] = _ends(blank[0], pieces).flip(1)
    # (T + 1, 2, 2 N, U + 1): the place before each node, and its own.
    sources = walked.as_strided(
        (longest + 1, 2, 2 * count, rows), (walked.stride(0), 1, rows + 1, 1)
    )
    for t in range(longest):
        by_label, by_blank = sources[t] + arcs[t]
        torch.logaddexp(by_label, by_blank, out=walked[t + 1, :, 1:])
    ahead = walked[:, :count, 1:]
    back = walked[:, count:].flip(0, 2)
    return ahead, back[..., :-1], functional.pad(back[1:, :, 1:-1], (0, 1), value=_NEVER)


def _walk_many_symbols(
    blank: Tensor, label: Tensor, pieces: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same where labels stay within their frame: a cumulative sum along it."""
    longest = len(blank)
    so_far = functional.pad(label.cumsum(2)[..., :-1], (1, 0))  # of the labels before each node
    to_come = label.flip(2).cumsum(2).flip(2) - label  # and of those behind the next one
    ahead, back = [], [_ends(blank[0], pieces)]
    start = torch.full_like(blank[0], _NEVER)
    start[:, 0] = 0.0
    for t in range(longest):
        ahead.append(so_far[t] + (start - so_far[t]).logcumsumexp(1))
        start = ahead[t] + blank[t]
    ahead.append(start)
    after = []
    for t in range(longest - 1, -1, -1):
        total = to_come[t] + label[t]
        by_blank = (back[-1] + blank[t] - total).flip(1)
        back.append(total + by_blank.logcumsumexp(1).flip(1))
        after.append(functional.pad(back[-1][:, 1:], (0, 1), value=_NEVER))
    return torch.stack(ahead), torch.stack(back[::-1]), torch.stack(after[::-1])


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
