"""What compression did to every tensor: bits, zeros, distance to the grid, and what it costs.

Counts bits as they would be stored; sizes of files are the files'. Knows nothing of data: what a
network's answers are worth is measured by a function that the caller gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from earshot.compress.blocks import block_norms, expanded, lowest_blocks
from earshot.compress.grid import Grid, codebook_grid, grid_bits, uniform_grid
from earshot.compress.weights import list_weights
from earshot.models.transducer import Transducer

__all__ = ["Sensitivity", "StoredTensor", "sensitivities", "stored_tensors"]

_FLOAT_BITS = 32


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One matrix or table.

    Args:
        name: In the file.
        weights: How many.
        zeros: Share of them that are exactly 0.
        bits_per_weight: Of values and of the mask that says where they are; scales, biases and
            codebooks do not count.
        distance: Mean distance to the nearest level over that between levels; 0.25 for weights
            that know nothing of the grid, nan without one.
    """

    name: str
    weights: int
    zeros: float
    bits_per_weight: float
    distance: float


def stored_tensors(
    model: Transducer, grids: Mapping[str, Grid], *, block: str | None
) -> list[StoredTensor]:
    """Every matrix and table of a network, as it would be stored.

    Args:
        model: The network.
        grids: Tensor name to grid; others are stored as floats.
        block: `16x1`, `16x4` or `1x1`, whose zeros are left out; None stores them all.

    Returns:
        One entry a tensor. A mask costs one bit a block.
    """
    found = []
    for weight in list_weights(model):
        if weight.role == "vector":
            continue
        values = weight.of(model).detach()
        grid = grids.get(weight.name)
        bits = float(_FLOAT_BITS if grid is None else grid_bits(grid))
        if block is not None and weight.role == "matrix":
            rows, columns = (int(side) for side in block.split("x"))
            kept = float((block_norms(values, (rows, columns)) > 0).float().mean())
            if kept < 1:
                bits = bits * kept + 1 / (rows * columns)
        found.append(
            StoredTensor(
                name=weight.name,
                weights=values.numel(),
                zeros=float((values == 0).float().mean()),
                bits_per_weight=bits,
                distance=float("nan") if grid is None else grid.distance(values)[0],
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What it costs to compress one matrix or table and no other, without training.

    Args:
        name: In the file.
        weights: How many.
        change: What was done: `8 bits`, `75 % 16x1` and the like.
        cost: By how much the measure rose.
    """

    name: str
    weights: int
    change: str
    cost: float


def sensitivities(
    model: Transducer,
    measure: Callable[[Transducer], float],
    *,
    bits: Sequence[int] = (8, 6, 5, 4),
    shares: Sequence[float] = (0.5, 0.75, 0.9),
    block: str = "16x1",
) -> Iterator[Sensitivity]:
    """Compress one matrix or table after the other, each in every way, and measure.

    Args:
        model: The network; it is not changed.
        measure: Lower is better, such as the loss on held-out clips.
        bits: Widths to round to.
        shares: Shares of blocks to zero, of matrices: the rows of a table do not add up.
        block: Rows and columns of a block.

    Yields:
        One entry for each of them and way, as soon as it is measured.
    """
    tried = copy.deepcopy(model)
    before = measure(tried)
    rows, columns = (int(side) for side in block.split("x"))
    rounding: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    zeroing: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    for width in bits:
        rounding[f"{width} bits"] = lambda values, width=width: (  # type: ignore[misc]
            uniform_grid(values) if width == 8 else codebook_grid(values, width)
        ).nearest(values)
    for share in shares:
        zeroing[f"{share:.0%} {block}"] = lambda values, share=share: (  # type: ignore[misc]
            values
            * ~expanded(
                lowest_blocks(block_norms(values, (rows, columns)), share),
                (rows, columns),
                values.shape,
            )
        )
    for weight in list_weights(tried):
        if weight.role == "vector":
            continue
        values = weight.of(tried)
        kept = values.detach().clone()
        for change, way in (rounding | (zeroing if weight.role == "matrix" else {})).items():
            with torch.no_grad():
                values.copy_(way(kept))
                cost = measure(tried) - before
                values.copy_(kept)
            yield Sensitivity(weight.name, kept.numel(), change, cost)
