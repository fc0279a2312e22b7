"""Word error rates and shares, and how sure one may be of them.

Counts come from the engine's alignment; intervals from the bootstrap over speakers, because the
utterances of one speaker are not independent, or over utterances where speakers are few. A
number without its interval does not leave this file's tables. Knows nothing of audio.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from earshot import _native
from earshot.data.text import normalise

MIN_SPEAKERS = 8  # fewer resample too coarsely to say anything
DEFAULT_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class WordCounts:
    """What aligning a hypothesis with a reference found.

    Args:
        hits: Words that agree.
        substitutions: Words that are another word.
        deletions: Words of the reference that are absent.
        insertions: Words of the hypothesis that nobody said.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: "WordCounts") -> "WordCounts":
        return WordCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def reference_words(self) -> int:
        """How many words the reference has."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors over reference words.

        Raises:
            ValueError: The reference has no words.
        """
        if self.reference_words == 0:
            raise ValueError(
                "scoring: the reference has 0 words; a rate needs at least one. "
                "Count insertions instead."
            )
        return self.errors / self.reference_words


def count_words(reference: str, hypothesis: str) -> WordCounts:
    """Align two texts word by word with the fewest edits.

    Args:
        reference: What was said.
        hypothesis: What was recognised; both are normalised first.

    Returns:
        The counts.
    """
    ids: dict[str, int] = {}

    def numbered(text: str) -> npt.NDArray[np.int32]:
        words = normalise(text).split()
        return np.array([ids.setdefault(word, len(ids)) for word in words], np.int32)

    return WordCounts(*_native.align_counts(numbered(reference), numbered(hypothesis)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval.

    Args:
        value: The figure on all the data.
        low: Lower end of the interval.
        high: Upper end of the interval.
        unit: What was resampled: "speaker", "utterance" or as its maker says.
        num_units: How many of them there are.
    """

    value: float
    low: float
    high: float
    unit: str
    num_units: int


def _per_unit(
    systems: Sequence[Sequence[WordCounts]], speakers: Sequence[str | None]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], str]:
    """Errors (systems, units) and reference words (units,), summed over what is resampled."""
    for counts in systems:
        if len(counts) != len(speakers) or not speakers:
            raise ValueError(
                f"scoring: {len(counts)} counts for {len(speakers)} utterances; there must be "
                "one for each, and at least one."
            )
    known = {speaker for speaker in speakers if speaker is not None}
    by_speaker = None not in speakers and len(known) >= MIN_SPEAKERS
    order: dict[object, int] = {}
    rows = [
        order.setdefault(speaker if by_speaker else index, len(order))
        for index, speaker in enumerate(speakers)
    ]
    errors = np.zeros((len(systems), len(order)), np.int64)
    words = np.zeros(len(order), np.int64)
    for index, row in enumerate(rows):
        words[row] += systems[0][index].reference_words
        for system, counts in enumerate(systems):
            if counts[index].reference_words != systems[0][index].reference_words:
                raise ValueError(
                    f"scoring: utterance {index} has {systems[0][index].reference_words} and "
                    f"{counts[index].reference_words} reference words; paired systems must be "
                    "scored on the same references."
                )
            errors[system, row] += counts[index].errors
    if words.sum() == 0:
        raise ValueError(
            "scoring: the references have 0 words; a rate needs at least one. "
            "Count insertions instead."
        )
    return errors, words, "speaker" if by_speaker else "utterance"


def _resampled_rates(
    errors: npt.NDArray[np.int64], words: npt.NDArray[np.int64], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Rates (resamples, systems) of data sets drawn anew, unit by unit, with replacement."""
    rng = np.random.default_rng(seed)
    units = len(words)
    # How often each unit is drawn is all that a sum needs to know.
    draws = rng.multinomial(units, np.full(units, 1 / units), size=resamples)
    totals = draws @ words
    kept = totals > 0  # a draw of wordless utterances alone has no rate
    rates: npt.NDArray[np.float64] = (draws @ errors.T)[kept] / totals[kept, None]
    return rates


def word_error_rate(
    counts: Sequence[WordCounts],
    speakers: Sequence[str | None],
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Pooled word error rate with a 95 % percentile-bootstrap interval.

    Args:
        counts: One for each utterance.
        speakers: One for each utterance; speakers are resampled where all are known and there
            are at least 8, else utterances.
        resamples: Number of resampled data sets.
        seed: Of the resampling.

    Returns:
        The rate (1.0 is every word) and its interval.

    Raises:
        ValueError: The lengths differ, or the references have no words.

    Source:
        Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
        evaluation", ICASSP 2004.
    """
    errors, words, unit = _per_unit([counts], speakers)
    rates = _resampled_rates(errors, words, resamples, seed)[:, 0]
    low, high = np.percentile(rates, [2.5, 97.5])
    value = errors.sum() / words.sum()
    return Estimate(float(value), float(low), float(high), unit, len(words))


def relative_change(
    baseline: Sequence[WordCounts],
    candidate: Sequence[WordCounts],
    speakers: Sequence[str | None],
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """How much more a candidate errs than a baseline on the same utterances.

    Both are resampled together (paired bootstrap), so that hard utterances cancel.

    Args:
        baseline: Counts of the first system, one for each utterance.
        candidate: Counts of the second system on the same references.
        speakers: One for each utterance, used as in `word_error_rate`.
        resamples: Number of resampled data sets.
        seed: Of the resampling.

    Returns:
        `candidate / baseline - 1` of the pooled rates: 0.02 is 2 % more errors.

    Raises:
        ValueError: The lengths or references differ, or the baseline makes no errors.
    """
    errors, words, unit = _per_unit([baseline, candidate], speakers)
    if errors[0].sum() == 0:
        raise ValueError(
            "scoring: the baseline makes 0 errors; a relative change needs at least one. "
            "Compare the rates instead."
        )
    rates = _resampled_rates(errors, words, resamples, seed)
    rates = rates[rates[:, 0] > 0]
    low, high = np.percentile(rates[:, 1] / rates[:, 0] - 1, [2.5, 97.5])
    value = errors[1].sum() / errors[0].sum() - 1
    return Estimate(float(value), float(low), float(high), unit, len(words))


def difference_error(
    baseline: Sequence[WordCounts],
    candidate: Sequence[WordCounts],
    speakers: Sequence[str | None],
) -> float:
    """Standard error of the difference of two systems' pooled rates on the same utterances.

    Args:
        baseline: Counts of the first system, one for each utterance.
        candidate: Counts of the second system on the same references.
        speakers: One for each utterance, used as in `word_error_rate`.

    Returns:
        The standard error of a ratio of sums over units; infinite with one unit, which shows no
        spread.

    Raises:
        ValueError: The lengths or references differ, or the references have no words.

    Source:
        Cochran, "Sampling Techniques", third edition 1977, section 6.4: the variance of an
        estimated ratio.
    """
    errors, words, _ = _per_unit([baseline, candidate], speakers)
    more = errors[1] - errors[0]
    units = len(words)
    if units < 2:
        return float("inf")
    about = more - words * (more.sum() / words.sum())
    spread = float(np.sqrt(units / (units - 1) * (about**2).sum()))
    return spread / int(words.sum())


def share(
    hits: Sequence[bool],
    units: Sequence[str],
    *,
    unit: str,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """How often something is so, with a 95 % percentile-bootstrap interval over units.

    Where it is always or never so a bootstrap would claim certainty: the interval is then the
    exact binomial one, with one trial for each unit.

    Args:
        hits: One for each trial.
        units: One for each trial: what it shares with others, a speaker or a clip heard
            several times.
        unit: What the units are, for tables.
        resamples: Number of resampled data sets.
        seed: Of the resampling.

    Returns:
        The share (1.0 is always) and its interval.

    Raises:
        ValueError: The lengths differ, or there are no trials.

    Source:
        Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case
        of the binomial", Biometrika 26, 1934.
    """
    if len(hits) != len(units) or not hits:
        raise ValueError(
            f"scoring: {len(hits)} trials of {len(units)} units; there must be one unit for "
            "each trial, and at least one trial."
        )
    order: dict[str, int] = {}
    rows = np.array([order.setdefault(name, len(order)) for name in units])
    found = np.bincount(rows, weights=np.asarray(hits, np.float64)).astype(np.int64)
    trials = np.bincount(rows)
    value = float(found.sum() / trials.sum())
    if value in (0.0, 1.0):
        bound = 1.0 - 0.025 ** (1.0 / len(order))
        low, high = (0.0, bound) if value == 0.0 else (1.0 - bound, 1.0)
        return Estimate(value, low, high, unit, len(order))
    rates = _resampled_rates(found[None], trials, resamples, seed)[:, 0]
    low, high = (float(end) for end in np.percentile(rates, [2.5, 97.5]))
    return Estimate(value, low, high, unit, len(order))
