"""`earshot train mitigate`: what reaches the sweep, and what is said when it cannot be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Earshot = Callable[..., Result]


def test_without_torch_the_extra_is_named(
    earshot: Earshot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith(("earshot.train", "earshot.mod"))]:
        if not name.startswith("earshot.modelfile"):
            monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "scipy", "safetensors", "lhotse"):
        monkeypatch.setitem(sys.modules, name, None)
    result = earshot("train", "mitigate", tmp_path / "r.json", "-o", tmp_path / "m.ear")
    assert result.exit_code == 1
    assert "pip install 'earshot[train]'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces the sweep by one that only remembers what it was asked."""
    pytest.importorskip("torch", reason="torch is not installed ([train])")
    pytest.importorskip("lhotse", reason="lhotse is not installed ([train])")
    from earshot.train import mitigate as module

    requests: list[Any] = []
    rates = {"overall": 0.2, "target": 0.5, "rest": 0.1, "mean": 0.2, "worst": 0.6}
    after = {name: value / 2 for name, value in rates.items()}

    def remember(request: Any, **_: Any) -> Any:
        module.mitigation_recipe(request)  # settings are checked as ever
        requests.append(request)
        request.output.write_bytes(b"model")
        report = {
            "cohorts": [{"name": "south", "mended": True}, {"name": "north", "mended": False}],
            "start": {"evaluation": rates},
            "candidates": [{"chosen": True, "evaluation": after}],
        }
        return module.Mended(
            output=request.output,
            chosen=None,
            why="because it is so",
            report=report,
            curve=request.output.with_suffix(".html"),
            cohort_models={"south": Path("south.ear")},
        )

    monkeypatch.setattr(module, "mitigate", remember)
    return requests


@pytest.mark.train
def test_options_reach_the_sweep_and_figures_are_printed(
    earshot: Earshot, asked: list[Any], tmp_path: Path
) -> None:
    output, report = tmp_path / "m.ear", tmp_path / "r.json"
    options = ("--top", "2", "--method", "ewc", "--method", "plain", "--seed", "3")
    result = earshot(
        "train", "mitigate", report, "-o", output, *options, "--set", "train.max_steps=7"
    )
    assert result.exit_code == 0, result.stderr
    request = asked[0]
    assert request.report == report and request.work_dir == tmp_path / "m.ear.work"
    assert request.seed == 3 and request.model is None
    assert request.overrides == (
        "mitigate.top=2", 'mitigate.methods=["ewc", "plain"]', "train.max_steps=7"
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["mended:", "south", "50.00", "25.00"]
    assert lines[5].split() == ["worst", "cohort", "60.00", "30.00"]
    assert "Because it is so." in lines
    assert "south.ear: for south" in lines
    result = earshot("train", "mitigate", report, "--json")
    assert asked[1].output == tmp_path / "r-mended.ear"
    assert json.loads(result.stdout)["start"]["evaluation"]["overall"] == 0.2


@pytest.mark.train
@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "magic"), "mitigate.methods: magic; they must be of plain"),
        (("--set", "mitigate.folds=1"), "mitigate.folds is 1; it must be at least 2"),
        (("--set", "mitigate.ewc_strengths=[-1.0]"), "mitigate.ewc_strengths has -1.0"),
        (("--set", "mitigate.strength=1"), "unknown key 'strength'"),
        (("--model", "absent.ear"), "absent.ear: no such file; name another with --model"),
        (("--general", "absent.jsonl"), "name another with --general"),
    ],
)
def test_a_bad_option_is_one_line(
    earshot: Earshot, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = earshot("train", "mitigate", "r.json", "-o", tmp_path / "m.ear", *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.train
def test_a_folder_that_is_not_there_and_a_report_that_is_none(
    earshot: Earshot, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="torch is not installed ([train])")
    pytest.importorskip("lhotse", reason="lhotse is not installed ([train])")
    result = earshot("train", "mitigate", "r.json", "-o", tmp_path / "no" / "m.ear")
    assert result.exit_code == 1 and "no such folder" in result.stderr
    result = earshot("train", "mitigate", tmp_path / "r.json", "-o", tmp_path / "m.ear")
    assert result.exit_code == 1
    assert "r.json: cannot be read (No such file or directory)" in result.stderr
    assert result.stderr.count("\n") == 1
