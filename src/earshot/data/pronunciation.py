"""How English words are pronounced: the dictionary of the package, and what to do without it.

A word that the dictionary lacks is put together from words that it has (`data.word_parts`) or
guessed from its letters (`data.letter_to_sound`); users may give pronunciations of their own.
Phones are ids of `data.phones`. Knows nothing of models or grammars.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from earshot.core.errors import CommandsProblem, PronunciationsError
from earshot.data.phones import NUM_PHONE_OUTPUTS, PHONES, Pronunciation, phone_ids
from earshot.data.spoken import spoken_form

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LEXICON_PATH", "NUM_PHONE_OUTPUTS", "PHONES", "Lexicon", "Pronunciation"]

LEXICON_PATH = Path(__file__).parent.parent / "assets" / "en.lexicon"

Variants = tuple[Pronunciation, ...]

CLOSE_NATS = 1.0  # a second guess is given too where it is no less likely than that
BELIEVED_COMPOUND = 4  # guesses among which two words' own pronunciations are believed
MAX_SPELLED_LETTERS = 4  # longer words are said even if they look odd
ODD_NATS_A_LETTER = 4.0  # words that are no initialisms have less

_BEGINNING = 3  # letters that lines are narrowed down by
_FIRST = 65  # the byte of the first phone in the file
_WORD = re.compile("[a-z']*[a-z][a-z']*")
_NUMBERED = re.compile(r"\(\d+\)$")  # CMUdict's variants: "tomato(2)"
_VOWEL_PHONES = frozenset(phone_ids("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"))
_NO_VOWELS = re.compile("[^aeiouy]+")


class Lexicon:
    """Pronunciations of words; the dictionary is looked up by halving, as its lines are sorted.

    Args:
        entries: Lines `word TAB phones [TAB phones]...`, sorted by bytes, one letter per phone.
        own: More words, or more pronunciations of them, which come before those of `entries`.
    """

    def __init__(self, entries: bytes, *, own: Mapping[str, Variants] | None = None) -> None:
        self._entries = entries
        self._own = dict(own or {})
        self._places: dict[bytes, tuple[int, int]] = {}  # of beginnings asked for
        self._made: dict[str, tuple[Variants, bool]] = {}  # words asked for that are not in it

    @staticmethod
    @cache
    def load() -> Lexicon:
        """The dictionary of the package, 125,000 words of CMUdict; read once."""
        return Lexicon(LEXICON_PATH.read_bytes())

    def extended(self, path: Path) -> Lexicon:
        """This lexicon and pronunciations from a file, which come before its own.

        Args:
            path: Lines as CMUdict has them, `word  P HH OW1 N Z`, stress or not; several lines of
                a word are its variants, likeliest first; `#` starts a comment.

        Raises:
            PronunciationsError: The file cannot be used; it names every problem at once.
        """
        return Lexicon(self._entries, own=self._own | _read_own(path))

    def knows(self, word: str) -> bool:
        """Whether the dictionary, or the user's file, has a word."""
        return bool(self.pronunciations(word))

    def pronunciations(self, word: str) -> Variants:
        """The pronunciations that the dictionary has, most common first.

        Args:
            word: In the form of `data.spoken.spoken_form`: a-z and apostrophe.

        Returns:
            Phone ids, 1..39 each; empty for a word that the dictionary lacks.
        """
        own = self._own.get(word)
        if own is None:
            return self._in_dictionary(word)
        return tuple(dict.fromkeys(own + self._in_dictionary(word)))

    def pronounce(self, word: str) -> Variants:
        """All pronunciations of any word, most likely first.

        Args:
            word: a-z and apostrophe, at least one letter.

        Returns:
            Phone ids, 1..39 each; at least one pronunciation of at least one phone.

        Raises:
            ValueError: The word has another sign, or no letter.
        """
        return self.pronunciations(word) or self._put_together(word)[0]

    def draw(
        self,
        text: str,
        rng: np.random.Generator,
        *,
        common: float,
        said: dict[str, tuple[int, ...]] | None = None,
    ) -> list[int]:
        """Phones of a text, as somebody might say it.

        Args:
            text: Words.
            rng: Draws a pronunciation of each word.
            common: Share of the words that take their first one; the others draw from all.
            said: Phones of words that are spoken so; the words drawn here are added. None draws
                every word anew, also one that comes twice.

        Returns:
            Phone ids.

        Raises:
            ValueError: A word that nobody can say.
        """
        phones: list[int] = []
        for word in spoken_form(text).split():
            way = None if said is None else said.get(word)
            if way is None:
                ways = self.pronounce(word)
                way = ways[0 if rng.random() < common else int(rng.integers(len(ways)))]
                if said is not None:
                    said[word] = way
            phones += way
        return phones

    def is_guess(self, word: str) -> bool:
        """Whether `pronounce` has only the spelling to go by: no known words make this one.

        Args:
            word: As of `pronounce`.
        """
        return not self.knows(word) and self._put_together(word)[1]

    def _in_dictionary(self, word: str) -> Variants:
        wanted = word.encode() + b"\t"
        low, high = self._among(wanted[:_BEGINNING])
        start = low
        if not self._entries.startswith(wanted, low):
            start = self._entries.find(b"\n" + wanted, low, high) + 1
            if start == 0:
                return ()
        line = self._entries[start : self._entries.index(b"\n", start)]
        spelled = line.split(b"\t")[1:]
        return tuple(tuple(byte - _FIRST + 1 for byte in phones) for phones in spelled)

    def _among(self, beginning: bytes) -> tuple[int, int]:
        """Where the lines that begin so are."""
        found = self._places.get(beginning)
        if found is None:
            found = self._first_line(beginning), self._first_line(beginning + b"\xff")
            self._places[beginning] = found
        return found

    def _first_line(self, wanted: bytes) -> int:
        """Where the first line is that does not come before some bytes, found by halving."""
        low, high = 0, len(self._entries)
        while low < high:
            start = self._entries.rfind(b"\n", 0, (low + high) // 2) + 1
            end = self._entries.index(b"\n", start)
            if self._entries[start:end] < wanted:
                low = end + 1
            else:
                high = start
        return low

    def _put_together(self, word: str) -> tuple[Variants, bool]:
        """Pronunciations of a word that is not in the dictionary, and whether they are guessed."""
        found = self._made.get(word)
        if found is None:
            if not _WORD.fullmatch(word):
                raise ValueError(
                    f"pronounce: {word!r} is not a word of a-z and apostrophes. "
                    "Bring it to the form of `data.spoken.spoken_form` first."
                )
            found = self._made[word] = self._from_parts(word) if "'" in word else self._said(word)
        return found

    def _from_parts(self, word: str) -> tuple[Variants, bool]:
        """A word with apostrophes: with its ending, or without them."""
        from earshot.data.word_parts import with_clitic

        if variants := with_clitic(word, self.pronunciations):
            return variants, False
        plain = word.replace("'", "")
        return with_clitic(word, self.pronounce) or self.pronounce(plain), True

    def _said(self, word: str) -> tuple[Variants, bool]:
        """A word of letters only."""
        from earshot.data.letter_to_sound import LetterToSound
        from earshot.data.word_parts import derived, letter_by_letter, perhaps_joined

        if variants := derived(word, self.pronunciations):
            return variants, False
        spelled = letter_by_letter(word)
        guesses = LetterToSound.load().best(word, count=BELIEVED_COMPOUND)
        if not guesses:
            return (spelled,), True
        joined = perhaps_joined(word, self.pronunciations)
        if agreed := [phones for phones, _ in guesses if phones in joined]:
            return tuple(agreed[:1]), False
        best = guesses[0][1]
        close = tuple(phones for phones, score in guesses[:2] if score > best - CLOSE_NATS)
        odd = len(word) <= MAX_SPELLED_LETTERS and -best > ODD_NATS_A_LETTER * (len(word) + 1)
        if odd or _NO_VOWELS.fullmatch(word):
            sayable = close[0] != spelled and not _VOWEL_PHONES.isdisjoint(close[0])
            return (spelled, close[0]) if sayable else (spelled,), True
        return close, close[0] not in perhaps_joined(word, self.pronunciations, min_letters=3)


def _read_own(path: Path) -> dict[str, Variants]:
    """Words with their pronunciations from a user's file, in the form of CMUdict."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "it is not UTF-8 text"
        problem = CommandsProblem(str(path), f"cannot be read: {reason}", "name a text file")
        raise PronunciationsError([problem]) from None
    problems: list[CommandsProblem] = []
    found: dict[str, Variants] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        word, *names = line.partition("#")[0].split() or [""]
        word = _NUMBERED.sub("", word).lower()
        wrong = _problem_of(word, names)
        if word and wrong is None:
            found[word] = (*found.get(word, ()), phone_ids(" ".join(names).upper()))
        elif wrong is not None:
            problems.append(CommandsProblem(f"{path}:{number}", *wrong))
    if problems:
        raise PronunciationsError(problems)
    return found


def _problem_of(word: str, names: list[str]) -> tuple[str, str] | None:
    """What is wrong with a line, and what to do; None if nothing is, as of an empty one."""
    if not word:
        return None
    if not _WORD.fullmatch(word):
        spoken = spoken_form(word)
        return (
            f"the word '{word}' has signs other than a to z and the apostrophe",
            f"write the words that are said, each on its line: {spoken}"
            if spoken
            else "write it in letters",
        )
    if not names:
        return f"'{word}' has no phones", f"write them after it, such as '{word}  P HH OW1 N Z'"
    for name in names:
        if name.upper().rstrip("012") not in PHONES:
            return f"'{name}' is no phone", f"take those of CMUdict: {' '.join(PHONES)}"
    return None
