"""The transducer loss against enumeration of every path, torch autograd and finite differences."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from earshot import _native

Array = npt.NDArray[np.float64]


def log_softmax(logits: npt.NDArray[np.float32]) -> Array:
    z = logits.astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def enumerated_loss(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], *, one_symbol: bool
) -> float:
    """Adds the probability of every order of blanks and labels; no dynamic programming."""
    log_probs = log_softmax(logits)
    frames, num_labels = logits.shape[0], len(labels)
    total = 0.0
    if one_symbol:  # each frame emits a label or blank
        moves = [
            [t in chosen for t in range(frames)]
            for chosen in itertools.combinations(range(frames), num_labels)
        ]
    else:  # labels anywhere between `frames` blanks, the last of which ends the path
        moves = [
            [i in chosen for i in range(frames + num_labels - 1)] + [False]
            for chosen in itertools.combinations(range(frames + num_labels - 1), num_labels)
        ]
    for path in moves:
        t = u = 0
        score = 0.0
        for emits in path:
            score += log_probs[t, u, labels[u] if emits else 0]
            u += emits
            t += one_symbol or not emits
        assert (t, u) == (frames, num_labels)
        total += math.exp(score)
    return -math.log(total) if total > 0 else math.inf


def case(
    frames: int, num_labels: int, *, symbols: int = 5, seed: int = 0, spread: float = 2.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    rng = np.random.default_rng([seed, frames, num_labels, symbols])
    logits = rng.normal(scale=spread, size=(frames, num_labels + 1, symbols)).astype(np.float32)
    return logits, rng.integers(1, symbols, num_labels).astype(np.int32)


@pytest.mark.parametrize("one_symbol", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("num_labels", [0, 1, 2, 3, 4])
def test_loss_equals_enumeration_of_all_paths(
    frames: int, num_labels: int, one_symbol: bool
) -> None:
    for seed in range(3):
        logits, labels = case(frames, num_labels, seed=seed)
        expected = enumerated_loss(logits, labels, one_symbol=one_symbol)
        loss = _native.transducer_loss(logits, labels, 0, one_symbol)
        if math.isinf(expected):
            assert one_symbol and num_labels > frames and math.isinf(loss)
            assert not logits.any()
        else:
            assert loss == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("one_symbol", [False, True])
@pytest.mark.parametrize("num_labels", [0, 1, 3])
def test_gradient_equals_finite_differences_of_the_enumeration(
    num_labels: int, one_symbol: bool
) -> None:
    logits, labels = case(4, num_labels, symbols=4)
    gradient = logits.copy()
    _native.transducer_loss(gradient, labels, 0, one_symbol)
    step = 1e-3
    for index in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        slope = (
            enumerated_loss(up, labels, one_symbol=one_symbol)
            - enumerated_loss(down, labels, one_symbol=one_symbol)
        ) / float(up[index] - down[index])
        assert gradient[index] == pytest.approx(slope, abs=2e-5)


def torch_gradient(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    *,
    one_symbol: bool,
    fastemit_lambda: float = 0.0,
) -> tuple[float, Array]:
    """Loss and gradient by autograd in float64, through a recursion written over nodes."""
    torch = pytest.importorskip("torch")
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    log_probs = z.log_softmax(-1)
    blank = log_probs[:, :, 0]
    frames, width = blank.shape
    label = (
        torch.stack([log_probs[:, u, int(y)] for u, y in enumerate(labels)], dim=1)
        if len(labels)
        else log_probs[:, :0, 0]
    )
    if fastemit_lambda:
        # Same value, label gradient times 1 + lambda.
        label = label * (1 + fastemit_lambda) - (label * fastemit_lambda).detach()
    impossible = torch.tensor(-math.inf, dtype=torch.float64)
    nodes = {(0, 0): torch.tensor(0.0, dtype=torch.float64)}
    for t in range(frames + 1):
        for u in range(width):
            arrivals = []
            if t > 0 and (t - 1, u) in nodes:
                arrivals.append(nodes[t - 1, u] + blank[t - 1, u])
            if u > 0 and one_symbol and t > 0 and (t - 1, u - 1) in nodes:
                arrivals.append(nodes[t - 1, u - 1] + label[t - 1, u - 1])
            if u > 0 and not one_symbol and t < frames and (t, u - 1) in nodes:
                arrivals.append(nodes[t, u - 1] + label[t, u - 1])
            if arrivals:
                nodes[t, u] = torch.logsumexp(torch.stack(arrivals), 0)
    loss = -nodes.get((frames, width - 1), impossible)
    loss.backward()
    assert z.grad is not None
    return float(loss.detach()), z.grad.numpy()


@pytest.mark.parametrize("one_symbol", [False, True])
@pytest.mark.parametrize("fastemit_lambda", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(("frames", "num_labels", "symbols"), [(1, 0, 3), (7, 3, 19), (12, 12, 33)])
def test_loss_and_gradient_equal_torch_autograd(
    frames: int, num_labels: int, symbols: int, fastemit_lambda: float, one_symbol: bool
) -> None:
    logits, labels = case(frames, num_labels, symbols=symbols, spread=3.0)
    expected, expected_gradient = torch_gradient(
        logits, labels, one_symbol=one_symbol, fastemit_lambda=fastemit_lambda
    )
    loss = _native.transducer_loss(logits, labels, 0, one_symbol, fastemit_lambda)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(logits, expected_gradient, atol=1e-5)


@pytest.mark.parametrize("one_symbol", [False, True])
def test_gradient_of_each_cell_sums_to_zero_and_repeats_bit_for_bit(one_symbol: bool) -> None:
    logits, labels = case(100, 15, symbols=384)
    first, second = logits.copy(), logits.copy()
    loss = _native.transducer_loss(first, labels, 0, one_symbol)
    assert loss == _native.transducer_loss(second, labels, 0, one_symbol)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.sum(axis=-1), 0.0, atol=5e-6)
    assert np.abs(first).max() <= 1.0 + 1e-5


def test_blank_may_be_any_symbol() -> None:
    logits, labels = case(3, 2)
    swapped = logits[:, :, [4, 1, 2, 3, 0]].copy()
    labels[:] = [1, 3]
    loss = _native.transducer_loss(logits, labels)
    assert _native.transducer_loss(swapped, labels, blank=4) == pytest.approx(loss, rel=1e-6)


def test_writes_into_a_torch_tensor() -> None:
    torch = pytest.importorskip("torch")
    logits, labels = case(4, 2)
    tensor = torch.from_numpy(logits.copy())
    loss = _native.transducer_loss(tensor, torch.from_numpy(labels))
    assert loss == _native.transducer_loss(logits, labels)
    np.testing.assert_array_equal(tensor.numpy(), logits)


def test_not_a_number_reaches_the_loss() -> None:
    logits, labels = case(4, 2)
    logits[1, 1, 3] = np.nan
    assert math.isnan(_native.transducer_loss(logits, labels))


@pytest.mark.parametrize("one_symbol", [False, True])
def test_without_a_path_the_loss_is_infinite_and_the_gradient_zero(one_symbol: bool) -> None:
    logits, labels = case(6, 3)
    closed = logits.copy()
    closed[:, 1, labels[1]] = -np.inf  # the second label is impossible everywhere
    assert _native.transducer_loss(closed, labels, 0, one_symbol) == math.inf
    assert not closed.any()
    closed = logits.copy()
    closed[:, 1, labels[1]] = -np.inf
    closed[0, 0, 0] = np.nan
    assert math.isnan(_native.transducer_loss(closed, labels, 0, one_symbol))
    some = logits.copy()
    some[2, 1, labels[1]] = -np.inf  # other paths remain
    assert math.isfinite(_native.transducer_loss(some, labels, 0, one_symbol))
    assert np.isfinite(some).all()


def test_extreme_logits_stay_finite() -> None:
    logits, labels = case(6, 3, spread=1.0)
    logits[:, :, 0] += 1e4
    loss = _native.transducer_loss(logits, labels)
    assert 2e4 < loss < 4e4
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("shape", "labels", "blank"),
    [((3, 2, 4), [1, 2], 0), ((0, 2, 4), [1], 0), ((3, 2, 4), [4], 0), ((3, 2, 4), [-1], 0),
     ((3, 2, 4), [2], 2), ((3, 2, 4), [1], 4)],
)  # fmt: skip
def test_refuses_what_does_not_fit(
    shape: tuple[int, int, int], labels: list[int], blank: int
) -> None:
    with pytest.raises(ValueError, match="transducer_loss"):
        _native.transducer_loss(np.zeros(shape, np.float32), np.array(labels, np.int32), blank)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_never_works_on_a_copy(dtype: type[np.floating]) -> None:
    """A converted copy would take the gradient with it."""
    with pytest.raises(TypeError):
        _native.transducer_loss(np.zeros((3, 2, 4), dtype), np.array([1], np.int32))
    with pytest.raises(TypeError):
        strided = np.zeros((3, 2, 8), np.float32)[:, :, ::2]
        _native.transducer_loss(strided, np.array([1], np.int32))
