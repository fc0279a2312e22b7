"""What torch computes, the engine computes: encoder, predictor, joiner, CTC, and the tokens."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from earshot import _native
from earshot.compress.export import export_transducer, read_transducer
from earshot.core.errors import ConfigError
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig

PIECES = ["<blk>", "<sos/eos>", "<unk>", *(f"▁w{i}" for i in range(29))]


def make(predictor: str, seed: int = 0) -> Transducer:
    torch.manual_seed(seed)
    config = TransducerConfig(
        vocab_size=32,
        joiner_width=16,
        encoder=EncoderConfig(hidden=32, layers=2),
        predictor=PredictorConfig(type=predictor, width=16),
    )
    model = Transducer(config).eval()
    model.encoder.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    for parameter in model.parameters():  # large weights: decisions that rounding does not flip
        parameter.data *= 2.0
    return model


def written(model: Transducer, path: Path, codec: str) -> _native.Model:
    export_transducer(
        model, path, name="t", pieces=PIECES, tokenizer=b"none", codec=codec, metadata={"a": "b"}
    )
    return _native.Model(str(path))


def features(seed: int, frames: int = 150) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((frames, 80)) * 3 - 8).astype(np.float32)


@pytest.mark.parametrize("predictor", ["stateless", "lstm"])
def test_graphs_agree_with_torch_in_float32(tmp_path: Path, predictor: str) -> None:
    model = make(predictor)
    engine = written(model, tmp_path / "m.ear", "f32_r16")
    x = features(1, frames=151)  # not a multiple of 4: the last frame is repeated
    graph = engine.graph("encoder")
    out = graph.step({"x": x}, graph.initial_state(), flush=True)
    with torch.no_grad():
        hidden = model.encoder(torch.from_numpy(x)[None])
        encoded = model.encoder_out(hidden)
        ctc = torch.log_softmax(model.ctc(hidden), dim=-1)
    np.testing.assert_allclose(out["hidden"], hidden[0], atol=1e-4)
    np.testing.assert_allclose(out["encoder_out"], encoded[0], atol=1e-4)
    head = engine.graph("ctc")
    found = head.step({"hidden": out["hidden"]}, head.initial_state())["log_probs"]
    np.testing.assert_allclose(found, ctc[0], atol=1e-3)


@pytest.mark.parametrize("predictor", ["stateless", "lstm"])
@pytest.mark.parametrize("seed", range(3))
def test_engine_finds_the_tokens_that_torch_finds(
    tmp_path: Path, predictor: str, seed: int
) -> None:
    """Random networks on features of random sound; the sound goes in, tokens come out."""
    model = make(predictor, seed)
    engine = written(model, tmp_path / "m.ear", "f32_r16")
    rng = np.random.default_rng(seed)
    samples = (rng.standard_normal(24000) * rng.uniform(0, 0.3, 24000)).astype(np.float32)
    recognizer = _native.Recognizer(engine, method="greedy_search")
    stream = recognizer.create_stream()
    stream.accept_waveform(samples)
    stream.input_finished()
    while stream.is_ready():
        recognizer.decode_streams([stream])
    tokens, frames = model.greedy_search(torch.from_numpy(_native.fbank(samples)))
    result = stream.result()
    assert list(result["tokens"]) == tokens
    assert list(result["frames"]) == frames
    assert tokens  # an empty answer would agree with anything


def test_int8_stays_close_and_its_matrices_take_a_quarter(tmp_path: Path) -> None:
    model = make("stateless")
    small = written(model, tmp_path / "i8.ear", "i8_r16x4")
    written(model, tmp_path / "f32.ear", "f32_r16")
    x = features(2)
    graph = small.graph("encoder")
    out = graph.step({"x": x}, graph.initial_state(), flush=True)["encoder_out"]
    with torch.no_grad():
        encoded = model.encoder_out(model.encoder(torch.from_numpy(x)[None]))[0].numpy()
    error = np.linalg.norm(out - encoded) / np.linalg.norm(encoded)
    assert 0 < error < 0.1
    sizes = [
        len(_native.ModelFile(str(tmp_path / name)).tensor_bytes("encoder.linear2.weight"))
        for name in ("i8.ear", "f32.ear")
    ]
    assert sizes[0] < 0.27 * sizes[1]


def test_int8_embedding_rows_are_the_dequantised_rows(tmp_path: Path) -> None:
    model = make("stateless")
    engine = written(model, tmp_path / "m.ear", "i8_r16x4")
    file = _native.ModelFile(str(tmp_path / "m.ear"))
    table = file.dequantise("predictor.embedding0.table")
    np.testing.assert_allclose(table, model.predictor.embedding.weight.detach(), atol=0.05)
    graph = engine.graph("predictor")
    outputs = [
        graph.step({"y": np.array(y, dtype=np.int32)}, graph.initial_state())["predictor_out"]
        for y in ([-1, 5], [-1, 5], [-1, 6])
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 0
    with torch.no_grad():
        expected = model.predictor(torch.tensor([[5]]))[0, -1]  # after blank, 5
    found = graph.step({"y": np.array([0, 5], dtype=np.int32)}, graph.initial_state())
    np.testing.assert_allclose(found["predictor_out"][0], expected, atol=0.1)


@pytest.mark.parametrize("predictor", ["stateless", "lstm"])
@pytest.mark.parametrize("codec", ["f32_r16", "i8_r16x4"])
def test_a_file_read_back_and_written_again_is_the_same_file(
    tmp_path: Path, predictor: str, codec: str
) -> None:
    model = make(predictor)
    first = tmp_path / "first.ear"
    written(model, first, codec)
    again = read_transducer(first, model.config).eval()
    second = tmp_path / "second.ear"
    written(again, second, codec)
    one, two = (_native.ModelFile(str(path)) for path in (first, second))
    for name in one.tensor_names:
        if name != "tokenizer":
            np.testing.assert_allclose(one.dequantise(name), two.dequantise(name), rtol=2e-7)
    if codec == "f32_r16":
        x = torch.from_numpy(features(3))
        with torch.no_grad():
            torch.testing.assert_close(model.encoder(x[None]), again.encoder(x[None]))


def test_another_shape_is_refused(tmp_path: Path) -> None:
    written(make("stateless"), tmp_path / "m.ear", "f32_r16")
    with pytest.raises(ConfigError, match="another shape than the recipe's"):
        read_transducer(tmp_path / "m.ear", make("lstm").config)
