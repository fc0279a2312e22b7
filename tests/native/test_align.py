"""Alignment counts against a recursive oracle and jiwer."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot import _native

TOKENS = st.lists(st.integers(0, 3), max_size=9)


def counts(ref: list[int], hyp: list[int]) -> tuple[int, int, int, int]:
    result = _native.align_counts(np.array(ref, np.int32), np.array(hyp, np.int32))
    return (result[0], result[1], result[2], result[3])


def oracle(ref: tuple[int, ...], hyp: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Best of all alignments by (fewest errors, most hits), as a recursion over prefixes."""

    @cache
    def best(n: int, m: int) -> tuple[int, int, int, int, int, int]:
        if n == 0 and m == 0:
            return (0, 0, 0, 0, 0, 0)
        choices = []
        if n and m:
            same = ref[n - 1] == hyp[m - 1]
            e, negative_hits, h, s, d, i = best(n - 1, m - 1)
            choices.append(
                (e, negative_hits - 1, h + 1, s, d, i)
                if same
                else (e + 1, negative_hits, h, s + 1, d, i)
            )
        if n:
            e, negative_hits, h, s, d, i = best(n - 1, m)
            choices.append((e + 1, negative_hits, h, s, d + 1, i))
        if m:
            e, negative_hits, h, s, d, i = best(n, m - 1)
            choices.append((e + 1, negative_hits, h, s, d, i + 1))
        return min(choices)

    return best(len(ref), len(hyp))[2:]


@given(ref=TOKENS, hyp=TOKENS)
def test_counts_equal_the_recursive_oracle(ref: list[int], hyp: list[int]) -> None:
    assert counts(ref, hyp) == oracle(tuple(ref), tuple(hyp))


@given(ref=TOKENS.filter(bool), hyp=TOKENS)
def test_number_of_errors_equals_jiwer(ref: list[int], hyp: list[int]) -> None:
    jiwer = pytest.importorskip("jiwer")
    output = jiwer.process_words(" ".join(map(str, ref)), " ".join(map(str, hyp)))
    hits, substitutions, deletions, insertions = counts(ref, hyp)
    assert substitutions + deletions + insertions == (
        output.substitutions + output.deletions + output.insertions
    )
    assert hits + substitutions + deletions == len(ref)
    assert hits + substitutions + insertions == len(hyp)


@pytest.mark.parametrize(
    ("ref", "hyp", "expected"),
    [
        ([], [], (0, 0, 0, 0)),
        ([1, 2], [], (0, 0, 2, 0)),
        ([], [1, 2, 3], (0, 0, 0, 3)),
        ([1, 2, 3], [1, 3, 4], (2, 0, 1, 1)),  # as few errors as two substitutions, more hits
        ([1, 2], [2, 1], (1, 0, 1, 1)),
    ],
)
def test_known_alignments(
    ref: list[int], hyp: list[int], expected: tuple[int, int, int, int]
) -> None:
    assert counts(ref, hyp) == expected


def test_long_transcripts_need_no_square_table() -> None:
    ref = list(np.random.default_rng(0).integers(0, 500, 20000))
    hyp = [token for i, token in enumerate(ref) if i % 100 != 7]
    assert counts(ref, hyp) == (19800, 0, 200, 0)
