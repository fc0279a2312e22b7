"""Labelled sentences: what people type into a file to teach a statistical model.

Reads JSONL (also .gz) with a text, an intent and slots, and finds where each slot's words stand
in the sentence. Text is brought to the recogniser's spelling, because that is what a model will
meet. Every bad row of a file is reported, not only the first. Knows nothing of models.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from earshot.core.errors import CommandsProblem, LabelledTextError
from earshot.data.spoken import spoken_form

OUT_OF_SCOPE = ("oos", "out_of_scope")  # intents that mean none; so does null
OUTSIDE = "O"
_ROW = 'write one {"text", "intent", "slots"} a line'
_SHAPES = 'write {"name": "value"}, [["name", "value"]] or [{"name", "start", "end"}]'


@dataclass(frozen=True, slots=True)
class LabelledSentence:
    """A sentence, what it wants, and which of its words fill which slot.

    Args:
        words: In the recogniser's spelling, at least one.
        intent: None when the sentence is out of scope.
        labels: One a word: `O`, `B-slot` for the first word of a slot, `I-slot` for its others.
        split: What the row says about its use, such as `train`; None without such a field.
    """

    words: tuple[str, ...]
    intent: str | None
    labels: tuple[str, ...]
    split: str | None = None


class _BadRow(ValueError):
    """What is wrong with a row, and what to do, both without a full stop."""

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def read_labelled(path: Path) -> list[LabelledSentence]:
    """Read labelled sentences from JSONL, plain or gzipped.

    A row is `{"text", "intent", "slots", "split"}`; `slots` and `split` may be absent. An intent
    of null, "oos" or "out_of_scope" means that the sentence is out of scope.

    Args:
        path: The file.

    Returns:
        The sentences, in the file's order.

    Raises:
        LabelledTextError: The file cannot be read, has no rows, or has bad ones; all are named.
    """
    sentences: list[LabelledSentence] = []
    problems: list[CommandsProblem] = []
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    sentences.append(_sentence(_parsed(line)))
                except _BadRow as err:
                    problems.append(CommandsProblem(f"{path}:{number}", err.problem, err.remedy))
    except FileNotFoundError:
        problems = [CommandsProblem(str(path), "there is no such file", "check the path")]
    except (OSError, EOFError, zlib.error) as err:
        problem = f"it cannot be read ({err})"
        problems.append(CommandsProblem(str(path), problem, "check the file"))
    if not sentences and not problems:
        problems = [CommandsProblem(str(path), "there are no rows", _ROW)]
    if problems:
        raise LabelledTextError(problems)
    return sentences


def _parsed(line: bytes) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as err:  # of JSON and of UTF-8
        raise _BadRow(f"this is not JSON ({err})", remedy="write one object a line") from None
    if not isinstance(row, dict):
        raise _BadRow(f"this is a {type(row).__name__}", remedy="write one object a line")
    return row


def _sentence(row: Mapping[str, object]) -> LabelledSentence:
    text = row.get("text")
    if not isinstance(text, str) or not spoken_form(text):
        raise _BadRow(f"'text' is {text!r} and holds no word", remedy="write what is said")
    if "intent" not in row:
        raise _BadRow("there is no 'intent'", remedy="name one, or write null for out of scope")
    intent = row["intent"]
    if intent is not None and (not isinstance(intent, str) or not intent.strip()):
        raise _BadRow(f"'intent' is {intent!r}", remedy="name it, or write null for out of scope")
    split = row.get("split")
    if split is not None and not isinstance(split, str):
        raise _BadRow(f"'split' is {split!r}", remedy="write text such as 'train'")
    words: list[str] = []
    labels: list[str] = []
    at = 0
    for start, end, name in sorted(_spans(text, row.get("slots") or {})):
        _append(words, labels, text[at:start], None)
        if not _append(words, labels, text[start:end], name):
            raise _BadRow(f"slot '{name}' holds no word", remedy="remove it, or write its words")
        at = end
    _append(words, labels, text[at:], None)
    return LabelledSentence(
        tuple(words), None if intent in OUT_OF_SCOPE else intent, tuple(labels), split
    )


def _append(words: list[str], labels: list[str], text: str, slot: str | None) -> int:
    """Spell a stretch of text and label its words; how many there were."""
    found = spoken_form(text).split()
    words += found
    if slot is None:
        labels += [OUTSIDE] * len(found)
    else:
        labels += [f"{'I' if at else 'B'}-{slot}" for at in range(len(found))]
    return len(found)


def _spans(text: str, slots: object) -> list[tuple[int, int, str]]:
    """Where the slots stand: first character, the one behind the last, name. None overlap."""
    if isinstance(slots, dict):
        # The longest first, so that "may" does not take a part of "the first of may".
        pairs = sorted(slots.items(), key=lambda pair: -len(str(pair[1])))
        return _found(text, pairs, in_order=False)
    if not isinstance(slots, list):
        raise _BadRow(f"'slots' is {slots!r}", remedy=_SHAPES)
    if all(isinstance(slot, dict) for slot in slots):
        spans = sorted(_given(text, slot) for slot in slots)
        for (_, end, left), (start, _, right) in pairwise(spans):
            if start < end:
                raise _BadRow(f"slots '{left}' and '{right}' overlap", remedy="keep one of them")
        return spans
    if not all(isinstance(slot, list) and len(slot) == 2 for slot in slots):
        raise _BadRow(f"'slots' is {slots!r}", remedy=_SHAPES)
    return _found(text, [(slot[0], slot[1]) for slot in slots], in_order=True)


def _given(text: str, slot: Mapping[str, object]) -> tuple[int, int, str]:
    name, start, end = slot.get("name"), slot.get("start"), slot.get("end")
    if not _is_name(name) or type(start) is not int or type(end) is not int:
        raise _BadRow(f"a slot is {slot!r}", remedy=_SHAPES)
    if not 0 <= start < end <= len(text):
        raise _BadRow(
            f"slot '{name}' runs from {start} to {end} of {len(text)} characters",
            remedy="count from 0; 'end' is behind the last character",
        )
    return start, end, str(name)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _found(
    text: str, pairs: Sequence[tuple[object, object]], *, in_order: bool
) -> list[tuple[int, int, str]]:
    spans: list[tuple[int, int, str]] = []
    at = 0
    for name, value in pairs:
        if not _is_name(name) or not isinstance(value, str | int | float):
            raise _BadRow(f"slot {name!r} is {value!r}", remedy=_SHAPES)
        span = _place(text, str(value).strip(), at, taken=spans)
        if span is None:
            raise _BadRow(
                f"the value '{value}' of slot '{name}' is not in the text",
                remedy="write it as it stands there",
            )
        spans.append((*span, str(name)))
        at = span[1] if in_order else 0
    return spans


def _place(
    text: str, value: str, at: int, *, taken: Sequence[tuple[int, int, str]]
) -> tuple[int, int] | None:
    """The first free place of a value: as whole words if it can be, else inside a word."""
    if not value:
        return None
    escaped = re.escape(value)
    for pattern in (rf"(?<!\w){escaped}(?!\w)", escaped):
        for match in re.compile(pattern, re.IGNORECASE).finditer(text, at):
            if all(match.end() <= start or match.start() >= end for start, end, _ in taken):
                return match.span()
    return None


def slot_spans(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """The slots that labels mark.

    Args:
        labels: One a word, `O`, `B-slot` or `I-slot`.

    Returns:
        For each slot its first word, the word behind its last, and its name, in order.
    """
    spans: list[tuple[int, int, str]] = []
    for at, label in enumerate(labels):
        part, _, slot = label.partition("-")
        if part == "I" and spans and spans[-1][1:] == (at, slot):
            spans[-1] = (spans[-1][0], at + 1, slot)
        elif part in ("B", "I"):
            spans.append((at, at + 1, slot))
    return spans
