"""Noise to train against: recordings where they exist, and generators that never run out.

Few freely licensed noise recordings exist, and a network soon knows them by heart: in one that it
has met it hears a command, and in another kitchen it does not. So the pool is made, too: babble of
many voices, clatter, hum, fans, modulated coloured noise, music-like sound, and events whose
sounds are shreds of all recordings; and recordings are played at other rates, backwards, in
bursts, through each other and one over the other. Every generator takes a random generator and a
duration and returns float32 at 16 kHz, at a root mean square of 0.1.

Knows nothing of signal-to-noise ratios: mixing happens while training. The kitchen recording of
the coffee benchmark has split `test` in its manifest and is therefore never read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
from scipy import signal

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.atomic import replaced_file
from earshot.data.audio import read_audio
from earshot.train.cuts import write_cuts, write_json, write_wav
from earshot.train.text import data_root

__all__ = [
    "GENERATORS",
    "NoiseConfig",
    "make_babble",
    "make_clatter",
    "make_coloured",
    "make_events",
    "make_fan",
    "make_hum",
    "make_music",
    "noise_recordings",
    "prepare",
]

RMS = 0.1
Samples = npt.NDArray[np.float32]
_Wave = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """Size of the pool."""

    minutes: float = 120.0
    piece_s: float = 15.0
    recorded_share: float = 0.5  # of the pool; what is missing is generated
    held_out: tuple[str, ...] = ()  # labels of recordings that are kept for a test
    babble_voices: tuple[int, int] = (3, 12)
    silent_clips: int = 2000  # cuts of noise without speech, whose transcript is empty

    def __post_init__(self) -> None:
        if not 0 <= self.recorded_share <= 1:
            raise ValueError(
                f"noise.recorded_share is {self.recorded_share}; it must lie in [0, 1]"
            )


# ---------------------------------------------------------------- building blocks


def _count(duration_s: float) -> int:
    if duration_s <= 0:
        raise ValueError(f"noise: duration is {duration_s} s; it must be positive")
    return max(1, round(duration_s * SAMPLE_RATE_HZ))


def _level(samples: _Wave) -> Samples:
    """At the common level, peaks limited softly."""
    rms = float(np.sqrt(np.mean(np.square(samples))))
    scaled = samples * (RMS / rms) if rms > 0 else samples
    return np.asarray(np.tanh(scaled / 0.9) * 0.9, dtype=np.float32)


def _shaped_noise(rng: np.random.Generator, count: int) -> _Wave:
    """Noise with a random spectral slope and a few broad bumps."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ)
    log_hertz = np.log2(np.maximum(hertz, 20.0))
    gain_db = -rng.uniform(0.0, 7.0) * (log_hertz - log_hertz[0])
    for _ in range(int(rng.integers(0, 4))):
        centre, width = rng.uniform(np.log2(80), np.log2(7000)), rng.uniform(0.2, 1.2)
        gain_db += rng.uniform(-15, 15) * np.exp(-0.5 * np.square((log_hertz - centre) / width))
    return np.asarray(np.fft.irfft(spectrum * 10 ** (gain_db / 20), count))


def _slow(rng: np.random.Generator, count: int, hertz: float) -> _Wave:
    """A smooth random curve of zero mean and unit deviation that changes about `hertz` a second."""
    knots = max(4, int(count / SAMPLE_RATE_HZ * hertz) + 3)
    curve = np.interp(
        np.linspace(0, knots - 1, count), np.arange(knots), rng.standard_normal(knots)
    )
    return np.asarray((curve - curve.mean()) / (curve.std() + 1e-9))


# ---------------------------------------------------------------- generators


def make_coloured(rng: np.random.Generator, duration_s: float) -> Samples:
    """Coloured noise whose loudness wanders, from slow swells to fast flutter."""
    count = _count(duration_s)
    depth_db = rng.uniform(0.0, 8.0)
    loudness = 10 ** (depth_db * _slow(rng, count, rng.uniform(0.2, 8.0)) / 20)
    return _level(_shaped_noise(rng, count) * loudness)


def make_hum(rng: np.random.Generator, duration_s: float) -> Samples:
    """Mains or motor hum: a drifting fundamental, its harmonics, a little hiss."""
    count = _count(duration_s)
    base = float(rng.choice([50.0, 60.0, 100.0, 120.0, rng.uniform(40, 400)]))
    drift = 1 + rng.uniform(0, 0.01) * _slow(rng, count, rng.uniform(0.1, 2.0))
    phase = 2 * np.pi * np.cumsum(base * drift) / SAMPLE_RATE_HZ
    out = np.zeros(count)
    rolloff = rng.uniform(0.3, 1.5)
    for k in range(1, int(min(40, 7500 / base)) + 1):
        strength = rng.uniform(0.1, 1.0) / k**rolloff
        out += strength * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    hiss = _shaped_noise(rng, count)
    out /= out.std() + 1e-9
    return _level(out + rng.uniform(0.05, 0.6) * hiss / (hiss.std() + 1e-9))


def make_fan(rng: np.random.Generator, duration_s: float) -> Samples:
    """A fan or ventilation: rushing air, modulated at the rate of the blades."""
    count = _count(duration_s)
    air = _shaped_noise(rng, count)
    air = signal.sosfilt(
        signal.butter(2, rng.uniform(600, 4000), fs=SAMPLE_RATE_HZ, output="sos"), air
    )
    air /= air.std() + 1e-9
    rate = rng.uniform(8, 120) * (1 + 0.01 * _slow(rng, count, 0.3))
    phase = 2 * np.pi * np.cumsum(rate) / SAMPLE_RATE_HZ
    blades = 1 + rng.uniform(0.05, 0.5) * np.sin(phase)
    tone = sum(np.sin(k * phase + k) / k for k in range(1, 6))
    return _level(air * blades + rng.uniform(0.0, 0.5) * np.asarray(tone))


def _impact(rng: np.random.Generator) -> _Wave:
    """One knock: a burst and a handful of damped resonances, as of dishes, cutlery or wood."""
    length = int(rng.uniform(0.05, 0.5) * SAMPLE_RATE_HZ)
    t = np.arange(length) / SAMPLE_RATE_HZ
    out = np.zeros(length)
    centre = 2 ** rng.uniform(np.log2(200), np.log2(5000))
    for _ in range(int(rng.integers(2, 9))):
        hertz = min(7600.0, centre * rng.uniform(0.6, 3.0))
        decay = 10 ** rng.uniform(np.log10(0.008), np.log10(0.15))
        out += rng.uniform(0.2, 1) * np.sin(2 * np.pi * hertz * t) * np.exp(-t / decay)
    click = rng.standard_normal(length) * np.exp(-t / rng.uniform(0.001, 0.01))
    return np.asarray(out / (np.abs(out).max() + 1e-9) + rng.uniform(0.1, 0.8) * click)


def make_clatter(rng: np.random.Generator, duration_s: float) -> Samples:
    """Knocks at random moments over faint noise."""
    count = _count(duration_s)
    floor = _shaped_noise(rng, count)
    out = 10 ** (-rng.uniform(25, 45) / 20) * floor / (floor.std() + 1e-9)
    kinds = [_impact(rng) for _ in range(int(rng.integers(2, 8)))]
    knocks = 1 + int(rng.poisson(duration_s * 10 ** rng.uniform(-0.3, 1.1)))
    for start in np.sort(rng.integers(0, count, size=knocks)):
        hit = kinds[int(rng.integers(len(kinds)))]
        end = min(count, int(start) + hit.size)
        out[start:end] += 10 ** (-rng.uniform(0, 25) / 20) * hit[: end - start]
    return _level(out)


def _note(rng: np.random.Generator, hertz: float, length: int, *, bright: float) -> _Wave:
    t = np.arange(length) / SAMPLE_RATE_HZ
    out = np.zeros(length)
    for k in range(1, int(min(12, 7500 / hertz)) + 1):
        detune = 1 + 0.002 * rng.standard_normal()
        out += np.sin(2 * np.pi * hertz * k * detune * t) / k**bright
    attack = np.minimum(1.0, t / rng.uniform(0.005, 0.08))
    release = np.minimum(1.0, (length - np.arange(length)) / (0.03 * SAMPLE_RATE_HZ))
    return np.asarray(out * attack * release * np.exp(-t * rng.uniform(0.2, 4.0)))


def make_music(rng: np.random.Generator, duration_s: float) -> Samples:
    """Music-like sound: chords, a melody, a bass and percussion in a steady beat."""
    count = _count(duration_s)
    beat = int(60 / rng.uniform(65, 170) * SAMPLE_RATE_HZ)
    scale = np.array([0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.5 else [0, 2, 3, 5, 7, 8, 10])
    root = 55.0 * 2 ** rng.uniform(0, 1)
    out = np.zeros(count + 8 * beat)
    bright = rng.uniform(0.7, 2.2)
    melody, drums, bass = rng.random(3) < (0.8, 0.7, 0.7)

    def hertz(degree: int, octave: int) -> float:
        semitone = scale[degree % 7] + 12 * (degree // 7 + octave)
        return float(root * 2 ** (semitone / 12))

    degree = 0
    for start in range(0, count, beat):
        on_bar = (start // beat) % 4 == 0
        if on_bar:
            chord = int(rng.integers(0, 7))
            for offset in (0, 2, 4):
                out[start : start + 4 * beat] += 0.4 * _note(
                    rng, hertz(chord + offset, 2), 4 * beat, bright=bright
                )
        if bass:
            out[start : start + beat] += 0.6 * _note(rng, hertz(degree % 7, 0), beat, bright=2.0)
        if melody:
            steps = int(rng.choice([1, 1, 2, 2, 4]))
            for k in range(steps):
                degree = int(np.clip(degree + rng.integers(-2, 3), 0, 13))
                part, at = beat // steps, start + k * (beat // steps)
                out[at : at + part] += 0.7 * _note(rng, hertz(degree, 2), part, bright=bright)
        if drums:
            t = np.arange(beat) / SAMPLE_RATE_HZ
            if (start // beat) % 2 == 0:
                thump = 2 * np.pi * (45 * t - 40 * np.exp(-t * 30) / 30)
                out[start : start + beat] += 1.5 * np.sin(thump) * np.exp(-t * 12)
            else:
                out[start : start + beat] += (
                    0.8 * rng.standard_normal(beat) * np.exp(-t * rng.uniform(15, 40))
                )
            hat = np.diff(rng.standard_normal(beat // 2 + 1)) * np.exp(-t[: beat // 2] * 60)
            for at in (start, start + beat // 2):
                out[at : at + beat // 2] += 0.3 * hat
    return _level(out[:count])


def make_babble(
    rng: np.random.Generator,
    duration_s: float,
    voices: Sequence[Samples],
    *,
    count: tuple[int, int] = (3, 12),
) -> Samples:
    """Several people talking at once, none of them in front.

    Args:
        rng: Of the choice of voices and their moments.
        duration_s: Seconds.
        voices: Clips of speech at 16 kHz; joined at random into one stream per talker.
        count: Fewest and most talkers.

    Returns:
        Shape (N,), float32.

    Raises:
        ValueError: No voices.
    """
    if not voices:
        raise ValueError("make_babble: got no clips of speech; at least one is needed")
    length = _count(duration_s)
    out = np.zeros(length)
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        stream: list[Samples] = []
        have = -int(rng.integers(0, SAMPLE_RATE_HZ))  # starts somewhere inside
        skip = -have
        while have < length:
            clip = voices[int(rng.integers(len(voices)))]
            stream.append(clip)
            have += max(1, clip.size)
        talker = np.concatenate(stream)[skip : skip + length].astype(np.float64)
        talker = np.pad(talker, (0, length - talker.size))
        rms = np.sqrt(np.mean(np.square(talker))) + 1e-9
        out += talker / rms * 10 ** (-rng.uniform(0, 6) / 20)
    # From across a room: highs are weaker.
    cut = signal.butter(1, rng.uniform(1500, 7000), fs=SAMPLE_RATE_HZ, output="sos")
    return _level(signal.sosfilt(cut, out))


def _bursts(rng: np.random.Generator, count: int) -> _Wave:
    """An envelope of (count,): moments that come fast and die away, over a faint floor."""
    out = np.full(count, 10 ** (-rng.uniform(15, 45) / 20))
    rate = 10 ** rng.uniform(-0.2, 1.0)  # a second
    decay_s = 10 ** rng.uniform(np.log10(0.03), np.log10(0.6))
    for start in rng.integers(0, count, size=1 + int(rng.poisson(rate * count / SAMPLE_RATE_HZ))):
        decay = decay_s * 2 ** rng.uniform(-1, 1) * SAMPLE_RATE_HZ
        length = min(count - int(start), int(6 * decay) + 1)
        attack = np.minimum(1.0, np.arange(length) / (rng.uniform(0.001, 0.03) * SAMPLE_RATE_HZ))
        burst = attack * np.exp(-np.arange(length) / decay) * 10 ** (-rng.uniform(0, 20) / 20)
        out[start : start + length] = np.maximum(out[start : start + length], burst)
    return out


def _shred(rng: np.random.Generator, sounds: Sequence[Samples]) -> _Wave:
    """A short piece of some sound that nobody would know again: rate, direction, timbre."""
    sound = sounds[int(rng.integers(len(sounds)))]
    wanted = int(10 ** rng.uniform(np.log10(0.03), np.log10(0.5)) * SAMPLE_RATE_HZ)
    # Not near 1, where a piece of speech might still be a word.
    speed = float(2 ** (rng.choice([-1, 1]) * rng.uniform(0.5, 1.6)))
    needed = int(wanted * speed) + 2
    start = int(rng.integers(0, max(1, sound.size - needed)))
    piece = np.resize(sound[start : start + needed], needed).astype(np.float32)
    out = soxr.resample(piece, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ, quality="QQ")
    out = np.resize(out, wanted).astype(np.float64)
    if rng.random() < 0.6:
        low = 2 ** rng.uniform(np.log2(60), np.log2(3000))
        band = (low, min(7800.0, low * 2 ** rng.uniform(1, 5)))
        out = signal.sosfilt(
            signal.butter(2, band, "bandpass", fs=SAMPLE_RATE_HZ, output="sos"), out
        )
    if rng.random() < 0.5:
        out = out[::-1]
    fade = np.exp(-np.arange(wanted) / (wanted * rng.uniform(0.1, 1.5)))
    out = out * fade * np.minimum(1.0, np.arange(wanted) / (0.003 * SAMPLE_RATE_HZ))
    return np.asarray(out / (np.sqrt(np.mean(np.square(out))) + 1e-9))


def make_events(rng: np.random.Generator, duration_s: float, sounds: Sequence[Samples]) -> Samples:
    """Somebody at work: a few sounds that come again and again, never quite alike.

    Args:
        rng: Of everything.
        duration_s: Seconds.
        sounds: Recordings of anything; each event is a shred of one.

    Returns:
        Shape (N,), float32.

    Raises:
        ValueError: No sounds.
    """
    if not sounds:
        raise ValueError("make_events: got no sounds; at least one is needed")
    count = _count(duration_s)
    floor = _shaped_noise(rng, count)
    out = 10 ** (-rng.uniform(15, 45) / 20) * floor / (floor.std() + 1e-9)
    for _ in range(int(rng.integers(1, 6))):
        shred = _shred(rng, sounds)
        gap = SAMPLE_RATE_HZ / 10 ** rng.uniform(-0.7, 0.9)  # samples, on average
        steady, loudness_db = rng.uniform(0.1, 1.0), -rng.uniform(0, 25)
        at = float(rng.uniform(0, 2 * gap))
        while at < count:
            start = int(at)
            hit = shred * 10 ** ((loudness_db - rng.uniform(0, 10)) / 20)
            end = min(count, start + hit.size)
            out[start:end] += hit[: end - start]
            at += gap * (steady + (1 - steady) * rng.exponential())
    return _level(out)


GENERATORS: Mapping[str, Callable[[np.random.Generator, float], Samples]] = {
    "coloured": make_coloured,
    "hum": make_hum,
    "fan": make_fan,
    "clatter": make_clatter,
    "music": make_music,
}
_GENERATED_SHARES = {
    "babble": 0.2, "clatter": 0.15, "events": 0.3, "music": 0.2, "coloured": 0.07, "fan": 0.04,
    "hum": 0.04,
}  # fmt: skip
_SPOKEN_IN = frozenset({"babble", "coffee-shop"})  # a word of it may be clear
_MUSIC_WEIGHT = 5.0  # of a piece of music among the silent cuts


# ---------------------------------------------------------------- recordings


def noise_recordings(root: Path) -> list[tuple[str, Path]]:
    """(label, file) of the noise recordings that may be mixed into training: split `train` only."""
    manifest = root / "noise" / "manifest.jsonl"
    if not manifest.is_file():
        return []
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return [(r["label"], manifest.parent / r["audio"]) for r in rows if r["split"] == "train"]


def _vary(rng: np.random.Generator, recording: Samples, duration_s: float) -> Samples:
    """A random stretch of a recording, faster or slower, with another equaliser."""
    count = _count(duration_s)
    speed = float(2 ** rng.uniform(-1.0, 1.0))
    needed = int(count * speed) + 2
    start = int(rng.integers(0, recording.size))
    stretch = np.take(recording, np.arange(start, start + needed), mode="wrap")
    stretch = soxr.resample(stretch, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ, quality="MQ")
    piece: _Wave = np.resize(stretch, count).astype(np.float64)
    if rng.random() < 0.8:
        spectrum = np.fft.rfft(piece)
        octaves = np.log2(np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ), 50.0) / 50.0)
        gain_db = np.interp(octaves, np.arange(8), rng.uniform(-14, 14, size=8))
        piece = np.asarray(np.fft.irfft(spectrum * 10 ** (gain_db / 20), count))
    return _level(piece)


def _estranged(
    rng: np.random.Generator, loaded: Sequence[tuple[str, Samples]], n: int, duration_s: float
) -> tuple[str, Samples]:
    """A piece of the n-th recording that is like no other piece, and its label."""
    label, recording = loaded[n % len(loaded)]
    others = [samples for name, samples in loaded if name not in _SPOKEN_IN] or [recording]
    piece: _Wave = _vary(rng, recording, duration_s).astype(np.float64)
    if rng.random() < 0.3:
        piece = piece[::-1]
    if rng.random() < 0.3:  # through a moment of another sound, as through a box
        other = others[int(rng.integers(len(others)))]
        box = _shred(rng, [other])[: SAMPLE_RATE_HZ // 5]
        piece = signal.oaconvolve(piece, box / np.sqrt(box.size))[: piece.size]
    if rng.random() < 0.35:
        piece = piece * _bursts(rng, piece.size)
    if rng.random() < 0.4:
        other = others[int(rng.integers(len(others)))]
        over = _vary(rng, other, duration_s) * 10 ** (rng.uniform(-15, 5) / 20)
        piece = piece / (piece.std() + 1e-9) * RMS + over
    return label, _level(piece)


_BABBLE_CORPORA = ("librispeech_speakers", "librispeech_dev_clean_half")


def _recordings_present(root: Path) -> dict[str, object]:
    """What the pool can be made from, as one of its settings."""
    names = ("noise", *_BABBLE_CORPORA)
    present = [name for name in names if (root / name / "manifest.jsonl").is_file()]
    return {"recordings": present, "root": str(root.resolve()) if present else None}


def _voices(root: Path, rng: np.random.Generator, *, most: int = 120) -> list[Samples]:
    """Clips of many speakers for babble, of the training splits; synthetic where there are none."""
    clips: list[Samples] = []
    files: list[Path] = []
    for corpus in _BABBLE_CORPORA:
        manifest = root / corpus / "manifest.jsonl"
        if manifest.is_file():
            for line in manifest.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["split"] == "train":
                    files.append(manifest.parent / row["audio"])
    if files:
        for i in rng.permutation(len(files))[:most]:
            clips.append(read_audio(files[int(i)]))
        return clips
    from earshot.train import synthesis

    voices = synthesis.training_voices()
    sentences = (
        "what are you going to do tomorrow",
        "i have not seen them for a long time",
        "she said that it would be ready by now",
    )
    wanted = [
        synthesis.Clip(s, "babble", "babble", v, pitch=p, tract=p)
        for s in sentences
        for v in voices
        for p in (0.85, 1.0, 1.15)
    ]
    return [samples for samples in synthesis.speak(wanted) if samples is not None]


# ---------------------------------------------------------------- the stage


def _pieces(config: NoiseConfig, root: Path, *, seed: int) -> Iterator[tuple[str, Samples]]:
    total = max(1, round(config.minutes * 60 / config.piece_s))
    recordings = [
        (label, path) for label, path in noise_recordings(root) if label not in config.held_out
    ]
    recorded = round(total * config.recorded_share) if recordings else 0
    loaded = [(label, read_audio(path)) for label, path in recordings]
    for n in range(recorded):
        rng = np.random.default_rng((seed, 1, n))
        yield _estranged(rng, loaded, n, config.piece_s)
    voices = _voices(root, np.random.default_rng((seed, 2)))
    sounds = [*(samples for _, samples in loaded), *voices]
    needs = {"babble": voices, "events": sounds}
    shares = {k: v for k, v in _GENERATED_SHARES.items() if needs.get(k, True)}
    names = list(shares)
    weights = np.array(list(shares.values())) / sum(shares.values())
    for n in range(total - recorded):
        rng = np.random.default_rng((seed, 3, n))
        name = names[int(rng.choice(len(names), p=weights))]
        if name == "babble":
            yield name, make_babble(rng, config.piece_s, voices, count=config.babble_voices)
        elif name == "events":
            yield name, make_events(rng, config.piece_s, sounds)
        else:
            yield name, GENERATORS[name](rng, config.piece_s)


def prepare(
    out_dir: Path,
    *,
    seed: int,
    config: NoiseConfig | None = None,
    root: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the noise pool and cuts of noise alone.

    `noise/pool.npy` is one int16 track at 16 kHz, `noise/offsets.json` lists (first, last) sample
    of every piece and `noise/labels.json` its kind. `noise/pool.wav` is the same track, and
    `cuts/noise_train.jsonl.gz` has clips of it with an empty transcript, from every kind but
    babble, so that the recogniser learns to stay silent. Does nothing when all are there, made with
    the same settings from the same folder of recordings.

    Args:
        out_dir: Experiment folder.
        seed: Of everything.
        config: Size.
        root: Folder with `noise/`; `data_root()` if not given. Without it all is generated.
        progress: Called with (pieces done, pieces).

    Returns:
        Pieces in the pool.
    """
    config = config or NoiseConfig()
    root = root or data_root()
    folder = out_dir / "noise"
    cuts_path = out_dir / "cuts" / "noise_train.jsonl.gz"
    settings = json.loads(json.dumps({"seed": seed, **asdict(config), **_recordings_present(root)}))
    summary_path = folder / "summary.json"
    if summary_path.is_file() and (folder / "pool.npy").is_file() and cuts_path.is_file():
        summary = json.loads(summary_path.read_text())
        if summary["settings"] == settings:
            return int(summary["pieces"])
    folder.mkdir(parents=True, exist_ok=True)
    total = max(1, round(config.minutes * 60 / config.piece_s))
    tracks: list[npt.NDArray[np.int16]] = []
    labels: list[str] = []
    for label, samples in _pieces(config, root, seed=seed):
        tracks.append(np.round(samples * 32767).astype(np.int16))
        labels.append(label)
        if progress is not None:
            progress(len(labels), total)
    ends = np.cumsum([t.size for t in tracks])
    offsets = [[int(end - t.size), int(end)] for end, t in zip(ends, tracks, strict=True)]
    pool = np.concatenate(tracks)
    summary_path.unlink(missing_ok=True)  # of the pool that is about to go
    with replaced_file(folder / "pool.npy") as out:
        np.save(out, pool)
    write_wav(folder / "pool.wav", pool)
    write_json(offsets, folder / "offsets.json")
    write_json(labels, folder / "labels.json")
    write_cuts(_silent_cuts(folder / "pool.wav", offsets, labels, config, seed=seed), cuts_path)
    write_json({"settings": settings, "pieces": len(labels)}, summary_path)
    return len(labels)


def _silent_cuts(
    track: Path,
    offsets: Sequence[Sequence[int]],
    labels: Sequence[str],
    config: NoiseConfig,
    *,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Cuts of 1 to 8 s without speech."""
    rng = np.random.default_rng((seed, 4))
    usable = [i for i, label in enumerate(labels) if label not in _SPOKEN_IN]
    # Sound with pitch and rhythm is what a recogniser takes for speech; rushing it soon ignores.
    weights = np.array([_MUSIC_WEIGHT if labels[i] == "music" else 1.0 for i in usable])
    recording = {
        "id": "noise-pool",
        "sources": [{"type": "file", "channels": [0], "source": str(track.resolve())}],
        "sampling_rate": SAMPLE_RATE_HZ,
        "num_samples": offsets[-1][1],
        "duration": offsets[-1][1] / SAMPLE_RATE_HZ,
        "channel_ids": [0],
    }
    for n in range(config.silent_clips if usable else 0):
        piece = usable[int(rng.choice(len(usable), p=weights / weights.sum()))]
        first, last = offsets[piece]
        count = min(last - first, int(rng.uniform(1.0, 8.0) * SAMPLE_RATE_HZ))
        start = first + int(rng.integers(0, last - first - count + 1))
        cut_id = f"noise-{n:04d}"
        duration = count / SAMPLE_RATE_HZ
        supervision = {
            "id": cut_id, "recording_id": "noise-pool", "start": 0.0, "duration": duration,
            "channel": 0, "text": "", "language": "en", "speaker": "none",
            "custom": {"kind": "noise", "label": labels[piece]},
        }  # fmt: skip
        yield {
            "id": cut_id, "start": start / SAMPLE_RATE_HZ, "duration": duration, "channel": 0,
            "supervisions": [supervision], "recording": recording, "type": "MonoCut",
        }  # fmt: skip
