"""The embedded model on recorded speech: engine against torch, pieces against the whole."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from earshot import _native
from earshot.compress.export import export_transducer, read_transducer
from earshot.data.audio import read_audio
from earshot.models.transducer import Transducer
from earshot.session.recognizer import embedded_model_path
from earshot.train.recipe import load_recipe

SETS = ("librispeech_dev_clean_half", "alphanumeric_accents", "common_voice_sample")


def clips(real_data: Path, count: int) -> list[np.ndarray]:
    """The first English clips of the test splits, `count` of each set."""
    found = []
    for name in SETS:
        lines = (real_data / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [r for r in map(json.loads, lines) if r["split"] == "test" and r["lang"] == "en"]
        found += [read_audio(real_data / name / r["audio"]) for r in rows[:count]]
    return found


@pytest.fixture(scope="module")
def network(repository: Path) -> Transducer:
    recipe = load_recipe(repository / "recipes" / "assistant-en.toml")
    return read_transducer(embedded_model_path(), recipe.model).eval()


@pytest.fixture(scope="module")
def in_float32(network: Transducer, tmp_path_factory: pytest.TempPathFactory) -> _native.Model:
    """The embedded weights, written as float32: what torch holds, exactly."""
    file = _native.ModelFile(str(embedded_model_path()))
    pieces = json.loads(file.header_json)["pieces"]
    path = tmp_path_factory.mktemp("model") / "f32.ear"
    export_transducer(network, path, name="f32", pieces=pieces, tokenizer=b"-", codec="f32_r16")
    return _native.Model(str(path))


def decoded(model: _native.Model, parts: list[np.ndarray], method: str) -> dict[str, object]:
    recognizer = _native.Recognizer(model, method=method)
    stream = recognizer.create_stream()
    for part in parts:
        stream.accept_waveform(part)
        while stream.is_ready():
            recognizer.decode_streams([stream])
    stream.input_finished()
    while stream.is_ready():
        recognizer.decode_streams([stream])
    return dict(stream.result())


def test_engine_and_torch_agree_on_recordings(
    real_data: Path, network: Transducer, in_float32: _native.Model
) -> None:
    """Encoder outputs within 1e-3 and the same pieces at the same frames, in float32."""
    graph = in_float32.graph("encoder")
    pieces = 0
    for samples in clips(real_data, 8):
        features = _native.fbank(samples)
        out = graph.step({"x": features}, graph.initial_state(), flush=True)
        with torch.no_grad():
            hidden = network.encoder(torch.from_numpy(features)[None])
            encoded = network.encoder_out(hidden)[0].numpy()
        assert np.abs(out["encoder_out"] - encoded).max() < 1e-3
        tokens, frames = network.greedy_search(torch.from_numpy(features))
        result = decoded(in_float32, [samples], "greedy_search")
        assert list(result["tokens"]) == tokens
        assert list(result["frames"]) == frames
        pieces += len(tokens)
    assert pieces > 100  # agreement on silence would mean nothing


@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_recordings_in_random_pieces_give_the_whole_bit_for_bit(
    real_data: Path, method: str
) -> None:
    model = _native.Model(str(embedded_model_path()))
    rng = np.random.default_rng(0)
    for samples in clips(real_data, 4):
        cuts = np.sort(rng.integers(0, len(samples), size=rng.integers(1, 60)))
        whole = decoded(model, [samples], method)
        assert decoded(model, np.split(samples, cuts), method) == whole
