"""Sums over lattices against lists of all their paths."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lattices import VOCABULARY, edit_distance, lattices, make, paths, said, score

from earshot.core.errors import LatticeError
from earshot.decode import lattice as module
from earshot.decode.lattice import (
    NOTHING,
    Arc,
    Lattice,
    arc_posteriors,
    arcs_behind,
    assembled,
    best_path,
    determinised,
    expected_errors,
    from_json,
    nbest,
    oracle,
    pruned,
    state_posteriors,
    time_conditioned,
    to_json,
    word_confidences,
)

sentences = st.lists(st.sampled_from([*VOCABULARY, "unheard"]), max_size=5)
scales = st.sampled_from([1.0, 0.3, 2.0])


def test_all_that_is_public_is_there() -> None:
    assert all(hasattr(module, name) for name in module.__all__)
    assert sorted(module.__all__, key=lambda n: (not n.isupper(), n[0].islower(), n)) == list(
        module.__all__
    )


@settings(max_examples=60)
@given(lattices(), scales)
def test_posteriors_equal_the_sum_over_enumerated_paths(lattice: Lattice, scale: float) -> None:
    mass = np.zeros(lattice.num_arcs)
    states = np.zeros(lattice.num_states)
    for path in paths(lattice):
        p = math.exp(score(lattice, path, scale))
        mass[list(path)] += p
        states[[0, *lattice.dst[list(path)]]] += p
    got = arc_posteriors(lattice, scale=scale)
    np.testing.assert_allclose(got, mass / states[0], rtol=1e-9, atol=1e-12)
    got = state_posteriors(lattice, scale=scale)
    np.testing.assert_allclose(got, states / states[0], rtol=1e-9, atol=1e-12)


@settings(max_examples=60)
@given(lattices(max_states=9))
def test_posteriors_sum_to_one_at_every_cut(lattice: Lattice) -> None:
    posteriors = arc_posteriors(lattice)
    for state in range(lattice.num_states - 1):
        cut = (lattice.src <= state) & (lattice.dst > state)
        assert posteriors[cut].sum() == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=60)
@given(lattices(), scales)
def test_best_path(lattice: Lattice, scale: float) -> None:
    best = max(score(lattice, path, scale) for path in paths(lattice))
    got = best_path(lattice, scale=scale)
    assert score(lattice, got.arcs, scale) == pytest.approx(best, abs=1e-9)
    assert got.words == said(lattice, got.arcs)
    assert got.score == pytest.approx(score(lattice, got.arcs))
    assert got.score == pytest.approx(got.acoustic + got.prior)
    assert got.arcs in set(paths(lattice))


@settings(max_examples=60)
@given(lattices(), st.integers(1, 30), scales)
def test_nbest_is_the_sorted_list_of_what_can_be_said(
    lattice: Lattice, n: int, scale: float
) -> None:
    best: dict[tuple[str, ...], float] = {}
    for path in paths(lattice):
        words = said(lattice, path)
        best[words] = max(best.get(words, -math.inf), score(lattice, path, scale))
    got = nbest(lattice, n, scale=scale)
    assert len(got) == min(n, len(best))
    assert len({path.words for path in got}) == len(got)
    want = sorted(best.values(), reverse=True)[:n]
    assert [score(lattice, path.arcs, scale) for path in got] == pytest.approx(want, abs=1e-9)
    for path in got:
        assert said(lattice, path.arcs) == path.words
        assert score(lattice, path.arcs, scale) == pytest.approx(best[path.words], abs=1e-9)


def test_nbest_of_many_paths_that_say_the_same_is_quick() -> None:
    """2^40 paths, two sentences."""
    arcs: list[Any] = []
    for state in range(40):
        arcs += [(state, state + 1, "a", state, state + 1, -1.0 - i / 8, 0.0) for i in range(2)]
    arcs.append((0, 40, "b", 0, 40, -90.0, 0.0))
    assert [len(path.words) for path in nbest(make(arcs), 10)] == [40, 1]


@settings(max_examples=60)
@given(lattices(ties=True), sentences)
def test_oracle(lattice: Lattice, reference: list[str]) -> None:
    every = [(edit_distance(reference, said(lattice, path)), path) for path in paths(lattice)]
    fewest = min(errors for errors, _ in every)
    got = oracle(lattice, reference)
    assert got.errors == fewest == edit_distance(reference, got.path.words)
    best = max(score(lattice, path) for errors, path in every if errors == fewest)
    assert got.path.score == pytest.approx(best, abs=1e-6)


@settings(max_examples=60)
@given(lattices(), sentences, scales)
def test_expected_errors(lattice: Lattice, reference: list[str], scale: float) -> None:
    total = errors = 0.0
    for path in paths(lattice):
        p = math.exp(score(lattice, path, scale))
        total += p
        errors += p * edit_distance(reference, said(lattice, path))
    got = expected_errors(lattice, reference, scale=scale)
    assert got == pytest.approx(errors / total, abs=1e-9)


def test_expected_errors_with_fewer_rows_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest are kept: a lattice that is nearly sure of one path says its errors."""
    arcs: list[Any] = []
    for state in range(6):
        arcs.append((state, state + 1, "a", state, state + 1, 0.0, 0.0))
        arcs.append((state, state + 1, "b", state, state + 1, -20.0, 0.0))
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    assert expected_errors(make(arcs), ["a"] * 5) == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=60)
@given(lattices(max_states=7))
def test_determinised(lattice: Lattice) -> None:
    best: dict[tuple[str, ...], tuple[float, float]] = {}
    for path in paths(lattice):
        words, total = said(lattice, path), score(lattice, path)
        if words not in best or total > sum(best[words]):
            prior = math.fsum(float(lattice.prior[a]) for a in path)
            best[words] = (total - prior, prior)
    got = determinised(lattice)
    every = list(paths(got))
    assert len(every) == len({said(got, path) for path in every}) == len(best)
    for path in every:
        assert score(got, path) == pytest.approx(sum(best[said(got, path)]), abs=2e-3)
    top, want = best_path(got), best_path(lattice)
    assert top.score == pytest.approx(want.score, abs=2e-3)
    for state in range(got.num_states):
        arcs = np.flatnonzero(got.src == state)
        labels = [(got.word[a], got.dst[a] == got.num_states - 1) for a in arcs]
        assert len(set(labels)) == len(labels)


def test_determinised_stops_before_it_explodes() -> None:
    """Which `a` was said is known 12 words later only: 2^12 subsets."""
    arcs: list[Any] = [(0, 1, "a", 0, 1, 0.0, 0.0), (0, 1, "b", 0, 1, 0.0, 0.0)]
    for i in range(1, 14):
        arcs += [(i, i + 1, word, i, i + 1, -0.37 * i * (word == "a"), 0.0) for word in "ab"]
        arcs += [(0, i + 1, word, 0, i + 1, -0.1 * i, 0.0) for word in "ab"]
    lattice = make(arcs)
    with pytest.raises(LatticeError, match=r"more than 50\. Prune"):
        determinised(lattice, max_arcs=50)


@settings(max_examples=60)
@given(lattices(max_states=7), st.floats(0, 12))
def test_pruning_keeps_what_is_within_the_beam(lattice: Lattice, beam: float) -> None:
    every = {path: score(lattice, path) for path in paths(lattice)}
    best = max(every.values())
    through = np.full(lattice.num_arcs, -math.inf)
    for path, total in every.items():
        through[list(path)] = np.maximum(through[list(path)], total)
    np.testing.assert_allclose(arcs_behind(lattice), best - through, atol=1e-9)
    got = pruned(lattice, beam=beam)
    kept = sorted(
        (lattice.word_at(a), round(float(lattice.acoustic[a]), 5))
        for a in range(lattice.num_arcs)
        if best - through[a] <= beam - 1e-9
    )
    left = sorted((got.word_at(a), round(float(got.acoustic[a]), 5)) for a in range(got.num_arcs))
    assert all(left.count(arc) >= kept.count(arc) for arc in kept)
    assert best_path(got).score == pytest.approx(best)
    assert len(left) <= sum(best - through <= beam + 1e-9)


@settings(max_examples=60)
@given(lattices(max_states=7, ties=True), st.integers(1, 12))
def test_pruning_to_a_size(lattice: Lattice, most: int) -> None:
    best = best_path(lattice)
    got = pruned(lattice, max_arcs=most)
    assert got.num_arcs <= max(most, len(best.arcs))
    assert best_path(got).words == best.words
    assert best_path(got).score == pytest.approx(best.score)


def test_limits_out_of_range() -> None:
    lattice = make([(0, 1, "a", 0, 1, 0.0, 0.0)])
    for call in (
        lambda: pruned(lattice, beam=-1.0),
        lambda: pruned(lattice, beam=math.nan),
        lambda: pruned(lattice, max_arcs=0),
        lambda: nbest(lattice, 0),
        lambda: arc_posteriors(lattice, scale=0.0),
        lambda: arc_posteriors(lattice, scale=math.inf),
    ):
        with pytest.raises(ValueError, match="lattice: "):
            call()


@settings(max_examples=60)
@given(lattices(), scales)
def test_confidence_of_a_word_is_the_mass_of_paths_that_say_it_then(
    lattice: Lattice, scale: float
) -> None:
    masses = {path: math.exp(score(lattice, path, scale)) for path in paths(lattice)}
    path = best_path(lattice)
    got = word_confidences(lattice, path, scale=scale)
    assert len(got) == len(path.words)
    words = [arc for arc in path.arcs if lattice.word_at(arc) != NOTHING]

    def lasts(arc: int, frame: int) -> bool:
        end = max(lattice.end_frame[arc], lattice.start_frame[arc] + 1)
        return bool(lattice.start_frame[arc] <= frame < end)

    for arc, confidence in zip(words, got, strict=True):
        frames = range(
            lattice.start_frame[arc], max(lattice.end_frame[arc], lattice.start_frame[arc] + 1)
        )
        most = max(
            sum(
                mass * sum(lattice.word[a] == lattice.word[arc] and lasts(a, frame) for a in other)
                for other, mass in masses.items()
            )
            for frame in frames
        )
        assert confidence == pytest.approx(min(1.0, most / sum(masses.values())), abs=1e-9)


@settings(max_examples=60)
@given(lattices())
def test_json_is_exact(lattice: Lattice) -> None:
    same(from_json(to_json(lattice)), lattice)


def same(a: Lattice, b: Lattice) -> None:
    assert a.words == b.words
    for name in ("src", "dst", "word", "start_frame", "end_frame", "acoustic", "prior"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype


GOOD: list[Any] = [
    (0, 1, "turn", 0, 2, -1.0, 0.0),
    (0, 2, "burn", 0, 3, -2.0, 0.0),
    (1, 2, "on", 2, 3, -1.0, 0.5),
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": np.array([0, 0], np.int32)}, r"shape \(2,\)"),
        ({"dst": np.array([1, 2, 2], np.int64)}, "int64"),
        ({"dst": np.array([1, 2, 1], np.int32)}, "not up"),
        ({"src": np.array([0, 1, 0], np.int32)}, "not sorted"),
        ({"src": np.array([1, 1, 1], np.int32), "dst": np.full(3, 2, np.int32)}, "from state 0"),
        ({"dst": np.array([1, 3, 3], np.int32)}, "on no path"),
        ({"dst": np.array([2, 2, 2], np.int32)}, "state 1 of 3"),
        ({"src": np.array([0, 0, 0], np.int32)}, "state 1 of 3"),
        ({"dst": np.array([1, 2**31 - 1, 2], np.int32)}, "lie on no path"),
        ({"word": np.array([0, 3, 1], np.int32)}, r"0\.\.3"),
        ({"word": np.array([0, -1, 1], np.int32)}, r"-1\.\."),
        ({"words": ("a", "a", "b")}, "twice"),
        ({"words": ("a", " b", "c")}, "spaces"),
        ({"words": ("a", "b", "")}, "says nothing"),
        ({"acoustic": np.array([0, np.nan, 0], np.float32)}, "nan"),
        ({"prior": np.array([0, np.inf, 0], np.float32)}, "inf"),
        ({"acoustic": np.array([0, 2e9, 0], np.float32)}, "below 1e9"),
        ({"start_frame": np.array([0, -1, 2], np.int32)}, "frame -1"),
        ({"end_frame": np.array([2, 3, 1], np.int32)}, "from frame 2 to 1"),
    ],
)
def test_what_is_no_lattice(change: dict[str, Any], message: str) -> None:
    lattice = make(GOOD)
    fields: dict[str, Any] = {
        name: getattr(lattice, name) for name in to_json(lattice) if name != "version"
    }
    with pytest.raises(LatticeError, match=message):
        Lattice(**fields | change)


def test_a_lattice_without_arcs() -> None:
    none = np.zeros(0, np.int32)
    with pytest.raises(LatticeError, match="0 arcs"):
        Lattice(none, none, none, none, none, none.astype(np.float32), none.astype(np.float32), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 1"),
        ({"words": "abc"}, "'words'"),
        ({"words": [1]}, "'words'"),
        ({"src": [0, 0, True]}, "'src'"),
        ({"src": [0, 0.5, 1]}, "whole numbers"),
        ({"acoustic": [0, "1", 2]}, "'acoustic'"),
        ({"acoustic": [0, 1e300, 2]}, "inf"),
        ({"dst": [1, 10**40, 2]}, "out of range"),
        ({"prior": None}, "'prior'"),
        ({"prior": [0]}, r"shape \(1,\)"),
    ],
)
def test_json_that_is_no_lattice(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LatticeError, match=message):
        from_json(to_json(make(GOOD)) | change)
    with pytest.raises(LatticeError, match="no lattice"):
        from_json([change])


arc_lists = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 5),
        st.sampled_from(["a", "b", NOTHING]),
        st.integers(-5, 1),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=200)
@given(arc_lists, st.dictionaries(st.integers(0, 5), st.integers(-3, 0), min_size=1, max_size=3))
def test_assembled_says_what_the_graph_says(
    arcs: list[tuple[int, int, str, int]], finals: dict[int, int]
) -> None:
    """States of any order, empty arcs anywhere, several ends, cycles, dead ends."""
    rows = [Arc(s, d, w, s, s + 1, float(x), 0.0) for s, d, w, x in arcs]
    sentences: dict[tuple[str, ...], float] = {}
    cyclic = False

    def walk(state: int, words: tuple[str, ...], total: float, seen: frozenset[int]) -> None:
        nonlocal cyclic
        if state in seen:
            cyclic = True
            return
        if state in finals:
            sentences[words] = max(sentences.get(words, -math.inf), total + finals[state])
        for s, d, word, x in arcs:
            if s == state:
                walk(d, words + (word,) * (word != NOTHING), total + x, seen | {state})

    walk(3, (), 0.0, frozenset())
    ends = {state: float(x) for state, x in finals.items()}
    if cyclic or not sentences:
        with pytest.raises(LatticeError):
            assembled(rows, start=3, finals=ends)
        return
    lattice = assembled(rows, start=3, finals=ends)
    got: dict[tuple[str, ...], float] = {}
    for path in paths(lattice):
        words = said(lattice, path)
        got[words] = max(got.get(words, -math.inf), score(lattice, path))
    assert got == pytest.approx(sentences)


@settings(max_examples=300)
@given(lattices(max_states=7), st.integers(1, 12))
def test_states_of_one_time_become_one_and_the_best_path_stays(
    lattice: Lattice, squeeze: int
) -> None:
    """Times are squeezed, so that many states are reached at the same one."""
    squeezed = dataclasses.replace(
        lattice,
        start_frame=lattice.start_frame // squeeze,
        end_frame=lattice.end_frame // squeeze,
    )
    joined = time_conditioned(squeezed)
    best, before = best_path(joined), best_path(lattice)
    assert best.score == pytest.approx(before.score, abs=1e-4)
    scores = {path.words: path.score for path in nbest(lattice, 1000)}
    assert scores[best.words] == pytest.approx(before.score, abs=1e-4)
    assert joined.num_arcs <= lattice.num_arcs and joined.num_states <= lattice.num_states
    assert (joined.src < joined.dst).all()
    # Nothing scores above the best, and each word keeps the best path that ended in it.
    assert all(path.score <= best.score + 1e-4 for path in nbest(joined, 1000))
    keys = list(zip(joined.src.tolist(), joined.dst.tolist(), joined.word.tolist(), strict=True))
    assert len(set(keys)) == len(keys)
    posteriors = arc_posteriors(joined)
    assert posteriors[joined.src == 0].sum() == pytest.approx(1.0, abs=1e-9)


def test_what_followed_one_of_them_may_follow_all() -> None:
    lattice = make(
        [
            (0, 1, "a", 0, 3, -1.0, 0.0), (0, 2, "and", 0, 3, -2.0, 0.5),
            (1, 3, "on", 3, 6, -1.0, 0.0), (2, 3, "turn", 3, 6, -1.0, 0.0),
        ]
    )  # fmt: skip
    assert {path.text: path.score for path in nbest(lattice, 9)} == {"a on": -2.0, "and turn": -2.5}
    joined = time_conditioned(lattice)
    assert joined.num_states == 3
    assert {path.text: path.score for path in nbest(joined, 9)} == {
        "a on": -2.0, "and on": -2.5, "a turn": -2.5, "and turn": -3.0,
    }  # fmt: skip
