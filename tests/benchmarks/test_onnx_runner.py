"""The ONNX that the speed benchmark runs is the network that the engine runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the export needs onnx; pip install 'earshot[onnx]'")
pytest.importorskip("onnxruntime", reason="the peer is onnxruntime; pip install onnxruntime")

from ear_to_onnx import quantise_dynamically, write_onnx
from onnx_runner import OnnxEncoder, OnnxGreedy, one_thread_session

from earshot import _native
from tests.tiny_model import BINS, write_tiny_model


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
    sessions = (one_thread_session(tiny[1][name]) for name in ("decoder", "joiner"))
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
