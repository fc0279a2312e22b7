"""Clips whose frames are labelled speech, silence before, pause, and silence after it.

Speech of training corpora is laid into room noise: whole, with pauses between its words, cut off
where more would follow, or digit by digit. Where it sounds is known from its own energy before any
noise comes in; what a silence is follows from what was laid behind it. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
from scipy import signal

from earshot.core.features import ENCODER_CLOCK, SAMPLE_RATE_HZ
from earshot.data.speech_energy import HOP_SAMPLES, speech_mask
from earshot.train.augment import NoisePool

__all__ = [
    "AFTER",
    "BEFORE",
    "PAUSE",
    "SPEECH",
    "ClipMaker",
    "ClipMix",
    "LabelledClip",
    "frame_labels",
]

Samples = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SPEECH, BEFORE, PAUSE, AFTER = range(4)


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """Sound with a label a frame.

    Args:
        samples: Shape (N,), 16 kHz.
        labels: Shape (T,), one of the four for each encoder frame.
        end_sample: Where speech ends; None where there is none, or more would follow.
        text: What is said, as far as that is known.
    """

    samples: Samples
    labels: npt.NDArray[np.int64]
    end_sample: int | None
    text: str = ""


def frame_labels(mask: Mask, count: int, *, unfinished: bool) -> npt.NDArray[np.int64]:
    """Labels of encoder frames from where speech is.

    Args:
        mask: Shape (M,), one a stretch of 10 ms; what lies behind it is silence.
        count: Encoder frames.
        unfinished: Whether more would follow, so that the last silence is a pause.

    Returns:
        Shape (count,).
    """
    padded = np.zeros(count * 4, np.bool_)
    padded[: min(len(mask), len(padded))] = mask[: len(padded)]
    speech = padded.reshape(count, 4).sum(axis=1) >= 2
    labels = np.full(count, PAUSE, np.int64)
    labels[speech] = SPEECH
    where = np.flatnonzero(speech)
    if len(where) == 0:
        return np.full(count, BEFORE, np.int64)
    labels[: where[0]] = BEFORE
    if not unfinished:
        labels[where[-1] + 1 :] = AFTER
    return labels


@dataclass(frozen=True, slots=True)
class _Piece:
    """Sound of whole stretches of 10 ms, and which of them are speech."""

    samples: Samples
    mask: Mask

    @classmethod
    def of(cls, samples: Samples) -> _Piece:
        """A clip without the silence around it, but for 10 ms."""
        mask = speech_mask(samples)
        where = np.flatnonzero(mask)
        if len(where):
            mask = mask[max(0, where[0] - 1) : where[-1] + 2]
            samples = samples[max(0, where[0] - 1) * HOP_SAMPLES :]
        return cls(samples[: len(mask) * HOP_SAMPLES], mask)

    @classmethod
    def silence(cls, samples: int) -> _Piece:
        """About so many samples of nothing."""
        count = samples // HOP_SAMPLES
        return cls(np.zeros(count * HOP_SAMPLES, np.float32), np.zeros(count, np.bool_))

    def split(self, at: Sequence[int]) -> list[_Piece]:
        """Cut at some samples."""
        hops = [a // HOP_SAMPLES for a in at]
        return [
            _Piece(samples, mask)
            for samples, mask in zip(
                np.split(self.samples, [h * HOP_SAMPLES for h in hops]),
                np.split(self.mask, hops),
                strict=True,
            )
        ]


def _seconds(rng: np.random.Generator, low: float, high: float) -> int:
    return int(rng.uniform(low, high) * SAMPLE_RATE_HZ)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipMix:
    """What clips are like.

    Args:
        sentences: Share of whole sentences,
        unfinished: of sentences that are cut off where more would follow,
        digits: of digit strings,
        noise: of noise alone,
        woken: of a wake word with a sentence behind it. They sum to 1.
        paused: Share of the sentences that have a pause or two between their words.
        pause_s: Shortest and longest of nearly all pauses.
        digit_pause_s: The same between digits.
        long_pauses: Share of pauses that are longer than that, up to
        longest_s: so many seconds.
        tail_s: Silence behind the end, shortest and longest.
        snr_db: Of speech over noise, least and most.
    """

    sentences: float = 0.46
    unfinished: float = 0.18
    digits: float = 0.18
    noise: float = 0.09
    woken: float = 0.09
    paused: float = 0.5
    pause_s: tuple[float, float] = (0.1, 0.6)
    digit_pause_s: tuple[float, float] = (0.02, 0.45)
    long_pauses: float = 0.12
    longest_s: float = 1.5
    tail_s: tuple[float, float] = (0.8, 2.6)
    snr_db: tuple[float, float] = (3.0, 40.0)

    def shares(self) -> tuple[float, ...]:
        """Of the five kinds, in their order."""
        return (self.sentences, self.unfinished, self.digits, self.noise, self.woken)

    def pause(self, rng: np.random.Generator, bounds: tuple[float, float]) -> int:
        """Draw a pause, in samples."""
        if rng.random() < self.long_pauses:
            return _seconds(rng, bounds[1], self.longest_s)
        return _seconds(rng, *bounds)


class ClipMaker:
    """Composes labelled clips out of cuts.

    Args:
        cuts: Of training corpora, with `kind` in their supervisions.
        noise: Noise to lay under them; None leaves a faint hiss.
        rooms: Impulse responses.
        gaps: For a list of clips, samples at which each may be cut: between words.
        mix: What to compose.
    """

    def __init__(
        self,
        cuts: Sequence[Mapping[str, Any]],
        noise: NoisePool | None,
        rooms: Sequence[Samples],
        *,
        gaps: Callable[[Sequence[Samples]], list[list[int]]],
        mix: ClipMix | None = None,
    ) -> None:
        self._mix = mix or ClipMix()
        by_kind: dict[str, list[Mapping[str, Any]]] = {}
        for cut in cuts:
            if cut["supervisions"] and cut["duration"] <= 9.0:
                by_kind.setdefault(cut["supervisions"][0]["custom"]["kind"], []).append(cut)
        self._digits: dict[str, list[Mapping[str, Any]]] = {}
        for cut in by_kind.pop("digit", []):
            self._digits.setdefault(cut["supervisions"][0]["speaker"], []).append(cut)
        self._wake = by_kind.pop("wake", [])
        by_kind.pop("digit_strings", None)  # joined from the same digits
        by_kind.pop("noise", None)
        # Short orders are what ends are looked for in; the rest keeps the head honest.
        self._whole = [cut for cuts in by_kind.values() for cut in cuts]
        self._noise = noise
        self._rooms = rooms
        self._gaps = gaps

    def make(self, count: int, rng: np.random.Generator) -> list[LabelledClip]:
        """Some clips.

        Args:
            count: How many.
            rng: Source of randomness.

        Returns:
            The clips.
        """
        plans = rng.choice(5, size=count, p=self._mix.shares())
        sentences = [self._sentence(rng) for plan in plans if plan in (0, 1, 4)]
        gaps = iter(self._gaps([piece.samples for piece, _ in sentences]))
        parts = iter(sentences)
        clips = []
        for plan in plans:
            if plan == 3:
                clips.append(self._lay([], [], rng, text="", unfinished=False))
            elif plan == 2:
                clips.append(self._digit_string(rng))
            else:
                (sentence, text), cuts = next(parts), next(gaps)
                if plan == 1 and cuts:  # more would follow
                    cut = cuts[int(rng.integers(len(cuts)))]
                    clips.append(
                        self._lay(sentence.split([cut])[:1], [], rng, text="", unfinished=True)
                    )
                    continue
                pieces: list[_Piece] = [sentence]
                pauses: list[int] = []
                if plan == 0 and cuts and rng.random() < self._mix.paused:
                    most = min(len(cuts), int(rng.integers(1, 3)))
                    chosen = rng.choice(cuts, size=most, replace=False)
                    pieces = sentence.split(sorted(int(c) for c in chosen))
                    pauses = [self._mix.pause(rng, self._mix.pause_s) for _ in pieces[1:]]
                if plan == 4 and self._wake:
                    wake, _ = self._read(self._wake, rng)
                    pieces = [_Piece.of(wake), *pieces]
                    pauses = [self._mix.pause(rng, self._mix.pause_s), *pauses]
                clips.append(self._lay(pieces, pauses, rng, text=text, unfinished=False))
        return clips

    def _read(
        self, cuts: Sequence[Mapping[str, Any]], rng: np.random.Generator
    ) -> tuple[Samples, str]:
        cut = cuts[int(rng.integers(len(cuts)))]
        start, count = (round(cut[k] * SAMPLE_RATE_HZ) for k in ("start", "duration"))
        path = cut["recording"]["sources"][0]["source"]
        samples, _ = sf.read(path, start=start, frames=count, dtype="float32")
        return samples, str(cut["supervisions"][0]["text"])

    def _sentence(self, rng: np.random.Generator) -> tuple[_Piece, str]:
        samples, text = self._read(self._whole, rng)
        return _Piece.of(samples), text

    def _digit_string(self, rng: np.random.Generator) -> LabelledClip:
        if not self._digits:
            sentence, text = self._sentence(rng)
            return self._lay([sentence], [], rng, text=text, unfinished=False)
        speakers = sorted(self._digits)
        cuts = self._digits[speakers[int(rng.integers(len(speakers)))]]
        read = [self._read(cuts, rng) for _ in range(int(rng.integers(2, 8)))]
        pauses = [self._mix.pause(rng, self._mix.digit_pause_s) for _ in read[1:]]
        text = " ".join(each for _, each in read)
        return self._lay([_Piece.of(x) for x, _ in read], pauses, rng, text=text, unfinished=False)

    def _lay(
        self,
        pieces: Sequence[_Piece],
        pauses: Sequence[int],
        rng: np.random.Generator,
        *,
        text: str,
        unfinished: bool,
    ) -> LabelledClip:
        """Pieces with pauses between them, silence around them, in a room with noise."""
        lead = _seconds(rng, 0.3, 0.6) if rng.random() < 0.5 else _seconds(rng, 0.0, 2.5)
        tail = _seconds(rng, 0.5, 1.6) if unfinished else _seconds(rng, *self._mix.tail_s)
        row = [_Piece.silence(lead)]
        for i, piece in enumerate(pieces):
            row += [piece, _Piece.silence(pauses[i] if i < len(pauses) else 0)]
        row.append(_Piece.silence(tail))
        clean = np.concatenate([piece.samples for piece in row])
        mask = np.concatenate([piece.mask for piece in row])
        labels = frame_labels(mask, ENCODER_CLOCK.num_frames(len(clean)), unfinished=unfinished)
        spoken = np.flatnonzero(mask)
        end = None if unfinished or len(spoken) == 0 else int(spoken[-1] + 1) * HOP_SAMPLES
        return LabelledClip(self._in_room(clean, mask, rng), labels, end, text)

    def _in_room(self, clean: Samples, mask: Mask, rng: np.random.Generator) -> Samples:
        sound = clean
        if self._rooms and rng.random() < 0.3:
            room = self._rooms[int(rng.integers(len(self._rooms)))]
            sound = signal.oaconvolve(clean, room)[: len(clean)].astype(np.float32)
        spoken = np.repeat(mask, HOP_SAMPLES)
        loud = clean[: len(spoken)][spoken]
        power = float(np.mean(np.square(loud))) if len(loud) else 10 ** rng.uniform(-5, -2)
        hiss = rng.standard_normal(len(clean), dtype=np.float32)
        sound = sound + hiss * np.float32(np.sqrt(power) * 10 ** rng.uniform(-3.5, -2.2))
        if self._noise is not None and rng.random() < 0.75:
            noise = self._noise.draw(len(clean), rng)
            level = float(np.mean(np.square(noise))) + 1e-10
            gain = np.sqrt(power / level * 10 ** (-rng.uniform(*self._mix.snr_db) / 10))
            sound = sound + noise * np.float32(gain)
        peak = float(np.abs(sound).max()) + 1e-6
        return np.asarray(sound * np.float32(10 ** (rng.uniform(-30.0, -1.0) / 20) / peak))
