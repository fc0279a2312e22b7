"""Log-mel features, computed by the engine's one front end.

The settings are fixed by `docs/formats/ear.md` (Kaldi's fbank, 25 ms windows every 10 ms), so
that training and recognition cannot differ. Knows nothing of files or models.
"""

import numpy as np

from earshot import _native
from earshot.core.features import Features
from earshot.data.audio import Samples

DEFAULT_BINS = 80


def compute_fbank(samples: Samples, *, num_bins: int = DEFAULT_BINS) -> Features:
    """Features of a whole signal.

    Args:
        samples: Shape (n,), float32 in about -1..1 at 16 kHz.
        num_bins: Mel bins, 1..256.

    Returns:
        Frames (T, num_bins), one every 10 ms, T = (n + 80) // 160.
    """
    return Features(_native.fbank(samples, num_bins))


class StreamingFbank:
    """Features of a signal that arrives in blocks; equal to one pass, bit for bit.

    Args:
        num_bins: Mel bins, 1..256.
    """

    def __init__(self, *, num_bins: int = DEFAULT_BINS) -> None:
        self._native = _native.Fbank(num_bins)

    def push(self, samples: Samples) -> Features:
        """Feed a block and take the frames that it finishes.

        Args:
            samples: Shape (n,), float32 in about -1..1 at 16 kHz.

        Returns:
            Frames (T, num_bins); T may be 0.
        """
        self._native.accept_waveform(np.ascontiguousarray(samples, np.float32))
        return Features(self._native.frames())

    def finish(self) -> Features:
        """End the signal and take the frames that were waiting for more.

        Returns:
            Frames (T, num_bins).
        """
        self._native.input_finished()
        return Features(self._native.frames())
