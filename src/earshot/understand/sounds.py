"""How alike words sound, roughly: a key of consonants for English spelling.

Letters that recognisers confuse share a sign, voiced with voiceless among them; vowels count only
at the start. A key is for finding what may be meant, never for deciding alone. Knows no grammar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["alike_pairs", "sound_key"]

# What letters become; the longest that fits is taken. Capitals are sounds of two letters.
_SOUNDS = {
    "tion": "Xn", "sion": "Xn", "ing": "n", "igh": "", "sch": "sk", "tch": "X", "dge": "J",
    "ch": "X", "sh": "X", "th": "T", "ph": "f", "gh": "", "ck": "k", "dj": "J", "qu": "k",
    "ce": "s", "ci": "s", "cy": "s", "ge": "J", "gi": "J", "gy": "J",
    "b": "p", "c": "k", "d": "t", "g": "k", "j": "J", "q": "k", "v": "f", "x": "ks", "z": "s",
} | dict.fromkeys("aeiouyhw", "")  # fmt: skip
_STARTS = {"kn": "n", "gn": "n", "pn": "n", "wr": "r", "wh": "w", "h": "h", "w": "w", "gh": "k"}
_SOUND = re.compile("|".join(sorted(_SOUNDS, key=len, reverse=True)) + "|[^a-z]")
_START = re.compile("[aeiouy]+|" + "|".join(sorted(_STARTS, key=len, reverse=True)))
_TWICE = re.compile(r"(.)\1+")


@lru_cache(maxsize=1 << 16)
def sound_key(text: str) -> str:
    """The consonants of a text as signs; texts that sound alike have the same or a near one.

    Args:
        text: Letters; blanks do not count, so that joined and split words have one key.

    Returns:
        Signs, possibly none.
    """
    start = _START.match(text)
    head = "" if start is None else _STARTS.get(start[0], "A")
    tail = text if start is None else text[start.end() :]
    return _TWICE.sub(r"\1", head + _SOUND.sub(lambda found: _SOUNDS.get(found[0], ""), tail))


MAX_ALL_PAIRS = 2000  # phrases; among more only equal keys are looked for


def alike_pairs(phrases: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of different phrases that a recogniser may take for each other.

    Args:
        phrases: In the recogniser's spelling.

    Returns:
        Pairs with half of their letters in common whose keys are equal, or, of up to 2000
        phrases with three quarters, one sign apart in five or more; in the order of the phrases.
    """
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    unique = list(dict.fromkeys(phrases))
    keys = [sound_key(phrase) for phrase in unique]
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        if len(key) > 1:
            groups.setdefault(key, []).append(index)
    pairs = {
        (first, second)
        for group in groups.values()
        for at, first in enumerate(group)
        for second in group[at + 1 :]
        if Levenshtein.normalized_distance(unique[first], unique[second]) <= 0.5
    }
    if len(unique) <= MAX_ALL_PAIRS:
        distances = cdist(keys, keys, scorer=Levenshtein.distance, score_cutoff=1)
        for first, second in zip(*(distances <= 1).nonzero(), strict=True):
            short = min(len(keys[first]), len(keys[second]))
            letters = Levenshtein.normalized_distance(unique[first], unique[second])
            if first < second and short >= 5 and letters < 0.25:
                pairs.add((int(first), int(second)))
    return [(unique[first], unique[second]) for first, second in sorted(pairs)]
