"""Which words go wrong, and examples of it. Knows cohorts as masks over utterances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from earshot.audit.results import Bools, Results
from earshot.audit.tokens import Texts

MIN_SAID = 5  # a word said less often says nothing about itself


@dataclass(frozen=True, slots=True)
class FailingWord:
    """A word and how it fares in a cohort.

    Args:
        word: The word.
        said: How often references of the cohort have it.
        wrong: How often it was substituted or left out.
        elsewhere: Share of wrong ones outside the cohort; None where it is hardly said there.
        heard_as: What was recognised instead, with how often; "" is nothing.
    """

    word: str
    said: int
    wrong: int
    elsewhere: float | None
    heard_as: tuple[tuple[str, int], ...]

    def as_dict(self) -> dict[str, object]:
        """As in the report."""
        return {
            "word": self.word,
            "said": self.said,
            "wrong": self.wrong,
            "elsewhere": self.elsewhere,
            "heard_as": [list(pair) for pair in self.heard_as],
        }


class WordCounts:
    """How often every word was said and got wrong; counted once, asked for many cohorts."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        lengths = np.diff(texts.ref_ends, prepend=0)
        self._row_of_word = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self._is_wrong = texts.error_pair[:, 0] >= 0  # insertions belong to no word
        self._said = np.bincount(texts.ref, minlength=len(texts.words))
        self._wrong = self._count_wrong(None)

    def _count_wrong(self, rows: Bools | None) -> npt.NDArray[np.int64]:
        chosen = self._is_wrong
        if rows is not None:
            chosen = chosen & rows[self._texts.error_row]
        return np.bincount(self._texts.error_pair[chosen, 0], minlength=len(self._texts.words))

    def failing(self, rows: Bools | None = None, *, most: int = 12) -> list[FailingWord]:
        """Words with the most errors that the average word of these utterances would not have.

        Args:
            rows: (N,) utterances; None is all.
            most: How many words.

        Returns:
            Words by errors beyond the average, most first.
        """
        texts = self._texts
        if rows is None:
            said, wrong = self._said, self._wrong
        else:
            said = np.bincount(texts.ref[rows[self._row_of_word]], minlength=len(texts.words))
            wrong = self._count_wrong(rows)
        if not said.sum():
            return []
        beyond = wrong - said * (wrong.sum() / said.sum())
        beyond[said < MIN_SAID] = 0
        found = []
        for word in np.argsort(-beyond, kind="stable")[:most].tolist():
            if beyond[word] <= 0:
                break
            chosen = texts.error_pair[:, 0] == word
            if rows is not None:
                chosen &= rows[texts.error_row]
            heard, times = np.unique(texts.error_pair[chosen, 1], return_counts=True)
            order = np.argsort(-times, kind="stable")[:3]
            other = int(self._said[word] - said[word])
            found.append(
                FailingWord(
                    texts.words[word],
                    int(said[word]),
                    int(wrong[word]),
                    None
                    if rows is None or other < MIN_SAID
                    else float((self._wrong[word] - wrong[word]) / other),
                    tuple(
                        (texts.words[heard[at]] if heard[at] >= 0 else "", int(times[at]))
                        for at in order
                    ),
                )
            )
        return found


@dataclass(frozen=True, slots=True)
class Example:
    """An utterance with errors.

    Args:
        row: Its index among the results.
        steps: (kind, reference word, recognised word) in order; kind is one of "hit", "sub",
            "del", "ins", and an absent word is "".
    """

    row: int
    steps: tuple[tuple[str, str, str], ...]


def examples(results: Results, rows: Bools, *, most: int = 4, seed: int = 0) -> list[Example]:
    """Utterances with errors, of different speakers, drawn at random and not by how bad they are.

    Args:
        results: With texts.
        rows: (N,) where to draw from.
        most: How many.
        seed: Of the draw.

    Returns:
        At most `most`; those with audio first, where there is audio.
    """
    if results.texts is None:
        return []
    wrong = np.flatnonzero(rows & (results.counts[:, 1:].sum(axis=1) > 0))
    if not len(wrong):
        return []
    rng = np.random.default_rng([seed, 0xE8])
    order = rng.permutation(wrong)[:2000]
    if results.audio is not None:
        order = np.array(sorted(order.tolist(), key=lambda row: not results.audio[row]))  # type: ignore[index]
    found: list[Example] = []
    seen: set[int] = set()
    units = results.unit_codes
    for row in order.tolist():
        if int(units[row]) not in seen:
            seen.add(int(units[row]))
            found.append(Example(row, _steps(results.texts, row)))
        if len(found) == most:
            break
    return found


def _steps(texts: Texts, row: int) -> tuple[tuple[str, str, str], ...]:
    """Hits put back between the errors, which are known in order."""
    first, last = np.searchsorted(texts.error_row, [row, row + 1])
    errors = texts.error_pair[first:last].tolist()
    ref, hyp = _numbers(texts.ref, texts.ref_ends, row), _numbers(texts.hyp, texts.hyp_ends, row)
    return tuple(
        (kind, texts.words[r] if r >= 0 else "", texts.words[h] if h >= 0 else "")
        for kind, r, h in replay(ref, hyp, errors)
    )


def replay(ref: list[int], hyp: list[int], errors: list[list[int]]) -> list[tuple[str, int, int]]:
    """Steps of an alignment from its errors in order: what lies between them are hits.

    Args:
        ref: Numbers of the reference's words.
        hyp: Numbers of the recognised words.
        errors: (reference, recognised) word, -1 for none, from left to right.

    Returns:
        (kind, reference word, recognised word) of every step. Where a hit could stand before or
        after an error, any place that fits is taken.

    Raises:
        ValueError: No alignment of the two has these errors.
    """
    path: list[tuple[str, int, int]] = []
    stack = [(0, 0, 0, _ways(ref, hyp, errors, 0, 0, 0))]
    dead: set[tuple[int, int]] = set()  # (words of the reference, errors); the rest follows
    while stack:
        i, j, k, ways = stack[-1]
        if i == len(ref) and j == len(hyp) and k == len(errors):
            return path
        if not ways:
            dead.add((i, k))
            stack.pop()
            path = path[:-1]
            continue
        step = ways.pop()
        kind, r, h = step
        i, j, k = i + (r >= 0), j + (h >= 0), k + (kind != "hit")
        if (i, k) not in dead:
            path.append(step)
            stack.append((i, j, k, _ways(ref, hyp, errors, i, j, k)))
    raise ValueError("words: no alignment of the two texts has these errors")


def _ways(
    ref: list[int], hyp: list[int], errors: list[list[int]], i: int, j: int, k: int
) -> list[tuple[str, int, int]]:
    """What may come next, the likeliest last."""
    found = []
    if k < len(errors):
        r, h = errors[k]
        if (r < 0 or ref[i : i + 1] == [r]) and (h < 0 or hyp[j : j + 1] == [h]):
            found.append(("ins" if r < 0 else "del" if h < 0 else "sub", r, h))
    if i < len(ref) and j < len(hyp) and ref[i] == hyp[j]:
        found.append(("hit", ref[i], hyp[j]))
    return found


def _numbers(flat: npt.NDArray[np.int32], ends: npt.NDArray[np.int64], row: int) -> list[int]:
    found: list[int] = flat[int(ends[row - 1]) if row else 0 : int(ends[row])].tolist()
    return found
