"""Settings of a recipe's section `[mitigate]`. Knows nothing of how they are carried out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from earshot.core.errors import ConfigError

__all__ = ["METHODS", "MitigateConfig", "Part"]

METHODS = ("plain", "average", "ewc", "l2", "mixed", "oversample", "cohort")
Part = Literal["all", "encoder", "decoder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MitigateConfig:
    """How `earshot train mitigate` mends the cohorts that a model fails."""

    methods: tuple[str, ...] = METHODS  # that are tried; at least one
    top: int = 1  # cohorts that are mended, the worst ones of the report
    above: float = 0.0  # mend all with a word error rate above this instead; 0 takes `top`
    plain_steps: tuple[float, ...] = (10, 20, 40, 80)  # fine-tuning without any pull, so long
    average_shares: tuple[float, ...] = (0.25, 0.5, 0.75)  # of the plain model, mixed into the old
    ewc_strengths: tuple[float, ...] = (0.01, 0.1, 1, 10, 100)  # lambda; mean importance is 1
    l2_strengths: tuple[float, ...] = (0.001, 0.01, 0.1, 1, 10)  # the same, all weights alike
    mixed_shares: tuple[float, ...] = (0.25, 0.5, 0.75)  # of the batches, from the cohorts
    oversample_ratios: tuple[float, ...] = (2, 5, 10)  # how often a clip of theirs is drawn
    cohort_steps: tuple[float, ...] = (20, 80)  # training one vector a cohort and nothing else
    cohort_lr: float = 3e-2  # of that vector
    train: Part = "all"  # encoder: what hears; decoder: predictor and joiner, what expects words
    fisher_utterances: int = 300  # that importance is estimated on; 0 takes all
    fisher_sampled: bool = False  # of transcripts drawn from the model instead of the true ones
    fisher_clip: float = 0.0  # highest importance, times the mean; 0 does not clip
    folds: int = 2  # parts that speakers are dealt into; one evaluates
    fold: int = 0  # which
    dev_share: float = 0.25  # of the other speakers: they stop training and choose
    least_speakers: int = 6  # in the cohorts that are mended, and as many in the others
    check_steps: int = 10  # between looks at the word error rate of development speakers
    patience: int = 4  # looks without a better overall rate that end a run
    rest_tolerance: float = 0.01  # the others may get so much worse, and by a standard error more

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            raise ConfigError(
                f"mitigate.methods: {', '.join(unknown) or 'none'}; they must be of "
                f"{', '.join(METHODS)}, at least one. Change it."
            )
        for name, least, most in (
            ("plain_steps", 1, 1e6),
            ("cohort_steps", 1, 1e6),
            ("ewc_strengths", 0, 1e30),
            ("l2_strengths", 0, 1e30),
            ("mixed_shares", 0, 1),
            ("average_shares", 0, 1),
            ("oversample_ratios", 1, 1e6),
        ):
            values: tuple[float, ...] = getattr(self, name)
            for value in values:
                if not (math.isfinite(value) and least <= value <= most):
                    raise ConfigError(
                        f"mitigate.{name} has {value}; each must lie in {least:g} to {most:g}. "
                        "Change it."
                    )
            if not values:
                raise ConfigError(f"mitigate.{name} is empty; name at least one value.")
        for name, fits, must in (
            ("top", self.top >= 1, "be at least 1"),
            ("above", self.above >= 0, "not be negative"),
            ("fisher_utterances", self.fisher_utterances >= 0, "not be negative"),
            ("fisher_clip", self.fisher_clip == 0 or self.fisher_clip >= 1, "be 0 or at least 1"),
            ("folds", self.folds >= 2, "be at least 2"),
            ("fold", 0 <= self.fold < self.folds, f"lie in 0 to {self.folds - 1}"),
            ("dev_share", 0 < self.dev_share < 1, "lie between 0 and 1"),
            ("least_speakers", self.least_speakers >= 4, "be at least 4"),
            ("check_steps", self.check_steps >= 1, "be at least 1"),
            ("patience", self.patience >= 1, "be at least 1"),
            ("rest_tolerance", self.rest_tolerance >= 0, "not be negative"),
            ("cohort_lr", self.cohort_lr > 0, "be above 0"),
        ):
            if not fits:
                raise ConfigError(
                    f"mitigate.{name} is {getattr(self, name)}; it must {must}. Change it."
                )

    def strengths(self, method: str) -> tuple[float, ...]:
        """What a method's strength is swept over."""
        found: tuple[float, ...] = getattr(self, _SWEPT[method])
        return found


_SWEPT = {
    "plain": "plain_steps",
    "average": "average_shares",
    "ewc": "ewc_strengths",
    "l2": "l2_strengths",
    "mixed": "mixed_shares",
    "oversample": "oversample_ratios",
    "cohort": "cohort_steps",
}
