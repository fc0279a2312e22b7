"""`earshot adapt`: what is missing is said in one line before any work, and what was gained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot.data.scoring import Estimate
from earshot.train import adapt as adaptation
from earshot.train import requirements
from earshot.train.measure import Figures

Earshot = Callable[..., Result]

TEMPLATES = """
language: en
intents:
  Light:
    data:
      - sentences: ["turn (on|off) the {room} light"]
lists:
  room: {values: [kitchen, hall]}
"""


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    path = tmp_path / "home.yaml"
    path.write_text(TEMPLATES)
    return path


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has everything."""
    monkeypatch.setattr(requirements, "missing_packages", list)
    monkeypatch.setattr(requirements, "missing_engine_packages", list)
    monkeypatch.delenv("EARSHOT_DATA", raising=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[adaptation.Adaptation]:
    """Replace the work; the list holds what was asked for."""
    requests: list[adaptation.Adaptation] = []

    def estimate(value: float) -> Estimate:
        return Estimate(value, value - 0.05, value + 0.05, "clip", 40)

    def adapt(request: adaptation.Adaptation, **_: object) -> adaptation.Adapted:
        requests.append(request)
        request.output.write_bytes(bytes(1_500_000))
        before, after = (
            Figures(estimate(right), estimate(noisy), estimate(wer), estimate(0.1))
            for right, noisy, wer in ((0.5, 0.25, 0.4), (0.75, 0.625, 0.425))
        )
        return adaptation.Adapted(request.output, 16.0, before, after)

    monkeypatch.setattr(adaptation, "adapt", adapt)
    return requests


def test_everything_that_is_missing_is_named_in_one_line(
    earshot: Earshot, templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "missing_packages", lambda: ["torch", "lhotse"])
    monkeypatch.setenv("PATH", str(tmp_path))  # no engine's program is there
    output = tmp_path / "absent" / "mine.ear"
    result = earshot(
        "adapt", templates, "--output", output, "--recordings", tmp_path / "none",
        "--model", tmp_path / "none.ear",
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    for part in (
        "torch, lhotse", "pip install 'earshot[train]'", "apt-get install", "espeak-ng",
        "libttspico-utils", str(output.parent), "--recordings", "--model",
    ):  # fmt: skip
        assert part in line
    assert sorted(tmp_path.iterdir()) == [templates]


def test_one_engine_is_enough_and_the_others_are_named(
    earshot: Earshot,
    templates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ready: None,
    asked: list[adaptation.Adaptation],
) -> None:
    monkeypatch.setattr(requirements, "missing_engine_packages", lambda: ["flite", "festival"])
    result = earshot("adapt", templates, "--output", tmp_path / "mine.ear")
    assert result.exit_code == 0, result.stderr
    assert "apt-get install flite festival" in result.stderr
    assert "nothing is measured" in result.stderr


def test_packages_are_those_whose_sign_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "flite").touch(mode=0o755)
    (tmp_path / "pico2wave").touch(mode=0o755)
    missing = requirements.missing_engine_packages()
    assert "flite" not in missing and "libttspico-utils" not in missing
    assert {"espeak-ng", "festival"} <= set(missing)
    assert requirements.missing_packages() == []  # this test runs with the extra
    monkeypatch.setattr(requirements, "_PACKAGES", ("numpy", "no_such_package"))
    assert requirements.missing_packages() == ["no_such_package"]


def test_broken_templates_end_the_command_before_any_work(
    earshot: Earshot,
    templates: Path,
    tmp_path: Path,
    ready: None,
    asked: list[adaptation.Adaptation],
) -> None:
    templates.write_text(TEMPLATES.replace("{room} light", "{rooom} light"))
    result = earshot("adapt", templates, "--output", tmp_path / "mine.ear")
    assert result.exit_code == 2
    assert f"{templates}:" in result.stderr and "rooom" in result.stderr
    assert asked == []


def test_broken_pronunciations_end_the_command_before_any_work(
    earshot: Earshot, templates: Path, ready: None, asked: list[adaptation.Adaptation]
) -> None:
    words = templates.with_name("words.txt")
    words.write_text("hall HH AU L\nkitchen\n")
    options = ("-o", words.with_name("mine.ear"), "--pronunciations", words)
    result = earshot("adapt", templates, *options)
    assert result.exit_code == 2
    assert [line.split(":")[2] for line in result.stderr.splitlines()] == ["1", "2"]
    assert not asked
    words.write_text("hall HH AO L\n")
    result = earshot("adapt", templates, *options)
    assert asked[0].pronunciations == words
    assert f"--pronunciations {words}" in result.stdout


def test_an_unknown_setting_ends_the_command_before_any_work(
    earshot: Earshot, templates: Path, tmp_path: Path, ready: None
) -> None:
    output = tmp_path / "mine.ear"
    result = earshot("adapt", templates, "--output", output, "--set", "train.peak_rl=1")
    assert result.exit_code == 1
    assert "peak_lr" in result.stderr
    assert not output.exists() and not (tmp_path / "mine.ear.work").exists()


def test_gains_and_the_next_command_are_printed(
    earshot: Earshot,
    templates: Path,
    tmp_path: Path,
    ready: None,
    asked: list[adaptation.Adaptation],
) -> None:
    output = tmp_path / "mine.ear"
    result = earshot("adapt", templates, "--output", output, "--minutes", 5, "--seed", 3)
    assert result.exit_code == 0, result.stderr
    assert "1.5 MB" in result.stdout
    rows = [line for line in result.stdout.splitlines() if "%" in line]
    assert [line.split("  ")[0] for line in rows[:2]] == [
        "commands right",
        "commands right in noise, 10 dB",
    ]
    assert "50.0 %" in rows[0] and "75.0 %" in rows[0] and "62.5 %" in rows[1]
    assert f"earshot listen --model {output} --commands {templates}" in result.stdout
    (request,) = asked
    assert request.work_dir == tmp_path / "mine.ear.work"
    assert (request.minutes, request.seed, request.recordings) == (5.0, 3, None)


def test_json_is_one_object(
    earshot: Earshot,
    templates: Path,
    tmp_path: Path,
    ready: None,
    asked: list[adaptation.Adaptation],
) -> None:
    result = earshot("adapt", templates, "--output", tmp_path / "mine.ear", "--json")
    report = json.loads(result.stdout)
    assert report["before"]["commands"]["value"] == 0.5
    assert report["after"]["commands"]["num_units"] == 40
    assert report["size_bytes"] == 1_500_000


def test_recordings_come_from_the_environment_unless_named(
    earshot: Earshot,
    templates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ready: None,
    asked: list[adaptation.Adaptation],
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setenv("EARSHOT_DATA", str(here))
    earshot("adapt", templates, "--output", tmp_path / "mine.ear")
    earshot("adapt", templates, "--output", tmp_path / "mine.ear", "--recordings", there)
    monkeypatch.setenv("EARSHOT_DATA", str(tmp_path / "nowhere"))
    earshot("adapt", templates, "--output", tmp_path / "mine.ear")
    assert [request.recordings for request in asked] == [here, there, None]


def test_ctrl_c_says_that_the_same_command_goes_on(
    earshot: Earshot,
    templates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ready: None,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "adapt", interrupted)
    result = earshot("adapt", templates, "--output", tmp_path / "mine.ear")
    assert result.exit_code == 130
    assert "goes on" in result.stderr


def test_what_of_the_templates_is_left_out_is_said(
    earshot: Earshot,
    templates: Path,
    tmp_path: Path,
    ready: None,
    asked: list[adaptation.Adaptation],
) -> None:
    templates.write_text(
        TEMPLATES.replace('light"]', 'light", "find {song}"]') + "  song: {wildcard: true}\n"
    )
    result = earshot("adapt", templates, "--output", tmp_path / "mine.ear")
    assert result.exit_code == 0, result.stderr
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert f"{templates}:" in warning and "song" in warning
