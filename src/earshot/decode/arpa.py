"""ARPA files: back-off language models as text, read strictly and written.

Every line is checked, and the first that is not as it must be is named. Knows nothing of what the
words of a file are, nor of the engine's own table; see `decode.language_model`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from earshot.core.errors import LanguageModelError
from earshot.data.atomic import replaced_file
from earshot.decode.ngram import BOUNDARY, IMPOSSIBLE, MAX_ORDER, UNKNOWN, Ngrams, Order

__all__ = ["MAX_NGRAMS", "MAX_WORDS", "Arpa", "read_arpa", "write_arpa"]

MAX_WORDS = 65_536  # the engine's symbols have 16 bits
MAX_NGRAMS = 50_000_000
MAX_LINE_CHARS = 10_000
LN10 = math.log(10)
BEGIN, END, UNKNOWN_WORD = "<s>", "</s>", "<unk>"
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_COUNT = re.compile(r"ngram\s+(\d{1,2})\s*=\s*(\d{1,12})")


@dataclass(frozen=True, slots=True, eq=False)
class Arpa:
    """What a file says.

    Args:
        words: Of symbols 2..V-1; symbol 0 is `<unk>`, 1 is `<s>` and `</s>`.
        ngrams: The model.
    """

    words: tuple[str, ...]
    ngrams: Ngrams


class _Lines:
    """Lines that hold something, with their numbers for messages."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = iter(enumerate(text.split("\n"), start=1))
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for number, raw in self._lines:
            self.number = number
            line = raw.strip()
            if len(line) > MAX_LINE_CHARS:
                self.fail(f"the line has {len(line):,} characters", "no n-gram is as long")
            if line:
                yield line

    def take(self, wanted: str) -> str:
        line = next(iter(self), None)
        if line is None:
            self.fail(f"the file ends before {wanted}", "copy it again; it is cut short")
        return line

    def fail(self, problem: str, remedy: str) -> NoReturn:
        raise LanguageModelError(f"{self._path}:{self.number}", problem, remedy=remedy) from None


def read_arpa(path: str | Path) -> Arpa:
    r"""Read an ARPA file.

    Args:
        path: UTF-8 text: `\data\`, a count for each order, then a section of each order
            with log10 probability, words and back-off weight, and `\end\`.

    Returns:
        The model. A word that is missing, `<unk>` too, has the probability of `<unk>`, and
        without one that of the rarest word.

    Raises:
        LanguageModelError: The file cannot be read or is not as said; it names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        problem = "there is no such file" if isinstance(err, FileNotFoundError) else str(err)
        raise LanguageModelError(
            path, f"it cannot be read ({problem})", remedy="Name an ARPA file in UTF-8"
        ) from None
    lines = _Lines(path, text)
    for line in lines:  # some tools write remarks first
        if line == "\\data\\":
            break
    else:
        lines.fail(r"there is no line '\data\'", "name an ARPA file, not a binary model")
    counts: list[int] = []
    for line in lines:
        found = _COUNT.fullmatch(line)
        if not found:
            break
        if int(found[1]) != len(counts) + 1:
            lines.fail(f"'{line}' is not of order {len(counts) + 1}", "write orders in order")
        counts.append(int(found[2]))
    else:
        lines.fail("the file ends before the first n-gram", "copy it again; it is cut short")
    if not 1 <= len(counts) <= MAX_ORDER:
        lines.fail(f"the file has {len(counts)} orders", f"it must have 1..{MAX_ORDER} of them")
    if counts[0] > MAX_WORDS or sum(counts) > MAX_NGRAMS:
        lines.fail(
            f"the file has {counts[0]:,} words and {sum(counts):,} n-grams",
            f"at most {MAX_WORDS:,} and {MAX_NGRAMS:,} are allowed; prune the model",
        )
    ids: dict[str, int] = {UNKNOWN_WORD: UNKNOWN, BEGIN: BOUNDARY, END: BOUNDARY}
    orders: list[Order] = []
    rows: dict[tuple[int, ...], int] = {}
    for k, count in enumerate(counts):
        if line != f"\\{k + 1}-grams:":
            lines.fail(f"here is '{line[:40]}'", f"there must be '\\{k + 1}-grams:'")
        order, rows = _section(lines, k, count, last=k + 1 == len(counts), ids=ids, shorter=rows)
        orders.append(order)
        line = lines.take("\\end\\" if k + 1 == len(counts) else f"\\{k + 2}-grams:")
    if line != "\\end\\":
        lines.fail(f"here is '{line[:40]}'", r"there must be '\end\'; check the counts at the top")
    words = [word for word, symbol in ids.items() if symbol > BOUNDARY]
    return Arpa(tuple(words), Ngrams(tuple(orders)))


def _section(
    lines: _Lines,
    k: int,
    count: int,
    *,
    last: bool,
    ids: dict[str, int],
    shorter: dict[tuple[int, ...], int],
) -> tuple[Order, dict[tuple[int, ...], int]]:
    """The n-grams of k + 1 words, and the rows of them by their symbols."""
    found: dict[tuple[int, ...], tuple[float, float]] = {}
    begin_backoff = 0.0
    for done in range(count):
        line = lines.take(f"{count} n-grams of order {k + 1}")
        fields = line.split()
        if fields[0].startswith("\\"):
            lines.fail(
                f"here is '{line[:40]}' after {done} n-grams",
                f"there must be {count}, as the top of the file says",
            )
        if not k + 2 <= len(fields) <= k + 3:
            lines.fail(
                f"the line has {len(fields)} fields",
                f"there must be a number, {k + 1} words and perhaps another number",
            )
        log_prob = _number(lines, fields[0], low=-math.inf, high=0.0)
        backoff = _number(lines, fields[k + 2], low=-300, high=300) if len(fields) > k + 2 else 0.0
        if last and backoff:
            lines.fail("the longest n-grams have a back-off weight", "only shorter ones have one")
        words = fields[1 : k + 2]
        if k == 0:
            word = words[0]
            if word in (BEGIN, END):
                # One symbol for both: the end is never a context, the beginning never foretold.
                if word == BEGIN:
                    begin_backoff = backoff
                    continue
                backoff = 0.0
            elif word not in ids:
                ids[word] = len(ids) - 1
        if BEGIN in words[1:] or END in words[:-1]:
            lines.fail(f"'{' '.join(words)}' goes beyond a sentence", "leave it out")
        try:
            key = tuple(ids[word] for word in words)
        except KeyError as err:
            lines.fail(f"{err} is not among the single words", "list every word there")
        if key in found:
            lines.fail(f"'{' '.join(words)}' comes a second time", "keep one of them")
        if k and key[:-1] not in shorter:
            lines.fail(
                f"'{' '.join(words[:-1])}' is missing, which '{' '.join(words)}' begins with",
                "every beginning of an n-gram must be there",
            )
        found[key] = (max(log_prob * LN10, -1000.0), backoff * LN10)
    if k == 0:
        if BOUNDARY not in {key[0] for key in found}:
            lines.fail("there is no word '</s>'", "estimate the model with ends of sentences")
        rarest = min(log_prob for log_prob, _ in found.values())
        found.setdefault((UNKNOWN,), (rarest, 0.0))
        found[(BOUNDARY,)] = (found[(BOUNDARY,)][0], begin_backoff * LN10)
    keys = sorted(found, key=lambda key: (shorter[key[:-1]] if k else 0, key[-1]))
    values = np.array([found[key] for key in keys], np.float64).reshape(-1, 2)
    order = Order(
        np.array([shorter[key[:-1]] if k else 0 for key in keys], np.int64),
        np.array([key[-1] for key in keys], np.int64),
        values[:, 0],
        values[:, 1],
    )
    return order, {key: row for row, key in enumerate(keys)}


def _number(lines: _Lines, text: str, *, low: float, high: float) -> float:
    if _NUMBER.fullmatch(text):
        value = float(text)
        if low <= value <= high and not math.isinf(value):
            return value
    lines.fail(f"'{text[:40]}' is no number in {low:g}..{high:g}", "write log10 of a probability")


def write_arpa(path: Path, ngrams: Ngrams, words: Sequence[str]) -> None:
    """Write a model as an ARPA file.

    Args:
        path: The file to make or replace.
        ngrams: The model.
        words: Of symbols 2..V-1, without blanks. Those that are impossible are left out.

    Raises:
        OSError: The file cannot be written.
    """
    names = [UNKNOWN_WORD, BEGIN, *words]
    single = ngrams.orders[0]
    shown = single.log_prob > IMPOSSIBLE
    shown[[UNKNOWN, BOUNDARY]] = True
    sections: list[str] = []
    texts: list[str] = names
    counts: list[int] = []
    for k, order in enumerate(ngrams.orders):
        lines: list[str] = []
        if k:
            texts = [
                f"{texts[p]} {names[s] if s != BOUNDARY else END}"
                for p, s in zip(order.parent, order.symbol, strict=True)
            ]
        for row, text in enumerate(texts):
            if k == 0 and not shown[row]:
                continue
            log_prob = max(order.log_prob[row], IMPOSSIBLE) / LN10
            backoff = order.backoff[row] / LN10
            if k == 0 and row == BOUNDARY:
                lines.append(f"{log_prob:.7g}\t{END}")
                log_prob = -99.0
            end = "" if k + 1 == len(ngrams.orders) else f"\t{backoff:.7g}"
            lines.append(f"{log_prob:.7g}\t{text}{end}")
        counts.append(len(lines))
        sections.append("\n".join([f"\\{k + 1}-grams:", *lines, ""]))
    head = ["\\data\\", *(f"ngram {k}={count}" for k, count in enumerate(counts, start=1)), ""]
    with replaced_file(path) as file:
        file.write("\n".join([*head, *sections, "\\end\\", ""]).encode())
