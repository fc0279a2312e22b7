"""README's first command: the shipped clips, through the installed package and its own model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import earshot


def clips(repository: Path) -> dict[Path, str]:
    """What examples/README.md says is spoken."""
    table = (repository / "examples" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w-]+\.flac)` \| ([a-z ]+) \|", table, re.MULTILINE)
    return {repository / "examples" / name: text for name, text in rows}


def test_every_clip_has_its_text(repository: Path) -> None:
    assert set(clips(repository)) == set((repository / "examples").glob("*.flac"))


@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_the_shipped_clips_give_the_right_words(repository: Path, method: str) -> None:
    recognizer = earshot.Recognizer.load(method=method)
    heard = {path: recognizer.transcribe_file(path).text for path in clips(repository)}
    assert heard == clips(repository)
