"""Random small lattices, and what they say by listing every path: no dynamic programming."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from hypothesis import strategies as st

from earshot.decode.lattice import NOTHING, Lattice

VOCABULARY = ("a", "and", "on", "turn", "éclair", "two words")


def make(
    arcs: Sequence[tuple[int, int, str, int, int, float, float]], words: Sequence[str] | None = None
) -> Lattice:
    """A lattice from (src, dst, word, start, end, acoustic, prior), sorted here."""
    arcs = sorted(arcs, key=lambda arc: arc[0])
    words = tuple(words or dict.fromkeys(arc[2] for arc in arcs))
    columns = list(zip(*arcs, strict=True))
    return Lattice(
        np.array(columns[0], np.int32),
        np.array(columns[1], np.int32),
        np.array([words.index(word) for word in columns[2]], np.int32),
        np.array(columns[3], np.int32),
        np.array(columns[4], np.int32),
        np.array(columns[5], np.float32),
        np.array(columns[6], np.float32),
        words,
    )


@st.composite
def lattices(draw: st.DrawFn, *, max_states: int = 6, ties: bool = False) -> Lattice:
    """Up to a few dozen paths, with words that start where those before have ended."""
    states = draw(st.integers(2, max_states))
    pairs = [(i, i + 1) for i in range(states - 1)]  # one path that goes through all states
    more = st.tuples(st.integers(0, states - 2), st.integers(1, states - 1)).filter(
        lambda pair: pair[0] < pair[1]
    )
    pairs += draw(st.lists(more, max_size=8))
    score = st.integers(-8, 2).map(float) if ties else st.floats(-9, 2, width=32)
    arcs = []
    for src, dst in pairs:
        word = draw(st.sampled_from(VOCABULARY))
        start = 5 * src + draw(st.integers(0, 2))
        end = 5 * dst - draw(st.integers(0, 2))
        prior = draw(st.sampled_from([0.0, 0.0, 1.5, -0.25]))
        arcs.append((src, dst, word, start, end, draw(score), prior))
    if draw(st.booleans()):
        arcs.append((0, states - 1, NOTHING, 0, 0, draw(score), 0.0))
    return make(arcs)


def paths(lattice: Lattice) -> Iterator[tuple[int, ...]]:
    """Every path, as its arcs."""

    def onwards(state: int) -> Iterator[tuple[int, ...]]:
        if state == lattice.num_states - 1:
            yield ()
        for arc in np.flatnonzero(lattice.src == state):
            for rest in onwards(int(lattice.dst[arc])):
                yield (int(arc), *rest)

    return onwards(0)


def said(lattice: Lattice, path: Sequence[int]) -> tuple[str, ...]:
    words = (lattice.words[lattice.word[arc]] for arc in path)
    return tuple(word for word in words if word != NOTHING)


def score(lattice: Lattice, path: Sequence[int], scale: float = 1.0) -> float:
    return math.fsum(scale * float(lattice.acoustic[a]) + float(lattice.prior[a]) for a in path)


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """By recursion over both ends, remembered; another way than by rows."""
    known: dict[tuple[int, int], int] = {}
    for i, j in itertools.product(range(len(reference) + 1), range(len(hypothesis) + 1)):
        if not i or not j:
            known[i, j] = i + j
            continue
        known[i, j] = min(
            known[i - 1, j] + 1,
            known[i, j - 1] + 1,
            known[i - 1, j - 1] + (reference[i - 1] != hypothesis[j - 1]),
        )
    return known[len(reference), len(hypothesis)]
