"""The phones of English: those of CMUdict, without stress.

A phone's id is its place in `PHONES` plus one; 0 is left to the blank of CTC. Models carry these
ids, so the order never changes. Knows no words.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["NUM_PHONE_OUTPUTS", "PHONES", "VOICELESS", "Pronunciation", "phone_ids", "phone_names"]

# fmt: off
PHONES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH",
    "UW", "V", "W", "Y", "Z", "ZH",
)
# fmt: on
NUM_PHONE_OUTPUTS = len(PHONES) + 1  # and blank

Pronunciation = tuple[int, ...]

_IDS = {name: number for number, name in enumerate(PHONES, start=1)}


def phone_ids(names: str) -> Pronunciation:
    """Ids of phones that are named with blanks between them.

    Args:
        names: Such as "K AE1 T"; stress digits do not count.

    Raises:
        KeyError: There is no such phone.
    """
    return tuple(_IDS[name.rstrip("012")] for name in names.split())


def phone_names(ids: Iterable[int]) -> str:
    """Names of phones with blanks between them, without stress: the inverse of `phone_ids`."""
    return " ".join(PHONES[number - 1] for number in ids)


VOICELESS = frozenset(phone_ids("CH F HH K P S SH T TH"))
