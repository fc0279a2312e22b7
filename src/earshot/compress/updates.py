"""Training that changes little of a model file, so that the change is small to send.

A file is changed in blocks of 64 bytes. For a while training is free; then the blocks that have
moved most are chosen, all others go back to what they were, and training goes on in the chosen ones
alone. Zero blocks stay zero and scales and codebooks stay as they are, so that a weight that did
not change is the same bytes; every step of the training loop computes with weights on these grids,
unless they are rounded anew in the end, so that training sees what the file will say and goes on
until a weight lies nearer to another level. What still changes beside the chosen blocks are sums of
rows, which the file holds for the engine. Knows nothing of how a difference is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import lightning
import torch
from torch import Tensor

from earshot.compress.blocks import block_norms, expanded
from earshot.compress.config import CompressConfig
from earshot.compress.grid import Grid
from earshot.compress.quantisation import packed_grids
from earshot.compress.training import Compressible, StraightThrough
from earshot.compress.weights import list_weights
from earshot.modelfile.codecs import ROW_BLOCK
from earshot.models.transducer import Transducer

__all__ = ["LimitedChange", "stored_blocks"]

# Of every codec: columns of a unit of 16 rows, units in 64 bytes, and whether zero units are left
# out.
_LAYOUTS: Mapping[str, tuple[int, int, bool]] = {
    "f32_r16": (1, 1, False),
    "i8_r16x4": (4, 1, False),
    "i4_r16x4": (4, 2, False),
    "i8_b16x1": (1, 4, True),
    "i4_b16x1": (1, 8, True),
    "i8_b16x4": (4, 1, True),
    "i4_b16x4": (4, 2, True),
}
_FLOATS = 16  # in 64 bytes


def stored_blocks(weights: Tensor, codec: str) -> Tensor:
    """Which 64 bytes of its section every weight lies in.

    Args:
        weights: As the file holds them: (M, K) of a matrix or table, else any shape.
        codec: How it holds them.

    Returns:
        Same shape, int64, from 0; -1 for weights that a sparse codec leaves out.
    """
    if codec not in _LAYOUTS:  # floats, row by row
        return torch.arange(weights.numel()).reshape(weights.shape) // _FLOATS
    columns, together, sparse = _LAYOUTS[codec]
    norms = block_norms(weights, (ROW_BLOCK, columns))
    kept = norms > 0 if sparse else torch.ones_like(norms, dtype=torch.bool)
    rank = kept.long().cumsum(dim=1) - 1
    rows_of_blocks = torch.arange(len(norms))[:, None] * -(-norms.shape[1] // together)
    ids = torch.where(kept, rows_of_blocks + rank // together, -1)
    return expanded(ids, (ROW_BLOCK, columns), weights.shape)


class LimitedChange(StraightThrough):
    """Keeps all but some blocks of the model that training started from.

    Args:
        config: `keep_mask`, `changed_blocks` and `chosen_at` of `[compress]`.
        done: The share of the run that is done.
        codecs: Tensor name to codec, of the file that training starts from.
        grids: Its grids.
    """

    def __init__(
        self,
        config: CompressConfig,
        done: Callable[[], float],
        *,
        codecs: Mapping[str, str],
        grids: Mapping[str, Grid],
    ) -> None:
        super().__init__()
        self.free: dict[str, Tensor] = {}  # by parameter: True where it may differ from the start
        self._config = config
        self._done = done
        self._codecs = codecs
        self._grids = dict(grids)
        self._start: dict[str, Tensor] = {}  # by parameter
        self._blocks: dict[str, Tensor] = {}  # by parameter, -1 where nothing may ever change
        self._masks: dict[str, Tensor] = {}  # by parameter, of blocks of 16 rows that are not zero
        self._ranges: dict[str, Grid] = {}  # by parameter

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Remember the start. It is in place already here, and a checkpoint is not yet."""
        model = cast("Compressible", pl_module).transducer
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        for weight in list_weights(model):
            values = parameters.pop(weight.path)
            if weight.name not in self._codecs:  # a head that the file does not have
                continue
            self._remember(weight.path, values, stored_blocks(values, self._codecs[weight.name]))
            if weight.name in self._grids:
                self._ranges[weight.path] = self._grids[weight.name]
            if weight.role != "matrix":
                continue
            if self._config.keep_mask:
                column = (ROW_BLOCK, 1)
                kept = block_norms(values, column) > 0
                self._masks[weight.path] = expanded(kept, column, values.shape)
            elif self._config.changed_blocks < 1:  # what a sparse codec leaves out has no bytes
                self._masks[weight.path] = self._blocks[weight.path] >= 0
        for path, values in parameters.items():
            if path.endswith("bias_ih_l0"):  # the file holds the sum of both biases
                self._remember(path, values, stored_blocks(values, "f32"))
            elif path.endswith("bias_hh_l0"):
                self._remember(path, values, torch.full(values.shape, -1))

    def _remember(self, path: str, values: Tensor, blocks: Tensor) -> None:
        self._start[path] = values.clone()
        self._blocks[path] = blocks

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Follow the network to its device."""
        for kept in (self._start, self._masks, self.free):
            kept.update({path: values.to(pl_module.device) for path, values in kept.items()})
        self._ranges = {path: grid.to(pl_module.device) for path, grid in self._ranges.items()}

    def choose(self, model: Transducer) -> None:
        """Choose the blocks that may differ: those that have moved most, of the whole file."""
        moved, number = [], 0
        for path, start in self._start.items():
            change = (model.get_parameter(path).detach() - start).square().flatten().cpu()
            blocks = self._blocks[path].flatten()
            stored = blocks >= 0
            number += len(blocks[stored].unique())  # ids of a sparse codec have gaps
            sums = torch.zeros(int(blocks.max()) + 1)
            moved.append(sums.index_add_(0, blocks[stored], change[stored]))
        every = torch.cat(moved)
        chosen = torch.zeros(len(every), dtype=torch.bool)
        most = int(self._config.changed_blocks * number)
        chosen[every.argsort(descending=True, stable=True)[:most]] = True
        parts = chosen.split([len(sums) for sums in moved])
        for path, part in zip(self._start, parts, strict=True):
            blocks = self._blocks[path]
            free = torch.zeros(blocks.shape, dtype=torch.bool)
            free[blocks >= 0] = part[blocks[blocks >= 0]]
            self.free[path] = free.to(self._start[path].device)

    def constrain(self, model: Transducer) -> None:
        """Put what may not differ back to the start, in a network."""
        with torch.no_grad():
            for path, mask in self._masks.items():
                model.get_parameter(path).mul_(mask)
            for path, grid in self._ranges.items():
                grid.clip_(model.get_parameter(path))
            for path, free in self.free.items():
                values = model.get_parameter(path)
                values.copy_(torch.where(free, values, self._start[path]))

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Round for this step, where the file's grids are what weights will be rounded to."""
        if not self._config.second_order.bits:
            self._round(cast("Compressible", pl_module).transducer)

    @contextlib.contextmanager
    def rounded(self, model: Transducer) -> Iterator[None]:
        """Inside, a network computes with what the file will say; for loops without a trainer."""
        self._round(model)
        try:
            yield
        finally:
            self.restore()

    def _round(self, model: Transducer) -> None:
        self.keep(model.get_parameter(path) for path in self._ranges)
        with torch.no_grad():
            for path, grid in self._ranges.items():
                values = model.get_parameter(path)
                values.copy_(grid.nearest(values))
        self.constrain(model)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Choose when it is time, and keep the rest."""
        model = cast("Compressible", pl_module).transducer
        limited = self._config.changed_blocks < 1
        if limited and not self.free and self._done() >= self._config.chosen_at:
            self.choose(model)
        self.constrain(model)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Keep what was chosen, and how the file was laid out."""
        checkpoint["grids"] = packed_grids(self._grids)
        checkpoint["codecs"] = dict(self._codecs)
        checkpoint["free"] = self.free

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Go on with what was chosen."""
        self.free = checkpoint["free"]
