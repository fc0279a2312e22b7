"""`earshot transcribe --nbest --lattice` and `earshot lattice`, with a real recogniser."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from earshot.cli.app import app
from earshot.decode.lattice import best_path, nbest
from earshot.decode.lattice_formats import read_lattice
from tests.tiny_model import write_tiny_model

Run = Callable[..., Result]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lattices")
    write_tiny_model(folder / "tiny.ear")
    rng = np.random.default_rng(3)
    for name in ("a", "b"):
        soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, 16000), 16000)
    return folder


@pytest.fixture
def earshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(folder)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run


def test_files_of_every_kind_hold_the_same_best_path(earshot: Run, folder: Path) -> None:
    texts = set()
    for name in ("x.slf", "x.lat", "x.json", "x.pb"):
        done = earshot("transcribe", "a.wav", "-m", "tiny.ear", "--lattice", name)
        assert done.exit_code == 0, done.stderr
        texts.add(done.stdout)
        assert best_path(read_lattice(folder / name)).text == done.stdout.strip()
    assert len(texts) == 1 and texts != {"\n"}


def test_nbest_in_json_and_text(earshot: Run, folder: Path) -> None:
    done = earshot("transcribe", "a.wav", "-m", "tiny.ear", "--json", "--nbest", 4)
    value = json.loads(done.stdout)
    assert value["nbest"][0]["text"] == value["text"]
    assert len({one["text"] for one in value["nbest"]}) == 4
    probabilities = [one["probability"] for one in value["nbest"]]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1
    first = value["nbest"][0]
    assert first["score"] == pytest.approx(first["acoustic"] + first["prior"], abs=1e-3)
    assert [w["start_s"] for w in first["words"]] == [w["start_s"] for w in value["words"]]
    text = earshot("transcribe", "a.wav", "-m", "tiny.ear", "--nbest", 4).stdout.splitlines()
    assert text[0] == value["text"]
    assert [line.split("\t")[2] for line in text[1:]] == [one["text"] for one in value["nbest"]]
    assert "nbest" not in json.loads(
        earshot("transcribe", "a.wav", "-m", "tiny.ear", "--json").stdout
    )


def test_several_recordings_need_a_folder(earshot: Run, folder: Path) -> None:
    done = earshot("transcribe", "a.wav", "b.wav", "-m", "tiny.ear", "--lattice", "x.slf")
    assert done.exit_code == 2 and "Name a folder" in done.stderr
    done = earshot(
        "transcribe",
        "a.wav",
        "b.wav",
        "-m",
        "tiny.ear",
        "--lattice",
        "out/",
        "--lattice-format",
        "kaldi",
    )
    assert done.exit_code == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.lat", "b.lat"]
    assert (folder / "out" / "a.lat").read_text().startswith("a\n0 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lattice", "x.xyz"], "names no lattice format"),
        (["--lattice-format", "slf"], "needs --lattice"),
        (["--nbest", "3", "--format", "srt"], "only text and json"),
    ],
)
def test_wrong_usage(earshot: Run, arguments: list[str], message: str) -> None:
    done = earshot("transcribe", "a.wav", "-m", "tiny.ear", *arguments)
    assert done.exit_code == 2 and message in done.stderr


def test_info_draw_and_convert(earshot: Run, folder: Path) -> None:
    assert earshot("transcribe", "a.wav", "-m", "tiny.ear", "--lattice", "i.slf").exit_code == 0
    lattice = read_lattice(folder / "i.slf")
    info = json.loads(earshot("lattice", "info", "i.slf", "--json", "--nbest", 3).stdout)
    assert info["arcs"] == lattice.num_arcs
    assert [one["text"] for one in info["nbest"]] == [path.text for path in nbest(lattice, 3)]
    said = earshot("lattice", "info", "i.slf").stdout
    assert f"{lattice.num_arcs} arcs" in said and info["nbest"][0]["text"] in said

    done = earshot("lattice", "draw", "i.slf", "-o", "i.svg", "--max-arcs", 40, "--title", "a < b")
    assert done.exit_code == 0, done.stderr
    picture = ElementTree.parse(folder / "i.svg").getroot()
    arcs = picture.findall(f"{SVG}g")
    assert len(best_path(lattice).arcs) <= len(arcs) <= 40
    best = [text.text or "" for text in picture.iter(f"{SVG}text") if text.get("class") == "best"]
    assert best[0] == "a < b"
    assert sorted(label.rsplit(" ", 1)[0] for label in best[1:]) == sorted(best_path(lattice).words)
    # No label covers another: those in one lane lie apart.
    labels: dict[str, list[tuple[float, float]]] = {}
    for text in (arc.find(f"{SVG}text") for arc in arcs):
        assert text is not None and text.text is not None
        x, half = float(text.get("x", 0)), 7.3 * len(text.text) / 2
        labels.setdefault(text.get("y", ""), []).append((x - half, x + half))
    for lane in labels.values():
        lane.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(lane))

    done = earshot("lattice", "convert", "i.slf", "i.pb", "--max-arcs", 10, "--determinise")
    assert done.exit_code == 0, done.stderr
    assert best_path(read_lattice(folder / "i.pb")).words == best_path(lattice).words
    done = earshot("lattice", "convert", "i.slf", "i.xyz")
    assert done.exit_code == 2
    (folder / "bad.slf").write_text("hello")
    done = earshot("lattice", "info", "bad.slf")
    assert done.exit_code == 1 and done.stderr.startswith("error: bad.slf:1: ")
