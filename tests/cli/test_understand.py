"""`earshot understand check` and `text`: what is wrong, what can be said, what is meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Earshot = Callable[..., Result]

COMMANDS = """\
intents:
  TurnOn: {data: [{sentences: ["turn on [the] {light}", "lights on in [the] {area}"]}]}
  Play: {data: [{sentences: ["play the zigzzy light", "turn on the desk lamp", "play {song}"]}]}
lists:
  light: {values: [desk lamp, disk lamp]}
  area: {values: [living room]}
  song: {wildcard: true}
"""


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    path = tmp_path / "commands.yaml"
    path.write_text(COMMANDS)
    return path


def test_check_counts_and_shows_sentences(earshot: Earshot, commands: Path) -> None:
    result = earshot("understand", "check", commands, "--samples", "3")
    assert result.exit_code == 0, result.stderr
    assert "2 intents, 8 sentences" in result.stdout
    assert result.stdout.count(" -> ") == 3


def test_check_warns_of_what_may_go_wrong(earshot: Earshot, commands: Path) -> None:
    warnings = earshot("understand", "check", commands).stderr
    assert f"{commands}:3: 'play {{song}}' uses the wildcard list" in warnings
    assert f"{commands}:3: the recogniser spells 'zigzzy' letter by letter" in warnings
    assert f"{commands}:5: 'desk lamp' and 'disk lamp' of list 'light' sound alike" in warnings
    assert "'turn on the desk lamp' of intent 'Play' is also said by 'TurnOn'" in warnings


def test_check_warns_of_what_says_nothing_or_two_things(earshot: Earshot, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "intents:\n"
        "  Go: {data: [{sentences: ['go {a}']}]}\n"
        "  Bad: {data: [{sentences: ['see {b}'], requires_context: {domain: lihgt}}]}\n"
        "lists:\n"
        "  a:\n"
        "    values:\n"
        "      - {in: red, out: 1}\n"
        "      - {in: 'Red!', out: 2}\n"
        "  b: {values: [{in: lamp, out: l, context: {domain: light}}]}\n"
    )
    warnings = earshot("understand", "check", path).stderr
    assert f"{path}:3: intent 'Bad' has no sentence that can be said" in warnings
    assert f"{path}:8: 'red' stands twice in list 'a'" in warnings


def test_more_sentences_than_anybody_reads_are_counted_in_digits(
    earshot: Earshot, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    words = " ".join("(a|b)" for _ in range(120))
    path.write_text(f"intents: {{Go: {{data: [{{sentences: ['{words}']}}]}}}}\n")
    result = earshot("understand", "check", path, "--samples", "0")
    assert "Go  over 10^35 sentences" in result.stdout, result.stderr


def test_check_says_every_problem_and_exits_2(earshot: Earshot, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(COMMANDS.replace("[the]", "[the").replace("[living room]", "[]"))
    result = earshot("understand", "check", path)
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.split(":")[2] for line in lines] == ["2", "2", "6"]
    assert all(line.startswith(f"error: {path}:") for line in lines)


def test_check_json(earshot: Earshot, commands: Path, tmp_path: Path) -> None:
    sound = json.loads(earshot("understand", "check", commands, "--json").stdout)
    assert sound["usable"] is True
    assert sound["intents"] == {"TurnOn": 6, "Play": 2}
    assert sound["sentences"] == 8
    assert {"text", "intent", "slots"} == set(sound["samples"][0])
    assert {"where", "problem", "remedy"} == set(sound["warnings"][0])
    commands.write_text("intents: {Go: {data: []}}")
    broken = earshot("understand", "check", commands, "--json")
    assert broken.exit_code == 2
    assert json.loads(broken.stdout)["problems"][0]["where"] == f"{commands}:1"


def test_text_says_what_is_meant(earshot: Earshot, commands: Path) -> None:
    result = earshot("understand", "text", "Lights on in the living room!", "--commands", commands)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["TurnOn", '  area = "living room"  "living room"']


def test_text_finds_the_nearest_unless_it_must_be_exact(earshot: Earshot, commands: Path) -> None:
    ask = ("understand", "text", "lights on in live in room", "--commands", commands)
    found = json.loads(earshot(*ask, "--json").stdout)
    assert found["intent"] == "TurnOn"
    assert found["slots"] == {"area": {"value": "living room", "spoken": "live in room"}}
    assert 0.8 < found["confidence"] < 1
    strict = earshot(*ask, "--json", "--exact")
    assert strict.exit_code == 1
    assert json.loads(strict.stdout) == {
        "text": "lights on in live in room", "intent": None, "slots": {}, "confidence": 0.0,
    }  # fmt: skip


def test_text_that_is_no_command_exits_1_with_one_line(earshot: Earshot, commands: Path) -> None:
    result = earshot("understand", "text", "what a day", "--commands", commands)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["coffee.yaml", "smart-home.yaml"])
def test_the_examples_can_be_used(earshot: Earshot, repository: Path, name: str) -> None:
    result = earshot("understand", "check", repository / "examples" / name, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["sentences"] > 100_000


def test_check_names_words_whose_sounds_are_guessed(earshot: Earshot, tmp_path: Path) -> None:
    commands = tmp_path / "home.yaml"
    commands.write_text('intents:\n  Clean: {data: [{sentences: ["start the roomba"]}]}\n')
    found = json.loads(earshot("understand", "check", commands, "--json").stdout)["warnings"]
    (warning,) = [w for w in found if "dictionary" in w["problem"]]
    assert warning["where"] == f"{commands}:2"
    assert warning["problem"] == (
        "'roomba' is not in the pronunciation dictionary; it will be heard as R UW M B AH"
    )
    words = tmp_path / "words.txt"
    words.write_text("roomba  R UW1 M B AH0\n")
    result = earshot("understand", "check", commands, "--pronunciations", words)
    assert result.exit_code == 0 and "dictionary" not in result.stderr


def test_check_says_every_problem_of_pronunciations(earshot: Earshot, commands: Path) -> None:
    words = commands.with_name("words.txt")
    words.write_text("roomba R UU M B AH\nhue\nlamp L AE M P\n")
    result = earshot("understand", "check", commands, "--pronunciations", words)
    assert result.exit_code == 2
    assert [line.split(":")[2] for line in result.stderr.splitlines()] == ["1", "2"]
    broken = earshot("understand", "check", commands, "--pronunciations", words, "--json")
    assert [p["where"] for p in json.loads(broken.stdout)["problems"]] == [
        f"{words}:1",
        f"{words}:2",
    ]
