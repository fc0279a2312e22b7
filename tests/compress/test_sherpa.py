"""The export is the same recogniser: the stock sherpa-onnx wheel says what the engine says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", reason="the export needs onnx; pip install 'earshot[onnx]'")

from earshot import _native
from earshot.compress.sherpa import export_sherpa_onnx
from earshot.core.errors import ConfigError, ModelFileError
from earshot.data.audio import read_audio
from earshot.modelfile.codecs import encode_f32, encode_f32_r16, encode_sparse
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model
from earshot.session.recognizer import embedded_model_path
from tests.compress.wheel import Heard, heard_by_wheel, whole_chunks
from tests.tiny_model import BINS, PIECES, tiny_parts, write_tiny_model

Clip = npt.NDArray[np.float32]
SETS = ("librispeech_dev_clean_half", "alphanumeric_accents", "common_voice_sample")


def in_float32(source: Path, target: Path) -> Path:
    """The recogniser of a model file with every weight as float32: what is exported, exactly."""
    file = ModelFile(source)
    header: Any = file.header
    graphs = {name: header["graphs"][name] for name in ("encoder", "predictor", "joiner")}
    tensors = {}
    for node in (node for graph in graphs.values() for node in graph["nodes"]):
        for role, name in node.get("tensors", {}).items():
            encode = encode_f32_r16 if role.startswith("weight") else encode_f32
            tensors[name] = encode(file.dequantise(name))
    write_model(
        target,
        name="float32",
        graphs=graphs,
        tensors=tensors,
        pieces=header["pieces"],
        search=header["search"],
        num_bins=header["features"]["num_bins"],
    )
    return target


def heard_by_engine(path: Path, clips: list[Clip]) -> list[Heard]:
    """Greedy search over whole chunks; the input stays open, as nothing comes after them."""
    recognizer = _native.Recognizer(_native.Model(str(path)), "greedy_search")
    found = []
    for clip in clips:
        stream = recognizer.create_stream()
        stream.accept_waveform(clip)
        recognizer.decode_streams([stream])
        result = stream.result()
        found.append(Heard(result["pieces"], result["frames"]))
    return found


def wheel_beam_search(model: _native.Model, frames: int, clip: Clip, *, paths: int) -> list[str]:
    """The wheel's modified beam search, written again over the engine's networks.

    It differs from the engine's in two ways: the best path at the end is the one with the
    highest log-probability per piece, the two before the first counted too, and equal
    histories are merged after the `paths` best were chosen, not before.
    """
    graph = model.graph("encoder")
    features = _native.fbank(clip, model.num_bins)[:frames]
    rows = graph.step(features, graph.initial_state(), False)["encoder_out"]
    predictor, joiner = model.graph("predictor"), model.graph("joiner")
    beam: dict[tuple[int, ...], float] = {(-1, 0): 0.0}
    for row in rows:
        candidates = []
        for history, score in beam.items():
            context = np.array(history[-2:], np.int32)
            predicted = predictor.step(context)["predictor_out"]
            joint = {"encoder_out": row[None], "predictor_out": predicted}
            logits = joiner.step(joint)["logits"][0].astype(np.float64)
            logits[2] = -np.inf
            log_probs = logits - np.logaddexp.reduce(logits)
            candidates += [(score + p, history, token) for token, p in enumerate(log_probs)]
        candidates.sort(key=lambda candidate: -candidate[0])
        beam = {}
        for score, history, token in candidates[:paths]:
            longer = (*history, token) if token else history
            beam[longer] = np.logaddexp(beam[longer], score) if longer in beam else score
    best = max(beam, key=lambda history: beam[history] / len(history))
    return [model.pieces[token] for token in best[2:]]


@pytest.fixture(scope="module")
def wheel() -> None:
    pytest.importorskip("sherpa_onnx", reason="the peer is sherpa-onnx; pip install sherpa-onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sherpa")
    int8 = importlib.util.find_spec("onnxruntime") is not None
    export_sherpa_onnx(embedded_model_path(), folder, int8=int8)
    in_float32(embedded_model_path(), folder / "float32.ear")
    return folder


@pytest.fixture(scope="module")
def examples(repository: Path) -> list[Clip]:
    clips = [read_audio(path) for path in sorted((repository / "examples").glob("*.flac"))]
    return [whole_chunks(clip, chunk_frames=32) for clip in clips]


@pytest.fixture(scope="module")
def recordings(real_data: Path) -> list[Clip]:
    """The hundred shortest English clips of the test splits."""
    rows = []
    for name in SETS:
        lines = (real_data / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        found = [r for r in map(json.loads, lines) if r["split"] == "test" and r["lang"] == "en"]
        rows += [(row["duration"], real_data / name / row["audio"]) for row in found]
    clips = [read_audio(path) for _, path in sorted(rows)[:100]]
    assert len(clips) == 100
    return [whole_chunks(clip, chunk_frames=32) for clip in clips]


def test_layout_is_what_sherpa_onnx_binds_by_position(tmp_path: Path) -> None:
    files = export_sherpa_onnx(write_tiny_model(tmp_path / "t.ear"), tmp_path, chunk_frames=16)
    models = {name: onnx.load(files[name]) for name in ("encoder", "decoder", "joiner")}
    shapes = {
        name: [
            (v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
            for v in [*model.graph.input, *model.graph.output]
        ]
        for name, model in models.items()
    }
    state = ["state0", "state1", "new_state0", "new_state1"]
    assert shapes["encoder"] == [
        ("x", ["N", "T", BINS]),
        *((name, [1, "N", 32]) for name in state[:2]),
        ("encoder_out", ["N", "T_out", 16]),
        *((name, [1, "N", 32]) for name in state[2:]),
    ]
    assert shapes["decoder"] == [("y", ["N", 2]), ("decoder_out", ["N", 16])]
    inputs = [("encoder_out", ["N", 16]), ("decoder_out", ["N", 16])]
    assert shapes["joiner"] == [*inputs, ("logit", ["N", len(PIECES)])]
    metadata = {p.key: p.value for p in models["encoder"].metadata_props}
    assert {key: metadata[key] for key in ("model_type", "T", "decode_chunk_len")} == {
        "model_type": "lstm",
        "T": "16",
        "decode_chunk_len": "16",
    }
    widths = ("num_encoder_layers", "d_model", "rnn_hidden_size")
    assert [metadata[key] for key in widths] == ["1", "32", "32"]
    assert {p.key: p.value for p in models["decoder"].metadata_props} == {
        "vocab_size": str(len(PIECES)),
        "context_size": "2",
    }
    table = files["tokens"].read_text(encoding="utf-8").splitlines()
    assert table == [f"{piece} {number}" for number, piece in enumerate(PIECES)]


def write_sparse(path: Path) -> Path:
    """A tiny model whose LSTM has three quarters of its blocks zero, in 4 and 8 bits."""
    parts = tiny_parts()
    rng = np.random.default_rng(0)
    for name, bits in (("lstm_x", 4), ("lstm_h", 8)):
        rows, columns = parts["tensors"][name].shape
        blocks = rng.normal(0, 0.4, (rows // 16, 16, columns)).astype(np.float32)
        blocks *= rng.random((rows // 16, 1, columns)) < 0.25
        parts["tensors"][name] = encode_sparse(
            blocks.reshape(rows, columns), block=(16, 1), bits=bits
        )
    write_model(path, **parts)
    return path


@pytest.mark.parametrize("write", [write_tiny_model, write_sparse])
@pytest.mark.parametrize("together", [False, True])
def test_the_wheel_hears_what_the_engine_hears_in_noise(
    wheel: None, tmp_path: Path, together: bool, write: Callable[[Path], Path]
) -> None:
    """Random weights emit pieces everywhere: whatever a chunk or a stream gets wrong shows."""
    compressed = write(tmp_path / "tiny.ear")
    model = in_float32(compressed, tmp_path / "float32.ear")
    export_sherpa_onnx(compressed, tmp_path, chunk_frames=12)
    rng = np.random.default_rng(5)
    clips = [
        whole_chunks(0.1 * rng.standard_normal(n).astype(np.float32), chunk_frames=12, silence_s=0)
        for n in (9000, 24000, 40000)
    ]
    ours = heard_by_engine(model, clips)
    theirs = heard_by_wheel(tmp_path, clips, tmp_path, num_bins=BINS, together=together)
    assert theirs == ours
    assert sum(len(heard.pieces) for heard in ours) > 50


def test_an_encoder_of_other_layers_travels_in_the_same_layout(wheel: None, tmp_path: Path) -> None:
    """A causal convolution for the lstm: its past is carried, and a state that nobody needs."""
    parts = tiny_parts()
    rng = np.random.default_rng(2)
    nodes = parts["graphs"]["encoder"]["nodes"]
    at = next(i for i, node in enumerate(nodes) if node["op"] == "lstm")
    x, out = nodes[at]["in"], nodes[at]["out"]
    width = parts["tensors"]["proj"].shape[0]
    for name in nodes[at]["tensors"].values():
        del parts["tensors"][name]
    taps = rng.normal(0, 1 / np.sqrt(3 * width), (width, 3 * width)).astype(np.float32)
    parts["tensors"]["taps"] = encode_f32_r16(taps)
    nodes[at] = {"op": "conv1d", "in": x, "out": out, "kernel": 3, "dilation": 2}
    nodes[at] |= {"padding": "causal", "tensors": {"weight": "taps"}}
    write_model(tmp_path / "conv.ear", **parts)
    files = export_sherpa_onnx(tmp_path / "conv.ear", tmp_path, chunk_frames=8)
    metadata = {p.key: p.value for p in onnx.load(files["encoder"]).metadata_props}
    assert (metadata["d_model"], metadata["rnn_hidden_size"]) == (str(4 * width), "1")
    noise = 0.1 * rng.standard_normal(32000).astype(np.float32)
    clips = [whole_chunks(noise, chunk_frames=8, silence_s=0)]
    ours = heard_by_engine(tmp_path / "conv.ear", clips)
    assert heard_by_wheel(tmp_path, clips, tmp_path, num_bins=BINS) == ours
    assert ours[0].pieces


@pytest.mark.parametrize("chunk_samples", [1600, 100_000])
def test_the_wheel_hears_what_the_engine_hears_in_the_examples(
    wheel: None, exported: Path, examples: list[Clip], tmp_path: Path, chunk_samples: int
) -> None:
    theirs = heard_by_wheel(exported, examples, tmp_path, chunk_samples=chunk_samples)
    assert theirs == heard_by_engine(exported / "float32.ear", examples)
    assert all(heard.pieces for heard in theirs)


def test_the_wheel_hears_what_the_engine_hears_in_a_hundred_recordings(
    wheel: None, exported: Path, recordings: list[Clip], tmp_path: Path
) -> None:
    theirs = heard_by_wheel(exported, recordings, tmp_path)
    ours = heard_by_engine(exported / "float32.ear", recordings)
    assert theirs == ours
    assert sum(len(heard.pieces) for heard in ours) > 500  # agreement on silence means nothing


def test_beam_search_of_the_wheel_is_its_own_rule_over_the_same_networks(
    wheel: None, exported: Path, examples: list[Clip], tmp_path: Path
) -> None:
    model = _native.Model(str(exported / "float32.ear"))
    theirs = heard_by_wheel(exported, examples, tmp_path, method="modified_beam_search")
    for clip, heard in zip(examples, theirs, strict=True):
        frames = len(clip) // 160 - 1
        assert heard.pieces == wheel_beam_search(model, frames, clip, paths=4)


def test_hotwords_of_the_wheel_are_spelled_by_the_exported_pieces(
    wheel: None, exported: Path, repository: Path, tmp_path: Path
) -> None:
    said = read_audio(repository / "examples" / "turn-on-the-fan-in-the-bedroom.flac")
    (tmp_path / "hotwords.txt").write_text("turn off the flights :4.0\n", encoding="utf-8")
    hotwords = {
        "modeling_unit": "bpe",
        "bpe_vocab": str(exported / "bpe.vocab"),
        "hotwords_file": str(tmp_path / "hotwords.txt"),
    }
    clips, method = [whole_chunks(said, chunk_frames=32)], "modified_beam_search"
    (plain,) = heard_by_wheel(exported, clips, tmp_path, method=method)
    (drawn,) = heard_by_wheel(exported, clips, tmp_path, method=method, **hotwords)
    assert plain.pieces[:2] == ["\u2581turn", "\u2581on"]
    assert drawn.pieces[:2] == ["\u2581turn", "\u2581off"]


def test_int8_export_is_read_and_stays_near(
    wheel: None, exported: Path, examples: list[Clip], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="quantising needs onnxruntime")
    for part in ("encoder", "decoder", "joiner"):
        sizes = [(exported / f"{part}{end}.onnx").stat().st_size for end in (".int8", "")]
        assert sizes[0] < sizes[1]
    exact = heard_by_wheel(exported, examples, tmp_path)
    rounded = heard_by_wheel(exported, examples, tmp_path, ending=".int8")
    same = sum(a.pieces == b.pieces for a, b in zip(exact, rounded, strict=True))
    assert same >= len(examples) - 1


def test_the_guides_program_prints_what_the_guide_says(
    wheel: None, exported: Path, repository: Path
) -> None:
    guide = (repository / "docs" / "guides" / "onnx.md").read_text(encoding="utf-8")
    program = guide.partition("```python\n")[2].partition("```")[0]
    said = program.rstrip().rpartition("# ")[2]
    done = subprocess.run(
        [sys.executable, "-c", program.replace("FOLDER", str(exported))],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{said}\n", done.stderr


@pytest.mark.parametrize("frames", [0, 6, 404])
def test_a_chunk_is_whole_encoder_frames(tmp_path: Path, frames: int) -> None:
    with pytest.raises(ConfigError, match=f"chunk_frames is {frames}; it must be a multiple of 4"):
        export_sherpa_onnx(embedded_model_path(), tmp_path, chunk_frames=frames)
    assert not list(tmp_path.iterdir())


def stateful(parts: dict[str, Any]) -> None:
    parts["search"] = {**parts["search"], "predictor": "stateful", "context_size": 1}
    nodes = parts["graphs"]["predictor"]["nodes"]
    del nodes[1]
    nodes[1]["in"] = ["e"]
    del parts["tensors"]["context"]


def gated(parts: dict[str, Any]) -> None:
    nodes = parts["graphs"]["encoder"]["nodes"]
    parts["tensors"]["gate"] = encode_f32_r16(np.zeros((1, 32), np.float32))
    at = next(i for i, node in enumerate(nodes) if node["op"] == "lstm")
    gate = {"op": "linear", "in": nodes[at]["in"], "out": "open", "tensors": {"weight": "gate"}}
    nodes[at] |= {"when": "open", "skipped": "hold"}
    nodes.insert(at, gate)


def blank_in_a_piece(parts: dict[str, Any]) -> None:
    parts["pieces"] = [*PIECES[:-1], "a b"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (stateful, "its predictor remembers all pieces"),
        (gated, "node 'l' of graph 'encoder' has a gate"),
        (blank_in_a_piece, "word piece 7 is 'a b'"),
        (lambda parts: parts["graphs"].pop("joiner"), "no graph joiner"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, change: Any, problem: str
) -> None:
    parts = tiny_parts()
    change(parts)
    write_model(tmp_path / "model.ear", **parts)
    with pytest.raises(ModelFileError, match=problem):
        export_sherpa_onnx(tmp_path / "model.ear", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exporting_needs_no_torch(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.ear")
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from earshot.compress.sherpa import export_sherpa_onnx\n"
        f"export_sherpa_onnx(Path({str(model)!r}), Path({str(tmp_path)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "encoder.onnx").is_file()
