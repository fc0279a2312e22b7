"""`earshot understand train|evaluate|apply` on a few sentences."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from earshot.cli.app import app
from earshot.understand.training import TrainingConfig

Earshot = Callable[..., Result]
ROOMS = ("kitchen", "bathroom", "living room", "cellar")
THINGS = ("lights", "fan", "radio")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "home.jsonl"
    found: list[dict[str, object]] = []
    for room, thing in itertools.product(ROOMS, THINGS):
        slots = {"room": room, "thing": thing}
        for text, intent in (
            (f"Turn on the {thing} in the {room}.", "on"),
            (f"switch the {room} {thing} off", "off"),
        ):
            found.append({"text": text, "intent": intent, "slots": slots, "split": "train"})
    found += [{"text": f"tell me the {w}", "intent": "oos"} for w in ("news", "score", "time")]
    found.append({"text": "turn the fan", "intent": "on", "split": "test"})
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.fixture(scope="module")
def model(rows: Path) -> Path:
    path = rows.with_name("home.ear")
    small = partial(TrainingConfig, width=16, hidden=16, min_steps=300)
    with pytest.MonkeyPatch.context() as patch:  # seconds instead of half a minute
        patch.setattr("earshot.understand.training.TrainingConfig", small)
        done = CliRunner().invoke(
            app, ["understand", "train", str(rows), "-o", str(path), "--json", "--epochs", "1"]
        )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["size_bytes"] == path.stat().st_size
    assert (report["intents"], report["slots"]) == (2, 2)
    assert report["learned"] + report["held_out"]["sentences"] == 27  # without the test row
    assert "1 rows of a test split" in done.stderr
    return path


def test_a_model_understands_and_is_a_sound_file(earshot: Earshot, model: Path) -> None:
    result = earshot("understand", "apply", model, "turn on the radio in the cellar", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["intent"] == "on"
    assert found["slots"]["room"] == {"value": "cellar", "spoken": "cellar"}
    assert earshot("model", "verify", model).exit_code == 0
    shown = earshot("model", "inspect", model)
    assert "2 intents and 2 slots" in shown.stdout
    assert json.loads(earshot("model", "inspect", model, "--json").stdout)["graphs"] == {}


def test_evaluation_prints_every_share(earshot: Earshot, model: Path, rows: Path) -> None:
    found = json.loads(earshot("understand", "evaluate", model, rows, "--json").stdout)
    assert found["sentences"] == 28 and found["in_scope"] == 25
    assert found["accuracy"] >= 0.9 and found["slot_f1"] >= 0.9
    text = earshot("understand", "evaluate", model, rows).stdout
    assert "slots, F1" in text and "out of scope, recall" in text
    one = json.loads(
        earshot("understand", "evaluate", model, rows, "--split", "test", "--json").stdout
    )
    assert one["sentences"] == 1
    wrong = earshot("understand", "evaluate", model, rows, "--split", "dev")
    assert wrong.exit_code == 2 and "test, train" in wrong.stderr


def test_lines_of_stdin_may_be_hypotheses(model: Path) -> None:
    lines = 'switch the cellar fan off\n\n[["turn on the fan", -2], ["turn of the fan", -9]]\n'
    result = CliRunner().invoke(app, ["understand", "apply", str(model)], input=lines)
    first, second = result.stdout.splitlines()
    assert first.startswith("off(") and "room=cellar" in first
    assert second.startswith("on(thing=fan)")
    bad = CliRunner().invoke(app, ["understand", "apply", str(model)], input="[1]\n")
    assert bad.exit_code == 2 and "stdin:1" in bad.stderr


def test_what_is_out_of_scope_exits_with_1(earshot: Earshot, model: Path) -> None:
    result = earshot("understand", "apply", model, "tell me the time", "--threshold", "1.0")
    assert result.exit_code == 1
    assert result.stdout.startswith("none()")


def test_all_bad_rows_are_named_and_nothing_is_written(earshot: Earshot, tmp_path: Path) -> None:
    rows, out = tmp_path / "bad.jsonl", tmp_path / "bad.ear"
    rows.write_text('x\n{"text": "go", "intent": "a"}\n{"text": "go"}\n')
    result = earshot("understand", "train", rows, "--output", out)
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {rows}:1: ") and second.startswith(f"error: {rows}:3: ")
    assert not out.exists()


def test_mistakes_are_said_before_any_work(earshot: Earshot, rows: Path, tmp_path: Path) -> None:
    result = earshot("understand", "train", rows, "-o", tmp_path / "none" / "x.ear")
    assert result.exit_code == 2 and "no such folder" in result.stderr
    folder = earshot("understand", "train", rows, "-o", tmp_path)
    assert folder.exit_code == 2 and "this is a folder" in folder.stderr
    small = earshot("understand", "train", rows, "-o", tmp_path / "x.ear", "--max-bytes", "900")
    assert small.exit_code == 1 and "max_bytes" in small.stderr


def test_a_recogniser_is_refused(earshot: Earshot, rows: Path) -> None:
    from earshot.session.recognizer import embedded_model_path

    result = earshot("understand", "evaluate", embedded_model_path(), rows)
    assert result.exit_code == 1
    assert "does not understand sentences" in result.stderr
