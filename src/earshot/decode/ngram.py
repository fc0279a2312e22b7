"""Back-off language models: estimated from counts, pruned, and asked; over symbols 0..V-1.

A table is a trie: order k holds its n-grams sorted by the row of the n-gram without its last
symbol, then by that symbol. Symbol 0 is an unknown word, 1 the beginning and the end of a
sentence. Logarithms are natural. Knows nothing of what symbols stand for, of files, or of the
engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = [
    "BOUNDARY",
    "MAX_ORDER",
    "UNKNOWN",
    "Ngrams",
    "Order",
    "estimate",
    "prune",
    "score",
    "sentence_score",
]

UNKNOWN, BOUNDARY = 0, 1
MAX_ORDER = 6
IMPOSSIBLE = -99 * math.log(10)  # what ARPA files say of the beginning of a sentence

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """All n-grams of one length.

    Args:
        parent: Shape (N,), ascending: row of the n-gram without its last symbol, in the order
            below; zeros for single symbols.
        symbol: Shape (N,), ascending within a parent. Single symbols are 0..V-1.
        log_prob: Shape (N,), <= 0.
        backoff: Shape (N,): logarithm of the weight of shorter contexts; zeros at the highest
            order.
    """

    parent: _I64
    symbol: _I64
    log_prob: _F64
    backoff: _F64

    def __len__(self) -> int:
        """How many n-grams."""
        return len(self.symbol)


@dataclass(frozen=True, slots=True, eq=False)
class Ngrams:
    """A back-off model.

    Args:
        orders: From single symbols on.
        mass: For each order, how often training text had the n-gram, as a share of all symbols;
            None where that is not known. Only pruning asks.
    """

    orders: tuple[Order, ...]
    mass: tuple[_F64, ...] | None = None

    @property
    def vocabulary(self) -> int:
        """V."""
        return len(self.orders[0])

    def keys(self, k: int) -> _I64:
        """Ascending and unique: parent times V plus symbol, for the n-grams of k + 1 symbols."""
        order = self.orders[k]
        return order.parent * self.vocabulary + order.symbol

    def rows(self, k: int, parents: _I64, symbols: _I64) -> _I64:
        """Rows of n-grams by parent and symbol; -1 where there is none, or no parent."""
        keys = self.keys(k)
        if len(keys) == 0:
            return np.full(len(parents), -1, np.int64)
        wanted = parents * self.vocabulary + symbols
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((keys[at] == wanted) & (parents >= 0), at, -1)

    def suffixes(self, k: int) -> _I64:
        """For the n-grams of k + 1 symbols, the row of the same without the first symbol; or -1."""
        order = self.orders[k]
        if k == 0:
            return np.full(len(order), -1, np.int64)
        if k == 1:
            return order.symbol
        return self.rows(k - 1, self.suffixes(k - 1)[order.parent], order.symbol)


def estimate(
    sentences: Sequence[Sequence[int]],
    *,
    vocabulary: int,
    order: int,
    never: Sequence[int] = (),
    continuation: bool = True,
) -> Ngrams:
    """Interpolated modified Kneser-Ney, written as a back-off model.

    Args:
        sentences: Symbols of each, without its beginning and end; 0 stands for unknown words.
        vocabulary: V, the unknown symbol and the boundary included.
        order: Symbols of the longest n-grams, 1..6.
        never: Symbols that have no probability at all, such as a blank.
        continuation: Whether shorter n-grams count in how many contexts they occurred, as
            Kneser and Ney do. Otherwise how often, which suits heavy pruning better.

    Returns:
        The model; probabilities of all symbols but `never` sum to one after every context.

    Raises:
        ValueError: There is no sentence, or a symbol or the order is out of its range.

    Source:
        Chen and Goodman, "An empirical study of smoothing techniques for language modeling",
        Computer Speech and Language 13, 1999.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"language model: the order is {order}; it must be in 1..{MAX_ORDER}.")
    if not sentences:
        raise ValueError("language model: there are 0 sentences; there must be one at least.")
    text = np.concatenate(
        [np.array([BOUNDARY, *sentence, BOUNDARY], np.int64) for sentence in sentences]
    )
    if text.min() < 0 or text.max() >= vocabulary:
        raise ValueError(f"language model: symbols must be in 0..{vocabulary - 1}.")
    lengths = np.array([len(sentence) + 2 for sentence in sentences])
    place = np.arange(len(text)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

    # Rows of the n-gram that ends at each position of the text; -1: it would cross a boundary.
    ends = [text]
    parents, symbols = [np.zeros(vocabulary, np.int64)], [np.arange(vocabulary)]
    counts = [np.bincount(text[place > 0], minlength=vocabulary)]
    suffixes: list[_I64] = [np.full(vocabulary, -1)]
    for k in range(1, order):
        at = np.flatnonzero(place >= k)
        keys = ends[-1][at - 1] * vocabulary + text[at]
        unique, first, inverse, count = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        row = np.full(len(text), -1, np.int64)
        row[at] = inverse.reshape(-1)
        parents.append(unique // vocabulary)
        symbols.append(unique % vocabulary)
        counts.append(count)
        suffixes.append(ends[-1][at[first]])
        ends.append(row)

    total = int(counts[0].sum())
    mass = tuple(count / total for count in counts)
    possible = np.ones(vocabulary, bool)
    possible[list(never)] = False
    orders: list[Order] = []
    below: _F64 = np.where(possible, 1 / possible.sum(), 0.0)  # of the order below, by row
    for k in range(order):
        used = counts[k].astype(np.float64)
        if continuation and k + 1 < order:
            contexts = np.bincount(suffixes[k + 1], minlength=len(used)).astype(np.float64)
            # Nothing comes before the beginning of a sentence: there only counts can tell.
            used = np.where(contexts > 0, contexts, used)
        discounts = _discounts(used)
        kept = np.maximum(used - discounts[np.minimum(used, 3).astype(np.int64)], 0.0)
        groups = len(parents[k - 1]) if k else 1
        sums = np.bincount(parents[k], weights=used, minlength=groups)
        freed = np.bincount(parents[k], weights=used - kept, minlength=groups)
        share = np.divide(freed, sums, out=np.ones(groups), where=sums > 0)
        lower = below[suffixes[k]] if k else below
        probability = kept / np.maximum(sums, 1e-300)[parents[k]] + share[parents[k]] * lower
        if k:
            orders[-1] = replace(orders[-1], backoff=np.log(share))
        else:
            probability = np.where(possible, probability, 0.0)
        log_prob = np.full(len(probability), IMPOSSIBLE)
        np.log(probability, out=log_prob, where=probability > 0)
        orders.append(Order(parents[k], symbols[k], log_prob, np.zeros(len(log_prob))))
        below = probability
    return Ngrams(tuple(orders), mass)


def _discounts(counts: _F64) -> _F64:
    """What is taken off counts of 0, 1, 2, and 3 or more."""
    of = [float((counts == c).sum()) for c in range(1, 5)]
    out = np.zeros(4)
    if of[0] == 0 or of[1] == 0:
        out[1:] = 0.5  # too little text to estimate it from
        return out
    y = of[0] / (of[0] + 2 * of[1])
    for c in range(1, 4):
        ratio = of[c] / of[c - 1] if of[c - 1] else 0.0
        out[c] = min(max(c - (c + 1) * y * ratio, 0.05), c)
    return out


def prune(model: Ngrams, *, most: int) -> Ngrams:
    """Drop the n-grams that matter least, so that at most some are left; single symbols stay.

    An n-gram matters by how often it occurs times how much its logarithm differs from what
    shorter contexts would say. The back-off weights are set anew, so that probabilities
    still sum to one.

    Args:
        model: From `estimate`.
        most: N-grams to be left, single symbols not counted, >= 0.

    Returns:
        The smaller model.

    Raises:
        ValueError: The model does not know how often its n-grams occur.

    Source:
        Seymore and Rosenfeld, "Scalable backoff language models", ICSLP 1996.
    """
    if model.mass is None:
        raise ValueError("language model: pruning needs counts, which a model from a file lacks.")
    losses = [np.full(model.vocabulary, math.inf)]
    for k in range(1, len(model.orders)):
        order = model.orders[k]
        backed = _backed_off(model, k)
        losses.append(model.mass[k] * np.maximum(order.log_prob - backed, 0.0))
    # An n-gram that stays needs the one without its last symbol, to be found below it, and the one
    # without its first, to be what follows is read with: they are worth as much as the best of it.
    for k in range(len(losses) - 1, 1, -1):
        np.maximum.at(losses[k - 1], model.orders[k].parent, losses[k])
        suffix = model.suffixes(k)
        np.maximum.at(losses[k - 1], suffix[suffix >= 0], losses[k][suffix >= 0])
    every = np.concatenate(losses[1:]) if len(losses) > 1 else np.zeros(0)
    floor = -math.inf if len(every) <= most else np.sort(every)[len(every) - most - 1]
    keep = [losses[0] > -1] + [loss > floor for loss in losses[1:]]
    orders: list[Order] = []
    mass: list[_F64] = []
    renumbered = np.zeros(1, np.int64)
    for k, order in enumerate(model.orders):
        parent = renumbered[order.parent][keep[k]] if k else order.parent
        orders.append(
            Order(parent, order.symbol[keep[k]], order.log_prob[keep[k]], order.backoff[keep[k]])
        )
        mass.append(model.mass[k][keep[k]])
        renumbered = np.cumsum(keep[k]) - 1
    while len(orders) > 1 and len(orders[-1]) == 0:
        orders.pop()
        mass.pop()
    return _normalised(Ngrams(tuple(orders), tuple(mass)))


def _backed_off(model: Ngrams, k: int) -> _F64:
    """Of the n-grams of k + 1 symbols, what shorter contexts say of them."""
    order = model.orders[k]
    context = model.orders[k - 1]
    suffix = model.suffixes(k)
    lower = model.orders[k - 1].log_prob[np.maximum(suffix, 0)]
    missing = np.flatnonzero(suffix < 0)
    for row in missing:  # the n-gram without its first symbol was dropped
        lower[row] = score(model, _symbols(model, k, int(row))[1:])
    return np.asarray(context.backoff[order.parent] + lower)


def _symbols(model: Ngrams, k: int, row: int) -> list[int]:
    out: list[int] = []
    for j in range(k, -1, -1):
        out.append(int(model.orders[j].symbol[row]))
        row = int(model.orders[j].parent[row])
    return out[::-1]


def _normalised(model: Ngrams) -> Ngrams:
    """The same with back-off weights that make all probabilities sum to one, shorter ones first."""
    orders = list(model.orders)
    for k in range(1, len(orders)):
        # Weights of the contexts of k symbols only ask for shorter ones, which are done.
        so_far = Ngrams(tuple(orders))
        order = orders[k]
        groups = len(orders[k - 1])
        backed = _backed_off(so_far, k) - orders[k - 1].backoff[order.parent]
        own = np.bincount(order.parent, weights=np.exp(order.log_prob), minlength=groups)
        other = np.bincount(order.parent, weights=np.exp(backed), minlength=groups)
        weight = np.maximum(1 - own, 1e-9) / np.maximum(1 - other, 1e-9)
        has = np.bincount(order.parent, minlength=groups) > 0
        orders[k - 1] = replace(orders[k - 1], backoff=np.where(has, np.log(weight), 0.0))
    orders[-1] = replace(orders[-1], backoff=np.zeros(len(orders[-1])))
    return Ngrams(tuple(orders), model.mass)


def score(model: Ngrams, symbols: Sequence[int]) -> float:
    """Log-probability of the last symbol after those before it; slow, and plain to read.

    Args:
        model: Any.
        symbols: At least one; a beginning of a sentence is symbol 1.
    """
    symbols = list(symbols)[-len(model.orders) :]
    context, last = symbols[:-1], symbols[-1]
    row = _find(model, [*context, last])
    if row >= 0:
        return float(model.orders[len(context)].log_prob[row])
    held = _find(model, context) if context else -1
    backoff = float(model.orders[len(context) - 1].backoff[held]) if held >= 0 else 0.0
    return backoff + score(model, [*context[1:], last])


def _find(model: Ngrams, symbols: Sequence[int]) -> int:
    row = int(symbols[0])
    for k, symbol in enumerate(symbols[1:], start=1):
        row = int(model.rows(k, np.array([row]), np.array([symbol]))[0])
        if row < 0:
            return -1
    return row


def sentence_score(model: Ngrams, symbols: Sequence[int]) -> float:
    """Log-probability of a whole sentence, its end included.

    Args:
        model: Any.
        symbols: Without beginning and end.
    """
    text = [BOUNDARY, *symbols, BOUNDARY]
    return sum(score(model, text[: end + 1]) for end in range(1, len(text)))
