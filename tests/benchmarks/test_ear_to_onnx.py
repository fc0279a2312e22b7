"""The ONNX that the speed benchmark runs is the network that the engine runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the converter needs onnx; pip install onnx")
pytest.importorskip("onnxruntime", reason="the peer is onnxruntime; pip install onnxruntime")
torch = pytest.importorskip("torch", reason="the oracle is torch; pip install '.[train]'")

from ear_to_onnx import graph_to_onnx, quantise_dynamically, stacked_gates, write_onnx
from onnx_runner import OnnxEncoder, OnnxGreedy, one_thread_session

from earshot import _native
from earshot.modelfile.codecs import lstm_unit_blocks
from tests.tiny_model import BINS, tiny_parts, write_tiny_model


def test_gates_come_back_in_the_order_of_onnx() -> None:
    hidden = 32
    gates = {gate: np.full((hidden, 3), ord(gate), np.float32) for gate in "ifgo"}
    gates["i"][5, 1] = -1.0
    packed = lstm_unit_blocks(np.concatenate([gates[g] for g in "ifgo"]))
    expected = np.concatenate([gates[g] for g in "iofg"])
    np.testing.assert_array_equal(stacked_gates(packed), expected)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("onnx")
    model = write_tiny_model(folder / "tiny.ear")
    return model, write_onnx(model, folder)


@pytest.mark.parametrize("frames", [4, 37, 120])
def test_encoder_equals_the_engine(tiny: tuple[Path, dict[str, Path]], frames: int) -> None:
    x = np.random.default_rng(frames).normal(-3, 2, (frames, BINS)).astype(np.float32)
    graph = _native.Model(str(tiny[0])).graph("encoder")
    ours = graph.step(x, graph.initial_state(), True)["encoder_out"]
    encoder = OnnxEncoder(tiny[1]["encoder"])
    np.testing.assert_allclose(encoder.whole(x), ours, atol=1e-4)
    np.testing.assert_allclose(encoder.in_chunks(x, chunk_frames=10), ours, atol=1e-4)


def test_greedy_search_gives_the_engines_tokens(tiny: tuple[Path, dict[str, Path]]) -> None:
    model = _native.Model(str(tiny[0]))
    recognizer = _native.Recognizer(model, "greedy_search")
    sessions = (one_thread_session(tiny[1][g]) for g in ("predictor", "joiner"))
    assert model.search is not None
    greedy = OnnxGreedy(OnnxEncoder(tiny[1]["encoder"]), *sessions, dict(model.search))
    found = 0
    for seed in range(4):
        samples = 0.1 * np.random.default_rng(seed).standard_normal(24000).astype(np.float32)
        stream = recognizer.create_stream()
        stream.accept_waveform(samples)
        stream.input_finished()
        recognizer.decode_streams([stream])
        tokens = stream.result()["tokens"]
        features = _native.fbank(samples, BINS)
        assert greedy.tokens(greedy.encoder.whole(features)) == tokens
        found += len(tokens)
    assert found > 0  # or nothing was compared


def test_dynamic_quantisation_stays_near(
    tiny: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    x = np.random.default_rng(1).normal(-3, 2, (40, BINS)).astype(np.float32)
    quantised = quantise_dynamically(tiny[1], tmp_path)
    exact, rounded = (OnnxEncoder(paths["encoder"]).whole(x) for paths in (tiny[1], quantised))
    assert not np.array_equal(exact, rounded)
    assert np.abs(exact - rounded).max() < 0.2 * np.abs(exact).max()


def run_graph(
    folder: Path, nodes: list[dict[str, Any]], tensors: Any, feed: Any, width: int
) -> Any:
    import onnx

    graph = {"inputs": ["x"], "outputs": ["out"], "nodes": nodes}
    proto = graph_to_onnx("g", graph, lambda name: tensors[name], widths={"x": width})
    onnx.save(proto, folder / "g.onnx")
    session = one_thread_session(folder / "g.onnx")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def test_lstm_equals_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(12, 16)
    x = torch.randn(9, 12)
    with torch.no_grad():
        expected, (h, c) = lstm(x)
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().numpy()
    tensors = {
        "wx": lstm_unit_blocks(lstm.weight_ih_l0.detach().numpy()),
        "wh": lstm_unit_blocks(lstm.weight_hh_l0.detach().numpy()),
        "b": lstm_unit_blocks(bias),
    }
    roles = {"weight_x": "wx", "weight_h": "wh", "bias": "b"}
    node = {"op": "lstm", "in": ["x"], "out": "out", "hidden": 16, "tensors": roles}
    zeros = np.zeros((1, 1, 16), np.float32)
    feed = {"x": x.numpy(), "value:out.h": zeros, "value:out.c": zeros}
    got = run_graph(tmp_path, [node], tensors, feed, 12)
    np.testing.assert_allclose(got["out"], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(got["value:out.h.next"].ravel(), h.numpy().ravel(), atol=1e-5)
    np.testing.assert_allclose(got["value:out.c.next"].ravel(), c.numpy().ravel(), atol=1e-5)


@pytest.mark.parametrize("depthwise", [False, True])
def test_causal_convolution_equals_torch_and_keeps_its_past(
    tmp_path: Path, depthwise: bool
) -> None:
    torch.manual_seed(1)
    width, kernel, dilation = 6, 3, 2
    layer = torch.nn.Conv1d(
        width, width, kernel, dilation=dilation, groups=width if depthwise else 1
    )
    x = torch.randn(11, width)
    held = (kernel - 1) * dilation
    with torch.no_grad():
        padded = torch.cat([torch.zeros(held, width), x]).T[None]
        expected = layer(padded)[0].T.numpy()
    taps = layer.weight.detach().numpy()  # (M, W or 1, kernel)
    weight = taps[:, 0, :] if depthwise else taps.swapaxes(1, 2).reshape(width, -1)
    tensors = {"w": np.ascontiguousarray(weight), "b": layer.bias.detach().numpy()}
    node = {"op": "conv1d", "in": ["x"], "out": "out", "kernel": kernel, "dilation": dilation}
    node |= {"padding": "causal", "tensors": {"weight": "w", "bias": "b"}}
    past, parts = np.zeros((held, width), np.float32), []
    for chunk in (x[:2], x[2:3], x[3:]):
        got = run_graph(
            tmp_path, [node], tensors, {"x": chunk.numpy(), "value:out.past": past}, width
        )
        parts.append(got["out"])
        past = got["value:out.past.next"]
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-5)


def test_rms_norm_is_what_the_format_says(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(5, 8)).astype(np.float32)
    gamma = np.linspace(0.5, 2, 8, dtype=np.float32)
    node = {"op": "rms_norm", "in": ["x"], "out": "out", "eps": 1e-5, "tensors": {"gamma": "g"}}
    got = run_graph(tmp_path, [node], {"g": gamma}, {"x": x}, 8)["out"]
    expected = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * gamma
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_gates_are_refused_by_name() -> None:
    graph = tiny_parts()["graphs"]["joiner"]
    graph["nodes"][0]["when"] = "encoder_out"
    with pytest.raises(ValueError, match="'add' with a gate"):
        graph_to_onnx(
            "joiner", graph, lambda name: np.zeros(1), widths={"encoder_out": 4, "predictor_out": 4}
        )
