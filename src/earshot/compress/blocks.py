"""Blocks of a matrix: how large they are, which are smallest, and what a choice means by weight.

A block is some rows by some columns; the last ones of a matrix may be ragged. Knows nothing of
training or files.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Block", "block_norms", "expanded", "lowest_blocks"]

Block = tuple[int, int]  # rows, columns


def block_norms(weights: Tensor, block: Block) -> Tensor:
    """Sum of squares of every block; rows and columns that fill up the last ones count 0.

    Args:
        weights: (M, K).
        block: Rows and columns of a block.

    Returns:
        (ceil(M / rows), ceil(K / columns)).
    """
    rows, columns = block
    padding = (0, -weights.shape[1] % columns, 0, -weights.shape[0] % rows)
    padded = functional.pad(weights.detach().float(), padding)
    tiles = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    return tiles.square().sum(dim=(1, 3))


def lowest_blocks(norms: Tensor, share: float) -> Tensor:
    """The blocks with the smallest norms.

    Args:
        norms: Any shape.
        share: Of the blocks; rounded to a whole number of them.

    Returns:
        Same shape, bool.
    """
    count = round(share * norms.numel())
    lowest = torch.zeros(norms.numel(), dtype=torch.bool, device=norms.device)
    lowest[norms.flatten().argsort(stable=True)[:count]] = True
    return lowest.reshape(norms.shape)


def expanded(blocks: Tensor, block: Block, shape: torch.Size) -> Tensor:
    """A value for each block as a value for each weight.

    Args:
        blocks: As `block_norms` gives them.
        block: Rows and columns of a block.
        shape: (M, K) of the weights.
    """
    rows, columns = block
    full = blocks.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1)
    return full[: shape[0], : shape[1]]
