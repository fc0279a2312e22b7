"""A recogniser whose words are known, so that the command is tested and not the model.

It speaks one numbered word per half second of sound that is not silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from typer.testing import CliRunner, Result

from earshot.core.transcript import Transcript, Word
from earshot.core.understanding import Understanding
from earshot.session import recognizer as session

WORD_S = 0.5


@dataclass
class CountingStream:
    rate_hz: int = 0
    heard: list[npt.NDArray[np.float32]] = field(default_factory=list)
    decoded_s: float = 0.0
    is_finished: bool = False

    def accept_waveform(self, sample_rate_hz: int, samples: npt.NDArray[np.float32]) -> None:
        assert not self.is_finished
        assert self.rate_hz in (0, sample_rate_hz)
        self.rate_hz = sample_rate_hz
        self.heard.append(np.asarray(samples))

    def input_finished(self) -> None:
        self.is_finished = True

    def decode(self) -> None:
        self.decoded_s = self.duration_s

    @property
    def duration_s(self) -> float:
        return sum(map(len, self.heard)) / self.rate_hz if self.rate_hz else 0.0

    def result(self) -> Transcript:
        sound = np.concatenate([np.zeros(0, np.float32), *self.heard])
        length = round(WORD_S * (self.rate_hz or 1))
        words = []
        for i in range(int(self.decoded_s / WORD_S + 1e-9)):
            if np.abs(sound[i * length : (i + 1) * length]).max() > 0.01:
                start = i * WORD_S
                words.append(Word(f"w{i}", start, start + 0.48, 0.75))
        return Transcript(tuple(words), self.decoded_s)

    def understanding(self) -> Understanding | None:
        return None  # as without commands; the fixture `means` gives it something to understand

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]


class CountingRecognizer:
    name = "counting"
    phones = ()

    def __init__(self, **settings: object) -> None:
        self.settings = settings

    def create_stream(self) -> CountingStream:
        return CountingStream()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[CountingRecognizer]:
    """Replace the recogniser; the list holds those that were loaded, with their settings."""
    made: list[CountingRecognizer] = []

    def load(path: Path | None = None, **settings: object) -> CountingRecognizer:
        made.append(CountingRecognizer(path=path, **settings))
        return made[-1]

    monkeypatch.setattr(session.Recognizer, "load", load)
    return made


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> Callable[[Understanding], None]:
    """Says what every recording is understood as from now on."""

    def set_meaning(meaning: Understanding) -> None:
        monkeypatch.setattr(CountingStream, "understanding", lambda _: meaning)

    return set_meaning


@pytest.fixture
def speech(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of noise of a given length and gives its path."""

    def write(name: str, seconds: float = 1.0, *, rate_hz: int = 16000, channels: int = 1) -> Path:
        samples = np.random.default_rng(1).normal(0, 0.1, (round(seconds * rate_hz), channels))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate_hz)
        return path

    return write


@pytest.fixture
def earshot() -> Callable[..., Result]:
    """Runs the command in this process: `earshot("transcribe", path)`."""
    from earshot.cli.app import app

    def run(*arguments: object, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)

    return run
