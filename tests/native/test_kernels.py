"""Every kernel of every instruction set of this CPU against numpy.

Integer products are compared bit for bit. Packing follows docs/formats/ear.md and is written here
once more, so that the test does not share code with the writer.
"""

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot import _native

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.int8]

ISAS = _native.available_isas()
SHAPES = [(1, 1), (16, 64), (7, 3), (17, 65), (80, 100), (130, 63), (192, 320), (257, 129)]
FRAMES = range(1, 10)


def rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def pack_f32(weights: Floats) -> Floats:
    rows, columns = weights.shape
    padded = np.zeros((rounded_up(rows, 16), columns), np.float32)
    padded[:rows] = weights
    return np.ascontiguousarray(padded.reshape(-1, 16, columns).transpose(0, 2, 1))


def pack_i8(weights: Bytes) -> tuple[Bytes, npt.NDArray[np.int32]]:
    rows, columns = weights.shape
    padded = np.zeros((rounded_up(rows, 16), rounded_up(columns, 64)), np.int8)
    padded[:rows, :columns] = weights
    tiles = padded.reshape(len(padded) // 16, 16, -1, 4).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiles), 128 * padded.astype(np.int32).sum(axis=1, dtype=np.int32)


def linear_i8(
    isa: str, weights: Bytes, x: Bytes, *, bias: Floats | None = None, add_to: Floats | None = None
) -> Floats:
    rows, columns = weights.shape
    tiles, rowsum = pack_i8(weights)
    padded = np.zeros((len(x), rounded_up(columns, 64)), np.int8)
    padded[:, :columns] = x
    scale = np.zeros(rounded_up(rows, 16), np.float32)
    scale[:rows] = np.linspace(0.5, 1.5, rows)
    xscale = np.linspace(0.01, 0.02, len(x)).astype(np.float32)
    result: Floats = _native._test_linear_i8(
        isa, tiles, scale, rowsum, bias, rows, columns, padded, xscale, add_to
    )
    return result


def expected_i8(
    weights: Bytes, x: Bytes, *, bias: Floats | None = None, add_to: Floats | None = None
) -> Floats:
    acc = x.astype(np.int64) @ weights.astype(np.int64).T
    scale = np.linspace(0.5, 1.5, len(weights)).astype(np.float32)
    xscale = np.linspace(0.01, 0.02, len(x)).astype(np.float32)
    y = acc.astype(np.float32) * (xscale[:, None] * scale)
    y = y if bias is None else y + bias
    return y if add_to is None else add_to + y


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_linear_i8_is_exact(isa: str, rows: int, columns: int) -> None:
    rng = np.random.default_rng([rows, columns])
    weights = rng.integers(-127, 128, (rows, columns), np.int8)
    bias = rng.normal(size=rows).astype(np.float32)
    for frames in FRAMES:
        x = rng.integers(-127, 128, (frames, columns), np.int8)
        add_to = rng.normal(size=(frames, rows)).astype(np.float32)
        for kwargs in ({}, {"bias": bias}, {"bias": bias, "add_to": add_to}, {"add_to": add_to}):
            np.testing.assert_array_equal(
                linear_i8(isa, weights, x, **kwargs), expected_i8(weights, x, **kwargs)
            )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("w", [-127, 127])
@pytest.mark.parametrize("x", [-127, 127])
@pytest.mark.parametrize("columns", [64, 1000, 131071])
def test_linear_i8_neither_saturates_nor_overflows(isa: str, w: int, x: int, columns: int) -> None:
    weights = np.full((17, columns), w, np.int8)
    values = np.full((5, columns), x, np.int8)
    np.testing.assert_array_equal(linear_i8(isa, weights, values), expected_i8(weights, values))


@given(
    isa=st.sampled_from(ISAS),
    rows=st.integers(1, 90),
    columns=st.integers(1, 200),
    frames=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_linear_i8_of_any_shape(isa: str, rows: int, columns: int, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.choice(np.array([-127, -1, 0, 1, 127], np.int8), (rows, columns))
    x = rng.choice(np.array([-127, -1, 0, 1, 127], np.int8), (frames, columns))
    np.testing.assert_array_equal(linear_i8(isa, weights, x), expected_i8(weights, x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_linear_f32(isa: str, rows: int, columns: int) -> None:
    rng = np.random.default_rng([rows, columns])
    weights = rng.normal(size=(rows, columns)).astype(np.float32)
    bias = rng.normal(size=rows).astype(np.float32)
    packed = pack_f32(weights)
    for frames in FRAMES:
        x = rng.normal(size=(frames, columns)).astype(np.float32)
        add_to = rng.normal(size=(frames, rows)).astype(np.float32)
        plain = x.astype(np.float64) @ weights.astype(np.float64).T
        size = np.abs(x).astype(np.float64) @ np.abs(weights).astype(np.float64).T + 1
        for b, a in ((None, None), (bias, None), (bias, add_to), (None, add_to)):
            y = _native._test_linear_f32(isa, packed, b, rows, x, a)
            expected = plain + (0 if b is None else b) + (0 if a is None else a)
            assert (np.abs(y - expected) / size).max() < 2e-6


@pytest.mark.parametrize("isa", ISAS)
def test_a_frame_does_not_depend_on_the_other_frames(isa: str) -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(147, 101)).astype(np.float32)
    quantised = rng.integers(-127, 128, weights.shape, np.int8)
    x = rng.normal(size=(9, 101)).astype(np.float32)
    packed = pack_f32(weights)
    together = _native._test_linear_f32(isa, packed, None, 147, x)
    for frames in FRAMES:
        for first in range(9 - frames + 1):
            part = _native._test_linear_f32(isa, packed, None, 147, x[first : first + frames])
            np.testing.assert_array_equal(part, together[first : first + frames])
    tiles, rowsum = pack_i8(quantised)
    scale = np.ones(len(rowsum), np.float32)
    xq, xscale = zip(*(_native._test_quantize(isa, row) for row in x), strict=True)
    batch, scales = np.stack(xq), np.array(xscale, np.float32)
    together = _native._test_linear_i8(isa, tiles, scale, rowsum, None, 147, 101, batch, scales)
    for t in range(9):
        lone = _native._test_linear_i8(
            isa, tiles, scale, rowsum, None, 147, 101, batch[t : t + 1], scales[t : t + 1]
        )
        np.testing.assert_array_equal(lone[0], together[t])


def expected_quantised(x: Floats) -> tuple[Bytes, np.float32]:
    scale = np.float32(np.abs(x).max(initial=0) / np.float32(127))
    padded = np.zeros(rounded_up(len(x), 64), np.int8)
    if scale < np.finfo(np.float32).tiny:
        return padded, np.float32(0)
    padded[: len(x)] = np.rint(x / scale).astype(np.int8)
    return padded, scale


@pytest.mark.parametrize("isa", ISAS)
@given(
    x=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=150)
)
def test_quantisation_equals_numpy_bit_for_bit(isa: str, x: list[float]) -> None:
    values = np.array(x, np.float32)
    q, scale = _native._test_quantize(isa, values)
    expected, expected_scale = expected_quantised(values)
    assert scale == expected_scale
    np.testing.assert_array_equal(q, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_quantisation_rounds_halves_to_even(isa: str) -> None:
    values = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5], np.float32)
    q, scale = _native._test_quantize(isa, values)
    assert scale == 1
    assert q[:9].tolist() == [127, 0, 2, 2, 0, -2, -2, 126, -126]


def sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(0.5 * x))


SWEEP = np.concatenate(
    [np.linspace(-100, 100, 4001), np.linspace(-2, 2, 4001), [0, -0.0, 1e-30, 1e30, -1e30]]
).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 3, 4, 15, 16, 17, 31, len(SWEEP)])
def test_tanh_sigmoid_and_exp(isa: str, n: int) -> None:
    x = SWEEP[len(SWEEP) - n :]
    wide = x.astype(np.float64)
    for name, function in (("tanh", np.tanh), ("sigmoid", sigmoid)):
        y = _native._test_elementwise(isa, name, x)
        assert np.abs(y - function(wide)).max() < 3e-7
    bounded = np.clip(x, -85, 85)
    y = _native._test_elementwise(isa, "exp_shift", bounded, 1.0)
    shifted = (bounded + np.float32(1)).astype(np.float64)
    assert np.abs(y / np.exp(shifted) - 1).max() < 3e-7


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 2, 7, 16, 31, 384, 1000])
def test_log_softmax(isa: str, n: int) -> None:
    x = np.random.default_rng(n).normal(scale=5, size=n).astype(np.float32)
    for values in (x, x + 1000, np.full(n, -50, np.float32), np.where(np.arange(n), -1e30, 0)):
        values = values.astype(np.float32)
        wide = values.astype(np.float64)
        total = wide.max() + np.log(np.exp(wide - wide.max()).sum())
        tolerance = 1e-6 * max(1.0, abs(total))
        y = _native._test_elementwise(isa, "log_softmax", values)
        np.testing.assert_allclose(y, wide - total, rtol=1e-6, atol=tolerance)
        lse = _native._test_elementwise(isa, "log_sum_exp", values)
        np.testing.assert_allclose(lse, total, rtol=1e-6, atol=tolerance)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exp_shift", "log_sum_exp"])
def test_not_a_number_is_not_hidden(isa: str, name: str) -> None:
    for n in (1, 16, 21):
        x = np.zeros(n, np.float32)
        x[-1] = np.nan
        assert np.isnan(_native._test_elementwise(isa, name, x)).any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("spread", [1.0, 5.0, 60.0])
@pytest.mark.parametrize("units", [16, 32, 320])
def test_lstm_gates(isa: str, units: int, spread: float) -> None:
    rng = np.random.default_rng([units, int(spread)])
    pre = rng.normal(scale=spread, size=4 * units).astype(np.float32)
    c = rng.normal(scale=2, size=units).astype(np.float32)
    i, f, g, o = (
        pre.astype(np.float64).reshape(-1, 4, 16)[:, gate].reshape(-1) for gate in range(4)
    )
    state = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    new_c, h = _native._test_lstm_gates(isa, pre, c)
    np.testing.assert_allclose(new_c, state, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(h, sigmoid(o) * np.tanh(state), atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_a_value_does_not_depend_on_its_place_in_the_vector(isa: str) -> None:
    x = np.random.default_rng(1).normal(scale=3, size=37).astype(np.float32)
    for name in ("tanh", "sigmoid", "exp_shift"):
        together = _native._test_elementwise(isa, name, x)
        lone = [_native._test_elementwise(isa, name, x[k : k + 1])[0] for k in range(len(x))]
        np.testing.assert_array_equal(together, lone)


def test_shapes_that_do_not_fit_are_refused() -> None:
    isa, f32 = ISAS[-1], np.float32
    w, x = np.zeros((1, 4, 16), f32), np.zeros((2, 4), f32)
    for arguments in [
        (w, None, 17, x),
        (w, None, 0, x),
        (w, np.zeros(4, f32), 5, x),
        (w, None, 5, np.zeros((2, 5), f32)),
        (w, None, 5, x, np.zeros((1, 5), f32)),
    ]:
        with pytest.raises(ValueError, match=r"kernel: .* must "):
            _native._test_linear_f32(isa, *arguments)
    sums, scale = np.zeros(16, np.int32), np.zeros(16, f32)
    good = [np.zeros((1, 16, 16, 4), np.int8), scale, sums, None, 5, 60]
    good += [np.zeros((2, 64), np.int8), np.zeros(2, f32)]
    _native._test_linear_i8(isa, *good)
    for at, bad in [
        (0, np.zeros((1, 15, 16, 4), np.int8)),
        (1, scale[:5]),
        (2, sums[:5]),
        (3, scale),
        (4, 17),
        (5, 65),
        (6, np.zeros((2, 60), np.int8)),
        (7, np.zeros(1, f32)),
    ]:
        with pytest.raises(ValueError, match=r"kernel: .* must "):
            _native._test_linear_i8(isa, *good[:at], bad, *good[at + 1 :])
    for pre, c in [(64, 15), (63, 16), (0, 0)]:
        with pytest.raises(ValueError, match=r"kernel: .* must "):
            _native._test_lstm_gates(isa, np.zeros(pre, f32), np.zeros(c, f32))
    with pytest.raises(ValueError, match=r"kernel: .* must "):
        _native._test_elementwise(isa, "log_sum_exp", np.zeros(0, f32))


def test_scalar_is_always_there_and_the_fastest_comes_first() -> None:
    assert ISAS[-1] == "scalar"
    wanted = os.environ.get("EARSHOT_ISA") or ISAS[0]
    assert _native.isa() == wanted


def run_python(code: str, *, isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EARSHOT_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("isa", ISAS)
def test_environment_variable_forces_an_instruction_set(isa: str) -> None:
    result = run_python("from earshot import _native; print(_native.isa())", isa=isa)
    assert result.stdout.strip() == isa, result.stderr


@pytest.mark.parametrize("isa", ["sse9", "avx2 ", "AVX2"])
def test_unknown_instruction_set_fails_at_import_and_lists_the_others(isa: str) -> None:
    code = "try:\n    from earshot import _native\nexcept ImportError as err:\n    print(err)\n"
    result = run_python(code, isa=isa)
    assert result.returncode == 0, result.stderr
    assert f"EARSHOT_ISA is '{isa}'" in result.stdout
    assert ", ".join(ISAS) in result.stdout
