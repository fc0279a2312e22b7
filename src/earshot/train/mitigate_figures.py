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
from earshot.data.scoring import Estimate, WordCounts, count_words, relative_change
from earshot.session.recognizer import Recognizer

__all__ = [
    "Candidate",
    "Changes",
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
        counts: Of each utterance of the evaluation.
        folder: Where its model file is.
    """

    method: str
    strength: float
    steps: int
    dev: Rates
    evaluation: Rates
    counts: tuple[WordCounts, ...]
    folder: Path

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.method} {self.strength:g}"


def choose(
    start: Rates, candidates: Sequence[Candidate], *, tolerance: float
) -> tuple[Candidate | None, str]:
    """The model that is taken, and why; by development speakers only.

    Of the models that are no worse overall than the start, and no worse than `tolerance` for those
    who are not mended, the one with the fewest errors in the cohorts that are.

    Args:
        start: Rates of the start.
        candidates: All models.
        tolerance: How much worse the others may get, relative.

    Returns:
        The model, or None where none is better than the start; and the reason as a sentence.
    """
    fair = [
        c
        for c in candidates
        if c.dev.overall <= start.overall and c.dev.rest <= start.rest * (1 + tolerance)
    ]
    limits = (
        f"of {len(candidates)} models {len(fair)} are, for the development speakers, no worse "
        f"than the start overall ({100 * start.overall:.2f} %) and at most {100 * tolerance:g} % "
        f"worse for those who are not mended ({100 * start.rest:.2f} %)"
    )
    better = [c for c in fair if c.dev.target < start.target]
    if not fair:
        return None, f"{limits}: the start is kept"
    if not better:
        return None, (
            f"{limits}; none of them has fewer errors in the cohorts that are mended "
            f"({100 * start.target:.2f} %): the start is kept"
        )
    # Equal rates are common with few speakers: then who spares the others most.
    best = min(better, key=lambda c: (c.dev.target, c.dev.rest, c.dev.overall))
    return best, (
        f"{limits}; of these '{best.name}' has the fewest errors in the cohorts that are mended: "
        f"{100 * best.dev.target:.2f} % instead of {100 * start.target:.2f} %, with "
        f"{100 * best.dev.rest:.2f} % for the others"
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
