"""Counting what was understood."""

from __future__ import annotations

import pytest

from earshot.understand.evaluation import outcome, summary
from earshot.understand.labelled import LabelledSentence

INSIDE = LabelledSentence(("wake", "me", "at", "six"), "alarm", ("O", "O", "O", "B-time"))
OUTSIDE = LabelledSentence(("who", "won"), None, ("O", "O"))
RIGHT = [(3, 4, "time")]


def test_figures_of_a_few_sentences() -> None:
    found = summary(
        [
            outcome(INSIDE, intent="alarm", best="alarm", spans=RIGHT),
            outcome(INSIDE, intent=None, best="alarm", spans=RIGHT),
            outcome(INSIDE, intent="timer", best="timer", spans=[(2, 4, "time")]),
            outcome(INSIDE, intent="alarm", best="alarm", spans=[]),
            outcome(OUTSIDE, intent=None, best="alarm", spans=[(0, 1, "time")]),
            outcome(OUTSIDE, intent="alarm", best="alarm", spans=[]),
        ]
    )
    assert (found.sentences, found.in_scope) == (6, 4)
    assert found.accuracy == pytest.approx(2 / 4)
    assert found.best_accuracy == pytest.approx(3 / 4)
    assert found.slot_precision == pytest.approx(2 / 4)
    assert found.slot_recall == pytest.approx(2 / 4)
    assert found.slot_f1 == pytest.approx(2 / 4)
    assert found.all_right == pytest.approx(2 / 6)  # the first, and the one rejected rightly
    assert found.out_of_scope_recall == pytest.approx(1 / 2)
    assert found.out_of_scope_precision == pytest.approx(1 / 2)


def test_what_cannot_be_counted_is_none() -> None:
    found = summary([outcome(INSIDE, intent="alarm", best="alarm", spans=RIGHT)])
    assert found.out_of_scope_recall is None and found.out_of_scope_precision is None
    assert found.all_right == found.slot_f1 == found.accuracy == 1.0
    assert summary([]).as_dict()["accuracy"] is None
    assert summary([outcome(OUTSIDE, intent=None, best="a", spans=[])]).accuracy is None
