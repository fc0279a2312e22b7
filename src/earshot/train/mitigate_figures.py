"""How well a model hears cohorts, against another one, and which of many models is taken.

Models are heard by the engine, from the file that would ship, rounding included. Knows nothing of
how models are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.core.utterance import Utterance
from earshot.data.audio import read_audio
from earshot.data.scoring import (
    Estimate,
    WordCounts,
    count_words,
    difference_error,
    relative_change,
)
from earshot.session.recognizer import Recognizer

__all__ = [
    "Candidate",
    "Changes",
    "Development",
    "Rates",
    "changes",
    "choose",
    "hear",
    "on_front",
    "rates",
    "scored",
]

_TOGETHER = 16  # clips decoded at once


def hear(
    model: Path,
    utterances: Sequence[Utterance],
    *,
    method: str = "greedy_search",
    progress: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """What a model makes of utterances.

    Args:
        model: A `.ear` file.
        utterances: With their sound.
        method: How to search.
        progress: Called with the utterances heard.

    Returns:
        A text each.

    Raises:
        AudioError: Sound cannot be read.
    """
    recognizer = Recognizer.load(model, method=method)
    found: list[str] = []
    for first in range(0, len(utterances), _TOGETHER):
        streams = []
        for utterance in utterances[first : first + _TOGETHER]:
            samples = read_audio(
                str(utterance.audio),
                offset_s=utterance.offset_s,
                duration_s=utterance.duration_s,
            )
            stream = recognizer.create_stream()
            stream.accept_waveform(SAMPLE_RATE_HZ, samples)
            stream.input_finished()
            streams.append(stream)
        recognizer.decode_streams(streams)
        found += [stream.result().text for stream in streams]
        progress(len(found))
    return found


@dataclass(frozen=True, slots=True)
class Rates:
    """Word error rates, 1.0 is every word; nan where there are no words.

    Args:
        overall: Of all utterances.
        target: Of the cohorts that are mended, pooled.
        rest: Of all others, pooled.
        mean: Over all cohorts, each counting once.
        worst: The highest of a cohort.
        variance: Over all cohorts, of the population.
        cohorts: By cohort.
    """

    overall: float
    target: float
    rest: float
    mean: float
    worst: float
    variance: float
    cohorts: Mapping[str, float]


def rates(
    counts: Sequence[WordCounts],
    cohorts: Sequence[int],
    targets: Sequence[int],
    names: Sequence[str],
) -> Rates:
    """Word error rates of utterances by cohort.

    Args:
        counts: Of each utterance.
        cohorts: Of each utterance; -1 is none.
        targets: Cohorts that are mended.
        names: Of all cohorts.
    """

    def pooled(inside: Callable[[int], bool]) -> float:
        total = sum(
            (c for c, cohort in zip(counts, cohorts, strict=True) if inside(cohort)), WordCounts()
        )
        return total.wer if total.reference_words else float("nan")

    by_cohort = {
        name: pooled(lambda cohort, n=n: cohort == n)  # type: ignore[misc]
        for n, name in enumerate(names)
        if n in cohorts
    }
    known = [rate for rate in by_cohort.values() if rate == rate]
    return Rates(
        overall=pooled(lambda _: True),
        target=pooled(lambda cohort: cohort in targets),
        rest=pooled(lambda cohort: cohort not in targets),
        mean=fmean(known) if known else float("nan"),
        worst=max(known, default=float("nan")),
        variance=pvariance(known) if known else float("nan"),
        cohorts=by_cohort,
    )


@dataclass(frozen=True, slots=True)
class Changes:
    """Relative changes of word error rates against the start, paired; -0.1 is 10 % fewer errors."""

    overall: Estimate | None
    target: Estimate | None
    rest: Estimate | None


def changes(
    before: Sequence[WordCounts],
    after: Sequence[WordCounts],
    cohorts: Sequence[int],
    targets: Sequence[int],
    speakers: Sequence[str | None],
) -> Changes:
    """What became of the errors, with 95 % intervals by the paired bootstrap.

    Args:
        before: Counts of the start on each utterance.
        after: Counts of another model on the same.
        cohorts: Of each utterance.
        targets: Cohorts that are mended.
        speakers: Of each utterance; they are resampled where there are at least 8.

    Returns:
        The changes; None where the start makes no errors.
    """

    def change(inside: Callable[[int], bool]) -> Estimate | None:
        kept = [n for n, cohort in enumerate(cohorts) if inside(cohort)]
        if not sum(before[n].errors for n in kept):
            return None
        return relative_change(
            [before[n] for n in kept], [after[n] for n in kept], [speakers[n] for n in kept]
        )

    return Changes(
        overall=change(lambda _: True),
        target=change(lambda cohort: cohort in targets),
        rest=change(lambda cohort: cohort not in targets),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model of the sweep.

    Args:
        method: How it was made.
        strength: Of the method.
        steps: That it was trained for.
        dev: Of development speakers, who choose.
        evaluation: Of speakers that nothing was chosen by.
        dev_counts: Of each utterance of development speakers.
        evaluation_counts: Of each utterance of the evaluation.
        folder: Where its model file is.
    """

    method: str
    strength: float
    steps: int
    dev: Rates
    evaluation: Rates
    dev_counts: tuple[WordCounts, ...]
    evaluation_counts: tuple[WordCounts, ...]
    folder: Path

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.method} {self.strength:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Development:
    """Utterances of the speakers who choose, as the start hears them.

    Args:
        rates: Of the start.
        counts: Of the start on each utterance.
        mended: Whether each is of a cohort that is mended.
        speakers: Of each.
    """

    rates: Rates
    counts: tuple[WordCounts, ...]
    mended: tuple[bool, ...]
    speakers: tuple[str | None, ...]

    def error_of(
        self, before: Sequence[WordCounts], after: Sequence[WordCounts], *, mended: bool
    ) -> float:
        """Standard error, over speakers, of how much two models' rates differ in one part.

        Args:
            before: Counts of a model on each utterance.
            after: Counts of another.
            mended: In the cohorts that are mended, or in the others.

        Returns:
            The error; nan where the part has no words, as its rates are.
        """
        kept = [n for n, inside in enumerate(self.mended) if inside == mended]
        if not any(before[n].reference_words for n in kept):
            return float("nan")
        return difference_error(
            [before[n] for n in kept], [after[n] for n in kept], [self.speakers[n] for n in kept]
        )


def choose(
    start: Development, candidates: Sequence[Candidate], *, tolerance: float
) -> tuple[Candidate | None, str]:
    """The model that is taken, and why; by development speakers only.

    Left out are models with more errors overall than the start, and those with more than
    `tolerance` more for who is not mended, where that is more than one standard error above it.
    Of the others that mend anything, all within one standard error of the fewest errors in the
    cohorts that are mended count as equally good there, and the one with the fewest errors of
    everybody else is taken. Errors are of differences, paired, over speakers.

    Args:
        start: What the development speakers are to the start.
        candidates: All models.
        tolerance: How much worse the others may get, relative.

    Returns:
        The model, or None where none is better than the start; and the reason as a sentence.

    Source:
        The rule of one standard error: Breiman, Friedman, Olshen and Stone, "Classification and
        Regression Trees", 1984, section 3.4.3.
    """
    before = start.rates
    limit = before.rest * (1 + tolerance)
    fair = [
        c
        for c in candidates
        if c.dev.overall <= before.overall
        and c.dev.rest - limit <= start.error_of(start.counts, c.dev_counts, mended=False)
    ]
    limits = (
        f"of {len(candidates)} models {len(fair)} are, for the development speakers, no worse "
        f"than the start overall ({100 * before.overall:.2f} %) and at most {100 * tolerance:g} % "
        f"and one standard error worse for those who are not mended ({100 * before.rest:.2f} %)"
    )
    better = [c for c in fair if c.dev.target < before.target]
    if not fair:
        return None, f"{limits}: the start is kept"
    if not better:
        return None, (
            f"{limits}; none of them has fewer errors in the cohorts that are mended "
            f"({100 * before.target:.2f} %): the start is kept"
        )
    least = min(better, key=lambda c: (c.dev.target, c.dev.rest))
    equal = [
        c
        for c in better
        if c is least
        or c.dev.target - least.dev.target
        <= start.error_of(least.dev_counts, c.dev_counts, mended=True)
    ]
    best = min(equal, key=lambda c: (c.dev.rest, c.dev.target, c.dev.overall))
    among = (
        "that is the fewest of them"
        if len(equal) == 1
        else f"{len(equal)} are within one standard error of the fewest of them "
        f"({100 * least.dev.target:.2f} %), and it spares the others most"
    )
    return best, (
        f"{limits}; of these '{best.name}' has {100 * best.dev.target:.2f} % errors instead of "
        f"{100 * before.target:.2f} % in the cohorts that are mended and "
        f"{100 * best.dev.rest:.2f} % for the others: {among}"
    )


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each point, whether no other is at least as good in both and better in one.

    Args:
        points: Two rates each; lower is better.
    """
    return [not any(a <= x and b <= y and (a < x or b < y) for a, b in points) for x, y in points]


def scored(utterances: Sequence[Utterance], texts: Sequence[str]) -> list[WordCounts]:
    """Counts of what was heard against what was said."""
    return [
        count_words(utterance.text or "", text)
        for utterance, text in zip(utterances, texts, strict=True)
    ]
