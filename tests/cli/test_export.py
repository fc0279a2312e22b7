"""`earshot model export`: what it prints, and how it fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from earshot.modelfile.writer import write_model
from tests.tiny_model import tiny_parts, write_tiny_model

Earshot = Callable[..., Result]
PARTS = ["encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    pytest.importorskip("onnx", reason="the export needs onnx; pip install 'earshot[onnx]'")
    return write_tiny_model(tmp_path / "tiny.ear")


def test_every_file_is_a_line(earshot: Earshot, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    result = earshot("model", "export", tiny, "-o", folder)
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = [f"{folder / n}: {(folder / n).stat().st_size:,} bytes" for n in PARTS]
    assert result.stdout.splitlines() == lines
    assert sorted(path.name for path in folder.iterdir()) == sorted(PARTS)


def test_json_names_the_files(earshot: Earshot, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="quantising needs onnxruntime")
    result = earshot("model", "export", tiny, "-o", tmp_path / "out", "--int8", "--json")
    files = json.loads(result.stdout)
    assert files["encoder.int8"] == str(tmp_path / "out" / "encoder.int8.onnx")
    assert len(files) == 7
    assert all(Path(file).is_file() for file in files.values())


def test_a_higher_cap_on_pieces_is_said(earshot: Earshot, tiny: Path, tmp_path: Path) -> None:
    parts = tiny_parts()
    parts["search"] = {**parts["search"], "max_symbols_per_frame": 10}
    write_model(tiny, **parts)
    result = earshot("model", "export", tiny, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert "may put out 10 pieces a frame and sherpa-onnx takes one" in result.stderr


def test_mistakes_are_one_line(earshot: Earshot, tiny: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ((tmp_path / "no.ear", "-o", tmp_path / "out"), "there is no such file"),
        ((tiny, "-o", tmp_path / "out", "--chunk-frames", "5"), "chunk_frames is 5"),
        ((tiny, "-o", tiny), "tiny.ear"),
    ):
        result = earshot("model", "export", *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    assert earshot("model", "export", tiny).exit_code == 2


@pytest.mark.parametrize(("missing", "options"), [("onnx", ()), ("onnxruntime", ("--int8",))])
def test_a_missing_package_is_named(
    earshot: Earshot,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    options: tuple[str, ...],
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("sherpa", "onnx_graph"):
        monkeypatch.delitem(sys.modules, f"earshot.compress.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    result = earshot("model", "export", tiny, "-o", tmp_path / "out", *options)
    assert result.exit_code == 1
    assert "pip install 'earshot[onnx]'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
