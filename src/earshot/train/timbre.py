"""How a voice sounds, phone by phone, and how to give it to a clip that another voice said.

A corpus has many people of whom a few seconds are known, too few to say anything else in their
voices. What those seconds tell is how each of their phones is coloured, by throat, accent and
microphone. A clip whose phones are known, said by somebody of whom much is known, is coloured so:
in every frame the spectrum is moved by the difference of both voices' means of the phone.

Knows nothing of where clips come from.

Source:
    Stylianou, Cappé and Moulines, "Continuous probabilistic transform for voice conversion", 1998,
    with phones instead of the classes of a mixture, and their means alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import signal

from earshot import _native
from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.phones import PHONES
from earshot.train.forced_alignment import LONGEST, SHORTEST, Aligned

__all__ = ["Timbre", "recoloured"]

Samples = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]

_BANDS = 32
_HOP = SAMPLE_RATE_HZ // 100  # samples: the frames of an alignment
_WINDOW = 4 * _HOP
_POINTS = 1024
_PRIOR = 4.0  # phones that a voice's mean difference counts for, where one is rarely said
_MOST_NATS = 2.5  # of power, that a band is moved by: 11 dB
_GLIDE = np.hanning(9)[1:-1] / np.hanning(9)[1:-1].sum()  # from one phone to the next, frames


@dataclass(frozen=True, slots=True)
class Timbre:
    """Mean log spectra of the phones of a voice.

    Args:
        levels: Natural logarithms of power, shape (phones + 1, bands), by phone id; 0 where none.
        counts: How many of each were heard, shape (phones + 1,).
    """

    levels: _Floats
    counts: _Floats

    @classmethod
    def of(cls, recordings: Iterable[tuple[Samples, Aligned]]) -> Timbre:
        """Of what somebody was recorded saying.

        Args:
            recordings: Samples at 16 kHz, shape (N,), and phones of each.

        Returns:
            The means over the middle halves of the phones, at equal loudness of all recordings.
        """
        sums = np.zeros((len(PHONES) + 1, _BANDS))
        counts = np.zeros(len(PHONES) + 1)
        for samples, said in recordings:
            power = float(np.mean(np.square(samples))) + 1e-12
            mel = _native.fbank((samples / np.sqrt(power)).astype(np.float32), _BANDS)
            for phone, start, end in zip(said.phones, said.starts, said.ends, strict=True):
                if not SHORTEST <= end - start <= LONGEST:
                    continue
                quarter = (end - start) // 4
                middle = mel[start + quarter : max(end - quarter, start + quarter + 1)]
                if len(middle):
                    sums[phone] += middle.mean(axis=0)
                    counts[phone] += 1
        return cls(sums / np.maximum(counts, 1)[:, None], counts)


def recoloured(
    samples: Samples, phones: npt.NDArray[np.int64], *, own: Timbre, other: Timbre
) -> Samples:
    """A clip as another voice would colour it.

    Args:
        samples: Shape (N,), 16 kHz.
        phones: Id of each frame of 10 ms, 1 and up, 0 in pauses; at least one. Beyond their end
            the last one goes on.
        own: Of the voice that said it.
        other: To be given.

    Returns:
        Shape (N,).
    """
    known = np.minimum(own.counts, other.counts)
    moved = (other.levels - own.levels) * (known > 0)[:, None]
    mean = (moved * known[:, None]).sum(axis=0) / max(known.sum(), 1.0)
    moved = (moved * known[:, None] + mean * _PRIOR) / (known + _PRIOR)[:, None]  # pauses: the mean
    # Louder or softer is no matter of timbre, and that one of them lacks high bands no reason to
    # move the others.
    moved = np.clip(moved - np.median(moved), -_MOST_NATS, _MOST_NATS)
    nats = np.pad(moved[phones], ((3, 4), (0, 0)), "edge")
    nats = np.apply_along_axis(np.convolve, 0, nats, _GLIDE, "valid")
    nats = 0.5 * (nats + np.concatenate([nats[:1], nats[:-1]]))  # columns lie between frames
    padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    shape = {"nperseg": _WINDOW, "noverlap": _WINDOW - _HOP, "nfft": _POINTS}
    _, _, spectrum = signal.stft(padded, boundary="zeros", **shape)
    columns = np.minimum(np.arange(spectrum.shape[1]), len(nats) - 1)
    gains = np.exp(0.5 * nats[columns] @ _bands_to_points())
    _, out = signal.istft(spectrum * gains.T, boundary=True, **shape)
    return np.asarray(out[: len(samples)], np.float32)


def _bands_to_points() -> _Floats:
    """(bands, points of the transform): values between the centres of mel bands."""
    mel = 1127.0 * np.log1p(np.arange(_POINTS // 2 + 1) * SAMPLE_RATE_HZ / _POINTS / 700.0)
    low, high = 1127.0 * np.log1p(np.array([20.0, 7600.0]) / 700.0)
    centres = low + (high - low) * np.arange(1, _BANDS + 1) / (_BANDS + 1)
    return np.stack([np.interp(mel, centres, row) for row in np.eye(_BANDS)])
