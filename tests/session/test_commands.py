"""A recogniser with commands: the embedded model on the clips that come with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot import ConfigError, ModelFileError, Recognizer
from earshot.core.errors import CommandsError
from earshot.core.understanding import SlotValue, Understanding
from earshot.data.audio import read_audio
from earshot.data.pronunciation import PHONES
from earshot.modelfile.codecs import EncodedTensor, encode_f32_r16
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model
from earshot.session.recognizer import embedded_model_path, lexicon_of
from earshot.understand.templates import load_commands
from tests.tiny_model import tiny_parts

RATE = 16_000
HOUSE = """\
language: en
intents:
  TurnOn:
    data:
      - sentences: ["turn on [the] {device} [in the {room}]"]
  Cover:
    data:
      - sentences: ["<how> the {cover}"]
  Timer:
    data:
      - sentences: ["set a timer for {minutes} minutes"]
expansion_rules:
  how: "{action}"
lists:
  device:
    values: [{in: "(light|lights)", out: light}, fan, radio]
  room:
    values: [kitchen, bedroom, {in: "living room", out: living_room}]
  cover:
    values: [{in: "garage door", out: garage}, {in: "(curtain|curtains)", out: curtains}]
  action:
    values: [open, close]
  minutes:
    range: {from: 1, to: 60}
"""
EXPECTED = {
    "turn-on-the-lights": ("TurnOn", {"device": SlotValue("light", "lights")}),
    "turn-on-the-fan-in-the-bedroom": (
        "TurnOn",
        {"device": SlotValue("fan", "fan"), "room": SlotValue("bedroom", "bedroom")},
    ),
    "close-the-garage-door": (
        "Cover",
        {"action": SlotValue("close", "close"), "cover": SlotValue("garage", "garage door")},
    ),
    "set-a-timer-for-five-minutes": ("Timer", {"minutes": SlotValue(5, "five")}),
}
OTHER = "four-one-seven-two-nine"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "house.yaml"
    path.write_text(HOUSE)
    return path


@pytest.fixture(scope="module")
def recognizer(house: Path) -> Recognizer:
    return Recognizer.load(commands=house)


@pytest.fixture(scope="module")
def clips(repository: Path) -> dict[str, np.ndarray]:
    names = (*EXPECTED, OTHER)
    return {name: read_audio(repository / "examples" / f"{name}.flac") for name in names}


def heard(recognizer: Recognizer, samples: np.ndarray) -> tuple[str, Understanding | None]:
    stream = recognizer.create_stream()
    stream.accept_waveform(RATE, samples)
    stream.input_finished()
    stream.decode()
    return stream.result().text, stream.understanding()


@pytest.mark.parametrize("name", EXPECTED)
def test_commands_are_understood(
    recognizer: Recognizer, clips: dict[str, np.ndarray], name: str
) -> None:
    text, meaning = heard(recognizer, clips[name])
    assert text == name.replace("-", " ")
    assert meaning is not None
    assert (meaning.intent, dict(meaning.slots)) == EXPECTED[name]
    assert 0.5 < meaning.confidence <= 1


def test_speech_outside_the_grammar_stays_as_it_is(
    recognizer: Recognizer, clips: dict[str, np.ndarray]
) -> None:
    text, meaning = heard(recognizer, clips[OTHER])
    assert text == Recognizer.load().transcribe(clips[OTHER]).text
    assert text == OTHER.replace("-", " ")
    assert meaning is not None
    assert (meaning.intent, dict(meaning.slots)) == (None, {})
    assert 0 <= meaning.confidence < 0.5


def test_the_threshold_accepts_and_rejects(house: Path, clips: dict[str, np.ndarray]) -> None:
    for threshold, name, intent in (
        (0.0, "turn-on-the-lights", "TurnOn"),
        (1.0, "turn-on-the-lights", None),
    ):
        strict = Recognizer.load(commands=house, command_threshold=threshold)
        meaning = heard(strict, clips[name])[1]
        assert meaning is not None
        assert meaning.intent == intent
        assert 0.5 < meaning.confidence < 1


@given(cuts=st.lists(st.integers(0, 20_000), max_size=5).map(sorted), looks=st.booleans())
@settings(max_examples=8)
def test_any_chunking_gives_the_same_understanding(
    recognizer: Recognizer, clips: dict[str, np.ndarray], cuts: list[int], looks: bool
) -> None:
    clip = clips["turn-on-the-lights"]
    stream = recognizer.create_stream()
    for chunk in np.split(clip, cuts):
        stream.accept_waveform(RATE, chunk)
        stream.decode()
        if looks:
            stream.understanding()
            stream.result()
    stream.input_finished()
    stream.decode()
    assert (stream.result().text, stream.understanding()) == heard(recognizer, clip)


def test_reset_forgets_the_command(recognizer: Recognizer, clips: dict[str, np.ndarray]) -> None:
    stream = recognizer.create_stream()
    stream.accept_waveform(RATE, clips["turn-on-the-lights"])
    stream.decode()
    stream.understanding()
    stream.reset()
    assert stream.understanding() == Understanding(None, {}, 0.0)
    stream.accept_waveform(RATE, clips["close-the-garage-door"])
    stream.input_finished()
    stream.decode()
    assert stream.understanding() == heard(recognizer, clips["close-the-garage-door"])[1]


def test_streams_together_understand_what_each_does_alone(
    recognizer: Recognizer, clips: dict[str, np.ndarray]
) -> None:
    streams = [recognizer.create_stream() for _ in clips]
    for stream, clip in zip(streams, clips.values(), strict=True):
        stream.accept_waveform(RATE, clip)
        stream.input_finished()
    recognizer.decode_streams(streams)
    together = [(stream.result().text, stream.understanding()) for stream in streams]
    assert together == [heard(recognizer, clip) for clip in clips.values()]


def test_without_commands_nothing_is_understood(clips: dict[str, np.ndarray]) -> None:
    assert heard(Recognizer.load(), clips["turn-on-the-lights"])[1] is None


def test_templates_come_as_file_folder_list_or_loaded(
    house: Path, clips: dict[str, np.ndarray]
) -> None:
    expected = EXPECTED["turn-on-the-lights"][0]
    for source in (str(house), house.parent, [house], load_commands([house])):
        meaning = heard(Recognizer.load(commands=source), clips["turn-on-the-lights"])[1]
        assert meaning is not None
        assert meaning.intent == expected


def test_what_cannot_be_used_is_refused(house: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as alone:
        Recognizer.load(command_threshold=0.5)
    assert "there are no commands" in str(alone.value)
    with pytest.raises(ConfigError) as outside:
        Recognizer.load(commands=house, command_threshold=1.5)
    assert str(outside.value) == "commands.threshold is 1.5; it must lie in 0.0..1.0."
    broken = tmp_path / "broken.yaml"
    broken.write_text(HOUSE.replace("<how>", "<who>").replace("{device}", "{devise}"))
    with pytest.raises(CommandsError) as problems:
        Recognizer.load(commands=broken)
    assert len(problems.value.problems) >= 2


def test_a_model_without_a_tokenizer_cannot_have_commands(house: Path, tmp_path: Path) -> None:
    parts = tiny_parts()
    write_model(tmp_path / "bad.ear", **parts)  # its tokenizer is a few bytes of nothing
    del parts["tensors"]["tokenizer"]
    write_model(tmp_path / "none.ear", **parts)
    for name, problem in (("bad", "its tokenizer cannot be used"), ("none", "no tokenizer")):
        with pytest.raises(ModelFileError) as caught:
            Recognizer.load(tmp_path / f"{name}.ear", commands=house)
        assert str(caught.value).startswith(f"{tmp_path}/{name}.ear: ")
        assert problem in str(caught.value)


def with_phones(path: Path, phones: list[str]) -> Path:
    """The embedded model with a head over phones that has learnt nothing."""
    file = ModelFile(embedded_model_path())
    header: Any = dict(file.header)
    tensors = {
        tensor.name: EncodedTensor(tensor.codec, tensor.shape, file.tensor_bytes(tensor.name))
        for tensor in file.tensors
    }
    (head,) = (node for node in header["graphs"]["ctc"]["nodes"] if node["op"] == "linear")
    width = next(t.shape[1] for t in file.tensors if t.name == head["tensors"]["weight"])
    weight = np.random.default_rng(1).normal(0, 0.2, (len(phones) + 1, width))
    tensors["phones.weight"] = encode_f32_r16(weight.astype(np.float32))
    scores = {"op": "linear", "in": ["hidden"], "out": "scores"}
    graph = {
        "inputs": ["hidden"],
        "outputs": ["log_probs"],
        "nodes": [
            {**scores, "tensors": {"weight": "phones.weight"}},
            {"op": "log_softmax", "in": ["scores"], "out": "log_probs"},
        ],
    }
    write_model(
        path,
        name="phones",
        graphs={**header["graphs"], "phones": graph},
        tensors=tensors,
        pieces=header["pieces"],
        search=header["search"],
        phones=phones,
    )
    return path


def test_a_model_with_phones_is_searched_by_them(
    tmp_path: Path, house: Path, clips: dict[str, np.ndarray]
) -> None:
    model = with_phones(tmp_path / "phones.ear", list(PHONES))
    write_model(tmp_path / "tiny.ear", **tiny_parts())
    assert lexicon_of(tmp_path / "tiny.ear") is None and lexicon_of(model) is not None
    stream = Recognizer.load(model, commands=house, command_threshold=0.0).create_stream()
    clip = clips["turn-on-the-lights"]
    for part in np.split(clip, [len(clip) // 2]):
        stream.accept_waveform(RATE, part)
        stream.decode()
        stream.understanding()
    stream.input_finished()
    stream.decode()
    found = stream._native.command_result()
    assert found is not None and found["paths"] and found["free_phones"] < 0 and found["rescored"]
    for path in found["paths"]:
        assert path["phones"] < 0 and path["transducer"] < 0
        assert len(path["tokens"]) >= len(path["words"])
    meaning = stream.understanding()
    assert meaning is not None and 0 <= meaning.confidence <= 1


def test_other_phones_are_refused(tmp_path: Path, house: Path) -> None:
    model = with_phones(tmp_path / "other.ear", [*PHONES[:-1], "QQ"])
    with pytest.raises(ModelFileError, match="its phones are not those of the dictionary"):
        Recognizer.load(model, commands=house)
