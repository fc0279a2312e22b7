"""Cohorts and how they fare: rates, intervals, tests against the rest, and gaps.

A partition gives every cell (sums of one speaker's utterances) a cohort, or none. Whoever made
it says whether the errors had a part in it: then some speakers were used up in making it, and
only the others may be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from earshot.audit.config import AuditConfig
from earshot.audit.intervals import (
    Floats,
    Ints,
    Ratio,
    bootstrap_intervals,
    holm,
    intervals,
    rates,
    ratio,
    summed,
)
from earshot.audit.results import Bools, Cells


@dataclass(frozen=True, slots=True)
class Partition:
    """Cells by cohort.

    Args:
        cells: M of them.
        codes: (M,) cohort of each; -1 for none.
        names: Of the C cohorts.
        rules: What puts an utterance into each.
        column: Where it comes from.
        extra: Further entries of each cohort in the report.
    """

    cells: Cells
    codes: Ints
    names: Sequence[str]
    rules: Sequence[str]
    column: str
    extra: Sequence[Mapping[str, object]] = ()

    def sums(self, kept: Bools | None = None) -> tuple[Floats, Floats, Ints, Ints]:
        """Errors and words of each (cohort, speaker), with both codes; `kept` masks cells."""
        inside = self.codes >= 0 if kept is None else (self.codes >= 0) & kept
        codes, unit = self.codes[inside], self.cells.unit[inside]
        width = int(self.cells.unit.max(initial=0)) + 1
        pairs, inverse = np.unique(codes * width + unit, return_inverse=True)
        errors = summed(self.cells.errors[inside], inverse, len(pairs))
        words = summed(self.cells.words[inside], inverse, len(pairs))
        return errors, words, pairs // width, pairs % width


@dataclass(slots=True, kw_only=True)
class Cohort:
    """One cohort as it is reported; field names are those of the JSON.

    Args:
        name: Short.
        rule: What puts an utterance into it.
        n_speakers: Speakers that were measured (utterances where speakers are unknown).
        n_utterances: Their utterances.
        n_words: Their reference words.
        wer: Word errors over reference words.
        ci_low: Lower end of its interval; None where there is none.
        ci_high: Upper end.
        ratio: `wer` over that of the rest; None where the rest is too small or has no errors.
        ratio_low: Lower end of its interval.
        ratio_high: Upper end.
        p_value: Two-sided, that the rest fares alike; of this cohort alone.
        p_adjusted: The same, adjusted for all cohorts of the report (Holm).
        is_worse: The adjusted value is under the level, and the rate above the rest.
        substitutions: Per reference word.
        deletions: Per reference word.
        insertions: Per reference word.
        column: What the cohort is a part of.
        extra: More that the report shows.
        index: Its code in the partition.
        hypothesis: Cohorts with the same one are the two sides of one test.
    """

    name: str
    rule: str
    n_speakers: int
    n_utterances: int
    n_words: int
    wer: float
    ci_low: float | None
    ci_high: float | None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    is_worse: bool = False
    substitutions: float = 0.0
    deletions: float = 0.0
    insertions: float = 0.0
    column: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)
    index: int = 0
    hypothesis: str = ""

    def as_dict(self) -> dict[str, object]:
        """As in the report's JSON."""
        found = {
            name: getattr(self, name)
            for name in (
                "name",
                "rule",
                "n_speakers",
                "n_utterances",
                "n_words",
                "wer",
                "ci_low",
                "ci_high",
                "p_value",
                "p_adjusted",
                "is_worse",
                "ratio",
                "ratio_low",
                "ratio_high",
                "substitutions",
                "deletions",
                "insertions",
                "column",
            )
        }
        return {**found, **self.extra}


@dataclass(frozen=True, slots=True)
class Small:
    """A cohort that is too small to be measured."""

    name: str
    n_speakers: int
    n_words: int
    column: str


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the worst cohort is from the best, relative to what was asked for.

    Args:
        value: The gap.
        low: Lower end of its interval; None where there is none.
        high: Upper end.
        p_value: That there is none.
        held_out: The cohorts were chosen on other speakers than it was measured on. Where not,
            it is too large on average.
        selected: The gap as it looks on the speakers who chose the cohorts.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    held_out: bool
    selected: float


def measure(
    partition: Partition, config: AuditConfig, *, kept: Bools | None = None
) -> tuple[list[Cohort], list[Small]]:
    """Measure every cohort of a partition that is large enough, each against all others.

    Args:
        partition: Cells by cohort.
        config: Level, least sizes and kind of interval.
        kept: (M,) cells that may be measured; None is all.

    Returns:
        Cohorts, worst first, not yet adjusted for how many they are; and those too small.
    """
    errors, words, codes, units = partition.sums(kept)
    size = len(partition.names)
    found = rates(errors, words, codes, size)
    if config.interval == "bootstrap":
        low, high = bootstrap_intervals(
            errors,
            words,
            codes,
            size,
            level=config.level,
            resamples=config.resamples,
            seed=config.seed,
        )
    else:
        low, high = intervals(found, level=config.level)
    enough = (found.speakers >= config.min_speakers) & (found.words >= config.min_words)
    inside = partition.codes >= 0 if kept is None else (partition.codes >= 0) & kept
    kinds = np.zeros((size, 4))
    np.add.at(kinds, partition.codes[inside], partition.cells.counts[inside])
    utterances = np.bincount(
        partition.codes[inside], weights=partition.cells.utterances[inside], minlength=size
    )
    everyone, all_errors, all_words = _totals(errors, words, units)
    position = np.searchsorted(everyone, units)
    present = np.flatnonzero(found.speakers > 0).tolist()
    cohorts, small = [], []
    for index in present:
        if not enough[index]:
            small.append(
                Small(
                    partition.names[index],
                    int(found.speakers[index]),
                    int(found.words[index]),
                    partition.column,
                )
            )
            continue
        cohort = Cohort(
            name=partition.names[index],
            rule=partition.rules[index],
            n_speakers=int(found.speakers[index]),
            n_utterances=int(utterances[index]),
            n_words=int(found.words[index]),
            wer=float(found.rate[index]),
            ci_low=finite(low[index]),
            ci_high=finite(high[index]),
            substitutions=float(kinds[index, 1] / found.words[index]),
            deletions=float(kinds[index, 2] / found.words[index]),
            insertions=float(kinds[index, 3] / found.words[index]),
            column=partition.column,
            extra=partition.extra[index] if partition.extra else {},
            index=int(index),
            hypothesis=partition.column
            if len(present) == 2
            else f"{partition.column}\0{partition.names[index]}",
        )
        mine = codes == index
        own_e, own_w = np.zeros(len(everyone)), np.zeros(len(everyone))
        own_e[position[mine]] = errors[mine]
        own_w[position[mine]] = words[mine]
        rest_w = all_words - own_w
        if (rest_w > 0).sum() >= config.min_speakers and rest_w.sum() >= config.min_words:
            _compare(cohort, ratio((own_e, own_w), (all_errors - own_e, rest_w)), config.level)
        cohorts.append(cohort)
    cohorts.sort(key=lambda cohort: (-cohort.wer, cohort.name))
    return cohorts, small


def _compare(cohort: Cohort, against: Ratio | None, level: float) -> None:
    if against is None:
        return
    cohort.p_value = against.p_value
    if np.isfinite(against.log_ratio):
        cohort.ratio = float(np.exp(against.log_ratio))
        low, high = against.interval(level)
        cohort.ratio_low, cohort.ratio_high = finite(low), finite(high)
    elif against.log_ratio < 0:
        cohort.ratio = 0.0


def finite(value: float) -> float | None:
    """The number, or None where it is infinite or none: JSON has no word for these."""
    return float(value) if np.isfinite(value) else None


def _totals(errors: Floats, words: Floats, units: Ints) -> tuple[Ints, Floats, Floats]:
    everyone, inverse = np.unique(units, return_inverse=True)
    return (
        everyone,
        summed(errors, inverse, len(everyone)),
        summed(words, inverse, len(everyone)),
    )


def adjust(cohorts: Sequence[Cohort], false_alarms: float) -> int:
    """Adjust p-values for all cohorts of a report together, and say which are worse.

    Args:
        cohorts: Of all discoveries. Two sides of one test count once.
        false_alarms: The level.

    Returns:
        How many hypotheses were tested.
    """
    values: dict[str, float] = {}
    for cohort in cohorts:
        if cohort.p_value is not None:
            values[cohort.hypothesis] = cohort.p_value
    adjusted = dict(zip(values, holm(np.array(list(values.values()))).tolist(), strict=True))
    for cohort in cohorts:
        if cohort.p_value is not None:
            cohort.p_adjusted = adjusted[cohort.hypothesis]
            is_above = cohort.ratio is None or cohort.ratio > 1.0
            cohort.is_worse = bool(cohort.p_adjusted <= false_alarms and is_above)
    return len(values)


# ---------------------------------------------------------------- gaps


@dataclass(frozen=True, slots=True)
class Pair:
    """A bottom and a top cohort, each one or more codes of a partition."""

    partition: Partition
    bottom: tuple[int, ...]
    top: tuple[int, ...]


def relative_gap(log_ratio: float, normaliser: str) -> float:
    """A gap from the logarithm of bottom over top rate; grows with it under every normaliser."""
    with np.errstate(over="ignore"):
        times = float(np.exp(log_ratio))
    if normaliser == "top":
        return times - 1.0
    if normaliser == "bottom":
        return 1.0 - 1.0 / times if times > 0 else float("-inf")
    return 2.0 * (times - 1.0) / (times + 1.0) if np.isfinite(times) else 2.0


def pair_ratio(pair: Pair, kept: Bools | None = None) -> Ratio | None:
    """Compare the two cohorts of a pair on some cells."""
    errors, words, codes, units = pair.partition.sums(kept)
    everyone = np.unique(units)
    position = np.searchsorted(everyone, units)
    sides = []
    for members in (pair.bottom, pair.top):
        mine = np.isin(codes, members)
        e = summed(errors[mine], position[mine], len(everyone))
        w = summed(words[mine], position[mine], len(everyone))
        sides.append((e, w))
    return ratio(sides[0], sides[1])


def gap_of(
    found: Sequence[Ratio], config: AuditConfig
) -> tuple[float, float | None, float | None, float | None]:
    """One gap from independent measurements of it, averaged on the logarithm.

    Returns:
        Value, lower and upper end, p-value.
    """
    from earshot.audit.intervals import scipy_special

    logs = np.array([each.log_ratio for each in found])
    value = float(logs.mean())
    if not np.isfinite(value):
        return relative_gap(value, config.normaliser), None, None, max(e.p_value for e in found)
    parts = np.array([each.variance for each in found]) / len(found) ** 2
    variance = float(parts.sum())
    if variance <= 0.0:
        gap = relative_gap(value, config.normaliser)
        return gap, gap, gap, 1.0 if value == 0 else 0.0
    freedom = variance**2 / float((parts**2 / np.array([e.freedom for e in found])).sum())
    special = scipy_special()
    half = float(special.stdtrit(freedom, 0.5 + config.level / 2.0)) * variance**0.5
    p_value = 2.0 * float(special.stdtr(freedom, -abs(value) / variance**0.5))
    low, high = (relative_gap(value + sign * half, config.normaliser) for sign in (-1, 1))
    return relative_gap(value, config.normaliser), finite(low), finite(high), p_value


def extremes(
    partition: Partition, config: AuditConfig, *, kept: Bools | None = None, share: float = 0.0
) -> Pair | None:
    """The worst and the best cohort on some cells; with a share, merged until they hold it.

    Args:
        partition: Cells by cohort.
        config: Least sizes.
        kept: Cells that may be looked at.
        share: Least share of speakers that each side must hold.

    Returns:
        The pair, or None where fewer than two cohorts are large enough.
    """
    errors, words, codes, _ = partition.sums(kept)
    found = rates(errors, words, codes, len(partition.names))
    enough = (found.speakers >= config.min_speakers) & (found.words >= config.min_words)
    order = [int(index) for index in np.argsort(-found.rate, kind="stable") if enough[index]]
    if len(order) < 2:
        return None
    wanted = share * found.speakers[order].sum()
    bottom, top = [order[0]], [order[-1]]
    left = order[1:-1]
    while left and found.speakers[bottom].sum() < wanted:
        bottom.append(left.pop(0))
    while left and found.speakers[top].sum() < wanted:
        top.append(left.pop())
    return Pair(partition, tuple(bottom), tuple(top))


def halves(num_units: int, seed: int) -> Bools:
    """(S,) which speakers discover; the others report."""
    first = np.zeros(num_units, bool)
    order = np.random.default_rng([seed, 0x5EED]).permutation(num_units)
    first[order[: num_units // 2]] = True
    return first
