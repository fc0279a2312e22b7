"""How English words are pronounced: phones from the dictionary that comes with the package.

Phones are those of CMUdict without stress. A phone's id is its place in `PHONES` plus one; 0 is
left to the blank of CTC. Knows nothing of models or grammars.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["LEXICON_PATH", "NUM_PHONE_OUTPUTS", "PHONES", "Lexicon"]

PHONES = tuple(
    (
        "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW "
        "V W Y Z ZH"
    ).split()
)
NUM_PHONE_OUTPUTS = len(PHONES) + 1  # and blank
LEXICON_PATH = Path(__file__).parent.parent / "assets" / "en.lexicon"

_FIRST = 65  # the byte of the first phone in the file

Pronunciation = tuple[int, ...]


class Lexicon:
    """A pronunciation dictionary in memory; looked up by halving, as its lines are sorted.

    Args:
        entries: Lines `word TAB phones [TAB phones]...`, sorted by bytes, one letter per phone.
    """

    def __init__(self, entries: bytes) -> None:
        self._entries = entries

    @staticmethod
    @cache
    def load() -> Lexicon:
        """The dictionary of the package, 126,000 words of CMUdict; read once."""
        return Lexicon(LEXICON_PATH.read_bytes())

    def knows(self, word: str) -> bool:
        """Whether the dictionary has a word."""
        return bool(self.pronunciations(word))

    def pronunciations(self, word: str) -> tuple[Pronunciation, ...]:
        """All pronunciations of a word, most common first.

        Args:
            word: In the form of `text.normalise`: a-z and apostrophe.

        Returns:
            Phone ids, 1..39 each; empty for a word that the dictionary lacks.
        """
        wanted = word.encode()
        low, high = 0, len(self._entries)
        while low < high:
            start = self._entries.rfind(b"\n", 0, (low + high) // 2) + 1
            end = self._entries.index(b"\n", start)
            found, *spelled = self._entries[start:end].split(b"\t")
            if found == wanted:
                return tuple(tuple(byte - _FIRST + 1 for byte in phones) for phones in spelled)
            if found < wanted:
                low = end + 1
            else:
                high = start
        return ()
