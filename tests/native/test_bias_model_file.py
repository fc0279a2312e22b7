"""Files with trained biasing that must not open, and lists that hostile weights meet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ear_builder as eb
import numpy as np
import pytest

from earshot import _native

Change = Callable[[dict[str, Any]], None]


def file_of(change: Change, *, version: int = 3) -> bytes:
    ear = eb.add_bias(eb.recogniser(layers=1))
    ear.header = copy.deepcopy(ear.header)
    change(ear.header)
    return ear.bytes(version=version)


def opened(content: bytes, folder: Path) -> _native.Model:
    path = folder / "m.ear"
    path.write_bytes(content)
    return _native.Model(str(path))


def setter(path: str, value: Any) -> Change:
    def change(header: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        at: Any = header
        for key in parents:
            at = at[int(key)] if isinstance(at, list) else at[key]
        if value is None:
            del at[int(last) if isinstance(at, list) else last]
        else:
            at[int(last) if isinstance(at, list) else last] = value

    return change


def also(*changes: Change) -> Change:
    def change(header: dict[str, Any]) -> None:
        for each in changes:
            each(header)

    return change


def attention_in_the_joiner(header: dict[str, Any]) -> None:
    attention, out = copy.deepcopy(header["graphs"]["bias_audio"]["nodes"][1:])
    nodes = header["graphs"]["joiner"]["nodes"]
    nodes.insert(1, {**attention, "in": ["sum"], "out": "found"})
    nodes.insert(2, {**out, "in": ["found"], "out": "more"})
    nodes[3]["in"] = ["more"]


def second_attention(header: dict[str, Any]) -> None:
    nodes = header["graphs"]["bias_audio"]["nodes"]
    nodes.insert(2, {**copy.deepcopy(nodes[1]), "out": "again"})
    nodes.insert(3, {"op": "add", "in": ["context", "again"], "out": "both"})
    nodes[4]["in"] = ["both"]


def stacked_frames(header: dict[str, Any]) -> None:
    """Two frames of `hidden` give one of the output."""
    nodes = header["graphs"]["bias_label"]["nodes"]
    nodes[-1]["out"] = "one"
    nodes.append({"op": "stack", "in": ["one"], "out": "predictor_bias", "factor": 2})


def recurrent_label(header: dict[str, Any]) -> None:
    nodes = header["graphs"]["bias_label"]["nodes"]
    nodes[0]["in"] = ["held"]
    nodes.insert(
        0,
        {
            "op": "conv1d", "in": ["predictor_out"], "out": "held", "kernel": 2, "dilation": 1,
            "padding": "causal", "tensors": {"weight": "depthwise"},
        },
    )  # fmt: skip


AUDIO = "graphs.bias_audio.nodes.1"
WRONG: dict[str, tuple[Change, str]] = {
    "no bias key": (setter("bias", None), "no object `bias` in the header"),
    "bias of nothing": (
        also(*(setter(f"graphs.{g}", None) for g in ("bias", "bias_audio", "bias_label"))),
        'has `bias` but no graph "bias"',
    ),
    "bias that is a list": (setter("bias", [2, 1]), "`bias` is not an object"),
    "a strange key": (setter("bias.beside", 1), 'the unknown key "beside"'),
    "too far before": (setter("bias.before", 5), "`bias.before` is not a whole number in 1..4"),
    "nothing before": (setter("bias.before", 0), "`bias.before` is not a whole number in 1..4"),
    "a fraction behind": (setter("bias.after", 0.5), "`bias.after` is not a whole number"),
    "phones without a head": (setter("bias.phones", 2), "the model has no `phones`"),
    "too many phones": (setter("bias.phones", 9), "`bias.phones` is not a whole number in 0..8"),
    "another reach": (setter("bias.before", 1), "one frame of `audio_keys` from 3 ids"),
    "no bias_audio": (setter("graphs.bias_audio", None), 'needs a graph "bias_audio"'),
    "no bias": (setter("graphs.bias", None), 'needs a graph "bias", which there is not'),
    "keys of nothing": (setter(f"{AUDIO}.keys", "spam"), 'reads "spam", which graph "bias" does'),
    "values of nothing": (setter(f"{AUDIO}.values", "x"), 'reads "x", which graph "bias" does'),
    "keys that are values": (
        setter(f"{AUDIO}.keys", "audio_values"),
        'reads "audio_values" of width 12 as `keys`; it must be 16',
    ),
    "values that are keys": (
        setter(f"{AUDIO}.values", "label_keys"),
        'reads "label_keys" of width 16 as `values`; it must be 12',
    ),
    "heads that do not fit": (setter(f"{AUDIO}.heads", 3), "a multiple of `heads` 3"),
    "no heads": (setter(f"{AUDIO}.heads", None), "no `heads`"),
    "heads without end": (setter(f"{AUDIO}.heads", 10**9), "`heads` that is a whole number"),
    "another precision": (setter(f"{AUDIO}.precision", "f16"), "no `precision`"),
    "precision that is a number": (setter(f"{AUDIO}.precision", 8), "no `precision`"),
    "no precision": (setter(f"{AUDIO}.precision", None), "no `precision`"),
    "other entries": (setter(f"{AUDIO}.entries", "some"), "no `entries` that is"),
    "no entries": (setter(f"{AUDIO}.entries", None), "no `entries` that is"),
    "what comes next, by sound": (setter(f"{AUDIO}.entries", "next"), "only .bias_label. knows"),
    "no no-bias key": (setter(f"{AUDIO}.tensors", None), "tensors"),
    "a no-bias key of another width": (setter(f"{AUDIO}.tensors.no_bias_key", "n0.g"), "width"),
    "a no-bias key that is a matrix": (
        setter(f"{AUDIO}.tensors.no_bias_key", "ba.q"),
        "it must be f32 with 1 dimension",
    ),
    "attention elsewhere": (attention_in_the_joiner, "has a phrase_attention; only"),
    "attention twice": (second_attention, "has 2 nodes phrase_attention; it must have one"),
    "no attention": (
        also(
            setter("graphs.bias_audio.nodes.1", None),
            setter("graphs.bias_audio.nodes.1.in", ["q"]),
            setter("graphs.bias_audio.nodes.1.tensors.weight", "bl.q"),
        ),
        "has 0 nodes phrase_attention",
    ),
    "another input": (
        also(
            setter("graphs.bias_audio.inputs", ["heard"]),
            setter("graphs.bias_audio.nodes.0.in", ["heard"]),
        ),
        "exactly the inputs `hidden`",
    ),
    "no encoder_bias": (setter("graphs.bias_audio.outputs", ["q"]), "no output `encoder_bias`"),
    "a narrow encoder_bias": (
        setter("graphs.bias_audio.nodes.2.tensors.weight", "b.mixed"),
        "`encoder_bias` of width",
    ),
    "no hidden": (
        also(setter("graphs.encoder.outputs", ["encoder_out"]), setter("graphs.ctc", None)),
        "reads `hidden`, which graph",
    ),
    "stacked": (stacked_frames, "`predictor_bias` of width 32; it must be 16"),
    "a label with a memory": (recurrent_label, 'graph "bias_label" has a state'),
    "few embeddings": (
        setter("graphs.bias.nodes.0.tensors.table", "b.few"),
        "an embedding of 5 rows for 20 pieces",
    ),
    "a list that is an output of ids": (setter("graphs.bias.outputs", ["y"]), "sequence of ids"),
    "no joiner": (setter("graphs.joiner", None), "needs the graphs"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_must_not_open(what: str, tmp_path: Path) -> None:
    change, message = WRONG[what]
    with pytest.raises(_native.ModelFileError, match=message):
        opened(with_spare_tensors(change), tmp_path)


def with_spare_tensors(change: Change) -> bytes:
    ear = eb.add_bias(eb.recogniser(layers=1))
    ear.tensor("b.mixed", "f32_r16", np.ones((8, 12), np.float32))
    ear.tensor("b.few", "f32", np.ones((5, 4), np.float32))
    ear.tensor("depthwise", "f32", np.ones((16, 2), np.float32))
    ear.header = copy.deepcopy(ear.header)
    change(ear.header)
    return ear.bytes(version=3)


def test_the_unchanged_file_opens(tmp_path: Path) -> None:
    """Guards the cases above: they must fail for what they change."""
    model = opened(with_spare_tensors(lambda _: None), tmp_path)
    assert {"bias", "bias_audio", "bias_label"} < set(model.graph_names)


@pytest.mark.parametrize("version", [1, 2])
def test_older_versions_do_not_have_the_op(version: int, tmp_path: Path) -> None:
    with pytest.raises(
        _native.ModelFileError, match=f"needs version 3; the file says version {version}"
    ):
        opened(file_of(lambda _: None, version=version), tmp_path)


def test_a_model_without_biasing_encodes_no_list(tmp_path: Path) -> None:
    model = opened(eb.recogniser(layers=1).bytes(), tmp_path)
    with pytest.raises(ValueError, match='has no graph "bias"'):
        _native.PhraseEncoder(model)


@pytest.mark.parametrize("precision", ["f32", "i8"])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e18, 3e38])
def test_absurd_weights_make_no_crash(precision: str, scale: float, tmp_path: Path) -> None:
    """Scores overflow or all are equal: results are what they are, and streams go on."""
    ear = eb.add_bias(eb.recogniser(layers=1), precision=precision)
    for name in ("b.mix", "b.audio.k", "b.audio.v", "b.label.k", "ba.q"):
        codec, values = ear.tensors[name]
        ear.tensor(name, codec, (np.sign(values) * scale).astype(np.float32))
    model = opened(ear.bytes(version=3), tmp_path)
    pieces = np.arange(3, 19, dtype=np.int32)
    phrases = _native.PhraseEncoder(model).encode(
        _native.PhraseRows(pieces, np.array([0, 5, 5, 16], np.int32))
    )
    assert phrases is not None
    recognizer = _native.Recognizer(model, "modified_beam_search")
    stream = recognizer.create_stream()
    stream.set_phrases(phrases)
    stream.keep_attention(True)
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    stream.accept_waveform(noise)
    stream.input_finished()
    recognizer.decode_streams([stream])
    found = stream.attention()
    assert found is not None
    assert stream.result()["num_frames"] == len(found["begin"]) - 1 == 25


def test_many_equal_scores_are_all_read(tmp_path: Path) -> None:
    """Keys of zero: every entry and no-bias weigh the same, beyond one block of entries too."""
    ear = eb.add_bias(eb.recogniser(layers=1), precision="f32")
    for name in ("b.audio.k", "audio.none"):
        codec, values = ear.tensors[name]
        ear.tensor(name, codec, np.zeros_like(values))
    model = opened(ear.bytes(version=3), tmp_path)
    rng = np.random.default_rng(4)
    pieces = rng.integers(3, 20, 3000).astype(np.int32)
    begin = np.arange(0, 3001, 5, dtype=np.int32)
    phrases = _native.PhraseEncoder(model).encode(_native.PhraseRows(pieces, begin))
    assert phrases is not None and phrases.num_entries > 1100
    recognizer = _native.Recognizer(model)
    stream = recognizer.create_stream()
    stream.set_phrases(phrases)
    stream.keep_attention(True)
    stream.accept_waveform(np.zeros(4000, np.float32))
    stream.input_finished()
    recognizer.decode_streams([stream])
    found = stream.attention()
    assert found is not None
    count = phrases.num_entries
    assert found["begin"][1] == count
    np.testing.assert_allclose(found["weight"][:count], 1 / (count + 1), rtol=1e-4)
