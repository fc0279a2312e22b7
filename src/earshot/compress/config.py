"""Settings of a recipe's section `[compress]`. Knows nothing of how they are carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from earshot.core.errors import ConfigError

__all__ = [
    "BITS",
    "CompressConfig",
    "DistilConfig",
    "QuantiseConfig",
    "SecondOrderConfig",
    "SparsifyConfig",
]

BITS = (4, 5, 6, 8)  # that a weight may be stored in


def _check_bits(section: str, bits: int, exceptions: Mapping[str, int]) -> None:
    for name, number in {"bits": bits or 8, **exceptions}.items():
        if number not in BITS:
            raise ConfigError(
                f"compress.{section}: {name} is {number}; it must be one of "
                f"{', '.join(map(str, BITS))}. Change it."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseConfig:
    """Fewer bits a weight: 8 on a uniform grid, 6, 5 and 4 with a codebook for each matrix."""

    bits: int = 0  # 8, 6, 5 or 4; 0 leaves it to `export.codec`
    exceptions: dict[str, int] = field(default_factory=dict)  # bits by tensor name, * and ? allowed
    aware: bool = True  # train towards the grid; False rounds when the file is written
    method: Literal["pull", "straight_through"] = "pull"  # of training towards it
    pull: float = 0.1  # gradient towards the grid from `full` on, over the usual gradient
    start: float = 0.0  # share of the run at which the grids are fitted and the pull starts
    full: float = 0.7  # share of the run from which the pull is at its strongest
    snap_steps: int = 100  # weights are put on the grid every so many steps from `full`; 0 never

    def __post_init__(self) -> None:
        _check_bits("quantise", self.bits, self.exceptions)
        if not 0 <= self.start <= self.full <= 1:
            raise ConfigError(
                f"compress.quantise: start is {self.start} and full {self.full}; they must satisfy "
                "0 <= start <= full <= 1. Change one."
            )
        if self.pull < 0 or self.snap_steps < 0:
            raise ConfigError(
                f"compress.quantise: pull is {self.pull} and snap_steps {self.snap_steps}; neither "
                "may be negative. Change one."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsifyConfig:
    """Blocks of weights that are trained to be exactly zero."""

    share: float = 0.0  # of the blocks of every matrix, at the end
    block: Literal["16x1", "16x4", "1x1"] = "16x1"  # rows x columns; the engine skips the first two
    method: Literal["gradual", "divergence"] = "gradual"
    start: float = 0.0  # share of the run at which the first blocks go
    end: float = 0.6  # share of the run from which `share` is reached; `start` prunes at once
    every_steps: int = 50  # blocks are chosen anew every so many steps until `end`
    pull: float = 3.0  # `divergence`: gradient to zero at `end`, over the usual gradient
    least_weights: int = 10_000  # smaller matrices stay dense
    dense: tuple[str, ...] = ()  # names of tensors that stay dense, * and ? allowed

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(
                f"compress.sparsify.share is {self.share}; it must be at least 0 and below 1. "
                "Change it."
            )
        if not 0 <= self.start <= self.end <= 1:
            raise ConfigError(
                f"compress.sparsify: start is {self.start} and end {self.end}; they must satisfy "
                "0 <= start <= end <= 1. Change one."
            )
        if self.every_steps < 1 or self.pull < 0:
            raise ConfigError(
                f"compress.sparsify: every_steps is {self.every_steps} and pull {self.pull}; the "
                "first must be at least 1 and the second not negative. Change one."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOrderConfig:
    """Zeros before training and few bits after it, other weights making up for both."""

    share: float = 0.0  # of the weights of linear layers and LSTMs, in blocks of 16x1; they stay 0
    rounds: int = 1  # in which they go: the same part of what is left each time, observed anew
    bits: int = 0  # 8, 6, 5 or 4, when the file is written; 0 leaves it to `export.codec`: dense
    exceptions: dict[str, int] = field(default_factory=dict)  # bits by tensor name, * and ? allowed
    batches: int = 20  # of training speech that the network is observed on
    batch_s: float = 60.0  # audio in each of them, whatever training takes
    frames: int = 30_000  # kept of them, for each matrix
    even: float = 0.2  # of the weight of frames: shared evenly, not by the loss's gradient
    damping: float = 0.01  # of the mean second derivative, added to all

    def __post_init__(self) -> None:
        _check_bits("second_order", self.bits, self.exceptions)
        if not (0 <= self.share < 1 and 0 <= self.even <= 1 and self.damping > 0):
            raise ConfigError(
                f"compress.second_order: share is {self.share}, even {self.even} and damping "
                f"{self.damping}; share must be at least 0 and below 1, even lie in 0..1, and "
                "damping be above 0. Change one."
            )
        if self.bits == 0 and (self.share > 0 or self.exceptions):
            raise ConfigError(
                f"compress.second_order: share is {self.share}, exceptions are {self.exceptions} "
                "and bits is 0; zeros are only left out of the file where it is rounded to bits. "
                "Set bits to 8, 6, 5 or 4."
            )
        if self.batches < 1 or self.batch_s <= 0 or self.frames < self.batches or self.rounds < 1:
            raise ConfigError(
                f"compress.second_order: batches is {self.batches}, batch_s {self.batch_s}, frames "
                f"{self.frames} and rounds {self.rounds}; there must be a round, a batch with "
                "audio in it, and a frame of each batch. Change one."
            )

    def shares(self) -> tuple[float, ...]:
        """Which share is zero after each round; the last is `share`."""
        return tuple(1 - (1 - self.share) ** (n / self.rounds) for n in range(1, self.rounds + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilConfig:
    """A teacher whose answers are learnt beside the transcripts."""

    teacher: str = ""  # a `.ear` file with the same word pieces; empty learns without
    weight: float = 0.5  # of the teacher, in nats per piece as the losses
    ctc_weight: float = 0.3  # of its CTC head's part

    def __post_init__(self) -> None:
        if self.weight < 0 or self.ctc_weight < 0:
            raise ConfigError(
                f"compress.distil: weight is {self.weight} and ctc_weight {self.ctc_weight}; "
                "neither may be negative. Change one."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressConfig:
    """What training does so that the file becomes small, or the change to a file."""

    quantise: QuantiseConfig = field(default_factory=QuantiseConfig)
    sparsify: SparsifyConfig = field(default_factory=SparsifyConfig)
    second_order: SecondOrderConfig = field(default_factory=SecondOrderConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    keep_mask: bool = False  # blocks that are zero in `train.start_from` stay zero
    changed_blocks: float = 1.0  # share of the 64-byte blocks of `train.start_from` that may change
    chosen_at: float = 0.3  # share of the run at which these are chosen

    def __post_init__(self) -> None:
        if not 0 < self.changed_blocks <= 1 or not 0 < self.chosen_at < 1:
            raise ConfigError(
                f"compress: changed_blocks is {self.changed_blocks} and chosen_at "
                f"{self.chosen_at}; the first must lie above 0 and be at most 1, the second lie "
                "between 0 and 1. Change one."
            )
        if self.limits_change and (self.sparsify.share > 0 or self.quantise.bits > 0):
            raise ConfigError(
                "compress: keep_mask or changed_blocks is set, and quantise.bits or sparsify.share "
                "as well; a file that is changed a little keeps its own zeros and grids. Take one "
                "of them out."
            )
        if self.second_order.bits > 0 and (
            self.sparsify.share > 0 or self.quantise.bits > 0 or self.changed_blocks < 1
        ):
            raise ConfigError(
                "compress: second_order.bits is set, and quantise.bits, sparsify.share or "
                "changed_blocks as well; weights can be chosen and rounded by one method. Take one "
                "of them out, or set it to 0."
            )

    @property
    def limits_change(self) -> bool:
        """Whether the file that training starts from says what may change."""
        return self.keep_mask or self.changed_blocks < 1

    @property
    def needs_start(self) -> bool:
        """Whether there must be a file that training starts from."""
        return self.limits_change or self.second_order.share > 0
