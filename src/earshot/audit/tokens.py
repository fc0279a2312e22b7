"""Texts as numbers, and their alignment: what counts as a word, and which words went wrong.

A text is normalised word by word through a table that remembers every spelling seen, which
gives the same words as normalising the whole text and is much faster. Knows nothing of
speakers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from earshot import _native
from earshot.data.text import normalise

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

TEXT_FORMS = ("normalised", "as-is")
UNITS = ("words", "characters")
_DESCRIPTIONS = {
    "normalised": "lower case; apostrophes inside words stay; hyphens and slashes part words; "
    "all other punctuation goes; numbers are not spelled out",
    "as-is": "as written: case and punctuation count",
}


def describe_text(form: str, unit: str) -> str:
    """What is done to texts before they are compared, for the report."""
    what = "words between spaces" if unit == "words" else "single characters, spaces left out"
    return f"{_DESCRIPTIONS[form]}; compared are {what}"


class WordTable(dict[str, tuple[int, ...]]):
    """From a stretch of text without spaces to the numbers of its words.

    Args:
        form: One of `TEXT_FORMS`.
        unit: One of `UNITS`.
    """

    def __init__(self, form: str = "normalised", unit: str = "words") -> None:
        super().__init__()
        self._form, self._unit = form, unit
        self.numbers: dict[str, int] = {}

    def __missing__(self, raw: str) -> tuple[int, ...]:
        words = normalise(raw).split() if self._form == "normalised" else [raw]
        parts = words if self._unit == "words" else "".join(words)
        found = tuple([self.numbers.setdefault(part, len(self.numbers)) for part in parts])
        self[raw] = found
        return found

    def encode(self, texts: Iterable[str]) -> tuple[Int32s, Int64s]:
        """Numbers of all words of all texts, and the end of each text in them.

        Args:
            texts: N of them.

        Returns:
            (T,) word numbers and (N,) running totals of lengths.
        """
        flat: list[int] = []
        ends: list[int] = []
        for text in texts:
            for raw in text.split():
                flat += self[raw]
            ends.append(len(flat))
        return np.array(flat, np.int32), np.array(ends, np.int64)

    @property
    def words(self) -> list[str]:
        """The words by number."""
        return list(self.numbers)


@dataclass(frozen=True, slots=True)
class Texts:
    """References, hypotheses and the errors between them, as columns.

    Args:
        words: Word by number.
        ref: (T,) word numbers of all references, one after the other.
        ref_ends: (N,) where each ends.
        hyp: (U,) word numbers of all hypotheses.
        hyp_ends: (N,) where each ends.
        error_row: (E,) utterance of each error, never falling.
        error_pair: (E, 2) reference and recognised word; -1 where there is none.
    """

    words: list[str]
    ref: Int32s
    ref_ends: Int64s
    hyp: Int32s
    hyp_ends: Int64s
    error_row: Int32s
    error_pair: Int32s

    def reference(self, row: int) -> list[str]:
        """Words of a reference."""
        return _stretch(self.words, self.ref, self.ref_ends, row)

    def hypothesis(self, row: int) -> list[str]:
        """Words of a hypothesis."""
        return _stretch(self.words, self.hyp, self.hyp_ends, row)


def _stretch(words: list[str], flat: Int32s, ends: Int64s, row: int) -> list[str]:
    start = int(ends[row - 1]) if row else 0
    return [words[number] for number in flat[start : int(ends[row])]]


def align(ref: Int32s, ref_ends: Int64s, hyp: Int32s, hyp_ends: Int64s) -> tuple[Int32s, ...]:
    """Align many utterances; see `Texts` for the shapes.

    Returns:
        Counts (N, 4) of hits, substitutions, deletions and insertions; `error_row`;
        `error_pair`.
    """
    return _native.align_batch(ref, ref_ends, hyp, hyp_ends)
