"""`earshot model`: reports on sound files, one line for every other kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from earshot.session.recognizer import embedded_model_path

Earshot = Callable[..., Result]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The embedded model with one byte of a weight changed."""
    data = bytearray(embedded_model_path().read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "broken.ear"
    path.write_bytes(data)
    return path


def test_the_embedded_model_is_sound(earshot: Earshot) -> None:
    result = earshot("model", "verify")
    assert result.exit_code == 0
    assert "sound" in result.stdout
    assert embedded_model_path().stat().st_size <= 4_000_000


def test_verify_checks_every_file(earshot: Earshot, broken: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.ear"
    result = earshot("model", "verify", broken, missing, embedded_model_path())
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {broken}: ")
    assert second.startswith(f"error: {missing}: ")
    assert result.stdout.startswith(f"{embedded_model_path()}: sound")


def test_verify_json_has_an_object_for_every_file(earshot: Earshot, broken: Path) -> None:
    result = earshot("model", "verify", "--json", broken, embedded_model_path())
    assert result.exit_code == 1
    bad, good = map(json.loads, result.stdout.splitlines())
    assert bad["sound"] is False
    assert str(broken) in bad["error"]
    assert good["sound"] is True
    assert good["size_bytes"] == embedded_model_path().stat().st_size


def test_inspect_shows_graphs_and_the_card(earshot: Earshot) -> None:
    summary = json.loads(earshot("model", "inspect", "--json").stdout)
    assert {"encoder", "predictor", "joiner"} <= set(summary["graphs"])
    text = earshot("model", "inspect", "--tensors").stdout
    for name in summary["graphs"]:
        assert name in text
    assert all(tensor["name"].split(".")[0] in text for tensor in summary["tensors"])
    assert "licence" in summary["metadata"]


@pytest.mark.parametrize("command", [("model", "inspect"), ("transcribe", "a.wav", "--model")])
def test_not_a_model_is_one_line(
    earshot: Earshot, tmp_path: Path, command: tuple[str, ...]
) -> None:
    audio = tmp_path / "sound.ear"
    audio.write_bytes(b"RIFF" + bytes(100))
    for path in (audio, tmp_path / "missing.ear", tmp_path):
        result = earshot(*command, path)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {path}: ")
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
