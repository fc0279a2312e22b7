"""Text as it is scored: the same rules for references and for every system's hypotheses.

The package's own normalisation first; then titles that recognisers abbreviate are written out.
Two sets, `digits` and `alphanumeric`, have rules of their own (see `RULES`), because speakers
say the same thing in several ways there ("oh", "double eight") and references hold one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from earshot.data.text import normalise

__all__ = ["NORMALISATION", "RULES", "scored_text"]

NORMALISATION = (
    "earshot.data.text.normalise (lower case, no punctuation but inner apostrophes); "
    "mr, mrs, dr are written out; digits: oh, o = zero; "
    "alphanumeric: phone numbers: oh, o = zero, double x = x x, triple x = x x x; "
    "spelled names: oh = o, zed = z, double u = w, other double x = x x"
)
_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor"}


def _repeats(words: list[str]) -> list[str]:
    """Writes "double x" and "triple x" out."""
    out: list[str] = []
    times = 1
    for word in words:
        if word in ("double", "triple"):
            times = 2 if word == "double" else 3
            continue
        out.extend([word] * times)
        times = 1
    return out


def _digits(words: list[str], group: str) -> list[str]:
    del group
    return ["zero" if word in ("oh", "o") else word for word in words]


def _alphanumeric(words: list[str], group: str) -> list[str]:
    if group == "phone_number":
        return _digits(_repeats(words), group)
    text = re.sub(r"\bdouble (u|you)\b", "w", " ".join(words))
    letters = {"oh": "o", "zed": "z"}
    return [letters.get(word, word) for word in _repeats(text.split())]


RULES: dict[str, Callable[[list[str], str], list[str]]] = {
    "": lambda words, group: words,
    "digits": _digits,
    "alphanumeric": _alphanumeric,
}


def scored_text(text: str, *, rules: str = "", group: str = "") -> str:
    """A text in the form that is scored: words separated by one space.

    Args:
        text: Reference or hypothesis.
        rules: A key of `RULES`.
        group: Part of the set that the utterance belongs to; some rules depend on it.
    """
    words = [_TITLES.get(word, word) for word in normalise(text).split()]
    return " ".join(RULES[rules](words, group))
