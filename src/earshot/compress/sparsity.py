"""Blocks of weights that training makes exactly zero, on a schedule.

Blocks are 16 rows by 1 or 4 columns, which the engine skips, or single weights. Blocks of 16 rows
of a parameter are blocks of the file as well: the exporter moves the gates of an LSTM in whole
blocks of 16 rows. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from earshot.compress.blocks import Block, block_norms, expanded, lowest_blocks
from earshot.compress.config import SparsifyConfig
from earshot.compress.training import BatchTensors, Compressible, gradient_size, ramp
from earshot.compress.weights import Weight, is_named, list_weights
from earshot.models.transducer import Transducer

__all__ = ["Sparsifier", "sparse_weights", "zero_share_at"]


def zero_share_at(done: float, config: SparsifyConfig) -> float:
    """The share of blocks that are to be zero at a point of the run: quick first, then slowly.

    Args:
        done: Share of the run that is done.
        config: Of `[compress.sparsify]`.

    Returns:
        `share * (1 - (1 - x)^3)`, where x runs from 0 at `start` to 1 at `end`.

    Source:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", ICLR workshop 2018.
    """
    if done < config.start:
        return 0.0
    return config.share * (1.0 - (1.0 - ramp(done, config.start, config.end)) ** 3)


class Sparsifier(Callback):
    """Makes the smallest blocks of every matrix zero.

    `gradual` zeroes more and more blocks, and what is zero stays zero. `divergence` zeroes nothing
    before `end`: until then blocks that are among the smallest are pulled to zero, more and more
    strongly and more and more of them, while the others are free, so that the two kinds drift
    apart. From `end` on the mask stands.

    Args:
        config: `[compress.sparsify]`.
        done: The share of the run that is done.

    Source:
        Zhu and Gupta, 2018, for `gradual`. `divergence` is our own reading of one sentence: weights
        are forced to diverge more and more until a fixed share is effectively zero. How Zhen et
        al., "Sparsification via compressed sensing for automatic speech recognition", ICASSP
        2021, do it in detail is not known to us.
    """

    def __init__(self, config: SparsifyConfig, done: Callable[[], float]) -> None:
        self.masks: dict[str, Tensor] = {}  # tensor name to (M, K), False where a weight is zero
        self._config = config
        self._done = done
        rows, columns = config.block.split("x")
        self._block: Block = (int(rows), int(columns))
        self._pulled: dict[str, Tensor] = {}  # (M, K), True where a weight is pulled to zero
        self._weights: list[Weight] = []
        self._sizes: dict[str, float] = {}  # of gradients, by tensor name
        self._model: Transducer | None = None
        self._settled = False

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Join the loss, and list the matrices that are large enough."""
        module = cast("Compressible", pl_module)
        self._model = module.transducer
        self._weights = sparse_weights(module.transducer, self._config)
        if self._config.method == "divergence":
            module.extra_losses.append(self.loss)

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Move masks that a checkpoint brought to the network's device."""
        self.masks = {name: mask.to(pl_module.device) for name, mask in self.masks.items()}
        self._pulled = {name: mask.to(pl_module.device) for name, mask in self._pulled.items()}

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """See how large gradients are."""
        if self._pulled and not self._settled:
            model = cast("Compressible", pl_module).transducer
            self._sizes = {w.name: gradient_size(trainer, w.of(model)) for w in self._weights}

    def loss(self, batch: BatchTensors) -> Tensor:
        """Half the square of all weights that are pulled to zero, in units of gradients."""
        config = self._config
        strength = config.pull * ramp(self._done(), config.start, config.end)
        if self._model is None or not self._pulled or self._settled:
            return torch.zeros(())
        squares = []
        for weight in self._weights:
            values = weight.of(self._model)
            usual = values.detach().square().mean().sqrt().clamp_min(1e-12)
            size = self._sizes[weight.name] / usual
            squares.append(size * (values * self._pulled[weight.name]).square().sum())
        return 0.5 * strength * torch.stack(squares).sum()

    def constrain(self, model: Transducer) -> None:
        """Make the weights of a network zero where the masks say so."""
        with torch.no_grad():
            for weight in self._weights if self.masks else ():
                weight.of(model).mul_(self.masks[weight.name])

    def choose(self, model: Transducer) -> None:
        """Choose the blocks of this point of the run, by the weights of a network."""
        done, final = self._done(), self._config.end
        if self._settled or done < self._config.start:
            return
        share = zero_share_at(done, self._config)
        for weight in self._weights:
            values = weight.of(model)
            lowest = lowest_blocks(block_norms(values, self._block), share)
            chosen = expanded(lowest, self._block, values.shape)
            if self._config.method == "gradual" or done >= final:
                self.masks[weight.name] = ~chosen
            else:
                self._pulled[weight.name] = chosen
        self._settled = done >= final

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Choose blocks anew when it is time, and keep the zeros."""
        model = cast("Compressible", pl_module).transducer
        last_choice = self._done() >= self._config.end
        if last_choice or trainer.global_step % self._config.every_steps == 0:
            self.choose(model)
        self.constrain(model)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Keep which weights are zero, and which are on their way."""
        checkpoint["sparsity"] = {
            "masks": self.masks,
            "pulled": self._pulled,
            "settled": self._settled,
        }

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Go on with the same masks."""
        saved: Mapping[str, Any] = checkpoint["sparsity"]
        self.masks, self._pulled = saved["masks"], saved["pulled"]
        self._settled = saved["settled"]


def sparse_weights(model: Transducer, config: SparsifyConfig) -> list[Weight]:
    """The matrices that a configuration makes sparse."""
    return [
        weight
        for weight in list_weights(model)
        if weight.role == "matrix"
        and weight.of(model).numel() >= config.least_weights
        and not is_named(weight.name, config.dense)
    ]
