"""Training that moves weights to their grids before they are rounded.

`QuantisationAware` pulls weights towards their grid through the loss and, late in a run, puts them
on it now and then; rounding at the end then costs little. Knows nothing of files.

Source:
    Nguyen et al., "Quantization aware training with absolute-cosine regularization for automatic
    speech recognition", Interspeech 2020; Zhen et al., "Sub-8-bit quantization aware training for
    8-bit neural network accelerator with on-device speech recognition", Interspeech 2022. Their
    strengths, periods and bits by layer are not known to us: those here are our own. For
    `straight_through`, see `compress.training`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning
import torch
from torch import Tensor

from earshot.compress.config import QuantiseConfig, SecondOrderConfig
from earshot.compress.grid import Grid, codebook_grid, uniform_grid
from earshot.compress.training import (
    BatchTensors,
    Compressible,
    StraightThrough,
    gradient_size,
    ramp,
)
from earshot.compress.weights import Weight, is_named, list_weights
from earshot.models.transducer import Transducer

__all__ = ["QuantisationAware", "fit_grids", "packed_grids", "unpacked_grids"]


def fit_grids(model: Transducer, config: QuantiseConfig | SecondOrderConfig) -> dict[str, Grid]:
    """Grids of all matrices and tables, fitted to their weights.

    Args:
        model: The network.
        config: Bits. Tables, which nothing is multiplied with, get 8 unless an exception names
            them.

    Returns:
        Tensor name to grid, rows in the parameter's order.
    """
    grids = {}
    for weight in list_weights(model):
        if weight.role == "vector":
            continue
        bits = _bits_of(weight, config)
        values = weight.of(model).detach()
        grids[weight.name] = uniform_grid(values) if bits == 8 else codebook_grid(values, bits)
    return grids


def _bits_of(weight: Weight, config: QuantiseConfig | SecondOrderConfig) -> int:
    named = [b for pattern, b in config.exceptions.items() if is_named(weight.name, (pattern,))]
    if named:
        return named[-1]
    return 8 if weight.role == "table" else config.bits


class QuantisationAware(StraightThrough):
    """Pulls weights to their grids, keeps them in range, and snaps them there now and then.

    Grids are fitted once, at `start`; with them the range of every row stands. With the method
    `straight_through` nothing is pulled or snapped: from `start` on every step computes with
    rounded weights, and its gradients are added to those that were rounded. It is what the pull is
    compared with.

    Args:
        config: `[compress.quantise]`.
        done: The share of the run that is done.
    """

    def __init__(self, config: QuantiseConfig, done: Callable[[], float]) -> None:
        super().__init__()
        self.grids: dict[str, Grid] = {}
        self._config = config
        self._done = done
        self._weights: list[Weight] = []
        self._sizes: dict[str, float] = {}  # of gradients, by tensor name
        self._model: Transducer | None = None

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Join the loss."""
        module = cast("Compressible", pl_module)
        self._model = module.transducer
        self._weights = [w for w in list_weights(module.transducer) if w.role != "vector"]
        if self._config.method == "pull":
            module.extra_losses.append(self.loss)

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Fit the grids when it is time, and see how large gradients are."""
        model = cast("Compressible", pl_module).transducer
        if not self.grids and self._done() >= self._config.start:
            self.grids = fit_grids(model, self._config)
        if self._config.method == "pull":
            self._sizes = {w.name: gradient_size(trainer, w.of(model)) for w in self._weights}
        elif self.grids:
            self.keep(w.of(model) for w in self._weights)
            self.snap(model)

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Move grids that a checkpoint brought to the network's device."""
        self.grids = {name: grid.to(pl_module.device) for name, grid in self.grids.items()}

    def loss(self, batch: BatchTensors) -> Tensor:
        """The pull of all weights at this point of the run."""
        config = self._config
        strength = config.pull * ramp(self._done(), config.start, config.full)
        if self._model is None or not self.grids or strength == 0:
            return torch.zeros(())
        pulls = [
            self._sizes[w.name] * self.grids[w.name].pull(w.of(self._model)) for w in self._weights
        ]
        return strength * torch.stack(pulls).sum()

    def constrain(self, model: Transducer) -> None:
        """Keep the weights of a network inside the range of their grids."""
        with torch.no_grad():
            for weight in self._weights if self.grids else ():
                self.grids[weight.name].clip_(weight.of(model))

    def snap(self, model: Transducer) -> None:
        """Put all weights of a network on their grids."""
        with torch.no_grad():
            for weight in self._weights:
                values = weight.of(model)
                values.copy_(self.grids[weight.name].nearest(values))

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Clip after every step, and snap when it is time."""
        model = cast("Compressible", pl_module).transducer
        self.constrain(model)
        every = self._config.snap_steps
        late = self.grids and self._config.method == "pull" and self._done() >= self._config.full
        if late and every and trainer.global_step % every == 0:
            self.snap(model)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Keep the grids: the file is written with them."""
        checkpoint["grids"] = packed_grids(self.grids)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Go on with the same grids."""
        self.grids = unpacked_grids(checkpoint["grids"])


def packed_grids(grids: Mapping[str, Grid]) -> dict[str, tuple[Tensor, Tensor]]:
    """Grids as plain tensors, for a checkpoint."""
    return {name: (grid.levels.cpu(), grid.scale.cpu()) for name, grid in grids.items()}


def unpacked_grids(packed: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Grid]:
    """What `packed_grids` packed."""
    return {name: Grid(levels, scale) for name, (levels, scale) in packed.items()}
