"""A teacher beside the transcripts: its answers, not only what was said, are learnt.

Two cheap parts, both Kullback-Leibler divergences from the teacher to the student: of the CTC heads
in every frame, and of the joiners along one path through the lattice, the teacher's best CTC
alignment of the transcript. The whole lattice, collapsed to three classes as published, would cost
a second joiner pass over all its nodes; one path costs one over the frames. Knows nothing of files.

Source:
    Panchapagesan et al., "Efficient knowledge distillation for RNN-transducer models", ICASSP 2021,
    for the idea; the path instead of the lattice is ours.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional

from earshot.compress.config import DistilConfig
from earshot.compress.training import BatchTensors, Compressible
from earshot.models.transducer import BLANK_ID, Transducer

__all__ = ["Distiller", "ctc_path"]

_HEADS = ("ctc", "phones")  # of CTC, frame by frame; `phones` may be missing
_NEVER = -1e30  # log probability; finite, so that differences exist


def ctc_path(
    log_probs: Tensor, frames: Tensor, labels: Tensor, label_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """How many pieces the best CTC alignment has begun before every frame.

    Args:
        log_probs: (B, T, V); blank is 0.
        frames: (B,) frames of each utterance.
        labels: (B, U), padded with anything in 0..V-1.
        label_lengths: (B,).

    Returns:
        (B, T) int64 in 0..U, which means nothing beyond an utterance's frames, and (B,) bool:
        whether the utterance has an alignment at all.
    """
    batch, longest, _ = log_probs.shape
    device = log_probs.device
    states = 2 * labels.shape[1] + 1  # blank, piece, blank, piece, ..., blank
    symbols = torch.full((batch, states), BLANK_ID, device=device)
    symbols[:, 1::2] = labels
    emitted = log_probs.gather(2, symbols[:, None].expand(-1, longest, -1)).transpose(0, 1)
    # From two places before, one before, the same: a blank between two pieces may be passed over
    # where they differ.
    leaps = torch.zeros(3, batch, states, device=device)
    leaps[0] = _NEVER
    leaps[0, :, 3::2] = torch.where(labels[:, 1:] != labels[:, :-1], 0.0, _NEVER)
    scores = torch.full((longest, batch, states + 2), _NEVER, device=device)  # two columns before
    scores[0, :, 2:4] = emitted[0, :, :2]
    sources = scores.as_strided((longest, 3, batch, states), (scores.stride(0), 1, states + 2, 1))
    back = torch.zeros(longest, batch, states, dtype=torch.int64, device=device)
    for t in range(1, longest):
        best, came = (sources[t - 1] + leaps).max(dim=0)
        torch.sub(2, came, out=back[t])
        torch.add(best, emitted[t], out=scores[t, :, 2:])
    # Beyond an utterance's frames the way back stays at its end.
    back *= (torch.arange(longest, device=device)[:, None] < frames)[..., None]
    last = scores[(frames - 1).clamp_min(0), torch.arange(batch, device=device), 2:]
    ends = torch.stack([2 * label_lengths, (2 * label_lengths - 1).clamp_min(0)], dim=1)
    final = last.gather(1, ends)
    path = torch.zeros(longest, batch, 1, dtype=torch.int64, device=device)
    path[-1] = ends.gather(1, final.argmax(dim=1, keepdim=True))
    for t in range(longest - 1, 0, -1):
        torch.sub(path[t], back[t].gather(1, path[t]), out=path[t - 1])
    path = path[..., 0].t()
    before = functional.pad(path, (1, 0))[:, :-1]
    begins = (path % 2 == 1) & (path != before)
    return begins.cumsum(dim=1) - begins.long(), final.max(dim=1).values > _NEVER / 2


class Distiller(Callback):
    """Adds the teacher's answers to the loss.

    Args:
        config: `[compress.distil]`.
        teacher: Of the same word pieces; it is never changed.
    """

    def __init__(self, config: DistilConfig, teacher: Transducer) -> None:
        self._config = config
        self._teacher = teacher.eval().requires_grad_(False)
        self._student: Transducer | None = None
        self._seen: dict[str, Tensor] = {}  # what the student's parts gave in this step

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Join the loss, and listen to the student's parts: nothing is computed twice."""
        module = cast("Compressible", pl_module)
        self._student = module.transducer
        for name in ("encoder_out", "predictor", *_HEADS):
            part = getattr(module.transducer, name)
            if part is not None:
                part.register_forward_hook(partial(self._listen, name))
        module.extra_losses.append(self.loss)

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Follow the student to its device."""
        self._teacher.to(pl_module.device)

    def _listen(self, name: str, part: nn.Module, _: Any, output: Tensor) -> None:
        if part.training:
            self._seen[name] = output

    def loss(self, batch: BatchTensors) -> Tensor:
        """Divergence from the teacher to the student, in nats per piece.

        The part along the joiner's alignment sits out the batches that the transducer's own loss
        sits out.
        """
        student = self._student
        if student is None:
            return torch.zeros(())
        seen, self._seen = self._seen, {}
        stack = student.config.encoder.stack
        frames = (batch.feature_lengths + stack - 1) // stack
        inside = torch.arange(seen["ctc"].shape[1], device=frames.device) < frames[:, None]
        with torch.no_grad():
            hidden = self._teacher.encoder(batch.features)
        total = torch.zeros((), device=frames.device)
        for name in _HEADS:
            teacher_head = getattr(self._teacher, name)
            if name in seen and teacher_head is not None:
                with torch.no_grad():
                    taught = functional.log_softmax(teacher_head(hidden)[inside].float(), dim=-1)
                learnt = functional.log_softmax(seen[name][inside].float(), dim=-1)
                total = total + self._config.ctc_weight * _divergence(taught, learnt)
        if "encoder_out" in seen:
            total = total + self._path_part(student, seen, batch, hidden, frames, inside)
        return self._config.weight * total / batch.label_lengths.sum().clamp_min(1)

    def _path_part(
        self,
        student: Transducer,
        seen: dict[str, Tensor],
        batch: BatchTensors,
        hidden: Tensor,
        frames: Tensor,
        inside: Tensor,
    ) -> Tensor:
        """Summed divergence in the nodes of the teacher's best alignment."""
        teacher = self._teacher
        with torch.no_grad():
            ctc = functional.log_softmax(teacher.ctc(hidden).float(), dim=-1)
            before, aligned = ctc_path(ctc, frames, batch.labels, batch.label_lengths)
            onpath = inside & aligned[:, None]
            encoded, predicted = teacher.encoder_out(hidden), teacher.predictor(batch.labels)
            taught = _along_path(teacher, encoded, predicted, before, onpath)
        learnt = _along_path(student, seen["encoder_out"], seen["predictor"], before, onpath)
        return _divergence(taught, learnt)


def _along_path(
    model: Transducer, encoded: Tensor, predicted: Tensor, before: Tensor, onpath: Tensor
) -> Tensor:
    """Log probabilities (N, V) of a joiner in the N nodes of all paths."""
    rows = before[..., None].expand(-1, -1, predicted.shape[-1])
    after = predicted.gather(1, rows)
    logits = model.joiner(torch.tanh(encoded[onpath] + after[onpath]))
    return functional.log_softmax(logits.float(), dim=-1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    return functional.kl_div(student, teacher, log_target=True, reduction="sum")
