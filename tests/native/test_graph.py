"""Graphs against numpy written another way; streams against one pass, bit for bit.

The oracle computes every op in double precision from the definition on the
page of the format, frame by frame, with quantisation where the codec asks for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ear_builder as eb
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot import _native

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Node = dict[str, Any]
Tensors = dict[str, tuple[str, npt.ArrayLike]]
CODECS = ("f32_r16", "i8_r16x4")


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> F32:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., _native.Graph]:
    folder = tmp_path_factory.mktemp("graphs")
    count = 0

    def open_graph(nodes: list[Node], tensors: Tensors | None = None, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        path = folder / f"{count}.ear"
        path.write_bytes(eb.graph_file(nodes, tensors or {}, **kwargs))
        return _native.Model(str(path)).graph("net")

    return open_graph


Load = Callable[..., _native.Graph]
MEAN = {"op": "normalize", "in": ["x"], "out": "n", "tensors": {"mean": "m", "inv_std": "i"}}


def fixed_width(width: int) -> Tensors:
    """Tensors of a first node that gives `x` a width and changes nothing."""
    return {"m": ("f32", np.zeros(width)), "i": ("f32", np.ones(width))}


# --- the oracle -----------------------------------------------------------------------------


def product(codec: str, w: F32, x: F64) -> F64:
    """One vector times one matrix; int8 quantises the vector on the way."""
    if codec == "f32_r16":
        return w.astype(np.float64) @ x
    q, scale = eb.quantise_rows(w)
    s = np.float32(np.abs(x).max() / 127)
    xq = np.rint(x.astype(np.float32) / s) if s > 0 else np.zeros_like(x)
    return (q.astype(np.int64) @ xq.astype(np.int64)) * (scale.astype(np.float64) * s)


def sigmoid(x: F64) -> F64:
    return 1 / (1 + np.exp(-x))


def lstm(codec: str, wx: F32, wh: F32, bias: F32, xs: F64) -> F64:
    hidden = wh.shape[1]
    h, c = np.zeros(hidden), np.zeros(hidden)
    out = []
    for x in xs:
        pre = product(codec, wx, x) + product(codec, wh, h) + bias
        gates = np.zeros((4, hidden))
        for unit in range(hidden):
            for gate in range(4):
                gates[gate, unit] = pre[unit // 16 * 64 + gate * 16 + unit % 16]
        i, f, g, o = sigmoid(gates[0]), sigmoid(gates[1]), np.tanh(gates[2]), sigmoid(gates[3])
        c = f * c + i * g
        h = o * np.tanh(c)
        out.append(h)
    return np.array(out)


def log_softmax(x: F64) -> F64:
    return x - np.log(np.exp(x - x.max()).sum()) - x.max()


# --- ops ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 64), (5, 3), (35, 130), (64, 320)])
@pytest.mark.parametrize("frames", [1, 2, 7, 33])
def test_linear(load: Load, codec: str, rows: int, columns: int, frames: int) -> None:
    w, b = rand(rows, columns), rand(rows, seed=1)
    x = rand(frames, columns, seed=2)
    node: Node = {"op": "linear", "in": ["x"], "out": "out", "tensors": {"weight": "w"}}
    got = load([node], {"w": (codec, w)}).step(x)["out"]
    want = np.array([product(codec, w, row) for row in x.astype(np.float64)])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)
    node["tensors"]["bias"] = "b"
    got = load([node], {"w": (codec, w), "b": ("f32", b)}).step(x)["out"]
    np.testing.assert_allclose(got, want + b, rtol=1e-5, atol=2e-5)


def test_linear_of_zeros_and_of_nothing(load: Load) -> None:
    node = {"op": "linear", "in": ["x"], "out": "out", "tensors": {"weight": "w", "bias": "b"}}
    b = rand(9)
    graph = load([node], {"w": ("i8_r16x4", rand(9, 70)), "b": ("f32", b)})
    np.testing.assert_array_equal(graph.step(np.zeros((2, 70), np.float32))["out"], [b, b])
    assert graph.step(np.zeros((0, 70), np.float32))["out"].shape == (0, 9)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("hidden", [16, 48])
def test_lstm(load: Load, codec: str, hidden: int) -> None:
    wx, wh, b = (
        rand(4 * hidden, 20, scale=0.3),
        rand(4 * hidden, hidden, scale=0.3),
        rand(4 * hidden),
    )
    node = {
        "op": "lstm",
        "in": ["x"],
        "out": "out",
        "hidden": hidden,
        "tensors": {"weight_x": "wx", "weight_h": "wh", "bias": "b"},
    }
    graph = load([node], {"wx": (codec, wx), "wh": (codec, wh), "b": ("f32", b)})
    x = rand(25, 20, seed=3)
    state = graph.initial_state()
    got = graph.step(x, state)["out"]
    want = lstm(codec, wx, wh, b, x.astype(np.float64))
    # A value on the edge of two int8 steps may go either way; then the frames after it move too.
    np.testing.assert_allclose(got, want, atol=1e-5 if codec == "f32_r16" else 3e-3)
    np.testing.assert_array_equal(state.tensors()["out.h"], got[-1])


def test_norms(load: Load) -> None:
    x, gamma, beta = rand(6, 37, scale=3), rand(37, seed=1), rand(37, seed=2)
    node = {
        "op": "layer_norm",
        "in": ["x"],
        "out": "out",
        "eps": 1e-5,
        "tensors": {"gamma": "g", "beta": "b"},
    }
    got = load([node], {"g": ("f32", gamma), "b": ("f32", beta)}).step(x)["out"]
    x64 = x.astype(np.float64)
    mean, var = x64.mean(axis=1, keepdims=True), x64.var(axis=1, keepdims=True)
    np.testing.assert_allclose(got, (x64 - mean) / np.sqrt(var + 1e-5) * gamma + beta, atol=1e-5)
    node = {"op": "rms_norm", "in": ["x"], "out": "out", "eps": 0.1, "tensors": {"gamma": "g"}}
    got = load([node], {"g": ("f32", gamma)}).step(x)["out"]
    power = (x64**2).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(got, x64 / np.sqrt(power + 0.1) * gamma, atol=1e-5)
    node = {"op": "normalize", "in": ["x"], "out": "out", "tensors": {"mean": "b", "inv_std": "g"}}
    got = load([node], {"g": ("f32", gamma), "b": ("f32", beta)}).step(x)["out"]
    np.testing.assert_allclose(got, (x64 - beta) * gamma, atol=1e-5)


def test_element_wise_ops(load: Load) -> None:
    x = rand(9, 21, scale=4)
    x64 = x.astype(np.float64)
    want = {
        "relu": np.maximum(x64, 0),
        "tanh": np.tanh(x64),
        "sigmoid": sigmoid(x64),
        "log_softmax": np.array([log_softmax(row) for row in x64]),
        "add": x64 + x64,
    }
    for op, value in want.items():
        node = {"op": op, "in": ["n"] * (2 if op == "add" else 1), "out": "out"}
        got = load([MEAN, node], fixed_width(21)).step(x)["out"]
        np.testing.assert_allclose(got, value, atol=1e-5, err_msg=op)


def test_stack_keeps_the_remainder_and_repeats_the_last_frame(load: Load) -> None:
    stack = {"op": "stack", "in": ["n"], "out": "out", "factor": 3}
    graph = load([MEAN, stack], fixed_width(2))
    x = rand(7, 2)
    state = graph.initial_state()
    np.testing.assert_array_equal(graph.step(x, state)["out"], x[:6].reshape(2, 6))
    np.testing.assert_array_equal(state.tensors()["out.frames"], x[6:])
    fork = state.copy()
    last = graph.step(x[:0], state, flush=True)["out"]
    np.testing.assert_array_equal(last, [np.concatenate([x[6]] * 3)])
    assert graph.step(x[:0], state, flush=True)["out"].shape == (0, 6)
    np.testing.assert_array_equal(
        graph.step(x[:1], fork, flush=True)["out"], [np.concatenate([x[6], x[0], x[0]])]
    )
    assert graph.step(x[:0], graph.initial_state(), flush=True)["out"].shape == (0, 6)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (2, 5), (4, 3)])
@pytest.mark.parametrize("padding", ["causal", "valid"])
def test_conv1d(load: Load, codec: str, kernel: int, dilation: int, padding: str) -> None:
    width, rows, frames = 6, 10, 19
    node: Node = {"op": "conv1d", "in": ["x"], "out": "out", "kernel": kernel}
    node |= {"dilation": dilation, "padding": padding, "tensors": {"weight": "w", "bias": "b"}}
    x = rand(frames, width)
    back = (kernel - 1) * dilation
    padded = np.concatenate([np.zeros((back, width)), x]) if padding == "causal" else x
    made = len(padded) - back

    w, b = rand(rows, kernel * width, seed=1), rand(rows, seed=2)
    got = load([node], {"w": (codec, w), "b": ("f32", b)}).step(x)["out"]
    taps = [np.concatenate([padded[t + k * dilation] for k in range(kernel)]) for t in range(made)]
    want = np.array([product(codec, w, tap.astype(np.float64)) + b for tap in taps])
    np.testing.assert_allclose(got, want, atol=2e-5)

    w, b = rand(width, kernel, seed=1), rand(width, seed=2)
    got = load([node], {"w": ("f32", w), "b": ("f32", b)}).step(x)["out"]
    want = np.array(
        [
            b + sum(w[:, k].astype(np.float64) * padded[t + k * dilation] for k in range(kernel))
            for t in range(made)
        ]
    )
    np.testing.assert_allclose(got, want, atol=2e-5)
    if padding == "valid" and back > 0:
        assert load([node], {"w": ("f32", w), "b": ("f32", b)}).step(x[:back])["out"].shape[0] == 0


def test_embedding(load: Load) -> None:
    table = rand(5, 3)
    node = {"op": "embedding", "in": ["y"], "out": "out", "tensors": {"table": "t"}}
    graph = load([node], {"t": ("f32", table)}, inputs=("y",))
    got = graph.step(np.array([4, -1, 0, -7], np.int32))["out"]
    np.testing.assert_array_equal(got, [table[4], np.zeros(3), table[0], np.zeros(3)])
    with pytest.raises(ValueError, match="id 5 at position 1"):
        graph.step(np.array([0, 5], np.int32))


def test_embedding_of_int8_rows(load: Load) -> None:
    table = rand(37, 70)
    node = {"op": "embedding", "in": ["y"], "out": "out", "tensors": {"table": "t"}}
    graph = load([node], {"t": ("i8_r16x4", table)}, inputs=("y",))
    q, scale = eb.quantise_rows(table)
    ids = np.array([36, 0, -1, 17, 16], np.int32)
    want = np.where(ids[:, None] >= 0, q[ids] * scale[ids][:, None], 0)
    np.testing.assert_array_equal(graph.step(ids)["out"], want.astype(np.float32))
    with pytest.raises(ValueError, match="id 37"):
        graph.step(np.array([37], np.int32))


# --- gates ----------------------------------------------------------------------------------


def gated(op: Node, skipped: str | None) -> list[Node]:
    gate = {"op": "linear", "in": ["x"], "out": "gate", "tensors": {"weight": "gate_w"}}
    node = {**op, "in": ["x"] * len(op["in"]), "out": "out", "when": "gate"}
    return [gate, node | ({"skipped": skipped} if skipped else {})]


GATED: dict[str, tuple[Node, Tensors]] = {
    "linear": (
        {"op": "linear", "in": [""], "tensors": {"weight": "w"}},
        {"w": ("f32_r16", rand(16, 16, seed=5))},
    ),
    "lstm": (
        {
            "op": "lstm",
            "in": [""],
            "hidden": 16,
            "tensors": {"weight_x": "w", "weight_h": "u", "bias": "b"},
        },
        {
            "w": ("i8_r16x4", rand(64, 16, seed=5)),
            "u": ("f32_r16", rand(64, 16, seed=6, scale=0.3)),
            "b": ("f32", rand(64, seed=7)),
        },
    ),
    "conv1d": (
        {
            "op": "conv1d",
            "in": [""],
            "kernel": 3,
            "dilation": 2,
            "padding": "causal",
            "tensors": {"weight": "w"},
        },
        {"w": ("f32", rand(16, 3, seed=5))},
    ),
    "add": ({"op": "add", "in": ["", ""]}, {}),
    "log_softmax": ({"op": "log_softmax", "in": [""]}, {}),
}


@pytest.mark.parametrize("skipped", [None, "zero", "hold", "pass"])
@pytest.mark.parametrize("op", GATED)
def test_gates_skip_frames_and_leave_the_state_alone(
    load: Load, op: str, skipped: str | None
) -> None:
    node, tensors = GATED[op]
    gate_w = np.zeros((1, 16), np.float32)
    gate_w[0, 0] = 1
    graph = load(gated(node, skipped), {**tensors, "gate_w": ("f32_r16", gate_w)}, outputs=("out",))
    x = rand(30, 16)
    x[3, 0], x[4, 0] = 0.5, np.nextafter(np.float32(0.5), np.float32(0))
    opened = x[:, 0] >= 0.5
    assert 5 < opened.sum() < 25
    assert opened[3] and not opened[4]
    # Exactly as if the other frames had not been there.
    alone = {**node, "in": ["n"] * len(node["in"]), "out": "out"}
    dense = load([MEAN, alone], {**tensors, **fixed_width(16)}).step(x[opened])["out"]
    want = np.zeros((30, 16), np.float32)
    last = np.zeros(16, np.float32)
    rows = iter(dense)
    for t in range(30):
        if opened[t]:
            want[t] = last = next(rows)
        elif skipped == "hold":
            want[t] = last
        elif skipped == "pass":
            want[t] = x[t]
    np.testing.assert_array_equal(graph.step(x)["out"], want)
    state = graph.initial_state()
    parts = [graph.step(part, state)["out"] for part in np.split(x, [1, 4, 5, 17])]
    np.testing.assert_array_equal(np.concatenate(parts), want)


# --- attention ------------------------------------------------------------------------------


def attention(x: F64, heads: int, window: int, distance: F32) -> F64:
    """Every frame and head by itself, over the frames it sees, from the definition."""
    width = x.shape[1] // 3
    size = width // heads
    query, key, value = x[:, :width], x[:, width : 2 * width], x[:, 2 * width :]
    out = np.zeros((len(x), width))
    for t in range(len(x)):
        seen = np.arange(max(0, t - window + 1), t + 1)
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = key[seen, part] @ query[t, part] / np.sqrt(size) + distance[h, t - seen]
            share = np.exp(scores - scores.max())
            out[t, part] = share / share.sum() @ value[seen, part]
    return out


def attention_node(heads: int, window: int) -> Node:
    return {"op": "causal_attention", "in": ["x"], "out": "out", "heads": heads, "window": window,
            "tensors": {"distance": "d"}}  # fmt: skip


def load_attention(load: Load, heads: int, window: int, width: int) -> tuple[_native.Graph, F32]:
    distance = rand(heads, window, seed=4)
    nodes = [MEAN, {**attention_node(heads, window), "in": ["n"]}]
    tensors = {**fixed_width(3 * width), "d": ("f32", distance)}
    return load(nodes, tensors, version=3), distance


@pytest.mark.parametrize(
    ("heads", "window", "width"), [(1, 1, 1), (1, 2, 16), (3, 5, 21), (4, 33, 64), (2, 64, 6)]
)
def test_causal_attention(load: Load, heads: int, window: int, width: int) -> None:
    graph, distance = load_attention(load, heads, window, width)
    x = rand(40, 3 * width, seed=5)
    want = attention(x.astype(np.float64), heads, window, distance)
    np.testing.assert_allclose(graph.step(x)["out"], want, rtol=1e-4, atol=1e-5)


@settings(max_examples=40)
@given(data=st.data())
def test_attention_in_chunks_and_batches_changes_no_bit(load: Load, data: st.DataObject) -> None:
    """Streams of their own length and cuts; a window shorter than them, so that its ring turns."""
    graph, _ = load_attention(load, 2, data.draw(st.sampled_from((1, 2, 3, 6, 64))), 8)
    clips = [rand(data.draw(st.integers(0, 30)), 24, seed=i) for i in range(3)]
    cuts = [
        data.draw(st.lists(st.integers(0, len(c)), min_size=3, max_size=3).map(sorted))
        for c in clips
    ]
    states = [graph.initial_state() for _ in clips]
    chunks = [np.split(clip, cut) for clip, cut in zip(clips, cuts, strict=True)]
    got: list[list[F32]] = [[] for _ in clips]
    for step in range(4):
        results = graph.step_batch([c[step] for c in chunks], states)
        for i, result in enumerate(results):
            got[i].append(result["out"])
    for i, clip in enumerate(clips):
        np.testing.assert_array_equal(np.concatenate(got[i]), graph.step(clip)["out"])


def test_attention_is_causal_forgets_and_resets(load: Load) -> None:
    graph, _ = load_attention(load, 2, 5, 8)
    x = rand(20, 24, seed=6)
    whole = graph.step(x)["out"]
    changed = x.copy()
    changed[9] += 1
    differs = (graph.step(changed)["out"] != whole).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(differs), np.arange(9, 14))
    state = graph.initial_state()
    graph.step(x, state)
    assert [v.shape for v in state.tensors().values()] == [(4, 2, 8)]
    fork = state.copy()
    np.testing.assert_array_equal(graph.step(x, state)["out"], graph.step(x, fork)["out"])
    state.reset()
    assert [v.shape for v in state.tensors().values()] == [(0, 2, 8)]
    np.testing.assert_array_equal(graph.step(x, state)["out"], whole)


def test_a_gated_attention_sees_open_frames_only(load: Load) -> None:
    distance = rand(2, 4, seed=4)
    gate = np.zeros((1, 24))
    gate[0, 0] = 1.0
    nodes = [
        MEAN,
        {"op": "linear", "in": ["n"], "out": "gate", "tensors": {"weight": "g"}},
        {**attention_node(2, 4), "in": ["n"], "when": "gate", "skipped": "zero"},
    ]
    tensors = {**fixed_width(24), "d": ("f32", distance), "g": ("f32_r16", gate)}
    graph = load(nodes, tensors, version=3)
    x = rand(30, 24, seed=7)
    x[:, 0] = np.random.default_rng(1).integers(0, 2, 30)
    want = np.zeros((30, 8))
    is_open = x[:, 0] > 0.5
    want[is_open] = attention(x[is_open].astype(np.float64), 2, 4, distance)
    np.testing.assert_allclose(graph.step(x)["out"], want, rtol=1e-4, atol=1e-5)


BAD_ATTENTION: dict[str, tuple[dict[str, Any], str]] = {
    "no heads": ({"heads": None}, "`heads`"),
    "0 heads": ({"heads": 0}, "1..64"),
    "65 heads": ({"heads": 65}, "1..64"),
    "window 0": ({"window": 0}, "1..1024"),
    "window 1025": ({"window": 1025}, "1..1024"),
    "a window that is not whole": ({"window": 4.5}, "whole number"),
    "distances of other heads": ({"heads": 3}, "2 x 4; it must be `heads` 3"),
    "distances of another window": ({"window": 5}, "`window` 5"),
    "no distances": ({"tensors": {}}, "no tensor `distance`"),
    "distances in blocks": ({"tensors": {"distance": "g"}}, "f32 with 2 dimensions"),
    "distances of one dimension": ({"tensors": {"distance": "m"}}, "f32 with 2 dimensions"),
    "an unknown attribute": ({"hidden": 16}, 'unknown key "hidden"'),
    "two inputs": ({"in": ["n", "n"]}, "list `in` of 1"),
    "ids": ({"in": ["y"]}, "reads ids"),
    "passing on its input": ({"when": "n", "skipped": "pass"}, "width"),
}


@pytest.mark.parametrize("what", BAD_ATTENTION)
def test_bad_attentions_are_refused(load: Load, what: str) -> None:
    changes, message = BAD_ATTENTION[what]
    node = {**attention_node(2, 4), "in": ["n"], **changes}
    node = {k: v for k, v in node.items() if v is not None}
    tensors = {**fixed_width(24), "d": ("f32", rand(2, 4)), "g": ("f32_r16", rand(2, 4))}
    with pytest.raises(_native.ModelFileError, match=message):
        load([MEAN, node], tensors, inputs=("x", "y"), version=3)


def test_an_attention_that_does_not_fit_is_refused(load: Load) -> None:
    for width, message in ((22, "multiple of 3 times `heads` 2"), (9, "multiple of 3 times")):
        with pytest.raises(_native.ModelFileError, match=message):
            load([MEAN, {**attention_node(2, 4), "in": ["n"]}],
                 {**fixed_width(width), "d": ("f32", rand(2, 4))}, version=3)  # fmt: skip
    with pytest.raises(_native.ModelFileError, match="needs version 3; the file says version 2"):
        load([MEAN, {**attention_node(2, 4), "in": ["n"]}],
             {**fixed_width(24), "d": ("f32", rand(2, 4))}, version=2)  # fmt: skip
    deep = [MEAN] + [{**attention_node(1, 1024), "in": ["n"], "out": f"a{i}"} for i in range(9)]
    wide = {**fixed_width(3 * 1024), "d": ("f32", rand(1, 1024))}
    with pytest.raises(_native.ModelFileError, match="state of more than"):
        load(deep, wide, outputs=("a0",), version=3)


# --- streams --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[_native.Graph]:
    """Encoders with every kind of state, in both codecs."""
    folder = tmp_path_factory.mktemp("encoders")
    graphs = []
    for codec in CODECS:
        ear = eb.recogniser(matrix_codec=codec, hidden=48, num_bins=23)
        nodes = ear.header["graphs"]["encoder"]["nodes"]
        ear.tensor("dw", "f32", rand(48, 5, seed=8, scale=0.3))
        ear.tensor("gw", codec, rand(1, 48, seed=9))
        at = next(i for i, node in enumerate(nodes) if node["out"] == "h1")
        nodes[at]["out"] = "h1a"
        nodes[at + 1 : at + 1] = [
            {"op": "linear", "in": ["h1a"], "out": "gate", "tensors": {"weight": "gw"}},
            {
                "op": "conv1d",
                "in": ["h1a"],
                "out": "h1b",
                "kernel": 5,
                "dilation": 2,
                "padding": "causal",
                "when": "gate",
                "skipped": "hold",
                "tensors": {"weight": "dw"},
            },
            {"op": "tanh", "in": ["h1b"], "out": "h1c"},
            {"op": "add", "in": ["h1a", "h1c"], "out": "h1"},
        ]
        path = folder / f"{codec}.ear"
        path.write_bytes(ear.bytes())
        graphs.append(_native.Model(str(path)).graph("encoder"))
    return graphs


FRAMES = rand(50, 23, seed=11, scale=3) - 8


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, len(FRAMES)), max_size=12).map(sorted))
def test_chunks_change_no_bit(encoders: list[_native.Graph], cuts: list[int]) -> None:
    for graph in encoders:
        whole = graph.step(FRAMES, graph.initial_state(), flush=True)
        state = graph.initial_state()
        parts = [graph.step(part, state) for part in np.split(FRAMES, cuts)]
        parts.append(graph.step(FRAMES[:0], state, flush=True))
        assert whole["encoder_out"].shape == (13, 16)
        for name, value in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)


@settings(max_examples=40)
@given(data=st.data())
def test_streams_in_one_call_change_no_bit(
    encoders: list[_native.Graph], data: st.DataObject
) -> None:
    streams = data.draw(st.integers(1, 5))
    cuts = [
        data.draw(st.lists(st.integers(0, len(FRAMES)), min_size=3, max_size=3).map(sorted))
        for _ in range(streams)
    ]
    for graph in encoders:
        states = [graph.initial_state() for _ in range(streams)]
        clips = [np.roll(FRAMES, 7 * i, axis=0) for i in range(streams)]
        chunks = [np.split(clip, cut) for clip, cut in zip(clips, cuts, strict=True)]
        got: list[list[F32]] = [[] for _ in range(streams)]
        for step in range(4):
            results = graph.step_batch([c[step] for c in chunks], states, flush=step == 3)
            for stream, result in enumerate(results):
                got[stream].append(result["encoder_out"])
        for stream, clip in enumerate(clips):
            alone = graph.step(clip, graph.initial_state(), flush=True)["encoder_out"]
            np.testing.assert_array_equal(np.concatenate(got[stream]), alone)


def test_the_encoder_is_causal(encoders: list[_native.Graph]) -> None:
    for graph in encoders:
        whole = graph.step(FRAMES[:48])["encoder_out"]
        changed = FRAMES[:48].copy()
        changed[24:] = 0
        np.testing.assert_array_equal(graph.step(changed)["encoder_out"][:6], whole[:6])


def test_reset_and_copy_of_a_state(encoders: list[_native.Graph]) -> None:
    for graph in encoders:
        state = graph.initial_state()
        assert state.size_bytes > 0
        assert not any(value.any() for value in state.tensors().values())
        first = graph.step(FRAMES, state)["encoder_out"]
        fork = state.copy()
        one, two = graph.step(FRAMES, state), graph.step(FRAMES, fork)
        np.testing.assert_array_equal(one["encoder_out"], two["encoder_out"])
        assert not np.array_equal(one["encoder_out"][:12], first)
        state.reset()
        np.testing.assert_array_equal(graph.step(FRAMES, state)["encoder_out"], first)
        np.testing.assert_array_equal(graph.step(FRAMES)["encoder_out"], first)


def test_wrong_arguments(load: Load, encoders: list[_native.Graph]) -> None:
    graph, other = encoders
    with pytest.raises(ValueError, match=r"\(frames, 23\)"):
        graph.step(np.zeros((5, 22), np.float32))
    with pytest.raises(ValueError, match=r"\(frames, 23\)"):
        graph.step(np.zeros(23, np.float32))
    with pytest.raises(ValueError, match="another graph"):
        graph.step(FRAMES, other.initial_state())
    with pytest.raises(ValueError, match="'x' is missing"):
        graph.step({"z": FRAMES})
    state = graph.initial_state()
    with pytest.raises(ValueError, match="twice"):
        graph.step_batch([FRAMES, FRAMES], [state, state])
    two = load([{"op": "add", "in": ["a", "b"], "out": "s"}, {**MEAN, "in": ["s"]}], fixed_width(3),
               inputs=("a", "b"), outputs=("n",))  # fmt: skip
    with pytest.raises(ValueError, match="2 inputs"):
        two.step(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="as many"):
        two.step({"a": np.zeros((1, 3), np.float32), "b": np.zeros((2, 3), np.float32)})
    both = {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 3), np.float32)}
    np.testing.assert_array_equal(two.step(both)["n"], 2 * np.ones((2, 3)))


# --- graphs that must be refused ------------------------------------------------------------

W = {"w": ("f32_r16", rand(4, 3)), "b": ("f32", rand(4)), "v": ("f32", rand(3)),
     "t": ("f32", rand(5, 3)), "u8": ("u8", np.arange(3)), "l": ("f32_r16", rand(64, 3)),
     "r": ("f32_r16", rand(64, 16)), "lb": ("f32", rand(64)), "d": ("f32", rand(3, 2))}  # fmt: skip
LINEAR: Node = {"op": "linear", "in": ["x"], "out": "out", "tensors": {"weight": "w"}}
LSTM: Node = {"op": "lstm", "in": ["x"], "out": "out", "hidden": 16,
              "tensors": {"weight_x": "l", "weight_h": "r", "bias": "lb"}}  # fmt: skip
NORM: Node = {"op": "rms_norm", "in": ["x"], "out": "out", "eps": 1e-5, "tensors": {"gamma": "v"}}
CONV: Node = {"op": "conv1d", "in": ["x"], "out": "out", "kernel": 2, "dilation": 1,
              "padding": "causal", "tensors": {"weight": "d"}}  # fmt: skip
STACK: Node = {"op": "stack", "in": ["x"], "out": "s", "factor": 2}


def without(node: Node, key: str) -> Node:
    return {k: v for k, v in node.items() if k != key}


BAD: dict[str, tuple[list[Any], str]] = {
    "unknown op": ([{**LINEAR, "op": "attention"}], 'unknown op "attention"'),
    "no op": ([without(LINEAR, "op")], "no `op`"),
    "a node that is a list": ([[]], "must be an object"),
    "unknown attribute": ([{**LINEAR, "factor": 2}], 'unknown key "factor"'),
    "missing attribute": ([without(STACK, "factor")], "`factor`"),
    "factor 0": ([{**STACK, "factor": 0}], "1..16"),
    "factor 17": ([{**STACK, "factor": 17}], "1..16"),
    "factor 2.0": ([{**STACK, "factor": 2.0}], "1..16"),
    "factor true": ([{**STACK, "factor": True}], "1..16"),
    "reads itself": ([{**LINEAR, "in": ["out"]}], "nothing above defines"),
    "reads what comes later": (
        [{**LINEAR, "in": ["z"]}, {**LINEAR, "out": "z"}],
        "nothing above defines",
    ),
    "defines twice": ([LINEAR, {**LINEAR}], "twice"),
    "defines an input": ([{**LINEAR, "out": "x"}], "twice"),
    "no inputs of a node": ([{**LINEAR, "in": []}], "list `in` of 1"),
    "two inputs": ([{**LINEAR, "in": ["x", "x"]}], "list `in` of 1"),
    "no output of a node": ([without(LINEAR, "out")], "an `out`"),
    "an empty name": ([{**LINEAR, "out": ""}], "an `out`"),
    "missing tensor": ([{**LINEAR, "tensors": {"weight": "none"}}], "not a tensor of the file"),
    "no tensors": ([without(LINEAR, "tensors")], "no object `tensors`"),
    "missing role": ([{**LINEAR, "tensors": {"bias": "b"}}], "no tensor `weight`"),
    "unknown role": ([{**LINEAR, "tensors": {"weight": "w", "gain": "b"}}], 'role "gain"'),
    "a role that is a number": ([{**LINEAR, "tensors": {"weight": 3}}], "not a tensor"),
    "wrong codec": ([{**LINEAR, "tensors": {"weight": "t"}}], "f32_r16, i8_r16x4 or"),
    "a text as weight": ([{**LINEAR, "tensors": {"weight": "u8"}}], "f32_r16, i8_r16x4 or"),
    "packed bias": ([{**LINEAR, "tensors": {"weight": "w", "bias": "w"}}], "f32 with 1 dimension"),
    "short bias": ([{**LINEAR, "tensors": {"weight": "w", "bias": "v"}}], "must have 4"),
    "widths that disagree": ([LINEAR, {**LINEAR, "in": ["out"], "out": "o2"}], "width"),
    "add of two widths": ([LINEAR, {"op": "add", "in": ["x", "out"], "out": "o2"}], "width"),
    "a width of nowhere": ([{"op": "relu", "in": ["x"], "out": "out"}], "does not follow"),
    "hidden 8": ([{**LSTM, "hidden": 8}], "`hidden`"),
    "hidden 24": ([{**LSTM, "hidden": 24}], "multiple of 16"),
    "hidden 32": ([{**LSTM, "hidden": 32}], "must have 128"),
    "a square weight_h": (
        [{**LSTM, "tensors": {"weight_x": "l", "weight_h": "l", "bias": "lb"}}],
        "must be 64 x 16",
    ),
    "an lstm without bias": (
        [{**LSTM, "tensors": {"weight_x": "l", "weight_h": "r"}}],
        "no tensor `bias`",
    ),
    "eps 0": ([{**NORM, "eps": 0}], "`eps`"),
    "eps below 0": ([{**NORM, "eps": -1}], "`eps`"),
    "eps too small": ([{**NORM, "eps": 1e-300}], "`eps`"),
    "eps too large": ([{**NORM, "eps": 1e300}], "`eps`"),
    "eps as text": ([{**NORM, "eps": "1"}], "`eps`"),
    "kernel 65": ([{**CONV, "kernel": 65}], "`kernel`"),
    "kernel 3 of 2 taps": ([{**CONV, "kernel": 3}], "2 taps"),
    "dilation 0": ([{**CONV, "dilation": 0}], "`dilation`"),
    "padding same": ([{**CONV, "padding": "same"}], "`padding`"),
    "columns no multiple": ([{**CONV, "tensors": {"weight": "w"}}], "multiple of `kernel`"),
    "ids as vectors": ([{**LINEAR, "in": ["y"]}], "reads ids"),
    "vectors as ids": (
        [{"op": "embedding", "in": ["x"], "out": "out", "tensors": {"table": "t"}}],
        "reads vectors",
    ),
    "frames that differ": (
        [
            STACK,
            {"op": "relu", "in": ["x"], "out": "r"},
            {"op": "add", "in": ["s", "r"], "out": "out"},
        ],
        "same number of frames",
    ),
    "a gate on a stack": ([{**STACK, "when": "x"}], "does not keep"),
    "a wide gate": ([{**NORM, "when": "x"}], "width"),
    "a gate of ids": ([{**NORM, "when": "y"}], "sequence of ids"),
    "an unknown gate": ([{**NORM, "when": "z"}], "nothing above defines"),
    "a slow gate": ([STACK, {**NORM, "when": "s"}], "same number of frames"),
    "skipped without when": ([{**NORM, "skipped": "hold"}], "without `when`"),
    "an unknown skipped": ([{**NORM, "when": "x", "skipped": "copy"}], "`skipped`"),
    "pass of two widths": ([{**LINEAR, "when": "x", "skipped": "pass"}], "width"),
    "too many nodes": ([{**LINEAR, "out": f"o{i}"} for i in range(1025)], "at most 1024"),
    "a huge stack": (
        [NORM | {"out": "s0"}]
        + [{**STACK, "in": [f"s{i}"], "out": f"s{i + 1}", "factor": 16} for i in range(5)],
        "width|more than",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_graphs_are_refused(load: Load, what: str) -> None:
    nodes, message = BAD[what]
    inputs = ("x", "y")
    last = nodes[-1].get("out", "out") if isinstance(nodes[-1], dict) else "out"
    with pytest.raises(_native.ModelFileError, match=message):
        load(nodes, W, inputs=inputs, outputs=(last or "out",))


def test_bad_inputs_and_outputs_are_refused(load: Load) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"outputs": ("z",)}, "no node defines"),
        ({"outputs": ()}, "no outputs"),
        ({"outputs": ("out", "out")}, "twice"),
        ({"inputs": ("x", "y"), "outputs": ("y",)}, "sequence of ids"),
        ({"inputs": ()}, "no inputs"),
        ({"inputs": ("x", "x")}, "twice"),
        ({"inputs": ("x", "unused")}, "does not follow"),
    ]
    for kwargs, message in cases:
        with pytest.raises(_native.ModelFileError, match=message):
            load([LINEAR], W, **kwargs)


def test_a_state_that_is_too_large_is_refused(load: Load) -> None:
    """64 dilated convolutions over one small tensor: the file stays small, the state would not."""
    wide = {"w": ("f32", np.zeros((8192, 64)))}
    nodes = [
        {"op": "conv1d", "in": ["x"], "out": f"c{i}", "kernel": 64, "dilation": 64,
         "padding": "causal", "tensors": {"weight": "w"}}
        for i in range(64)
    ]  # fmt: skip
    with pytest.raises(_native.ModelFileError, match="state of more than"):
        load(nodes, wide, outputs=("c0",))


# --- instruction sets -----------------------------------------------------------------------

REPORT = """
import sys, hashlib, numpy as np
from earshot import _native
out = _native.Model(sys.argv[1]).graph("encoder").step(np.load(sys.argv[2]), None, flush=True)
np.save(sys.argv[3], out["encoder_out"])
print(_native.isa())
"""


@pytest.mark.parametrize("codec", CODECS)
def test_instruction_sets_agree(codec: str, tmp_path: Path) -> None:
    model, frames = tmp_path / "m.ear", tmp_path / "x.npy"
    model.write_bytes(eb.recogniser(matrix_codec=codec, num_bins=23).bytes())
    np.save(frames, FRAMES)
    results = {}
    for isa in _native.available_isas():
        out = tmp_path / f"{isa}.npy"
        done = subprocess.run(
            [sys.executable, "-c", REPORT, str(model), str(frames), str(out)],
            env={**os.environ, "EARSHOT_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == isa
        results[isa] = np.load(out)
    assert "scalar" in results
    for isa, value in results.items():
        # int8: one value on the edge between two steps moves by one step.
        tolerance = 1e-4 if codec == "f32_r16" else 2e-2
        np.testing.assert_allclose(value, results["scalar"], atol=tolerance, err_msg=isa)
