"""Twelve minutes without a word in them: recorded noise and generated music-like sound.

A recogniser should stay silent on all of it. Three parts are kept apart, because training
uses noise twice: it mixes it into speech, and it takes clips of the same noise alone, with an
empty transcript, to teach silence. "training noise" may have served both ways (coffee shops only
the first), so its figure flatters. "unseen noise" is the one recording that training must not
use. "generated music" is made here, by another program and from other seeds than the music-like
sound of the training noise. The last two together are `UNSEEN`, which is also reported alone.
Some ambience recordings (coffee shop, city) hold distant voices: a word there is still
counted, nobody speaks to the device.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from speech_sets import SAMPLE_RATE_HZ, SetMissing, read_clip

__all__ = ["UNSEEN", "UNSEEN_PARTS", "Sound", "music", "wordless_sounds"]

UNSEEN_PARTS = ("unseen noise", "generated music")
UNSEEN = "unseen noise + music"
TOTAL_S = 720.0
MUSIC_PIECE_S = 30.0
MUSIC_PIECES = 8
MUSIC_SEED = 4004

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sound:
    """A stretch of sound without speech directed at the device."""

    id: str
    part: str  # "training noise", "unseen noise" or "generated music"
    duration_s: float
    read: Callable[[], Samples]


def _note(frequency_hz: float, samples: int, *, rng: np.random.Generator) -> Samples:
    """One decaying tone with harmonics and vibrato, peak about 1."""
    t = np.arange(samples) / SAMPLE_RATE_HZ
    vibrato = rng.uniform(0.0, 0.006) * np.sin(2 * np.pi * rng.uniform(4.0, 7.0) * t)
    phase = 2 * np.pi * frequency_hz * (t + vibrato / (2 * np.pi * 5.0))
    brightness = rng.uniform(0.8, 2.0)
    harmonics = range(1, 1 + max(1, min(10, int(7000.0 / frequency_hz))))
    tone = sum(np.sin(k * phase + rng.uniform(0, 6.28)) / k**brightness for k in harmonics)
    attack_s = rng.choice([0.005, 0.02, 0.12])
    envelope = np.minimum(t / attack_s, 1.0) * np.exp(-t / rng.uniform(0.15, 1.5))
    release = np.minimum((samples - np.arange(samples)) / (0.01 * SAMPLE_RATE_HZ), 1.0)
    shaped = tone * envelope * release
    return np.asarray(shaped / (np.abs(shaped).max() + 1e-9), dtype=np.float32)


def _drum(kind: int, *, rng: np.random.Generator) -> Samples:
    """A kick (falling sine), a snare (noise and tone) or a hi-hat (short bright noise)."""
    length_s = (0.25, 0.18, 0.06)[kind]
    t = np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    hiss = rng.standard_normal(len(t))
    if kind == 0:
        sound = np.sin(2 * np.pi * (45.0 * t + 2.2 * (1 - np.exp(-t / 0.03)))) * np.exp(-t / 0.09)
    elif kind == 1:
        sound = (0.6 * hiss + 0.5 * np.sin(2 * np.pi * 190.0 * t)) * np.exp(-t / 0.05)
    else:
        sound = np.diff(hiss, n=2, prepend=[0.0, 0.0]) * np.exp(-t / 0.015)
    return np.asarray(sound / (np.abs(sound).max() + 1e-9), dtype=np.float32)


def music(seed: int, *, duration_s: float = MUSIC_PIECE_S) -> Samples:
    """Music-like sound: chords, a bass, a melody and percussion on a beat.

    Args:
        seed: Chooses tempo, key, instruments, level and every note.
        duration_s: Length in seconds.

    Returns:
        Shape (n,), float32, peak between 0.1 and 0.7. Equal for equal seeds.
    """
    rng = np.random.default_rng([MUSIC_SEED, seed])
    total = round(duration_s * SAMPLE_RATE_HZ)
    mix = np.zeros(total, dtype=np.float32)

    def put(sound: Samples, at_s: float, gain: float) -> None:
        start = round(at_s * SAMPLE_RATE_HZ)
        end = min(total, start + len(sound))
        if start < end:
            mix[start:end] += gain * sound[: end - start]

    beat_s = 60.0 / rng.uniform(70.0, 150.0)
    root_hz = 110.0 * 2.0 ** (rng.integers(0, 12) / 12.0)
    scale = np.array([0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.5 else [0, 2, 3, 5, 7, 8, 10])
    chord_gain, melody_gain, drum_gain = rng.uniform(0.1, 0.6, size=3) * (rng.random(3) < 0.85)
    if chord_gain + melody_gain + drum_gain == 0.0:
        melody_gain = 0.5

    def pitch(step: int) -> float:
        octave, degree = divmod(step, 7)
        return float(root_hz * 2.0 ** (octave + scale[degree] / 12.0))

    step, chord = 7, 0
    for beat in range(int(duration_s / beat_s) + 1):
        at_s = beat * beat_s
        if beat % 4 == 0:
            chord = int(rng.choice([0, 3, 4, 5]))
            for third in (0, 2, 4):
                length = round(4 * beat_s * SAMPLE_RATE_HZ)
                put(_note(pitch(chord + third), length, rng=rng), at_s, float(chord_gain))
            put(_note(pitch(chord) / 2.0, length, rng=rng), at_s, float(chord_gain))
        for half in range(2):
            if rng.random() < 0.6:
                step = int(np.clip(step + rng.integers(-2, 3), 3, 18))
                length = round(rng.choice([0.5, 1.0, 2.0]) * beat_s * SAMPLE_RATE_HZ)
                tone = _note(pitch(step), length, rng=rng)
                put(tone, at_s + half * beat_s / 2, float(melody_gain))
            put(_drum(2, rng=rng), at_s + half * beat_s / 2, 0.4 * float(drum_gain))
        put(_drum(0 if beat % 2 == 0 else 1, rng=rng), at_s, float(drum_gain))
    peak = float(np.abs(mix).max())
    return np.asarray(mix * (rng.uniform(0.1, 0.7) / peak), dtype=np.float32)


def wordless_sounds(data: Path, *, total_s: float = TOTAL_S) -> list[Sound]:
    """Recorded noise and generated music that last `total_s` together.

    The unseen recording and the music are used whole; recordings from the training split
    share the rest evenly, the long ones giving more where short ones run out.

    Args:
        data: Folder of the recordings.
        total_s: Length of everything, in seconds.

    Raises:
        SetMissing: No noise recordings, or too little of them.
    """
    folder = data / "noise"
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise SetMissing(f"{manifest} does not exist")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    sounds = [
        Sound(
            f"music-{seed}",
            "generated music",
            MUSIC_PIECE_S,
            functools.partial(music, seed, duration_s=MUSIC_PIECE_S),
        )
        for seed in range(MUSIC_PIECES)
    ]
    for row in rows:
        if row["split"] == "test":
            read = functools.partial(
                read_clip, folder / row["audio"], duration_s=float(row["duration"])
            )
            sounds.append(Sound(row["id"], "unseen noise", float(row["duration"]), read))
    seen = sorted((row for row in rows if row["split"] == "train"), key=lambda r: r["duration"])
    left_s = total_s - sum(sound.duration_s for sound in sounds)
    if left_s > sum(row["duration"] for row in seen):
        raise SetMissing(f"{folder} holds too little noise to fill {total_s:.0f} s")
    for position, row in enumerate(seen):
        take_s = min(float(row["duration"]), left_s / (len(seen) - position))
        left_s -= take_s
        read = functools.partial(read_clip, folder / row["audio"], duration_s=take_s)
        sounds.append(Sound(row["id"], "training noise", take_s, read))
    return sounds
