"""Where a clean clip sounds, by its energy alone: how ends of speech are known in labels.

Good for speech without noise to speak of, which is where labels are made; never for deciding
anything about a live signal. Knows nothing of words.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["HOP_SAMPLES", "more_silence", "speech_mask"]

HOP_SAMPLES = 160

_RANGE_DB = 36.0  # speech lies within so much of a clip's loud frames,
_ABOVE_FLOOR_DB = 6.0  # and so far above its quiet ones,
_FLOOR_DB = 28.0  # if these are so quiet that they cannot be speech
_NOTHING_DB = -85.0  # of full scale
_BRIDGED = 12  # hops: shorter silences belong to speech, such as that before a plosive
_SHORTEST = 4  # hops: less is a click


def speech_mask(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where a clean clip sounds, by its energy.

    Args:
        samples: Shape (N,), 16 kHz, without noise to speak of.

    Returns:
        Shape (N // 160,): whether each stretch of 10 ms is speech.
    """
    count = len(samples) // HOP_SAMPLES
    if count == 0:
        return np.zeros(0, np.bool_)
    frames = samples[: count * HOP_SAMPLES].reshape(count, HOP_SAMPLES).astype(np.float64)
    level = 10 * np.log10(
        np.mean(np.square(frames - frames.mean(1, keepdims=True)), axis=1) + 1e-10
    )
    level = np.convolve(level, np.ones(3) / 3, mode="same") if count >= 3 else level
    loud, quiet = np.percentile(level, 95), np.percentile(level, 5)
    threshold = loud - _FLOOR_DB
    if quiet < threshold:
        threshold = max(loud - _RANGE_DB, quiet + _ABOVE_FLOOR_DB)
    mask = np.asarray(level > max(threshold, _NOTHING_DB))
    for value, shortest in ((False, _BRIDGED), (True, _SHORTEST)):
        edges = np.flatnonzero(np.diff(mask.astype(np.int8))) + 1
        bounds = [0, *edges.tolist(), count]
        for start, stop in pairwise(bounds):
            inner = value or (start > 0 and stop < count)
            if inner and bool(mask[start]) is value and stop - start < shortest:
                mask[start:stop] = not value
    return mask


def more_silence(samples: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """Silence of the room that a clip was recorded in: noise with the spectrum of its quiet parts.

    Args:
        samples: Shape (N,), 16 kHz.
        count: How much.

    Returns:
        Shape (count,); always the same for the same clip.
    """
    frame = 512
    rows = [samples[at : at + frame] for at in range(0, len(samples) - frame, frame // 2)]
    if not rows:
        return np.zeros(count, np.float32)
    frames = np.stack(rows).astype(np.float64)
    power = np.mean(np.square(frames), axis=1)
    quiet = frames[np.argsort(power)[: max(4, len(frames) // 10)]]
    window = np.hanning(frame)
    spectrum = np.sqrt(np.mean(np.abs(np.fft.rfft(quiet * window)) ** 2, axis=0))
    rng = np.random.default_rng(len(samples))
    pieces = -(-count // (frame // 2)) + 2
    out = np.zeros((pieces + 1) * (frame // 2))
    for n in range(pieces):
        phases = np.exp(2j * np.pi * rng.random(len(spectrum)))
        # Windows that overlap by half: powers add up, so the square root of the window is laid on.
        out[n * frame // 2 : n * frame // 2 + frame] += np.fft.irfft(spectrum * phases) * np.sqrt(
            window
        )
    made = out[frame // 2 : frame // 2 + count]
    loudness = np.sqrt(np.mean(np.square(quiet)) / (np.mean(np.square(made)) + 1e-20))
    return np.asarray(made * loudness, np.float32)
