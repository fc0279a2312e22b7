"""Word errors against a textbook recursion, intervals against their own definition."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.data.scoring import (
    WordCounts,
    count_words,
    difference_error,
    relative_change,
    share,
    word_error_rate,
)

WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6)


@given(WORDS, WORDS)
def test_counts_against_a_recursion_without_tables(reference, hypothesis):
    @cache
    def edits(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        differ = reference[i - 1] != hypothesis[j - 1]
        return min(edits(i - 1, j - 1) + differ, edits(i - 1, j) + 1, edits(i, j - 1) + 1)

    counts = count_words(" ".join(reference), " ".join(hypothesis))
    assert counts.errors == edits(len(reference), len(hypothesis))
    assert counts.reference_words == len(reference)
    assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis)


def test_case_and_punctuation_do_not_count():
    assert count_words("turn on the light", "Turn on, the light!") == WordCounts(hits=4)


def test_agrees_with_jiwer():
    jiwer = pytest.importorskip("jiwer")
    reference, hypothesis = "the quick brown fox jumps", "a quick fox jumps over it"
    out = jiwer.process_words(reference, hypothesis)
    counts = count_words(reference, hypothesis)
    assert counts.errors == out.substitutions + out.deletions + out.insertions
    assert counts.wer == pytest.approx(out.wer)


def made(errors, words=10):
    return [WordCounts(hits=words - e, substitutions=e) for e in errors]


def test_pooled_rate_and_interval_over_utterances():
    estimate = word_error_rate(made([0, 1, 2, 3] * 10), [None] * 40)
    assert estimate.value == pytest.approx(0.15)
    assert (estimate.unit, estimate.num_units) == ("utterance", 40)
    # Standard error of the mean of 40 values with deviation 1.118, over 10 words each.
    half = 1.96 * np.std([0, 1, 2, 3]) / np.sqrt(40) / 10
    assert estimate.low == pytest.approx(0.15 - half, abs=0.006)
    assert estimate.high == pytest.approx(0.15 + half, abs=0.006)


def test_speakers_are_resampled_where_there_are_enough():
    errors = [0] * 20 + [5] * 20
    eight = [f"s{i // 5}" for i in range(40)]
    by_speaker = word_error_rate(made(errors), eight)
    by_utterance = word_error_rate(made(errors), [None] * 40)
    assert (by_speaker.unit, by_speaker.num_units) == ("speaker", 8)
    # Utterances of a speaker fail together here, so an honest interval is wider.
    assert by_speaker.high - by_speaker.low > 1.5 * (by_utterance.high - by_utterance.low)
    seven = [f"s{min(i // 5, 6)}" for i in range(40)]
    assert word_error_rate(made(errors), seven).unit == "utterance"
    assert word_error_rate(made(errors), [None, *eight[1:]]).unit == "utterance"


def test_pairing_cancels_hard_utterances():
    rng = np.random.default_rng(1)
    baseline = rng.integers(1, 9, 60)
    candidate = np.minimum(baseline + (rng.random(60) < 0.1), 10)
    estimate = relative_change(made(baseline), made(candidate), [None] * 60)
    assert estimate.value == pytest.approx(candidate.sum() / baseline.sum() - 1)
    assert 0 <= estimate.low <= estimate.value <= estimate.high < 0.1


def test_the_error_of_a_difference_is_that_of_resampled_speakers():
    rng = np.random.default_rng(2)
    baseline = rng.integers(0, 8, 200)
    candidate = np.clip(baseline + rng.integers(-2, 2, 200), 0, 10)
    speakers = [f"s{i // 10}" for i in range(200)]
    error = difference_error(made(baseline), made(candidate), speakers)
    by_speaker = (candidate - baseline).reshape(20, 10).sum(axis=1)
    draws = rng.choice(by_speaker, (20_000, 20)).sum(axis=1) / 2000
    assert error == pytest.approx(draws.std(), rel=0.06)
    assert difference_error(made(baseline), made(baseline), speakers) == 0
    assert difference_error(made([1]), made([2]), ["a"]) == float("inf")


def test_the_same_seed_gives_the_same_interval():
    counts, speakers = made([0, 3, 1, 4]), [None] * 4
    assert word_error_rate(counts, speakers, seed=5) == word_error_rate(counts, speakers, seed=5)


def test_wordless_utterances_still_count_their_insertions():
    counts = [WordCounts(insertions=2), WordCounts(hits=8)]
    assert word_error_rate(counts, [None] * 2).value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: WordCounts(insertions=1).wer,
            "scoring: the reference has 0 words; a rate needs at least one. "
            "Count insertions instead.",
        ),
        (
            lambda: word_error_rate([WordCounts(insertions=1)], [None]),
            "scoring: the references have 0 words; a rate needs at least one. "
            "Count insertions instead.",
        ),
        (
            lambda: word_error_rate(made([1]), []),
            "scoring: 1 counts for 0 utterances; there must be one for each, and at least one.",
        ),
        (
            lambda: relative_change(made([0]), made([1]), [None]),
            "scoring: the baseline makes 0 errors; a relative change needs at least one. "
            "Compare the rates instead.",
        ),
        (
            lambda: relative_change(made([1]), made([1], words=9), [None]),
            "scoring: utterance 0 has 10 and 9 reference words; paired systems must be scored on "
            "the same references.",
        ),
    ],
)
def test_what_cannot_be_scored(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("uvwxyz")), min_size=1, max_size=40),
)
def test_a_share_lies_in_its_interval_and_certainty_is_never_claimed(trials):
    hits, units = [hit for hit, _ in trials], [unit for _, unit in trials]
    estimate = share(hits, units, unit="clip")
    assert estimate.value == pytest.approx(sum(hits) / len(hits))
    assert estimate.num_units == len(set(units))
    if len(set(units)) > 1 or estimate.value in (0.0, 1.0):
        assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
    if estimate.value in (0.0, 1.0):
        assert estimate.high - estimate.low == pytest.approx(1 - 0.025 ** (1 / len(set(units))))


def test_clips_heard_several_times_widen_the_interval():
    """Ten draws of one clip that always agree are one observation, not ten."""
    hits = [at % 3 == 0 for at in range(60)]
    units = [str(at) for at in range(60)]
    once = share(hits, units, unit="clip")
    tenfold = share(hits * 10, units * 10, unit="clip")
    as_if_new = share(hits * 10, [str(at) for at in range(600)], unit="clip")
    assert (tenfold.low, tenfold.high) == (once.low, once.high)
    assert as_if_new.high - as_if_new.low < 0.5 * (once.high - once.low)


def test_a_share_needs_trials():
    with pytest.raises(ValueError, match="0 trials"):
        share([], [], unit="clip")
