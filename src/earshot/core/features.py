"""Feature frames and the clock that says which samples each frame stands for.

All arithmetic is on integer samples; seconds leave through `start_s` alone. Knows nothing of
how the features are computed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLE_RATE_HZ = 16_000
"""The rate at which everything inside runs; other rates are converted at the door."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameClock:
    """The time line of equally spaced frames.

    Args:
        shift_samples: Distance between the starts of two frames, > 0.
        sample_rate_hz: Samples in a second, > 0.
    """

    shift_samples: int
    sample_rate_hz: int = SAMPLE_RATE_HZ

    def __post_init__(self) -> None:
        if self.shift_samples <= 0 or self.sample_rate_hz <= 0:
            raise ValueError(
                f"clock: shift_samples is {self.shift_samples} and sample_rate_hz is "
                f"{self.sample_rate_hz}; both must be positive."
            )

    def start_sample(self, frame: int) -> int:
        """The first sample of a frame."""
        return frame * self.shift_samples

    def start_s(self, frame: int) -> float:
        """The start of a frame in seconds."""
        return self.start_sample(frame) / self.sample_rate_hz

    def num_frames(self, num_samples: int) -> int:
        """How many frames a signal makes.

        Every frame is centred on its own shift and the edges are mirrored (Kaldi's
        `snip_edges=false`), so the count is the length over the shift, rounded half up.

        Args:
            num_samples: Length of the signal, >= 0.

        Returns:
            The number of frames, >= 0.
        """
        return (num_samples + self.shift_samples // 2) // self.shift_samples


FEATURE_CLOCK = FrameClock(shift_samples=160)
"""10 ms: the features that enter the encoder."""

ENCODER_CLOCK = FrameClock(shift_samples=640)
"""40 ms: what leaves the encoder, and what the search counts in."""


@dataclass(frozen=True, slots=True)
class Features:
    """Log-mel energies of a signal.

    Args:
        frames: Shape (T, F), float32, natural log.
        clock: Where the frames lie in time.
    """

    frames: npt.NDArray[np.float32]
    clock: FrameClock = FEATURE_CLOCK

    def __post_init__(self) -> None:
        if self.frames.ndim != 2:
            raise ValueError(f"features: frames has shape {self.frames.shape}; it must be (T, F).")
