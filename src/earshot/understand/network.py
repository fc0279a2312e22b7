"""The network behind the statistical models: from words to scores of intents and slot labels.

A word is the sum of rows of one table: a row for the word itself and rows for its letter n-grams,
found by the CRC-32 of the feature's text, so that no strings are kept and an unseen feature is
left out rather than mistaken for another. Two windowed layers look at the neighbours; their
largest values over the sentence, beside the mean of the words and word pairs, decide the intent,
and a chain of label scores with transitions (a linear-chain CRF) decides the slots.

Plain numpy on batches of padded sentences. Knows nothing of files, of training or of what the
labels mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

WINDOW = 2  # words to each side that the first layer sees
SECOND_WINDOW = 1  # outputs of the first layer to each side that the second layer sees
MIN_GRAM, MAX_GRAM = 3, 5  # letters of an n-gram, the marks at a word's ends included
_MAX_SEEN = 50_000  # words whose rows are remembered
IMPOSSIBLE = -1e4  # the score of a transition that no labelling has; exp of it is 0 in float32


def word_features(word: str) -> tuple[int, ...]:
    """The hashed features of a word: itself first, then its letter n-grams.

    Args:
        word: In the recogniser's spelling.

    Returns:
        CRC-32 of `w:word` and of `c:gram` for every 3 to 5 letters of `<word>`, each once.
    """
    marked = f"<{word}>"
    grams = {
        f"c:{marked[at : at + size]}"
        for size in range(MIN_GRAM, MAX_GRAM + 1)
        for at in range(len(marked) - size + 1)
        if size < len(marked)
    }
    return (feature_key(f"w:{word}"), *map(feature_key, sorted(grams)))


def pair_features(words: Sequence[str]) -> list[int]:
    """The hashed features of neighbouring words, the ends of the sentence included.

    Args:
        words: The words of a sentence.

    Returns:
        CRC-32 of `p:left right` for every pair, in order; one more than there are words.
    """
    marked = ["<", *words, ">"]
    return [feature_key(f"p:{left} {right}") for left, right in pairwise(marked)]


def feature_key(feature: str) -> int:
    """What stands for a feature's text in a file: its CRC-32."""
    return zlib.crc32(feature.encode())


@dataclass(frozen=True, slots=True)
class Weights:
    """Everything that is learned. R rows of width D, hidden width H, I intents, L slot labels.

    Args:
        table: (R, D) a row for each feature.
        first: ((2 * WINDOW + 1) * D, H) first layer, words oldest first.
        first_bias: (H,).
        second: ((2 * SECOND_WINDOW + 1) * H, H) second layer.
        second_context: (H, H) from the sentence's largest first-layer values.
        second_bias: (H,).
        intent: (2 * D + 2 * H, I) from mean word, mean pair, and both layers' largest values.
        intent_bias: (I,).
        label: (2 * H, L) from both layers to label scores.
        label_bias: (L,).
        transition: (L + 1, L) from label to label; the last row starts a sentence.
    """

    table: Floats
    first: Floats
    first_bias: Floats
    second: Floats
    second_context: Floats
    second_bias: Floats
    intent: Floats
    intent_bias: Floats
    label: Floats
    label_bias: Floats
    transition: Floats

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True, slots=True)
class Batch:
    """S sentences as rows of the table, padded to T words.

    Args:
        word: (S, T) index into the U distinct words; padding is U.
        word_rows: Rows of the distinct words, one word after the other.
        word_begin: (U + 1,) where each word's rows begin.
        pair_rows: Rows of the word pairs, one sentence after the other.
        pair_begin: (S + 1,) where each sentence's pairs begin.
        length: (S,) words of each sentence, >= 1.
    """

    word: Ints
    word_rows: Ints
    word_begin: Ints
    pair_rows: Ints
    pair_begin: Ints
    length: Ints

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(S, T): True where there is a word."""
        return np.arange(self.word.shape[1])[None, :] < self.length[:, None]


class Vocabulary:
    """Which features have a row.

    Args:
        keys: (R,) CRC-32 of the features, increasing; a feature's place is its row.
    """

    def __init__(self, keys: npt.NDArray[np.uint32]) -> None:
        self.keys = keys
        self._rows = {int(key): row for row, key in enumerate(keys)}
        self._seen: dict[str, list[int]] = {}  # words that were looked up, and their rows

    def __len__(self) -> int:
        return len(self.keys)

    def knows(self, word: str) -> bool:
        """Whether a word has a row of its own."""
        return word_features(word)[0] in self._rows

    def rows(self, features: Sequence[int]) -> list[int]:
        """The rows of those features that have one."""
        known = self._rows
        return [known[feature] for feature in features if feature in known]

    def batch(self, sentences: Sequence[Sequence[str]]) -> Batch:
        """Sentences as rows.

        Args:
            sentences: Words of each sentence, at least one each.

        Returns:
            The batch, in the given order.
        """
        distinct: dict[str, int] = {}
        for words in sentences:
            for word in words:
                distinct.setdefault(word, len(distinct))
        per_word = [self._word_rows(word) for word in distinct]
        per_sentence = [self.rows(pair_features(words)) for words in sentences]
        length = np.array([len(words) for words in sentences], np.int64)
        index = np.full((len(sentences), int(length.max())), len(distinct), np.int64)
        for at, words in enumerate(sentences):
            index[at, : len(words)] = [distinct[word] for word in words]
        return Batch(index, *_flat(per_word), *_flat(per_sentence), length)

    def _word_rows(self, word: str) -> list[int]:
        if word not in self._seen:
            if len(self._seen) >= _MAX_SEEN:
                self._seen.clear()
            self._seen[word] = self.rows(word_features(word))
        return self._seen[word]


def _flat(lists: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    begin = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(rows) for rows in lists], out=begin[1:])
    return np.array([row for rows in lists for row in rows], np.int64), begin


def segment_sums(rows: Floats, begin: Ints) -> Floats:
    """Sums over stretches of rows.

    Args:
        rows: (N, D).
        begin: (G + 1,) where each stretch begins; empty stretches are allowed.

    Returns:
        (G, D), zeros for empty stretches.
    """
    sums = np.zeros((len(begin) - 1, rows.shape[1]), np.float32)
    filled = begin[1:] > begin[:-1]
    if filled.any():
        sums[filled] = np.add.reduceat(rows, begin[:-1][filled], axis=0)
    return sums


def root_weights(begin: Ints) -> Floats:
    """(G, 1): one over the square root of each stretch's length; 1 for empty ones."""
    counts = np.maximum(np.diff(begin), 1)
    return (1 / np.sqrt(counts)).astype(np.float32)[:, None]


def windows(values: Floats, reach: int) -> Floats:
    """Every position with its neighbours, zeros beyond the ends.

    Args:
        values: (S, T, D).
        reach: Neighbours to each side.

    Returns:
        (S, T, (2 * reach + 1) * D), oldest first.
    """
    size, time, width = values.shape
    padded = np.zeros((size, time + 2 * reach, width), np.float32)
    padded[:, reach : reach + time] = values
    return np.concatenate([padded[:, at : at + time] for at in range(2 * reach + 1)], axis=2)


@dataclass(frozen=True, slots=True)
class Activations:
    """What a forward pass computed; the fields that a backward pass needs are kept.

    Args:
        words: (S, T, D) rows summed, zeros at padding.
        mean: (S, 2 * D) words and pairs of the sentence.
        first: (S, T, H) first layer after its threshold, zeros at padding.
        second: (S, T, H) second layer alike.
        peak: (S, H) largest first-layer values.
        second_peak: (S, H) largest second-layer values.
        intent: (S, I) scores.
        label: (S, T, L) scores.
    """

    words: Floats
    mean: Floats
    first: Floats
    second: Floats
    peak: Floats
    second_peak: Floats
    intent: Floats
    label: Floats


@dataclass(frozen=True, slots=True)
class Gains:
    """Factors that training multiplies in, zero for what it drops.

    Args:
        words: (S, T, 1).
        first: (S, T, H).
        second: (S, T, H).
        mean: (S, 2 * D).
        peaks: (S, 2 * H).
    """

    words: Floats
    first: Floats
    second: Floats
    mean: Floats
    peaks: Floats


def forward(weights: Weights, batch: Batch, gains: Gains | None = None) -> Activations:
    """Scores of every intent, and of every label at every word.

    Args:
        weights: The network.
        batch: S sentences of at most T words.
        gains: What training drops; None for use.

    Returns:
        The scores and what led to them.
    """
    mask = batch.mask[:, :, None]
    distinct = segment_sums(weights.table[batch.word_rows], batch.word_begin)
    distinct *= root_weights(batch.word_begin)
    padding = np.zeros((1, distinct.shape[1]), np.float32)
    words = np.concatenate([distinct, padding])[batch.word]
    if gains is not None:
        words = words * gains.words
    pairs = segment_sums(weights.table[batch.pair_rows], batch.pair_begin)
    mean = np.concatenate([words.sum(axis=1), pairs], axis=1)
    mean /= np.sqrt(batch.length.astype(np.float32))[:, None]

    first = np.maximum(windows(words, WINDOW) @ weights.first + weights.first_bias, 0) * mask
    if gains is not None:
        first = first * gains.first
    peak = first.max(axis=1)
    second = windows(first, SECOND_WINDOW) @ weights.second + weights.second_bias
    second += (peak @ weights.second_context)[:, None, :]
    second = np.maximum(second, 0) * mask
    if gains is not None:
        second = second * gains.second
    second_peak = second.max(axis=1)

    peaks = np.concatenate([peak, second_peak], axis=1)
    if gains is not None:
        mean, peaks = mean * gains.mean, peaks * gains.peaks
    intent = np.concatenate([mean, peaks], axis=1) @ weights.intent + weights.intent_bias
    label = np.concatenate([first, second], axis=2) @ weights.label + weights.label_bias
    return Activations(words, mean, first, second, peak, second_peak, intent, label)


def best_labels(label: Floats, transition: Floats) -> tuple[list[int], float]:
    """The labelling of highest score (Viterbi).

    Args:
        label: (T, L) scores of one sentence.
        transition: (L + 1, L), the last row starts a sentence.

    Returns:
        A label for every word, and the score of the whole.
    """
    score = label[0] + transition[-1]
    came_from = np.zeros(label.shape, np.int64)
    for at in range(1, len(label)):
        candidates = score[:, None] + transition[:-1]
        came_from[at] = candidates.argmax(axis=0)
        score = candidates.max(axis=0) + label[at]
    path = [int(score.argmax())]
    for at in range(len(label) - 1, 0, -1):
        path.append(int(came_from[at, path[-1]]))
    return path[::-1], float(score.max())


def softmax(scores: Floats) -> Floats:
    """Probabilities over the last axis."""
    raised: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    raised /= raised.sum(axis=-1, keepdims=True)
    return raised
