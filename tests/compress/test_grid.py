"""Grids: what is nearest, what is pulled where, and the best codebook."""

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from earshot.compress.grid import Grid, codebook_grid, grid_bits, uniform_grid
from earshot.modelfile.codecs import quantize_rows


def matrix(seed: int = 0, rows: int = 24, columns: int = 40) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_the_uniform_grid_is_that_of_the_int8_codec() -> None:
    weights = matrix()
    weights[3] = 0
    values, scale = quantize_rows(weights.numpy())
    grid = uniform_grid(weights)
    np.testing.assert_allclose(grid.codes(weights), values, atol=1)
    np.testing.assert_allclose(grid.scale, scale, rtol=2**-8)
    torch.testing.assert_close(grid.scale, grid.scale.to(torch.bfloat16).float(), rtol=0, atol=0)
    assert grid_bits(grid) == 8


def test_weights_of_one_neighbourhood_become_one_value() -> None:
    """The example of the article: 0.70, 0.76 and 0.79 become 0.75."""
    weights = torch.tensor([[0.70, 0.76, 0.79, -0.20, -0.22, -0.18]])
    grid = codebook_grid(weights, 1)
    found = grid.nearest(weights)[0]
    torch.testing.assert_close(found[:3], torch.full((3,), 0.75), atol=0.004, rtol=0)
    torch.testing.assert_close(found[3:], torch.full((3,), -0.20), atol=0.004, rtol=0)


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_a_codebook_is_where_lloyds_conditions_hold(bits: int) -> None:
    """Oracle: k-means by enumeration of every weight; no level may move by more than rounding."""
    weights = matrix(1, 64, 200)
    grid = codebook_grid(weights, bits)
    assert len(grid.levels) <= 2**bits
    assert grid_bits(grid) == bits
    places = (weights / grid.scale[:, None]).flatten().numpy().astype(np.float64)
    levels = grid.levels.numpy()
    nearest = np.abs(places[:, None] - levels).argmin(axis=1)
    means = np.array([places[nearest == k].mean() for k in range(len(levels))])
    assert np.abs(means - levels).max() < 1.0  # of 127: half for rounding, half for sampling


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_a_codebook_loses_less_than_as_many_even_steps(bits: int) -> None:
    weights = matrix(2, 64, 200) * matrix(3, 64, 200)  # many small, few large, as trained ones
    scale = weights.abs().amax(dim=1) / 127
    even = Grid(torch.linspace(-127, 127, 2**bits).round(), scale)
    errors = [
        float((grid.nearest(weights) - weights).square().mean())
        for grid in (codebook_grid(weights, bits), even)
    ]
    assert errors[0] < 0.9 * errors[1]


def test_codes_are_the_nearest_levels_and_zero_stays_zero() -> None:
    weights = matrix(3)
    weights[::3, ::2] = 0
    grid = codebook_grid(weights, 4)
    codes = grid.codes(weights).numpy()
    assert codes.dtype == np.int8
    places = (weights / grid.scale[:, None]).numpy()
    levels = grid.levels.numpy()
    oracle = levels[np.abs(places[..., None] - levels).argmin(axis=-1)]
    np.testing.assert_array_equal(codes, np.where(weights.numpy() == 0, 0, oracle))
    assert 0 not in levels


def grid_of(levels: list[float]) -> Grid:
    return Grid(torch.tensor(levels), torch.tensor([0.01, 0.02]))


def gradient(grid: Grid, place: float) -> float:
    """Of a weight of the second row, at a place in units of the levels."""
    weights = torch.tensor([[0.0], [place * 0.02]], requires_grad=True)
    (slope,) = torch.autograd.grad(grid.pull(weights), weights)
    return float(slope[1, 0])


@pytest.mark.parametrize("levels", [[-60.0, -10.0, 30.0, 127.0], [-1.0, 0.0, 1.0, 2.0]])
def test_the_pull_vanishes_on_levels_and_points_to_the_nearest(levels: list[float]) -> None:
    grid = grid_of(levels)
    for low, high in itertools.pairwise(levels):
        width = high - low
        for level in (low, high):
            weights = torch.tensor([[0.0], [level * 0.02]])
            assert float(grid.pull(weights)) == pytest.approx(0, abs=1e-5)
        middle = torch.tensor([[0.0], [(low + high) / 2 * 0.02]])
        assert float(grid.pull(middle)) == pytest.approx(width * 0.02 / math.pi, rel=1e-3)
        assert gradient(grid, low + 0.02 * width) == pytest.approx(1, rel=0.01)
        assert gradient(grid, high - 0.02 * width) == pytest.approx(-1, rel=0.01)
        assert gradient(grid, low + 0.3 * width) > 0 > gradient(grid, high - 0.3 * width)


def test_weights_beyond_the_ends_are_pulled_back_and_clipped() -> None:
    grid = grid_of([-60.0, 30.0])
    assert gradient(grid, 31.0) == pytest.approx(1)
    assert gradient(grid, -70.0) == pytest.approx(-1)
    weights = torch.tensor([[-1.0, 0.1], [1.0, 2.0]])
    grid.clip_(weights)
    torch.testing.assert_close(weights, torch.tensor([[-0.6, 0.1], [0.6, 0.6]]))


def test_zeros_are_not_pulled() -> None:
    grid = grid_of([-60.0, 30.0])
    weights = torch.zeros(2, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(grid.pull(weights), weights)
    assert not slope.any()


def test_distance_counts_how_far_weights_are_between_levels() -> None:
    grid = grid_of([0.0, 10.0, 30.0])
    weights = torch.tensor([[0.05, 0.1], [0.0, 0.204]])  # half-way; a level; zero; 1 % of 20
    mean, near = grid.distance(weights)
    assert mean == pytest.approx((0.5 + 0 + 0.01) / 3, abs=1e-3)
    assert near == pytest.approx(2 / 3)


def test_descent_along_the_pull_ends_on_the_grid() -> None:
    weights = matrix(5).requires_grad_()
    grid = codebook_grid(weights, 4)
    before, _ = grid.distance(weights.detach())
    goal = grid.nearest(weights.detach())
    for _ in range(300):
        (slope,) = torch.autograd.grad(grid.pull(weights), weights)
        with torch.no_grad():
            weights -= 3e-4 * slope
    after, near = grid.distance(weights.detach())
    assert after < 0.1 * before
    assert near > 0.95
    reached = (grid.nearest(weights.detach()) == goal).float().mean()
    assert reached > 0.99  # none crosses a boundary
