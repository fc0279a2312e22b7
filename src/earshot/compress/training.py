"""What the methods of compression and the training loop agree on.

The loop's module offers its network and a list of further losses; a method that keeps weights
within bounds offers `constrain`, which is also carried out on the running average of the weights:
an average of values within bounds need not be within them. Knows nothing of any method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from earshot.models.transducer import Losses, Transducer

__all__ = [
    "BatchTensors",
    "Compressible",
    "ConstrainedAveraging",
    "LabelledBatch",
    "StraightThrough",
    "batch_losses",
    "gradient_size",
    "ramp",
    "warmed_decay",
]


class BatchTensors(Protocol):
    """What a further loss may read of a batch; shapes as in `Transducer.forward`."""

    @property
    def features(self) -> Tensor:
        """(B, T, num_bins)."""

    @property
    def feature_lengths(self) -> Tensor:
        """(B,)."""

    @property
    def labels(self) -> Tensor:
        """(B, U)."""

    @property
    def label_lengths(self) -> Tensor:
        """(B,)."""


class LabelledBatch(BatchTensors, Protocol):
    """What the whole loss of a network is computed from."""

    @property
    def phones(self) -> Tensor:
        """(B, P)."""

    @property
    def phone_lengths(self) -> Tensor:
        """(B,)."""


class Compressible(Protocol):
    """A Lightning module whose training can be joined."""

    transducer: Transducer
    extra_losses: list[Callable[[BatchTensors], Tensor]]  # added to the loss of every step


def batch_losses(model: Transducer, batch: LabelledBatch, **options: Any) -> Losses:
    """The losses of a batch; options as of `Transducer.forward`."""
    losses: Losses = model(
        batch.features,
        batch.feature_lengths,
        batch.labels,
        batch.label_lengths,
        phones=batch.phones,
        phone_lengths=batch.phone_lengths,
        **options,
    )
    return losses


def ramp(done: float, start: float, full: float) -> float:
    """From 0 at the share `start` of a run straight up to 1 at `full`."""
    if done >= full:
        return 1.0
    return max(0.0, (done - start) / (full - start))


def gradient_size(trainer: lightning.Trainer, parameter: Tensor) -> float:
    """Root mean square of a parameter's gradient lately, as Adam keeps it.

    What pulls at weights is measured by it: Adam divides by it, so that a pull of one tenth of it
    moves a weight by a tenth of the learning rate a step, whatever the network and the batch.

    Args:
        trainer: Its first optimiser is one of Adam's kind.
        parameter: One that it trains.

    Returns:
        0 before the first step.
    """
    state = trainer.optimizers[0].state.get(parameter)
    return float(state["exp_avg_sq"].mean().sqrt()) if state else 0.0


class StraightThrough(Callback):
    """Weights that one step computes with on their grids, while those off them are kept.

    The gradients found so are the floats': a small push adds up in them until a weight lies nearer
    to another level, however few levels there are. A method that is one of these calls `keep` at
    the start of a step and rounds.

    Source:
        Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013.
    """

    def __init__(self) -> None:
        self._floats: list[tuple[Tensor, Tensor]] = []

    def keep(self, weights: Iterable[Tensor]) -> None:
        """Before they are rounded."""
        self._floats = [(weight, weight.detach().clone()) for weight in weights]

    def on_after_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Put back what was kept: that is what is trained."""
        self.restore()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Put it back before the checkpoint of a run that was stopped within a step."""
        self.restore()

    def restore(self) -> None:
        """Put back what was kept, if anything is."""
        with torch.no_grad():
            for weight, values in self._floats:
                weight.copy_(values)
        self._floats = []


def warmed_decay(decay: float, count: int | Tensor) -> float | Tensor:
    """The decay of a moving average that is `count` steps old.

    Of the weights before, at most a tenth of the run so far counts: with a constant decay of .998
    the average of 300 steps would still be mostly where they began.
    """
    warm = (1 + count) / (10 + count)
    return warm.clamp_max(decay) if isinstance(warm, Tensor) else min(decay, warm)


class ConstrainedAveraging(WeightAveraging):
    """An exponential moving average of the weights that keeps to the same bounds.

    Args:
        decay: Share of the old average in the new one, once there have been many steps.
        constraints: Called with the averaged network after every step.
    """

    def __init__(self, decay: float, constraints: Sequence[Callable[[Transducer], None]]) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor) -> Tensor:
            # So written, what training leaves alone stays the same to the bit.
            return averaged + (1 - warmed_decay(decay, count)) * (current - averaged)

        super().__init__(avg_fn=average)
        self._constraints = tuple(constraints)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Average, then put the average back within bounds."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        assert self._average_model is not None
        average = cast("Compressible", self._average_model.module)
        for constrain in self._constraints:
            constrain(average.transducer)
