"""Voices from a folder: the engines are the real ones, their networks are small and hum."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from earshot.core.errors import SynthesisError
from earshot.train import neural_voices, synthesis, text
from earshot.train.adapt import Adaptation, adapt, adaptation_recipe
from earshot.train.neural_voices import NeuralVoice, find_voices, speak
from earshot.train.recipe import Recipe
from earshot.train.synthesis import Clip, SynthesisConfig, Voice, natural_voices

onnx = pytest.importorskip("onnx")
pytest.importorskip("piper")
pytest.importorskip("kokoro_onnx")

SAMPLES_A_TOKEN = 400
TEMPLATES = """
language: en
intents:
  TurnOn:
    data:
      - sentences: ["turn on the {what}"]
lists:
  what:
    values: [light, fan]
"""


def _hum(inputs: list[object], length: str, loudness: str, nodes: list[object]) -> object:
    """A network that says a square wave, 400 samples a token."""
    from onnx import TensorProto, helper

    constants = [
        helper.make_tensor("wave", TensorProto.FLOAT, [1, SAMPLES_A_TOKEN], _wave()),
        helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
    ]
    made = [
        *nodes,
        helper.make_node("Mul", [loudness, "wave"], ["one"]),
        helper.make_node("Mul", [length, "one"], ["all"]),  # (T, 1) times (1, 400)
        helper.make_node("Reshape", ["all", "flat"], ["audio"]),
    ]
    output = helper.make_tensor_value_info("audio", TensorProto.FLOAT, [None])
    graph = helper.make_graph(made, "hum", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _wave() -> list[float]:
    return [0.2 if n // 50 % 2 else -0.2 for n in range(SAMPLES_A_TOKEN)]


def _ones(tokens: str) -> list[object]:
    """Of (1, T) tokens a column of ones."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("Cast", [tokens], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Abs", ["floats"], ["above"]),
        helper.make_node("Sign", ["above"], ["signs"]),
        helper.make_node("Transpose", ["signs"], ["ones"], perm=[1, 0]),
    ]


def _piper(folder: Path, name: str, *, speakers: int, language: str = "en-us") -> Path:
    from onnx import TensorProto, helper
    from piper import phoneme_ids

    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, [1, None]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
    ]
    nodes = _ones("input")
    loudness = "quiet"
    if speakers > 1:
        inputs.append(helper.make_tensor_value_info("sid", TensorProto.INT64, [1]))
        nodes.append(helper.make_node("Cast", ["sid"], ["loud"], to=TensorProto.FLOAT))
        loudness = "loud"
    else:
        nodes.append(helper.make_node("Slice", ["scales", "from", "to"], ["quiet"]))
    model = _hum(inputs, "ones", loudness, nodes)
    model.graph.initializer.extend(  # type: ignore[attr-defined]
        [
            helper.make_tensor("from", TensorProto.INT64, [1], [1]),
            helper.make_tensor("to", TensorProto.INT64, [1], [2]),
        ]
    )
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    described = {
        "audio": {"sample_rate": 22050},
        "espeak": {"voice": language},
        "num_symbols": 256,
        "num_speakers": speakers,
        "phoneme_type": "espeak",
        "phoneme_id_map": phoneme_ids.DEFAULT_PHONEME_ID_MAP,
        "speaker_id_map": {"p1": 0, "awb": 1, "p3": 2},
    }
    path.with_name(path.name + ".json").write_text(json.dumps(described))
    return path


def _kokoro(folder: Path) -> Path:
    from onnx import TensorProto, helper

    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, None]),
        helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
        helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
    ]
    nodes = [
        *_ones("tokens"),
        helper.make_node("ReduceMax", ["style"], ["loud"], keepdims=0),
        helper.make_node("Div", ["loud", "speed"], ["louder"]),
    ]
    path = folder / "kokoro-v1.0.onnx"
    onnx.save(_hum(inputs, "ones", "louder", nodes), str(path))
    styles = {
        name: np.full((510, 1, 256), loud, np.float32)
        for name, loud in (("af_heart", 1.0), ("bm_fable", 3.0))
    }
    with (folder / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, **styles)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voices")
    (folder / "piper").mkdir()
    _piper(folder / "piper", "en_US-many", speakers=3)
    _piper(folder, "en_GB-one", speakers=1, language="en-gb-x-rp")
    _piper(folder, "de_DE-eins", speakers=1, language="de")
    (folder / "encoder.onnx").write_bytes(b"somebody else's")
    model = _kokoro(folder)
    shutil.copy(model, folder / "kokoro-v1.0.onnx.old")
    shutil.copy(model, folder / "kokoro-v1.0.precise.onnx")  # the same voices once more
    shutil.copy(model, folder / "kokoro-v2.onnx")  # without voices of its own
    return folder


def test_every_english_speaker_of_the_folder_is_found(folder: Path) -> None:
    assert [voice.id for voice in find_voices(folder)] == [
        "piper-en_GB-one-0",
        "kokoro-af_heart",
        "kokoro-bm_fable",
        "piper-en_US-many-0",
        "piper-en_US-many-1",
        "piper-en_US-many-2",
    ]


def test_speakers_differ_and_mixed_ones_lie_between(folder: Path) -> None:
    voices = {voice.id: voice for voice in find_voices(folder)}

    def loudness(name: str, *, rate: float = 1.0, blend: str = "") -> float:
        samples, hertz = speak(voices[name], "turn on the lights", rate=rate, blend=blend)
        assert hertz == (24000 if name.startswith("kokoro") else 22050)
        assert len(samples) > 10 * SAMPLES_A_TOKEN
        return float(np.abs(samples).max())

    heart, fable = loudness("kokoro-af_heart"), loudness("kokoro-bm_fable")
    assert fable == pytest.approx(3 * heart)
    assert loudness("kokoro-af_heart", blend="bm_fable:0.50") == pytest.approx(2 * heart)
    assert loudness("kokoro-af_heart", rate=2.0) == pytest.approx(heart / 2)
    assert loudness("kokoro-af_heart", rate=9.0) == pytest.approx(heart / 2)  # no more than 2


def test_clips_are_finished_like_those_of_other_engines(folder: Path) -> None:
    config = SynthesisConfig(voices=str(folder))
    for voice in natural_voices(config):
        if voice.id == "piper-en_US-many-0":
            continue  # speaker 0 of this network is silent
        clip = Clip("turn on the lights", "command", "t", voice, rate=1.2, tract=1.1)
        (samples,) = synthesis.speak([clip])
        assert samples is not None and samples.dtype == np.float32
        assert not samples[:1600].any() and not samples[-3200:].any()  # silence around it
        spoken = samples[1600:-3200]
        assert 20 * np.log10(np.sqrt(np.mean(spoken**2))) == pytest.approx(-23, abs=0.5)


def test_an_engine_that_fails_costs_a_clip_and_no_more(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "voices")
    model = tmp_path / "voices" / "en_GB-one.onnx"
    model.write_bytes(b"cut off")
    broken = Voice("piper-en_GB-one-0", "piper", f"{model}#0", 0.0)
    heart = tmp_path / "voices" / "kokoro-v1.0.onnx"
    clips = [
        Clip("hello", "command", "t", voice)
        for voice in (broken, Voice("kokoro-af_heart", "kokoro", f"{heart}#af_heart", 0.0))
    ]
    first, second = synthesis.speak(clips)
    assert first is None and second is not None
    with pytest.raises(SynthesisError, match=r"piper-en_GB-one-0: could not say 'hello'"):
        speak(NeuralVoice("piper", model, "0"), "hello", rate=1.0)


def test_held_out_people_and_unwanted_engines_do_not_speak(folder: Path) -> None:
    voices = [voice.id for voice in natural_voices(SynthesisConfig(voices=str(folder)))]
    assert "piper-en_US-many-0" in voices and "piper-en_US-many-1" not in voices  # that is awb
    only_piper = SynthesisConfig(voices=str(folder), voice_weights={"piper": 1.0})
    assert {voice.engine for voice in natural_voices(only_piper)} == {"piper"}


def test_each_kokoro_file_has_the_voices_of_its_version(folder: Path, tmp_path: Path) -> None:
    model = folder / "kokoro-v1.0.onnx"
    for name in ("kokoro-v0_19.onnx", "kokoro-v1.0.int8.onnx"):
        shutil.copy(model, tmp_path / name)
    for name, voice in (("voices.bin", "old"), ("voices-v1.0.bin", "new")):
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **{voice: np.ones((510, 1, 256), np.float32)})
    found = [(voice.model.name, voice.speaker) for voice in find_voices(tmp_path)]
    assert found == [("kokoro-v0_19.onnx", "old"), ("kokoro-v1.0.int8.onnx", "new")]
    natural = natural_voices(SynthesisConfig(voices=str(tmp_path)))
    items = [text.TextItem("hello", "command", "t")]
    plan = synthesis._Plan(items, natural, SynthesisConfig(), seed="1").clips()
    variants = {(clip.voice.id, clip.variant[:3]) for _, clip in zip(range(200), plan)}  # noqa: B905
    assert variants == {(f"kokoro-{v}", b) for v in ("old", "new") for b in ("", v)}


def test_clips_know_themselves_wherever_their_voices_lie(tmp_path: Path) -> None:
    keys = {
        Clip("hello", "command", "t", Voice("piper-x-0", "piper", f"{folder}/x.onnx#0", 0.0)).key
        for folder in ("/a", "/b/c", tmp_path)
    }
    assert len(keys) == 1


def test_letters_have_their_names() -> None:
    for engine in neural_voices.ENGINES:
        said = synthesis.spoken_form("seven am", "time", engine, pauses=False)
        assert said == "seven eh m"  # espeak-ng reads "ay" as "eye"


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04" + b"\0" * 40])
def test_broken_collections_of_voices(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "kokoro.onnx").write_bytes(b"")
    (tmp_path / "voices.bin").write_bytes(content)
    with pytest.raises(SynthesisError, match=r"voices.bin does not hold Kokoro's voices"):
        find_voices(tmp_path)


def test_adaptations_fail_before_any_work(folder: Path, tmp_path: Path) -> None:
    templates = tmp_path / "home.yaml"
    templates.write_text(TEMPLATES)
    request = Adaptation(
        commands=(str(templates),),
        output=tmp_path / "mine.ear",
        work_dir=tmp_path / "mine.ear.work",
        voices=tmp_path / "none",
    )
    with pytest.raises(SynthesisError, match="none is no folder"):
        adapt(request)
    shutil.copytree(folder, tmp_path / "voices")
    (tmp_path / "voices" / "en_GB-one.onnx").write_bytes(b"cut off")
    with pytest.raises(SynthesisError, match="piper-en_GB-one-0: could not say 'hello'"):
        adapt(replace(request, voices=tmp_path / "voices"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home.yaml", "voices"]


def test_what_voices_change_of_a_recipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe(*overrides: str, minutes: float = 24.0, voices: Path | None = None) -> Recipe:
        return adaptation_recipe(
            Adaptation(
                commands=("x",), output=tmp_path / "x.ear", work_dir=tmp_path / "x",
                voices=voices, minutes=minutes, overrides=overrides, recordings=tmp_path,
            )
        )  # fmt: skip

    def share(made: Recipe, *names: str) -> float:
        return sum(made.sources[name].last for name in names)

    without, with_voices = recipe(), recipe(voices=folder)
    assert without.synthesis.voice_hours == 0 and "neural" not in without.sources
    assert with_voices.synthesis.voices == str(folder)
    assert share(with_voices, "neural") > 0
    assert share(without, "commands") == pytest.approx(share(with_voices, "commands", "neural"))
    monkeypatch.setenv(neural_voices.FOLDER_VARIABLE, str(folder))
    assert recipe() == with_voices
    assert "neural" not in recipe("synthesis.voice_hours=0").sources
    half = recipe(minutes=12.0)
    assert half.synthesis.voice_hours == pytest.approx(with_voices.synthesis.voice_hours / 2)


def test_folders_that_cannot_be_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SynthesisError, match="is no folder"):
        find_voices(tmp_path / "missing")
    with pytest.raises(SynthesisError, match="holds no English voice"):
        find_voices(tmp_path)
    (tmp_path / "en_US-x.onnx").write_bytes(b"")
    (tmp_path / "en_US-x.onnx.json").write_text("[]")
    with pytest.raises(SynthesisError, match=r"en_US-x.onnx.json does not describe a Piper voice"):
        find_voices(tmp_path)
    monkeypatch.setitem(sys.modules, "piper", None)
    monkeypatch.setattr(neural_voices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SynthesisError, match="pip install kokoro-onnx"):
        find_voices(folder)


def test_no_folder_is_no_voices(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv(neural_voices.FOLDER_VARIABLE, raising=False)
    assert natural_voices(SynthesisConfig()) == []
    monkeypatch.setenv(neural_voices.FOLDER_VARIABLE, str(folder))
    assert len(natural_voices(SynthesisConfig())) == 5


def test_commands_are_spoken_into_a_source_of_their_own(folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "text"
    texts.mkdir()
    items = [
        {"text": f"turn on light {word}", "kind": "command", "template": "t"}
        for word in ("one", "two", "three", "four")
    ]
    for name in ("train", "heldout"):
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (texts / f"commands_{name}.jsonl").write_text(lines)
    config = SynthesisConfig(voices=str(folder), hours=0.004, dev_clips=0)
    natural = natural_voices(config)

    def prepare(voices: list[Voice]) -> list[dict[str, object]]:
        synthesis.prepare(
            tmp_path, seed=1, config=config, source="neural", texts="commands", natural=voices
        )
        paths = sorted((tmp_path / "cuts").glob("*"))
        assert paths and all(path.name.startswith("neural_train_") for path in paths)
        lines = [line for path in paths for line in gzip.decompress(path.read_bytes()).splitlines()]
        return [json.loads(line) for line in lines]

    rows = prepare(natural)
    assert {row["supervisions"][0]["text"] for row in rows} == {item["text"] for item in items}  # type: ignore[index]
    speakers = {row["supervisions"][0]["speaker"] for row in rows}  # type: ignore[index]
    assert len(speakers) > 2 and all(s.startswith(("piper-", "kokoro-")) for s in speakers)
    record = json.loads((tmp_path / "synthesis_neural.json").read_text())
    assert record["voices"] == [voice.id for voice in natural]
    assert prepare(natural) == rows  # nothing is spoken again
    fewer = prepare(natural[:1])  # another folder of voices: made anew
    assert {row["supervisions"][0]["speaker"] for row in fewer} == {"piper-en_GB-one-0"}  # type: ignore[index]
