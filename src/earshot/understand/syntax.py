"""One sentence template: its brackets checked, its letters spellable, its expression from hassil.

hassil stops at its first difficulty and names no column; what a person can mistype is looked for
before. Knows no files, lists or rules.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from earshot.data.spoken import spoken_form

if TYPE_CHECKING:
    from hassil.expression import Expression

__all__ = ["TemplateProblem", "parse_template", "shortened"]


MAX_NESTED = 40  # brackets within each other

_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


class TemplateProblem(ValueError):
    """What is wrong with a template, and what to do about it; its place is the caller's to add."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def _check_brackets(text: str) -> None:
    # One entry an open group: its bracket, its column, separators seen in it.
    stack: list[tuple[str, int, set[str]]] = [("", 0, set())]
    skip = False
    for at, char in enumerate(text):
        column = at + 1
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char in _PAIRS:
            if stack[-1][0] in ("{", "<"):
                raise TemplateProblem(
                    f"'{char}' in a name (column {column})", "close the name before it"
                )
            stack.append((char, column, set()))
            if len(stack) > MAX_NESTED:
                raise TemplateProblem(
                    f"over {MAX_NESTED} brackets within each other", "put some of it into a rule"
                )
        elif char in _PAIRS.values():
            bracket, opened, _ = stack.pop()
            if not bracket:
                raise TemplateProblem(
                    f"'{char}' at column {column} closes nothing", "remove it or open it before"
                )
            if _PAIRS[bracket] != char:
                raise TemplateProblem(
                    f"'{bracket}' of column {opened} is closed by '{char}' at column {column}",
                    f"write '{_PAIRS[bracket]}'",
                )
            inside = text[opened : column - 1]
            if not (inside.strip() if bracket in "{<(" else inside):
                raise TemplateProblem(
                    f"'{bracket}{char}' at column {opened} is empty", "remove it or fill it"
                )
        elif char in "|;":
            stack[-1][2].add(char)
            if len(stack[-1][2]) == 2:
                raise TemplateProblem(
                    f"'|' and ';' are in one group (column {column})",
                    "put one of them in brackets of its own",
                )
    if len(stack) > 1:
        bracket, opened, _ = stack[-1]
        raise TemplateProblem(
            f"'{bracket}' at column {opened} is never closed", f"add '{_PAIRS[bracket]}'"
        )


def _unspeakable(text: str) -> str | None:
    """The first letter that has no spelling in a-z, as in another alphabet."""
    if text.isascii():
        return None
    for char in text:
        if char.isascii() or not unicodedata.category(char).startswith(("L", "N")):
            continue
        if not spoken_form(char):
            return char
    return None


def parse_template(text: str) -> Expression:
    """The expression of a template.

    Args:
        text: As written.

    Returns:
        hassil's tree.

    Raises:
        TemplateProblem: It is empty, broken, or has letters that nobody can spell.
    """
    from hassil.parse_expression import parse_sentence

    if not text.strip():
        raise TemplateProblem("it is empty", "write its words or remove it")
    if char := _unspeakable(text):
        name = unicodedata.name(char, "unknown").lower()
        raise TemplateProblem(
            f"'{char}' ({name}) has no spelling in the letters a to z", "write it as it is said"
        )
    _check_brackets(text)
    try:
        return parse_sentence(text).expression
    except Exception as err:  # hassil raises what its parser meets, assertions among them
        reason = " ".join(str(err).split()) or type(err).__name__
        raise TemplateProblem(reason, "correct its brackets") from None


def shortened(text: str) -> str:
    """A template as messages quote it: at most 60 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."
