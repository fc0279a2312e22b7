"""`earshot train` without training: what reaches the runner, what is said when it cannot run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Earshot = Callable[..., Result]


def test_without_torch_the_extra_is_named(
    earshot: Earshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("earshot.train", "earshot.mod"))]:
        if not name.startswith("earshot.modelfile"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = earshot("train", "run", "recipes/assistant-en.toml")
    assert result.exit_code == 1
    assert "pip install 'earshot[train]'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the runner by one that only remembers what it was asked."""
    pytest.importorskip("torch", reason="torch is not installed ([train])")
    from earshot.train import run as module

    asked: list[dict[str, Any]] = []

    def remember(recipe: Any, **options: Any) -> Path:
        asked.append({"recipe": recipe, **options})
        return Path("made.ear")

    monkeypatch.setattr(module, "run", remember)
    return asked


@pytest.mark.train
def test_overrides_stages_and_resume_reach_the_runner(
    earshot: Earshot, repository: Path, runs: list[dict[str, Any]]
) -> None:
    recipe = repository / "recipes" / "assistant-en.toml"
    options = ("--set", "train.max_minutes=3", "--set", "model.encoder.hidden=64")
    result = earshot("train", "run", recipe, *options, "--stage", "text", "--fresh")
    assert (result.exit_code, result.stdout) == (0, "made.ear\n")
    assert runs[0]["recipe"].train.max_minutes == 3
    assert runs[0]["recipe"].model.encoder.hidden == 64
    assert (runs[0]["stages"], runs[0]["resume"]) == (["text"], False)
    earshot("train", "run", recipe)
    assert (runs[1]["stages"], runs[1]["resume"]) == (None, True)
    earshot("train", "export", recipe)
    assert runs[2]["stages"] == ["export"]


@pytest.mark.train
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "train.max_minuets=3"), "did you mean 'max_minutes'?"),
        (("--set", "train"), "section.key=value"),
        (("--set", "train.seed=high"), "type int"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_a_bad_override_is_one_line(
    earshot: Earshot, repository: Path, options: tuple[str, ...], said: str
) -> None:
    result = earshot("train", "run", repository / "recipes" / "assistant-en.toml", *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.train
@pytest.mark.usefixtures("runs")
def test_a_missing_recipe_is_one_line(earshot: Earshot, tmp_path: Path) -> None:
    result = earshot("train", "run", tmp_path / "none.toml")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path / 'none.toml'}: ")


@pytest.mark.train
def test_the_recipe_reference_is_what_the_source_says(repository: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed ([train])")
    script = repository / "scripts" / "recipe-reference"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
