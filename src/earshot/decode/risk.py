"""Chooses by expected word errors: the reading that all the others differ from least.

The likeliest sentence is often not the one whose words are likeliest to be right: many readings
that are each a little less likely may agree on a word against it. Knows word sequences and their
scores, and not where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from earshot import _native

__all__ = ["edit_distances", "expected_word_errors"]

_F64 = npt.NDArray[np.float64]


def edit_distances(sentences: Sequence[Sequence[str]]) -> _F64:
    """Word errors of each sentence against each.

    Args:
        sentences: N sequences of words.

    Returns:
        Shape (N, N), symmetric, zeros on its diagonal.
    """
    if not sentences:
        return np.zeros((0, 0))
    number: dict[str, int] = {}
    ids = [
        np.array([number.setdefault(word, len(number)) for word in sentence], np.int32)
        for sentence in sentences
    ]
    distances: _F64 = _native.edit_distances(
        np.concatenate(ids), np.cumsum([len(row) for row in ids], dtype=np.int64)
    ).astype(np.float64)
    return distances


def expected_word_errors(distances: _F64, scores: _F64, *, scale: float) -> _F64:
    """Word errors of each reading on average, were another of them what was said.

    Args:
        distances: Shape (N, N), as `edit_distances` gives them.
        scores: Shape (N,) or (N, K) for K ways to score: log scores, nats, up to a constant.
        scale: Multiplies them before they become probabilities, > 0: below 1 flattens a model
            that is too sure.

    Returns:
        Shape of `scores`: the lowest is the minimum of the Bayes risk.

    Source:
        Stolcke, Koenig and Weintraub, "Explicit word error minimization in N-best list
        rescoring", Eurospeech 1997.
    """
    mass = np.exp(scale * (scores - scores.max(axis=0)))
    errors: _F64 = distances @ (mass / mass.sum(axis=0))
    return errors
