"""README's commands: the shipped clips, through the installed package and its own model."""

from __future__ import annotations

import re
from pathlib import Path

import earshot
from earshot.cli.formats import text_line
from earshot.data.audio import read_audio
from earshot.data.scoring import WordCounts, count_words


def clips(repository: Path) -> dict[Path, str]:
    """What examples/README.md says is spoken."""
    table = (repository / "examples" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w-]+\.flac)` \| ([a-z ]+) \|", table, re.MULTILINE)
    return {repository / "examples" / name: text for name, text in rows}


def test_every_clip_has_its_text(repository: Path) -> None:
    assert set(clips(repository)) == set((repository / "examples").glob("*.flac"))


def test_the_shipped_clips_give_the_right_words(repository: Path) -> None:
    recognizer = earshot.Recognizer.load()
    heard = {path: recognizer.transcribe_file(path).text for path in clips(repository)}
    assert heard == clips(repository)


def test_greedy_search_gets_one_word_of_them_wrong_at_most(repository: Path) -> None:
    """It has neither a second path nor the language model."""
    recognizer = earshot.Recognizer.load(method="greedy_search")
    counts = [
        count_words(text, recognizer.transcribe_file(path).text)
        for path, text in clips(repository).items()
    ]
    assert sum(counts, WordCounts()).errors <= 1


def test_readme_shows_what_the_clips_ask_for(repository: Path) -> None:
    readme = (repository / "README.md").read_text()
    shown = re.findall(r"^examples/([\w-]+\.flac): (.*\t.*)$", readme, re.MULTILINE)
    recognizer = earshot.Recognizer.load(commands=repository / "examples" / "smart-home.yaml")
    heard = []
    for path in sorted(clips(repository)):
        stream = recognizer.create_stream()
        stream.accept_waveform(16_000, read_audio(path))
        stream.input_finished()
        stream.decode()
        line = text_line(stream.result().text, stream.understanding())
        heard.append((path.name, line.rstrip("\n")))
    assert shown == heard
