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

from earshot.core.events import Event, Final, FinalReason, Partial, SpeechStarted
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


@dataclass
class CountingEvents(CountingStream):
    """The same as events: an utterance ends after a second of silence."""

    told: int = 0  # stretches of half a second that were looked at
    words: list[Word] = field(default_factory=list)
    utterances: int = 0

    def decode(self) -> list[Event]:  # type: ignore[override]
        super().decode()
        events: list[Event] = []
        found = {word.start_s: word for word in self.result().words}
        name = f"u{self.utterances}"
        while (self.told + 1) * WORD_S <= self.decoded_s:
            start_s = self.told * WORD_S
            self.told += 1
            if start_s in found:
                if not self.words:
                    self.utterances += 1
                    name = f"u{self.utterances}"
                    events.append(SpeechStarted(utterance=name, t_s=start_s, start_s=start_s))
                self.words.append(found[start_s])
                text = " ".join(word.word for word in self.words)
                events.append(Partial(utterance=name, t_s=start_s, text=text, stable_chars=0))
            elif self.words and start_s + WORD_S - self.words[-1].end_s >= 1.0:
                events.append(self.final(name, start_s + WORD_S, "endpoint"))
        if self.is_finished and self.words:
            events.append(self.final(name, self.decoded_s, "end"))
        return events

    def final(self, name: str, t_s: float, reason: FinalReason) -> Final:
        meaning = self.understanding() or Understanding(None, {}, 0.75)
        words, self.words = tuple(self.words), []
        return Final(
            utterance=name,
            t_s=t_s,
            spec_id=None,
            matched=False,
            text=" ".join(word.word for word in words),
            words=words,
            confidence=meaning.confidence,
            intent=meaning.intent,
            slots=meaning.slots,
            start_s=words[0].start_s,
            end_s=words[-1].end_s,
            reason=reason,
        )


class CountingRecognizer:
    name = "counting"
    phones = ()

    def __init__(self, **settings: object) -> None:
        self.settings = settings

    @property
    def hears_commands(self) -> bool:
        return self.settings.get("commands") is not None

    def create_stream(self) -> CountingStream:
        return CountingStream()

    def create_event_stream(self) -> CountingEvents:
        return CountingEvents()


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
