"""Distances between readings against word counts, and the choice by expected word errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot import _native
from earshot.data.scoring import count_words
from earshot.decode.risk import edit_distances, expected_word_errors

READINGS = st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=7), max_size=6)


@given(READINGS)
def test_each_reading_against_each(readings: list[list[str]]) -> None:
    found = edit_distances(readings)
    assert found.shape == (len(readings), len(readings))
    for i, one in enumerate(readings):
        for j, other in enumerate(readings):
            assert found[i, j] == count_words(" ".join(one), " ".join(other)).errors


def test_ends_that_are_none_are_refused() -> None:
    tokens = np.array([1, 2, 3], np.int32)
    with pytest.raises(ValueError, match=r"edit_distances: `ends\[1\]` is 1"):
        _native.edit_distances(tokens, np.array([2, 1, 3]))
    with pytest.raises(ValueError, match="edit_distances: `ends` goes to 2 of 3"):
        _native.edit_distances(tokens, np.array([1, 2]))


def test_the_reading_that_the_others_agree_with_has_the_fewest_errors() -> None:
    readings = [["call", "anna"], ["call", "hannah"], ["call", "hannah", "now"]]
    scores = np.log([0.4, 0.35, 0.25])
    errors = expected_word_errors(edit_distances(readings), scores, scale=1.0)
    assert errors == pytest.approx([0.35 + 2 * 0.25, 0.4 + 0.25, 2 * 0.4 + 0.35])
    assert errors.argmin() == 1
