"""`earshot transcribe --attention-map`: a page for a model that attends, one line for others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import Result

pytest.importorskip("torch")

from tests.biased_model import write_biased_model
from tests.tiny_model import write_tiny_model

Earshot = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attention")
    write_biased_model(out / "biased.ear")
    write_tiny_model(out / "plain.ear")
    (out / "names.txt").write_text("Anna\nbob miller :2.5\nOtto\n")
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(out / "a.wav", noise, 16000)
    soundfile.write(out / "b <&>.wav", noise[:9000], 16000)
    return out


def test_the_page_has_every_recording_and_the_phrases_of_the_list(
    earshot: Earshot, folder: Path
) -> None:
    page = folder / "map.html"
    result = earshot(
        "transcribe", "-m", folder / "biased.ear", "--hotwords", folder / "names.txt",
        "--attention-map", page, folder / "a.wav", folder / "b <&>.wav",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "b &lt;&amp;&gt;.wav" in text and "<&>" not in text
    assert "bob miller" in text and "Anna" in text
    assert "3 phrases on the list" in text
    assert f"attention of 2 recordings: {page}" in result.stderr


def test_a_weight_of_zero_shows_no_list(earshot: Earshot, folder: Path) -> None:
    page = folder / "none.html"
    result = earshot(
        "transcribe", "-m", folder / "biased.ear", "--hotwords", folder / "names.txt",
        "--attention-weight", "0", "--attention-map", page, folder / "a.wav",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "No list of phrases." in page.read_text()


def test_a_model_that_does_not_attend_is_one_line(earshot: Earshot, folder: Path) -> None:
    page = folder / "never.html"
    (folder / "empty.txt").write_text("")
    result = earshot(
        "transcribe", "-m", folder / "plain.ear", "--hotwords", folder / "names.txt",
        "--attention-map", page, folder / "a.wav",
    )  # fmt: skip
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert not page.exists()


def test_a_map_needs_hotwords(earshot: Earshot, folder: Path) -> None:
    result = earshot("transcribe", "--attention-map", folder / "x.html", folder / "a.wav")
    assert result.exit_code == 2
    assert "--attention-map: needs --hotwords" in result.stderr
