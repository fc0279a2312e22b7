"""`earshot transcribe --commands`: how an intent is printed, and what bad templates do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from earshot.core.understanding import SlotValue, Understanding
from earshot.understand.templates import Commands

Earshot = Callable[..., Result]
Speech = Callable[..., Path]
Means = Callable[[Understanding], None]

pytestmark = pytest.mark.usefixtures("loaded")

LAMP = """\
language: en
intents:
  Lamp:
    data:
      - sentences: ["turn [the] {room} lamp (on|off)", "lamp to {brightness} percent"]
lists:
  room:
    values: [{in: "living room", out: living_room}, "kitchen"]
  brightness:
    range: {from: 1, to: 9}
"""
KITCHEN = Understanding(
    "Lamp",
    {"room": SlotValue("living_room", "living room"), "brightness": SlotValue(22, "twenty two")},
    0.87654,
)
REJECTED = Understanding(None, {}, 0.125)


@pytest.fixture
def lamp(tmp_path: Path) -> Path:
    path = tmp_path / "lamp.yaml"
    path.write_text(LAMP)
    return path


def test_text_ends_in_intent_and_slots(
    earshot: Earshot, speech: Speech, means: Means, lamp: Path
) -> None:
    means(KITCHEN)
    a, b = speech("a.wav", 1.2), speech("b.wav", 0.6)
    one = earshot("transcribe", "--commands", lamp, a)
    assert one.stdout == "w0 w1\tLamp\troom=living_room\tbrightness=22\n"
    two = earshot("transcribe", "--commands", lamp, a, b)
    assert two.stdout == (
        f"{a}: w0 w1\tLamp\troom=living_room\tbrightness=22\n"
        f"{b}: w0\tLamp\troom=living_room\tbrightness=22\n"
    )


def test_text_of_what_is_no_command_has_a_dash(
    earshot: Earshot, speech: Speech, means: Means, lamp: Path
) -> None:
    means(REJECTED)
    assert earshot("transcribe", "--commands", lamp, speech("a.wav")).stdout == "w0 w1\t-\n"


def test_json_gains_intent_slots_and_confidence(
    earshot: Earshot, speech: Speech, means: Means, lamp: Path
) -> None:
    means(KITCHEN)
    value = json.loads(earshot("transcribe", "--json", "--commands", lamp, speech("a.wav")).stdout)
    keys = ["text", "intent", "slots", "confidence", "words", "duration_s", "processing_s", "model"]
    assert list(value) == keys
    assert value["intent"] == "Lamp"
    assert value["slots"] == {
        "room": {"value": "living_room", "spoken": "living room"},
        "brightness": {"value": 22, "spoken": "twenty two"},
    }
    assert value["confidence"] == 0.8765


def test_json_of_what_is_no_command(
    earshot: Earshot, speech: Speech, means: Means, lamp: Path
) -> None:
    means(REJECTED)
    value = json.loads(earshot("transcribe", "--json", "--commands", lamp, speech("a.wav")).stdout)
    assert (value["intent"], value["slots"], value["confidence"]) == (None, {}, 0.125)
    assert value["text"] == "w0 w1"


def test_commands_and_threshold_reach_the_recogniser(
    earshot: Earshot, speech: Speech, loaded: list[Any], lamp: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "stop.yaml").write_text(
        "language: en\nintents:\n  Stop:\n    data:\n      - sentences: [stop]\n"
    )
    options = ("--commands", lamp, "--commands", folder, "--command-threshold", 0.25)
    result = earshot("transcribe", *options, speech("a.wav"))
    assert result.exit_code == 0
    settings = loaded[0].settings
    assert settings["command_threshold"] == 0.25
    assert isinstance(settings["commands"], Commands)
    # 2 rooms, with and without "the", on or off; 1 to 9 percent; stop.
    assert settings["commands"].count_sentences() == 8 + 9 + 1
    assert "commands: 18 sentences" in result.stderr.splitlines()


def test_a_manifest_without_text_is_understood(
    earshot: Earshot, speech: Speech, means: Means, lamp: Path, tmp_path: Path
) -> None:
    means(KITCHEN)
    speech("a.wav")
    manifest, output = tmp_path / "m.jsonl", tmp_path / "out.jsonl"
    row = {"id": "u1", "audio": "a.wav", "intent": "Lamp", "slots": {"room": "kitchen"}}
    manifest.write_text(json.dumps(row) + "\n")
    result = earshot("transcribe", "--commands", lamp, "--manifest", manifest, "-o", output)
    assert result.exit_code == 0
    written = json.loads(output.read_text())
    assert (written["id"], written["intent"]) == ("u1", "Lamp")
    assert written["slots"]["room"]["value"] == "living_room"


def test_stream_shows_partial_words_with_commands_too(
    earshot: Earshot, speech: Speech, means: Means, lamp: Path
) -> None:
    means(KITCHEN)
    result = earshot("transcribe", "--stream", "--json", "--commands", lamp, speech("a.wav", 1.0))
    *partials, final = map(json.loads, result.stdout.splitlines())
    assert [partial["text"] for partial in partials] == ["w0", "w0 w1"]
    assert all(partial["type"] == "partial" and "intent" not in partial for partial in partials)
    assert final["intent"] == "Lamp"


def test_captions_hold_words_only(
    earshot: Earshot, speech: Speech, means: Means, lamp: Path
) -> None:
    means(KITCHEN)
    srt = earshot("transcribe", "-f", "srt", "--commands", lamp, speech("a.wav")).stdout
    assert srt == "1\n00:00:00,000 --> 00:00:00,980\nw0 w1\n\n"


def test_every_problem_of_the_templates_is_a_line(
    earshot: Earshot, speech: Speech, tmp_path: Path, loaded: list[Any]
) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(
        "language: en\nintents:\n  A:\n    data:\n      - sentences:\n"
        '          - "turn (on"\n          - "go to {nowhere}"\n'
    )
    second.write_text("intents: [\n")
    options = ("--commands", first, "--commands", second, "--output", tmp_path / "out.txt")
    result = earshot("transcribe", *options, speech("a.wav"))
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith(("error: " + str(first), "error: " + str(second))) for line in lines)
    assert any(str(first) in line and "nowhere" in line for line in lines)
    assert any(str(second) in line for line in lines)
    assert result.stdout == ""
    assert not (tmp_path / "out.txt").exists()
    assert loaded == []


def test_broken_templates_are_said_before_a_microphone_is_opened(
    earshot: Earshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # not installed
    broken = tmp_path / "broken.yaml"
    broken.write_text("intents: {Go: {data: []}}")
    result = earshot("listen", "--commands", broken)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {broken}:1: intent 'Go' has no sentences")


@pytest.mark.parametrize("command", ["transcribe", "listen"])
def test_a_threshold_needs_commands(earshot: Earshot, command: str, speech: Speech) -> None:
    files = [speech("a.wav")] if command == "transcribe" else []
    result = earshot(command, "--command-threshold", 0.5, *files)
    assert result.exit_code == 2
    assert "--commands" in result.stderr


def test_pronunciations_reach_the_recogniser(
    earshot: Earshot,
    speech: Speech,
    loaded: list[Any],
    lamp: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("lamp L AE1 M P\n")
    options = ("--commands", lamp, "--pronunciations", words)
    result = earshot("transcribe", *options, speech("a.wav"))
    assert result.exit_code == 0
    assert loaded[0].settings["pronunciations"] == words
    assert "counting hears no phones; --pronunciations changes nothing" in result.stderr
    monkeypatch.setattr(type(loaded[0]), "phones", ("AA",))
    assert "phones" not in earshot("transcribe", *options, speech("a.wav")).stderr


@pytest.mark.parametrize("command", ["transcribe", "listen"])
def test_pronunciations_need_commands(
    earshot: Earshot, command: str, speech: Speech, tmp_path: Path
) -> None:
    files = [speech("a.wav")] if command == "transcribe" else []
    result = earshot(command, "--pronunciations", tmp_path / "words.txt", *files)
    assert result.exit_code == 2
    assert "--commands" in result.stderr


@pytest.mark.parametrize("threshold", ["1.5", "-0.1", "much"])
def test_a_threshold_is_a_probability(earshot: Earshot, lamp: Path, threshold: str) -> None:
    options = ("--commands", lamp, f"--command-threshold={threshold}")
    assert earshot("transcribe", *options, "a.wav").exit_code == 2


def test_written_form_keeps_times(
    earshot: Earshot, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    from earshot.core.transcript import Transcript, Word
    from earshot.session.recognizer import Recognizer

    spoken = ["set", "it", "to", "twenty", "two", "percent"]
    words = tuple(Word(w, 0.1 * at, 0.1 * at + 0.08, 0.5) for at, w in enumerate(spoken))
    stream = type(Recognizer.load().create_stream())
    monkeypatch.setattr(stream, "result", lambda _: Transcript(words, 0.6))
    path = speech("a.wav", 0.6)
    assert earshot("transcribe", path).stdout == "set it to twenty two percent\n"
    assert earshot("transcribe", "--written", path).stdout == "set it to 22%\n"
    value = json.loads(earshot("transcribe", "--written", "--json", path).stdout)
    assert value["text"] == "set it to 22%"
    last = {"word": "22%", "start_s": 0.3, "end_s": 0.58, "confidence": 0.5}
    assert value["words"][-1] == last
    srt = earshot("transcribe", "--written", "-f", "srt", path).stdout
    assert srt == "1\n00:00:00,000 --> 00:00:00,580\nset it to 22%\n\n"
