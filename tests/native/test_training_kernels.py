"""The kernels that training calls: LSTM backward pass, joiner and loss in bfloat16, by numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from earshot import _native

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Bits = npt.NDArray[np.int16]


def to_bf16(values: npt.ArrayLike) -> Bits:
    """Eight significant bits, ties to even, as int16."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    rounded = np.ldexp(np.round(mantissa * 256) / 256, exponent).astype(np.float32)
    return (rounded.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)


def from_bf16(bits: Bits) -> F32:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> F32:
    rng = np.random.default_rng([seed, *shape])
    return rng.normal(scale=scale, size=shape).astype(np.float32)


def sigmoid(x: F64) -> F64:
    out: F64 = 1 / (1 + np.exp(-x))
    return out


# --- LSTM -----------------------------------------------------------------------------------


def forward(sums: F64, bias: F64, c0: F64) -> tuple[F64, F64, F64]:
    """Gates after their activations, cells, and outputs of a layer without recurrent weights."""
    i, f, g, o = np.split(sums + bias, 4, axis=-1)
    gates = np.concatenate([sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)], axis=-1)
    i, f, g, o = np.split(gates, 4, axis=-1)
    cells, c = [], c0
    for t in range(len(sums)):
        c = f[t] * c + i[t] * g[t]
        cells.append(c)
    return gates, np.array(cells), o * np.tanh(cells)


def gates_of(sums: F32, bias: F32, c0: F32) -> tuple[F32, F32, F32]:
    gates = sums.copy()
    cells = np.full(sums.shape[:2] + c0.shape[-1:], np.nan, np.float32)
    cell_tanh = cells.copy()
    _native.lstm_gates(gates, bias, c0, cells, cell_tanh)
    return gates, cells, cell_tanh


LAYERS = [(1, 1, 1), (1, 3, 8), (4, 1, 5), (5, 2, 19)]


@pytest.mark.parametrize(("frames", "batch", "hidden"), LAYERS)
def test_gates_and_cells(frames: int, batch: int, hidden: int) -> None:
    sums = normal(frames, batch, 4 * hidden, scale=2.0)
    bias, c0 = normal(4 * hidden, seed=1), normal(batch, hidden, seed=2)
    gates, cells, cell_tanh = gates_of(sums, bias, c0)
    want = forward(sums.astype(np.float64), bias.astype(np.float64), c0.astype(np.float64))
    np.testing.assert_allclose(gates, want[0], atol=2e-6)
    np.testing.assert_allclose(cells, want[1], atol=1e-5)
    np.testing.assert_allclose(cell_tanh, np.tanh(want[1]), atol=1e-5)


@pytest.mark.parametrize(("frames", "batch", "hidden"), LAYERS)
def test_backward_frames_equal_finite_differences(frames: int, batch: int, hidden: int) -> None:
    sums = normal(frames, batch, 4 * hidden)
    bias, c0 = normal(4 * hidden, seed=1), normal(batch, hidden, seed=2)
    d_output = normal(frames, batch, hidden, seed=3)
    gates, cells, cell_tanh = gates_of(sums, bias, c0)
    d_cell = np.zeros_like(c0)
    d_gates = to_bf16(np.full(sums.shape, 7.0))
    for t in reversed(range(frames)):
        _native.lstm_backward_frame(t, gates, cells, cell_tanh, c0, d_output, None, d_cell, d_gates)

    def loss(sums: F64, c0: F64) -> float:
        return float((forward(sums, bias.astype(np.float64), c0)[2] * d_output).sum())

    def slopes(at: F32, of: Callable[[F64], float]) -> F64:
        out = np.empty(at.shape)
        for index in np.ndindex(*at.shape):
            step = np.zeros(at.shape)
            step[index] = 1e-5
            out[index] = (of(at + step) - of(at - step)) / 2e-5
        return out

    wide, start = sums.astype(np.float64), c0.astype(np.float64)
    want = slopes(sums, lambda z: loss(z, start))
    np.testing.assert_allclose(from_bf16(d_gates), want, rtol=1 / 200, atol=1e-5)
    np.testing.assert_allclose(d_cell, slopes(c0, lambda c: loss(wide, c)), atol=1e-4)


def test_what_the_next_frame_sends_back_adds_to_the_output_s_gradient() -> None:
    frames, batch, hidden = 3, 2, 8
    sums, c0 = normal(frames, batch, 4 * hidden), normal(batch, hidden, seed=2)
    known = (*gates_of(sums, normal(4 * hidden, seed=1), c0), c0)
    d_output = normal(frames, batch, hidden, seed=3)
    recurrent = to_bf16(normal(batch, hidden, seed=4))
    both = d_output.copy()
    both[1] += from_bf16(recurrent)
    results = []
    for output, extra in ((d_output, recurrent), (both, None), (d_output, None)):
        d_cell = normal(batch, hidden, seed=5)
        d_gates = np.full(sums.shape, 3, np.int16)
        _native.lstm_backward_frame(1, *known, output, extra, d_cell, d_gates)
        assert (d_gates[[0, 2]] == 3).all()  # other frames are left alone
        results.append((d_gates.tobytes(), d_cell.tobytes()))
    assert results[0] == results[1] != results[2]


# --- joiner and loss ------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "labels", "width"), [(1, 0, 1), (4, 2, 16), (7, 5, 33)])
def test_join_tanh(frames: int, labels: int, width: int) -> None:
    encoded, predicted = normal(frames, width), normal(labels + 1, width, seed=1)
    cells = frames * (labels + 1)
    joint = np.full((cells + 3, width), 5, np.int16)
    _native.join_tanh(encoded, predicted, joint)
    want = np.tanh(encoded[:, None].astype(np.float64) + predicted).reshape(cells, width)
    np.testing.assert_allclose(from_bf16(joint[:cells]), want, rtol=1 / 255, atol=1e-6)
    assert not joint[cells:].any()

    d_joint = to_bf16(normal(cells + 3, width, seed=2))
    d_encoded = np.full((frames, width), np.nan, np.float32)
    d_predicted = np.full((labels + 1, width), np.nan, np.float32)
    _native.join_tanh_backward(d_joint, joint, d_encoded, d_predicted)
    y = from_bf16(joint[:cells]).astype(np.float64)
    d = (from_bf16(d_joint[:cells]) * (1 - y * y)).reshape(frames, labels + 1, width)
    np.testing.assert_allclose(d_encoded, d.sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(d_predicted, d.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("one_symbol", [False, True])
@pytest.mark.parametrize(("frames", "labels", "symbols"), [(1, 0, 2), (5, 3, 7), (12, 9, 40)])
def test_the_loss_in_bf16_is_the_loss_of_the_same_logits_in_float(
    frames: int, labels: int, symbols: int, one_symbol: bool
) -> None:
    """`transducer_loss` is held against enumeration of all paths elsewhere."""
    cells = frames * (labels + 1)
    bits = to_bf16(normal(cells + 2, symbols, scale=2.0))
    bias = normal(symbols, seed=1)
    rng = np.random.default_rng(symbols)
    spoken = rng.integers(1, symbols, labels).astype(np.int32)
    logits = (from_bf16(bits[:cells]) + bias).reshape(frames, labels + 1, symbols)
    before = normal(symbols, seed=2)
    d_bias = before.copy()
    options: Any = {"one_symbol_per_frame": one_symbol, "fastemit_lambda": 0.01}
    loss = _native.transducer_loss_bf16(bits, bias, spoken, frames, d_bias, **options)
    assert loss == _native.transducer_loss(logits, spoken, **options)
    np.testing.assert_array_equal(bits[:cells], to_bf16(logits.reshape(cells, symbols)))
    assert not bits[cells:].any()
    want = before + logits.reshape(-1, symbols).sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(d_bias, want, atol=1e-5)


def test_without_a_path_the_gradient_in_bf16_is_zero() -> None:
    bits, d_bias = to_bf16(normal(6, 4)), np.zeros(4, np.float32)
    labels = np.array([1, 2], np.int32)
    loss = _native.transducer_loss_bf16(
        bits, np.zeros(4, np.float32), labels, 1, d_bias, one_symbol_per_frame=True
    )
    assert loss == np.inf
    assert not bits.any() and not d_bias.any()


def test_not_a_number_reaches_the_loss_in_bf16() -> None:
    bits, d_bias = to_bf16(normal(6, 4)), np.zeros(4, np.float32)
    bits[3, 2] = 0x7FC0
    labels = np.array([1], np.int32)
    assert np.isnan(_native.transducer_loss_bf16(bits, d_bias.copy(), labels, 3, d_bias))


# --- attacks --------------------------------------------------------------------------------

T, B, H, U, V = 3, 2, 4, 2, 5


def f32(*shape: int) -> F32:
    return np.ones(shape, np.float32)


def i16(*shape: int) -> Bits:
    return np.ones(shape, np.int16)


SOUND: dict[str, dict[str, Any]] = {
    "lstm_gates": {
        "gates": f32(T, B, 4 * H),
        "bias": f32(4 * H),
        "c0": f32(B, H),
        "cells": f32(T, B, H),
        "cell_tanh": f32(T, B, H),
    },
    "lstm_backward_frame": {
        "t": 1,
        "gates": f32(T, B, 4 * H),
        "cells": f32(T, B, H),
        "cell_tanh": f32(T, B, H),
        "c0": f32(B, H),
        "d_output": f32(T, B, H),
        "recurrent": i16(B, H),
        "d_cell": f32(B, H),
        "d_gates": i16(T, B, 4 * H),
    },
    "join_tanh": {
        "encoded": f32(T, H),
        "predicted": f32(U + 1, H),
        "joint": i16(T * (U + 1), H),
    },
    "join_tanh_backward": {
        "d_joint": i16(T * (U + 1), H),
        "joint": i16(T * (U + 1), H),
        "d_encoded": f32(T, H),
        "d_predicted": f32(U + 1, H),
    },
    "transducer_loss_bf16": {
        "logits": i16(T * (U + 1), V),
        "bias": f32(V),
        "labels": np.ones(U, np.int32),
        "frames": T,
        "d_bias": f32(V),
    },
}


# Only read: these may be converted. The others are bits, or a copy would take the result with it.
READ = {
    "lstm_gates": {"bias", "c0"},
    "lstm_backward_frame": {"gates", "cell_tanh", "c0", "d_output"},
    "join_tanh": {"encoded", "predicted"},
    "join_tanh_backward": set(),
    "transducer_loss_bf16": {"bias", "labels"},
}


def arguments_of(kernel: str, **changes: Any) -> dict[str, Any]:
    return {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in {**SOUND[kernel], **changes}.items()
    }


def arrays_of(arguments: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    return {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}


def refused(kernel: str, error: type[Exception], **changes: Any) -> None:
    """Nothing is written by a call that is refused."""
    arguments = arguments_of(kernel, **changes)
    before = {name: array.tobytes() for name, array in arrays_of(arguments).items()}
    with pytest.raises(error, match=kernel.removesuffix("_bf16")):
        getattr(_native, kernel)(**arguments)
    assert {name: array.tobytes() for name, array in arrays_of(arguments).items()} == before


@pytest.mark.parametrize("kernel", SOUND)
def test_wrong_shapes_and_types(kernel: str) -> None:
    getattr(_native, kernel)(**arguments_of(kernel))
    for name, array in arrays_of(SOUND[kernel]).items():
        for axis in range(array.ndim):
            # Arrays of bits may have more rows than there are frames times labels and one.
            bits = array.dtype == np.int16
            other = np.take(array, [0], axis) if bits else np.repeat(array, 2, axis)
            refused(kernel, ValueError, **{name: other})
            if name != "labels":
                refused(kernel, ValueError, **{name: np.take(array, [], axis)})
        refused(kernel, TypeError, **{name: array[None]})
        if name not in READ[kernel]:
            wrong = np.int16 if array.dtype == np.float32 else np.float32
            refused(kernel, TypeError, **{name: array.astype(wrong)})


@pytest.mark.parametrize("kernel", ["lstm_gates", "lstm_backward_frame"])
@pytest.mark.parametrize("axis", ["frames", "batch", "hidden"])
def test_layers_without_anything(kernel: str, axis: str) -> None:
    """All arrays agree that there is nothing."""
    t, b, h = (0 if axis == name else 2 for name in ("frames", "batch", "hidden"))
    shapes = {"gates": (t, b, 4 * h), "d_gates": (t, b, 4 * h), "bias": (4 * h,), "c0": (b, h)}
    shapes |= {"d_cell": (b, h), "recurrent": (b, h)}
    changes = {
        name: np.empty(shapes.get(name, (t, b, h)), array.dtype)
        for name, array in arrays_of(SOUND[kernel]).items()
    }
    refused(kernel, ValueError, **changes)


def test_lattices_without_anything() -> None:
    refused("join_tanh", ValueError, encoded=f32(0, H))
    refused("join_tanh", ValueError, predicted=f32(0, H))
    refused("join_tanh", ValueError, encoded=f32(T, 0), predicted=f32(U + 1, 0), joint=i16(9, 0))
    refused("join_tanh_backward", ValueError, d_encoded=f32(0, H))
    refused("join_tanh_backward", ValueError, d_predicted=f32(0, H))


@pytest.mark.parametrize("frames", [0, T + 1, 2**62, 2**63, 2**64 // (U + 1) + 1])
def test_frames_that_the_logits_do_not_hold(frames: int) -> None:
    """The largest times the labels and one would fit again: the product is 2 modulo 2^64."""
    refused("transducer_loss_bf16", ValueError, frames=frames)


def test_labels_blank_and_frame_out_of_range() -> None:
    for changes in (
        {"labels": np.array([1, V], np.int32)},
        {"labels": np.array([-1, 1], np.int32)},
        {"labels": np.array([1, 0], np.int32)},
        {"blank": V},
        {"blank": -1},
    ):
        refused("transducer_loss_bf16", ValueError, **changes)
    refused("lstm_backward_frame", ValueError, t=T)
    refused("lstm_backward_frame", TypeError, t=-1)
    refused("transducer_loss_bf16", TypeError, frames=-1)
