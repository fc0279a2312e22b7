"""Grids that weights are stored on: a few whole numbers, times one scale a row.

The levels of a grid are whole numbers in -127..127, shared by a matrix: all of them for 8 bits, a
codebook of 2^n fitted to the matrix (Lloyd-Max) for fewer. So a matrix of any width is exact in the
engine's int8 products. Knows nothing of training or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from earshot.modelfile.codecs import MAX_INT8

__all__ = ["Grid", "codebook_grid", "grid_bits", "uniform_grid", "uniform_levels"]

_FITTED_SAMPLES = 20_000
_FITTED_ROUNDS = 60
_FITTED_BINS = 512


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that the weights of a matrix may take.

    Args:
        levels: (L,) float32, whole numbers in -127..127, rising.
        scale: (M,) float32, one a row of the parameter, >= 0. A weight is a level times it. Of
            eight significant bits (bfloat16) where it was fitted: some codecs store no more.
    """

    levels: Tensor
    scale: Tensor

    def to(self, device: torch.device) -> Grid:
        """The same grid on a device."""
        return Grid(self.levels.to(device), self.scale.to(device))

    def codes(self, weights: Tensor) -> Tensor:
        """The level that every weight is nearest to; a weight of exactly 0 stays 0.

        Args:
            weights: (M, K).

        Returns:
            (M, K) int8.
        """
        places = self._places(weights)
        between = (self.levels[1:] + self.levels[:-1]) / 2
        levels = self.levels[torch.bucketize(places, between)]
        return torch.where(weights == 0, 0, levels).to(torch.int8)

    def nearest(self, weights: Tensor) -> Tensor:
        """The weights as a file holds them, (M, K)."""
        return self.codes(weights).to(torch.float32) * self.scale[:, None]

    def clip_(self, weights: Tensor) -> None:
        """Keep weights between the outermost levels, in place."""
        ends = self.levels[[0, -1], None] * self.scale  # (2, M)
        torch.clamp(weights, ends[0, :, None], ends[1, :, None], out=weights)

    def pull(self, weights: Tensor) -> Tensor:
        """How far the weights are from the grid, for a loss: sum of |sin| between two levels.

        Between neighbouring levels this is their distance over pi, times the sine of pi times the
        way from one to the other. So a weight half-way is not pulled, and one beside a level is
        pulled to it with a gradient of 1, however far apart the levels lie. Weights beyond the
        outermost levels are pulled back as strongly. Weights of exactly 0 are left alone.

        Args:
            weights: (M, K), with gradient.

        Returns:
            Scalar, in units of the weights.
        """
        places = self._places(weights)
        with torch.no_grad():
            upper = torch.bucketize(places, self.levels[1:-1], right=True) + 1
            low = self.levels[upper - 1]
            width = self.levels[upper] - low
        way = (places - low) / width
        inside = width / math.pi * torch.sin(math.pi * way).abs()
        beyond = (way - way.clamp(0, 1)).abs() * width
        distance = torch.where((way >= 0) & (way <= 1), inside, beyond)
        kept = torch.where(weights == 0, 0.0, self.scale[:, None])
        return (distance * kept).sum()

    def distance(self, weights: Tensor) -> tuple[float, float]:
        """How near the weights already are.

        Args:
            weights: (M, K).

        Returns:
            Mean distance to the nearest level over that to the next one, and the share of weights
            whose distance is below a twentieth of it; weights of exactly 0 do not count.
        """
        places = self._places(weights)[weights != 0]
        if not len(places):
            return 0.0, 1.0
        upper = torch.bucketize(places, self.levels[1:-1], right=True) + 1
        low, high = self.levels[upper - 1], self.levels[upper]
        off = torch.minimum((places - low).abs(), (high - places).abs()) / (high - low)
        return float(off.mean()), float((off < 0.05).float().mean())

    def _places(self, weights: Tensor) -> Tensor:
        """Weights in units of the levels."""
        return weights / torch.where(self.scale > 0, self.scale, 1.0)[:, None]


def grid_bits(grid: Grid) -> int:
    """Bits that tell the levels of a grid apart."""
    return math.ceil(math.log2(len(grid.levels)))


def _bfloat16(scale: Tensor) -> Tensor:
    return scale.to(torch.bfloat16).float()


def _row_scale(weights: Tensor) -> Tensor:
    """The scale at which the largest weight of a row is the last level."""
    return _bfloat16(weights.detach().float().abs().amax(dim=1) / MAX_INT8)


def uniform_levels() -> Tensor:
    """The levels of 8 bits: -127 to 127."""
    return torch.arange(-MAX_INT8, MAX_INT8 + 1, dtype=torch.float32)


def uniform_grid(weights: Tensor) -> Grid:
    """Evenly spaced levels, 8 bits: the largest weight of a row is level 127.

    Args:
        weights: (M, K).
    """
    scale = _row_scale(weights)
    return Grid(uniform_levels().to(scale.device), scale)


def codebook_grid(weights: Tensor, bits: int) -> Grid:
    """The 2^bits levels that lie nearest to the weights, in the mean square (Lloyd-Max).

    Rows are first scaled to the same range; weights of exactly 0 do not count. Levels are rounded
    to whole numbers, and those that fall together become one. Then every row gets the scale that
    suits it best, and levels are fitted once more.

    Args:
        weights: (M, K).
        bits: 1 to 7.

    Source:
        Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 28(2), 1982.
    """
    values = weights.detach().float()
    scale = _row_scale(values)
    first = Grid(_fitted_levels(values, scale, bits), scale)
    scale = _best_scale(values, first)
    return Grid(_fitted_levels(values, scale, bits), scale)


def _fitted_levels(weights: Tensor, scale: Tensor, bits: int) -> Tensor:
    places = (weights / torch.where(scale > 0, scale, 1.0)[:, None]).flatten()
    places = places[places != 0]
    ends = scale.new_tensor([-MAX_INT8, MAX_INT8])
    if not len(places):
        return ends
    # Evenly spread over the matrix rather than drawn, so that the same weights give the same grid.
    chosen = places[:: max(1, len(places) // _FITTED_SAMPLES)].double().sort().values
    sums = torch.cat([chosen.new_zeros(1), chosen.cumsum(0)])
    # Start near the end: good levels lie as densely as the cube root of the weights' density.
    low, high = float(chosen[0]), float(chosen[-1])
    density = torch.histc(chosen, _FITTED_BINS, min=low, max=high) ** (1 / 3)
    reached = density.cumsum(0) / density.sum()
    steps = (torch.arange(2**bits, device=scale.device) + 0.5) / 2**bits
    bins = torch.searchsorted(reached, steps.double())
    levels = low + (bins + 0.5) * (high - low) / _FITTED_BINS
    for _ in range(_FITTED_ROUNDS):
        cuts = torch.searchsorted(chosen, (levels[1:] + levels[:-1]) / 2)
        bounds = torch.cat([cuts.new_zeros(1), cuts, cuts.new_tensor([len(chosen)])])
        counts = bounds.diff()
        means = sums[bounds].diff() / counts.clamp_min(1)
        levels = torch.where(counts > 0, means, levels)
    whole = levels.round().clamp(-MAX_INT8, MAX_INT8).unique()  # unique sorts
    return whole.float() if len(whole) > 1 else ends


def _best_scale(weights: Tensor, grid: Grid) -> Tensor:
    """For each row, of scales around the grid's, that with the least squared error."""
    best, least = grid.scale, torch.full_like(grid.scale, torch.inf)
    for factor in torch.arange(0.7, 1.325, 0.025).tolist():
        tried = Grid(grid.levels, _bfloat16(grid.scale * factor))
        error = (tried.nearest(weights) - weights).square().sum(dim=1)
        best = torch.where(error < least, tried.scale, best)
        least = torch.minimum(error, least)
    return best
