"""What an audit is asked to do. Knows ranges; knows nothing of how."""

from __future__ import annotations

from dataclasses import dataclass

from earshot.core.errors import ConfigError

METHODS = ("groups", "regions", "geodemographic", "clusters")
CRITERIA = ("gap", "variance")
NORMALISERS = ("top", "bottom", "mean")
INTERVALS = ("t", "bootstrap")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """Settings of an audit.

    Args:
        methods: Which discoveries to make; one for which the columns are missing is skipped.
        level: Coverage of intervals.
        false_alarms: Largest chance that any cohort of the report is called worse than the
            rest where none is.
        min_speakers: Cohorts with fewer speakers are named, not measured.
        min_words: Likewise, by reference words.
        groups: Columns to use; empty means every column that is no field.
        intersections: Up to how many columns are crossed.
        criterion: What a split of the map maximises: "gap", the difference of error rates, or
            "variance", the part of the variance between speakers that it explains.
        max_regions: Leaves of the tree, at most.
        max_clusters: Voice clusters that are tried, at most.
        bottom_share: Worst clusters are merged until they hold this share of speakers.
        normaliser: What the gap is divided by: rate of the "top" or "bottom" cohort, or their
            "mean".
        interval: "t", or "bootstrap" (studentised).
        resamples: Of the bootstrap.
        seed: Of everything random.
        num_seeds: How often a discovery is repeated to see whether it is stable; 1 is once.
        honest: Discover on one half of the speakers and report on the other. False reproduces
            what goes wrong otherwise, and is no audit.
        prune: Undo splits of the map that chance explains.
    """

    methods: tuple[str, ...] = METHODS
    level: float = 0.95
    false_alarms: float = 0.05
    min_speakers: int = 5
    min_words: int = 100
    groups: tuple[str, ...] = ()
    intersections: int = 2
    criterion: str = "variance"
    max_regions: int = 16
    max_clusters: int = 12
    bottom_share: float = 0.1
    normaliser: str = "top"
    interval: str = "t"
    resamples: int = 1000
    seed: int = 0
    num_seeds: int = 5
    honest: bool = True
    prune: bool = True

    def __post_init__(self) -> None:
        for method in self.methods:
            _one_of("methods", method, METHODS)
        _one_of("criterion", self.criterion, CRITERIA)
        _one_of("normaliser", self.normaliser, NORMALISERS)
        _one_of("interval", self.interval, INTERVALS)
        if not self.methods:
            raise ConfigError(f"methods: none is asked for; name some of {', '.join(METHODS)}.")
        for name, value, low, high in (
            ("level", self.level, 0.5, 0.9999),
            ("false_alarms", self.false_alarms, 0.0001, 0.5),
            ("bottom_share", self.bottom_share, 0.001, 0.5),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; it must lie between {low} and {high}.")
        for name, count, least, most in (
            ("min_speakers", self.min_speakers, 2, None),
            ("min_words", self.min_words, 1, None),
            ("intersections", self.intersections, 1, 3),
            ("max_regions", self.max_regions, 2, 512),
            ("max_clusters", self.max_clusters, 2, 200),
            ("resamples", self.resamples, 100, 100_000),
            ("num_seeds", self.num_seeds, 1, 100),
        ):
            if count < least or (most is not None and count > most):
                upper = "" if most is None else f" and at most {most}"
                raise ConfigError(f"{name} is {count}; it must be at least {least}{upper}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: '{value}' is none of {', '.join(allowed)}.")
