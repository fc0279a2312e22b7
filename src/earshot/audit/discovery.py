"""What every way of finding cohorts gives back, and the gap between cohorts that data chose.

A worst and a best cohort that were picked by their errors look further apart than they are. So
one half of the speakers picks and the other is measured, then the other way round, and the two
are averaged (cross-fitting): all speakers are used, and no speaker measures what it picked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from earshot.audit.cohorts import (
    Cohort,
    Gap,
    Pair,
    Partition,
    Small,
    extremes,
    gap_of,
    halves,
    pair_ratio,
    relative_gap,
)
from earshot.audit.config import AuditConfig
from earshot.audit.intervals import Ratio
from earshot.audit.results import Bools


@dataclass(slots=True, kw_only=True)
class Discovery:
    """Cohorts of one kind.

    Args:
        method: One of `config.METHODS`.
        cohorts: Worst first.
        small: Those not measured.
        partitions: Whose codes the cohorts are, by column.
        gap: Between the pair; None where there is no pair.
        pair: Bottom and top cohorts.
        bottom_share: Speakers in the bottom cohort over all of the partition.
        how: What was done, in a sentence or two.
        stability: How alike repetitions with other seeds are; None where there is nothing random.
        extra: Further entries of the report.
    """

    method: str
    cohorts: list[Cohort]
    small: list[Small]
    partitions: Mapping[str, Partition]
    gap: Gap | None
    pair: Pair | None
    bottom_share: float | None
    how: str
    stability: Mapping[str, float] | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def bottom_names(self) -> list[str]:
        """Names of the cohorts that make up the bottom one."""
        return [] if self.pair is None else [self.pair.partition.names[i] for i in self.pair.bottom]

    def top_names(self) -> list[str]:
        """Names of the cohorts that make up the top one."""
        return [] if self.pair is None else [self.pair.partition.names[i] for i in self.pair.top]


Chooser = Callable[[Bools | None], Pair | None]  # picks a pair on the speakers of a mask


def cross_fitted(choose: Chooser, config: AuditConfig, num_units: int) -> tuple[Gap, Pair] | None:
    """The gap between a bottom and a top cohort that data choose.

    Args:
        choose: Picks the pair on some speakers, None being all; gives None where that is not
            possible.
        config: Level, normaliser, seed; `honest` False chooses and measures on everybody.
        num_units: S speakers.

    Returns:
        The gap, and the pair that all speakers together choose; None where there is none.
    """
    pair = choose(None)
    if pair is None:
        return None
    everywhere = pair_ratio(pair)
    if everywhere is None:
        return None
    selected = relative_gap(everywhere.log_ratio, config.normaliser)
    found: list[Ratio] = []
    if config.honest:
        first = halves(num_units, config.seed)
        for chosen_on, measured_on in ((first, ~first), (~first, first)):
            candidate = choose(chosen_on)
            if candidate is None:
                continue
            against = pair_ratio(candidate, measured_on[candidate.partition.cells.unit])
            if against is not None and np.isfinite(against.log_ratio):
                found.append(against)
    held_out = len(found) == 2
    value, low, high, p_value = gap_of(found if held_out else [everywhere], config)
    return Gap(value, low, high, p_value, held_out, selected), pair


def chooser(partitions: Sequence[Partition], config: AuditConfig, *, share: float = 0.0) -> Chooser:
    """Picks the pair with the largest gap, over several partitions."""

    def choose(units: Bools | None) -> Pair | None:
        best: tuple[float, Pair] | None = None
        for partition in partitions:
            kept = None if units is None else units[partition.cells.unit]
            pair = extremes(partition, config, kept=kept, share=share)
            against = None if pair is None else pair_ratio(pair, kept)
            if pair is None or against is None:
                continue
            if best is None or against.log_ratio > best[0]:
                best = (against.log_ratio, pair)
        return None if best is None else best[1]

    return choose


def share_of(pair: Pair) -> float:
    """Speakers in the bottom cohort, over all speakers of its partition."""
    _, words, codes, units = pair.partition.sums()
    spoken = words > 0
    inside = np.unique(units[spoken & np.isin(codes, pair.bottom)])
    return len(inside) / max(1, len(np.unique(units[spoken])))


def adjusted_rand(first: np.ndarray, second: np.ndarray) -> float:
    """How alike two labellings are: 1 the same up to names, about 0 by chance.

    Args:
        first: (N,) integers.
        second: (N,) integers.

    Returns:
        The adjusted Rand index; 1 where both put everything into one group.

    Source:
        Hubert and Arabie, "Comparing partitions", Journal of Classification 2, 1985.
    """
    _, a = np.unique(first, return_inverse=True)
    _, b = np.unique(second, return_inverse=True)
    table = np.bincount(a * (b.max(initial=0) + 1) + b).astype(np.float64)

    def pairs(counts: np.ndarray) -> float:
        counts = counts.astype(np.float64)
        return float((counts * (counts - 1) / 2).sum())

    together, in_a, in_b = pairs(table), pairs(np.bincount(a)), pairs(np.bincount(b))
    every = len(first) * (len(first) - 1) / 2
    expected = in_a * in_b / every if every else 0.0
    most = (in_a + in_b) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def jaccard(first: Bools, second: Bools) -> float:
    """Share of what is in both, of what is in either; 1 where both are empty."""
    either = int((first | second).sum())
    return 1.0 if either == 0 else int((first & second).sum()) / either
