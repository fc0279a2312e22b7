"""Each op as ONNX is the op: against torch and against formulas written another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the export needs onnx; pip install 'earshot[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="the peer is onnxruntime")
torch = pytest.importorskip("torch", reason="the oracle is torch; pip install '.[train]'")

from onnx import TensorProto

from earshot.compress.onnx_graph import GraphWriter, onnx_gates
from earshot.modelfile.codecs import lstm_unit_blocks


def run_node(
    node: dict[str, Any], tensors: dict[str, np.ndarray], feed: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run a graph of one node over `x` (T, N, W) and over its state, all named as in ONNX."""
    names = list(node["tensors"].values()) if "tensors" in node else []
    assert sorted(names) == sorted(tensors)
    width = feed["x"].shape[-1]
    writer = GraphWriter(Path("g.ear"), tensors.__getitem__, {"g/x": width})
    writer.emit("Identity", ["x"], "g/x")
    graph = {"inputs": ["x"], "outputs": ["out"], "nodes": [node | {"in": ["x"], "out": "out"}]}
    writer.add_graph("g", graph, outputs=["out"])
    kind = TensorProto.INT64 if feed["x"].dtype == np.int64 else TensorProto.FLOAT
    states = [(state.name, [1, "N", state.width]) for state in writer.states]
    model = writer.model(
        "g",
        inputs={
            "x": (kind, ["T", "N", width][: feed["x"].ndim]),
            **{name: (TensorProto.FLOAT, shape) for name, shape in states},
        },
        outputs={
            "g/out": ["T_out", "N", writer.widths["g/out"]],
            **{f"{name}.next": shape for name, shape in states},
        },
        metadata={},
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    results = session.run(None, feed)
    return {o.name: value for o, value in zip(session.get_outputs(), results, strict=True)}


def test_gates_come_back_in_the_order_of_onnx() -> None:
    hidden = 32
    gates = {gate: np.full((hidden, 3), ord(gate), np.float32) for gate in "ifgo"}
    gates["i"][5, 1] = -1.0
    packed = lstm_unit_blocks(np.concatenate([gates[g] for g in "ifgo"]))
    expected = np.concatenate([gates[g] for g in "iofg"])
    np.testing.assert_array_equal(onnx_gates(packed), expected)


def test_lstm_equals_torch_for_two_streams() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(12, 16)
    x, h0, c0 = torch.randn(9, 2, 12), torch.randn(1, 2, 16), torch.randn(1, 2, 16)
    with torch.no_grad():
        expected, (h, c) = lstm(x, (h0, c0))
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().numpy()
    tensors = {
        "wx": lstm_unit_blocks(lstm.weight_ih_l0.detach().numpy()),
        "wh": lstm_unit_blocks(lstm.weight_hh_l0.detach().numpy()),
        "b": lstm_unit_blocks(bias),
    }
    roles = {"weight_x": "wx", "weight_h": "wh", "bias": "b"}
    feed = {"x": x.numpy(), "g/out.h": h0.numpy(), "g/out.c": c0.numpy()}
    got = run_node({"op": "lstm", "hidden": 16, "tensors": roles}, tensors, feed)
    np.testing.assert_allclose(got["g/out"], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(got["g/out.h.next"], h.numpy(), atol=1e-5)
    np.testing.assert_allclose(got["g/out.c.next"], c.numpy(), atol=1e-5)


@pytest.mark.parametrize("depthwise", [False, True])
def test_causal_convolution_equals_torch_and_keeps_its_past(depthwise: bool) -> None:
    torch.manual_seed(1)
    width, kernel, dilation, streams = 6, 3, 2, 2
    layer = torch.nn.Conv1d(
        width, width, kernel, dilation=dilation, groups=width if depthwise else 1
    )
    x = torch.randn(11, streams, width)
    held = (kernel - 1) * dilation
    with torch.no_grad():
        padded = torch.cat([torch.zeros(held, streams, width), x]).permute(1, 2, 0)
        expected = layer(padded).permute(2, 0, 1).numpy()
    taps = layer.weight.detach().numpy()  # (M, W or 1, kernel)
    weight = taps[:, 0, :] if depthwise else taps.swapaxes(1, 2).reshape(width, -1)
    tensors = {"w": np.ascontiguousarray(weight), "b": layer.bias.detach().numpy()}
    node = {"op": "conv1d", "kernel": kernel, "dilation": dilation, "padding": "causal"}
    node |= {"tensors": {"weight": "w", "bias": "b"}}
    past, parts = np.zeros((1, streams, held * width), np.float32), []
    for chunk in (x[:2], x[2:3], x[3:]):
        got = run_node(node, tensors, {"x": chunk.numpy(), "g/out.past": past})
        parts.append(got["g/out"])
        past = got["g/out.past.next"]
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-5)


def test_valid_convolution_gets_shorter() -> None:
    x = np.arange(10, dtype=np.float32).reshape(5, 1, 2)
    tensors = {"w": np.array([[1, 0, 0, 10]], np.float32)}  # taps oldest first
    node = {"op": "conv1d", "kernel": 2, "dilation": 1, "padding": "valid"}
    got = run_node(node | {"tensors": {"weight": "w"}}, tensors, {"x": x})["g/out"]
    np.testing.assert_array_equal(got[:, 0, 0], x[:-1, 0, 0] + 10 * x[1:, 0, 1])


def test_stack_joins_the_frames_of_each_stream() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    got = run_node({"op": "stack", "factor": 2}, {}, {"x": x})["g/out"]
    assert got.shape == (2, 2, 6)
    for frame in range(2):
        for stream in range(2):
            joined = np.concatenate([x[2 * frame, stream], x[2 * frame + 1, stream]])
            np.testing.assert_array_equal(got[frame, stream], joined)


def test_embedding_of_an_id_below_zero_is_zeros() -> None:
    table = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    ids = np.array([[-1, 4], [0, -2]], np.int64)
    node = {"op": "embedding", "tensors": {"table": "t"}}
    got = run_node(node, {"t": table}, {"x": ids})["g/out"]
    expected = np.where(ids[..., None] < 0, 0, table[np.maximum(ids, 0)])
    np.testing.assert_array_equal(got, expected)


def test_rms_norm_is_what_the_format_says() -> None:
    x = np.random.default_rng(3).normal(size=(5, 1, 8)).astype(np.float32)
    gamma = np.linspace(0.5, 2, 8, dtype=np.float32)
    node = {"op": "rms_norm", "eps": 1e-5, "tensors": {"gamma": "g"}}
    got = run_node(node, {"g": gamma}, {"x": x})["g/out"]
    expected = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * gamma
    np.testing.assert_allclose(got, expected, rtol=1e-5)
