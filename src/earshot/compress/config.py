"""Settings of a recipe's section `[compress]`. Knows nothing of how they are carried out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from earshot.core.errors import ConfigError

__all__ = ["BITS", "CompressConfig", "DistilConfig", "QuantiseConfig", "SparsifyConfig"]

BITS = (4, 5, 6, 8)  # that a weight may be stored in


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
        for name, bits in {"bits": self.bits or 8, **self.exceptions}.items():
            if bits not in BITS:
                raise ConfigError(
                    f"compress.quantise: {name} is {bits}; it must be one of "
                    f"{', '.join(map(str, BITS))}. Change it."
                )
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
        if self.needs_start and (self.sparsify.share > 0 or self.quantise.bits > 0):
            raise ConfigError(
                "compress: keep_mask or changed_blocks is set, and quantise.bits or sparsify.share "
                "as well; a file that is changed a little keeps its own zeros and grids. Take one "
                "of them out."
            )

    @property
    def needs_start(self) -> bool:
        """Whether the file that training starts from says what may change."""
        return self.keep_mask or self.changed_blocks < 1
