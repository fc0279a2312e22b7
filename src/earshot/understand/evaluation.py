"""How well sentences were understood: intents, slots, and what is out of scope.

Counts one sentence at a time, so that whoever wants intervals can resample sentences. Knows
nothing of how the answers were found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass

from earshot.understand.labelled import LabelledSentence, slot_spans
from earshot.understand.statistical import DEFAULT_THRESHOLD, StatisticalModel

__all__ = ["Evaluation", "Outcome", "evaluate", "outcome", "summary"]

_BATCH = 100  # sentences that are read at once


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sentence.

    Args:
        in_scope: Whether it has an intent.
        rejected: Whether it was taken to have none.
        right: Whether its intent, or that it has none, was found.
        best_right: Whether the best intent is right, had nothing been rejected; False out of
            scope.
        slot_hits: Slots found with the right words and name.
        slots_found: Slots found.
        slots_expected: Slots that there are.
    """

    in_scope: bool
    rejected: bool
    right: bool
    best_right: bool
    slot_hits: int
    slots_found: int
    slots_expected: int

    @property
    def all_right(self) -> bool:
        """Whether the intent and, in scope, all slots are right."""
        slots_right = self.slot_hits == self.slots_found == self.slots_expected
        return self.right and (slots_right or not self.in_scope)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares over sentences; None where there is nothing to share.

    Args:
        sentences: How many.
        in_scope: How many of them have an intent.
        accuracy: Of those, whose intent was found and not rejected.
        best_accuracy: Of those, whose best intent is right, rejected or not.
        slot_precision: Slots with the right words and name, of those found.
        slot_recall: The same, of those that there are.
        slot_f1: Harmonic mean of the two.
        all_right: Sentences with the right intent and all slots right.
        out_of_scope_recall: Sentences out of scope that were rejected.
        out_of_scope_precision: Rejected sentences that are out of scope, where any are.
    """

    sentences: int
    in_scope: int
    accuracy: float | None
    best_accuracy: float | None
    slot_precision: float | None
    slot_recall: float | None
    slot_f1: float | None
    all_right: float | None
    out_of_scope_recall: float | None
    out_of_scope_precision: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """All fields, shares rounded to five places."""
        return {
            name: round(value, 5) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def outcome(
    sentence: LabelledSentence,
    *,
    intent: str | None,
    best: str | None,
    spans: Collection[tuple[int, int, str]],
) -> Outcome:
    """Compare an answer with the labels.

    Args:
        sentence: With its labels.
        intent: What was answered; None for out of scope.
        best: The best intent, had nothing been rejected.
        spans: The slots that were found, as `labelled.slot_spans` gives them.

    Returns:
        The counts.
    """
    expected = set(slot_spans(sentence.labels))
    in_scope = sentence.intent is not None
    return Outcome(
        in_scope=in_scope,
        rejected=intent is None,
        right=intent == sentence.intent,
        best_right=in_scope and best == sentence.intent,
        slot_hits=len(expected & set(spans)),
        slots_found=len(spans),
        slots_expected=len(expected),
    )


def evaluate(
    model: StatisticalModel,
    sentences: Sequence[LabelledSentence],
    *,
    threshold: float = DEFAULT_THRESHOLD,
) -> list[Outcome]:
    """What a model makes of labelled sentences.

    Args:
        model: The model.
        sentences: With their labels.
        threshold: The intent is None below this confidence.

    Returns:
        An outcome for each. Slots are counted whatever the intent.

    Raises:
        ConfigError: `threshold` is not in [0, 1].
    """
    found = []
    for at in range(0, len(sentences), _BATCH):
        part = sentences[at : at + _BATCH]
        for sentence, reading in zip(part, model.read([s.words for s in part]), strict=True):
            answer = model.decide([reading], [1.0], threshold=threshold)
            best = model.intents[int(reading.scores[: len(model.intents)].argmax())]
            spans = slot_spans(reading.labels)
            found.append(outcome(sentence, intent=answer.intent, best=best, spans=spans))
    return found


def summary(outcomes: Iterable[Outcome]) -> Evaluation:
    """Shares over outcomes.

    Args:
        outcomes: Any number.

    Returns:
        The shares.
    """
    every = list(outcomes)
    inside = [one for one in every if one.in_scope]
    outside = [one for one in every if not one.in_scope]
    rejected = [one for one in every if one.rejected]
    hits = sum(one.slot_hits for one in every)
    slots_found = sum(one.slots_found for one in every)
    expected = sum(one.slots_expected for one in every)
    return Evaluation(
        sentences=len(every),
        in_scope=len(inside),
        accuracy=_share(sum(one.right for one in inside), len(inside)),
        best_accuracy=_share(sum(one.best_right for one in inside), len(inside)),
        slot_precision=_share(hits, slots_found),
        slot_recall=_share(hits, expected),
        slot_f1=_share(2 * hits, slots_found + expected) if expected else None,
        all_right=_share(sum(one.all_right for one in every), len(every)),
        out_of_scope_recall=_share(sum(one.rejected for one in outside), len(outside)),
        out_of_scope_precision=_share(sum(not one.in_scope for one in rejected), len(rejected))
        if outside
        else None,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
