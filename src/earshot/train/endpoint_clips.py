"""Clips whose frames are labelled speech, silence before, pause, and silence after it.

Speech of training corpora is laid into room noise: whole, with pauses between its words, cut off
where more would follow, or digit by digit. Where it sounds is known from its own energy before any
noise comes in; what a silence is follows from what was laid behind it. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
from scipy import signal

from earshot.core.features import ENCODER_CLOCK, SAMPLE_RATE_HZ
from earshot.train.augment import NoisePool

__all__ = [
    "AFTER",
    "BEFORE",
    "PAUSE",
    "SPEECH",
    "ClipMaker",
    "LabelledClip",
    "frame_labels",
    "speech_mask",
]

Samples = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SPEECH, BEFORE, PAUSE, AFTER = range(4)

_HOP = 160
_RANGE_DB = 36.0  # speech lies within so much of a clip's loud frames,
_ABOVE_FLOOR_DB = 6.0  # and so far above its quiet ones,
_FLOOR_DB = 28.0  # if these are so quiet that they cannot be speech
_BRIDGED = 12  # hops: shorter silences belong to speech, such as that before a plosive
_SHORTEST = 4  # hops: less is a click


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


def speech_mask(samples: Samples) -> Mask:
    """Where a clean clip sounds, by its energy.

    Args:
        samples: Shape (N,), 16 kHz, without noise to speak of.

    Returns:
        Shape (N // 160,): whether each stretch of 10 ms is speech.
    """
    count = len(samples) // _HOP
    if count == 0:
        return np.zeros(0, np.bool_)
    frames = samples[: count * _HOP].reshape(count, _HOP).astype(np.float64)
    level = 10 * np.log10(
        np.mean(np.square(frames - frames.mean(1, keepdims=True)), axis=1) + 1e-10
    )
    level = np.convolve(level, np.ones(3) / 3, mode="same") if count >= 3 else level
    loud, quiet = np.percentile(level, 95), np.percentile(level, 5)
    threshold = loud - _FLOOR_DB
    if quiet < threshold:
        threshold = max(loud - _RANGE_DB, quiet + _ABOVE_FLOOR_DB)
    mask = np.asarray(level > threshold)
    for value, shortest in ((False, _BRIDGED), (True, _SHORTEST)):
        edges = np.flatnonzero(np.diff(mask.astype(np.int8))) + 1
        bounds = [0, *edges.tolist(), count]
        for start, stop in pairwise(bounds):
            inner = value or (start > 0 and stop < count)
            if inner and bool(mask[start]) is value and stop - start < shortest:
                mask[start:stop] = not value
    return mask


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
            samples = samples[max(0, where[0] - 1) * _HOP :]
        return cls(samples[: len(mask) * _HOP], mask)

    @classmethod
    def silence(cls, samples: int) -> _Piece:
        """About so many samples of nothing."""
        count = samples // _HOP
        return cls(np.zeros(count * _HOP, np.float32), np.zeros(count, np.bool_))

    def split(self, at: Sequence[int]) -> list[_Piece]:
        """Cut at some samples."""
        hops = [a // _HOP for a in at]
        return [
            _Piece(samples, mask)
            for samples, mask in zip(
                np.split(self.samples, [h * _HOP for h in hops]),
                np.split(self.mask, hops),
                strict=True,
            )
        ]


def _seconds(rng: np.random.Generator, low: float, high: float) -> int:
    return int(rng.uniform(low, high) * SAMPLE_RATE_HZ)


def _pause(rng: np.random.Generator) -> int:
    return _seconds(rng, 0.1, 0.6) if rng.random() < 0.85 else _seconds(rng, 0.6, 1.5)


class ClipMaker:
    """Composes labelled clips out of cuts.

    Args:
        cuts: Of training corpora, with `kind` in their supervisions.
        noise: Noise to lay under them; None leaves a faint hiss.
        rooms: Impulse responses.
        gaps: For a list of clips, samples at which each may be cut: between words.
    """

    def __init__(
        self,
        cuts: Sequence[Mapping[str, Any]],
        noise: NoisePool | None,
        rooms: Sequence[Samples],
        *,
        gaps: Callable[[Sequence[Samples]], list[list[int]]],
    ) -> None:
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
            The clips; about one in twelve has noise only.
        """
        plans = rng.choice(5, size=count, p=(0.46, 0.18, 0.18, 0.09, 0.09))
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
                if plan == 0 and cuts and rng.random() < 0.5:
                    most = min(len(cuts), int(rng.integers(1, 3)))
                    chosen = rng.choice(cuts, size=most, replace=False)
                    pieces = sentence.split(sorted(int(c) for c in chosen))
                    pauses = [_pause(rng) for _ in pieces[1:]]
                if plan == 4 and self._wake:
                    wake, _ = self._read(self._wake, rng)
                    pieces, pauses = [_Piece.of(wake), *pieces], [_pause(rng), *pauses]
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
        pauses = [
            _seconds(rng, 0.02, 0.45) if rng.random() < 0.93 else _seconds(rng, 0.45, 1.0)
            for _ in read[1:]
        ]
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
        tail = _seconds(rng, 0.5, 1.6) if unfinished else _seconds(rng, 0.8, 2.6)
        row = [_Piece.silence(lead)]
        for i, piece in enumerate(pieces):
            row += [piece, _Piece.silence(pauses[i] if i < len(pauses) else 0)]
        row.append(_Piece.silence(tail))
        clean = np.concatenate([piece.samples for piece in row])
        mask = np.concatenate([piece.mask for piece in row])
        labels = frame_labels(mask, ENCODER_CLOCK.num_frames(len(clean)), unfinished=unfinished)
        spoken = np.flatnonzero(mask)
        end = None if unfinished or len(spoken) == 0 else int(spoken[-1] + 1) * _HOP
        return LabelledClip(self._in_room(clean, mask, rng), labels, end, text)

    def _in_room(self, clean: Samples, mask: Mask, rng: np.random.Generator) -> Samples:
        sound = clean
        if self._rooms and rng.random() < 0.3:
            room = self._rooms[int(rng.integers(len(self._rooms)))]
            sound = signal.oaconvolve(clean, room)[: len(clean)].astype(np.float32)
        spoken = np.repeat(mask, _HOP)
        loud = clean[: len(spoken)][spoken]
        power = float(np.mean(np.square(loud))) if len(loud) else 10 ** rng.uniform(-5, -2)
        hiss = rng.standard_normal(len(clean), dtype=np.float32)
        sound = sound + hiss * np.float32(np.sqrt(power) * 10 ** rng.uniform(-3.5, -2.2))
        if self._noise is not None and rng.random() < 0.75:
            noise = self._noise.draw(len(clean), rng)
            level = float(np.mean(np.square(noise))) + 1e-10
            gain = np.sqrt(power / level * 10 ** (-rng.uniform(3.0, 40.0) / 10))
            sound = sound + noise * np.float32(gain)
        peak = float(np.abs(sound).max()) + 1e-6
        return np.asarray(sound * np.float32(10 ** (rng.uniform(-30.0, -1.0) / 20) / peak))
