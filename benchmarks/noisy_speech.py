"""Speech with noise mixed in at a given level, as the coffee benchmark's authors published it.

Their protocol: a random stretch of the noise file, as long as the clip; scaled so that the
loudest frame of the speech stands `snr_db` above the loudest frame of the stretch; added; the
sum divided by twice its peak. The same seeds give the same samples, whatever else is measured
and in whatever order. Knows nothing of recognisers.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sounds import MUSIC_PIECE_S, MUSIC_PIECES, music
from speech_sets import SetMissing, read_clip

__all__ = ["FRAME_SAMPLES", "Noise", "load_noise", "loudest_frame", "mixed"]

FRAME_SAMPLES = 2048
NOISE_SEED = 90210

Samples = npt.NDArray[np.float32]


def loudest_frame(samples: Samples) -> float:
    """The largest energy of any of a signal's non-overlapping frames of 2048 samples.

    Args:
        samples: Shape (n,), n >= 2048. What is left over behind the last whole frame is ignored.

    Returns:
        The sum of squares.

    Raises:
        ValueError: There is no whole frame.
    """
    count = len(samples) // FRAME_SAMPLES
    if count == 0:
        raise ValueError(
            f"noise mixing: a signal of {len(samples)} samples; it must hold at least one frame "
            f"of {FRAME_SAMPLES}."
        )
    frames = samples[: count * FRAME_SAMPLES].astype(np.float64).reshape(count, FRAME_SAMPLES)
    return float((frames**2).sum(axis=1).max())


def mixed(speech: Samples, noise: Samples, *, snr_db: float) -> Samples:
    """Speech and noise added at a level, then divided by twice the peak.

    Args:
        speech: Shape (n,), float in [-1, 1].
        noise: Shape (n,), not silent.
        snr_db: How far the loudest frame of the speech is above that of the noise, dB.

    Returns:
        Shape (n,), float32, peak 0.5.

    Raises:
        ValueError: The lengths differ, or a signal is silent or shorter than a frame.
    """
    if len(speech) != len(noise):
        raise ValueError(
            f"noise mixing: {len(speech)} samples of speech and {len(noise)} of noise; "
            "the lengths must be the same."
        )
    speech_energy, noise_energy = loudest_frame(speech), loudest_frame(noise)
    if min(speech_energy, noise_energy) == 0.0:
        raise ValueError("noise mixing: a signal is silent; a level needs energy in both.")
    scale = np.sqrt(speech_energy / (noise_energy * 10.0 ** (snr_db / 10.0)))
    total = speech.astype(np.float64) + scale * noise.astype(np.float64)
    return np.asarray(total / (2.0 * np.abs(total).max()), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Noise:
    """A named noise: recordings that stretches are taken from, and what they are."""

    name: str
    remark: str
    recordings: tuple[Callable[[], Samples], ...]

    def stretch(self, samples: int, *, clip_id: str, snr_db: float, draw: int) -> Samples:
        """A random stretch, which depends on the arguments alone.

        Args:
            samples: Its length.
            clip_id: Whom it is for.
            snr_db: The level that it is mixed at: another level takes another stretch.
            draw: Number of the draw.

        Raises:
            SetMissing: No recording is that long.
        """
        rng = np.random.default_rng(
            [NOISE_SEED, draw, round(100 * snr_db) + 100_000, zlib.crc32(clip_id.encode())]
        )
        for at in rng.permutation(len(self.recordings)):
            recording: Samples = self.recordings[at]()
            if len(recording) >= samples:
                start = int(rng.integers(len(recording) - samples + 1))
                return recording[start : start + samples]
        raise SetMissing(
            f"noise {self.name!r}: {len(self.recordings)} recordings, none of {samples} samples"
        )

    def under(self, speech: Samples, *, clip_id: str, snr_db: float, draw: int) -> Samples:
        """A clip with a stretch of this noise below it.

        Args:
            speech: Shape (n,), the clip.
            clip_id: Its id.
            snr_db: The level, dB.
            draw: Number of the draw.
        """
        noise = self.stretch(len(speech), clip_id=clip_id, snr_db=snr_db, draw=draw)
        return mixed(speech, noise, snr_db=snr_db)


def load_noise(name: str, *, data: Path) -> Noise:
    """A noise by name.

    Args:
        name: A `label` of the noise folder ("kitchen" is the coffee benchmark's own, in no
            training batch); "train" for all recordings that training may use; "music" for the
            generated music that is in no training batch.
        data: Folder of the recordings.

    Raises:
        SetMissing: No such noise.
    """
    if name == "music":
        pieces = tuple(functools.partial(_piece, seed) for seed in range(MUSIC_PIECES))
        return Noise(name, "generated music, never in training", pieces)
    folder = data / "noise"
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise SetMissing(f"{manifest} does not exist")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    if name == "train":
        chosen = [row for row in rows if row["split"] == "train"]
        remark = f"{len(chosen)} recordings that training mixes in too"
    else:
        chosen = [row for row in rows if row["label"] == name]
        seen = {row["split"] for row in chosen} != {"test"}
        remark = "a recording that training mixes in too" if seen else "never in training"
    if not chosen:
        labels = sorted(row["label"] for row in rows)
        raise SetMissing(f"{folder} has no noise {name!r}; it has {', '.join(labels)}")
    return Noise(name, remark, tuple(_recordings(folder, chosen)))


@functools.lru_cache(maxsize=MUSIC_PIECES)
def _piece(seed: int) -> Samples:
    return music(seed, duration_s=MUSIC_PIECE_S)


def _recordings(folder: Path, rows: Sequence[dict[str, str]]) -> list[Callable[[], Samples]]:
    # Decoded once: every clip of every condition takes a stretch.
    return [functools.cache(functools.partial(read_clip, folder / row["audio"])) for row in rows]
