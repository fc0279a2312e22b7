"""Hotwords: phrases to be heard more readily, as files, as lists, and as the engine takes them.

A phrase is worth a score for each of its word pieces. The engine's trie lends it while the phrase
is being heard and takes it back if another word comes; see `docs/concepts/biasing.md`. Here lists
are read, brought to the spelling of a model, and compiled; every phrase that cannot be spelled
is named. Knows nothing of audio or of commands.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earshot import _native
from earshot.core.errors import CommandsProblem, ConfigError, HotwordsError
from earshot.data.phones import phone_names
from earshot.data.pronunciation import PHONES, Lexicon
from earshot.data.spoken import spoken_form
from earshot.data.text import normalise

__all__ = [
    "DEFAULT_ATTENTION_WEIGHT",
    "DEFAULT_SCORE",
    "MAX_PHRASES",
    "MAX_SCORE",
    "SCORE_OF_PIECES_ALONE",
    "Hotword",
    "HotwordCompiler",
    "Hotwords",
    "hotwords_of",
    "read_hotwords",
    "usual_score",
]

logger = logging.getLogger(__name__)

# Nats for each piece, chosen by benchmarks/biasing.py --dev. More where pieces alone must do it; a
# language model's bonus is paid to hotwords as well.
DEFAULT_SCORE, SCORE_OF_PIECES_ALONE = 1.5, 2.0
MAX_SCORE = 20.0  # more drowns all that is heard
# Of a phrase told by its sounds: nats that a phone may lose on the likeliest one, for each
# nat of its score; and nats that it must be ahead.
SOUND_SHARE, SOUND_COST = 1.0, 4.0
# Of a phrase that trained attention looks for, too: nats that a phone may lose more for each nat of
# the mean log weight that attention gives its pieces, and minus the weight that changes nothing.
EVIDENCE_SHARE, EVIDENCE_EVEN = 0.5, 4.0
# For a model that hears phones: of a phrase's score, how much its pieces are lent.
PIECE_SHARE = 0.25
MAX_WAYS_OF_A_WORD = 2
# Of what attention adds, chosen by benchmarks/trained_biasing.py --dev: 1, as it is trained, harms
# sentences without a phrase.
DEFAULT_ATTENTION_WEIGHT = 0.5
MAX_ATTENTION_WEIGHT = 10.0
MAX_PHRASES = 1_000_000
RESERVED_PIECES = 3


def usual_score(*, language_model: bool, phones: bool) -> float:
    """Nats a piece that phrases without a score of their own are lent.

    Args:
        language_model: Whether one counts in the search, too.
        phones: Whether phrases are heard by their sounds, too.
    """
    return DEFAULT_SCORE if language_model or phones else SCORE_OF_PIECES_ALONE


_SCORE = re.compile(r":\+?(\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Hotword:
    """One phrase.

    Args:
        phrase: Words in any case; punctuation is taken off and numerals are spelled out.
        score: Nats for each of its word pieces, 0..20; 0 changes nothing, 1 to 3 is usual. None
            takes the list's default.
        where: What messages call it: `file:line`; empty: the phrase.
    """

    phrase: str
    score: float | None = None
    where: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Hotwords:
    """Phrases compiled for one model; any number of streams and threads may share them.

    Args:
        native: The engine's tries.
        given: The phrases as they were given.
        spoken: Each in the model's spelling; empty where it has none.
        problems: What is wrong with phrases that do not count, in their order.
        attended: The same phrases for the attention of a model with trained biasing; None for
            another model, at the weight 0, and where no phrase counts.
    """

    native: _native.Hotwords
    given: tuple[str | Hotword, ...]
    spoken: tuple[str, ...]
    problems: tuple[CommandsProblem, ...]
    attended: _native.PhraseList | None = None

    def __len__(self) -> int:
        """How many phrases count."""
        return sum(map(bool, self.spoken))

    @property
    def phrases(self) -> tuple[Hotword, ...]:
        """The phrases in their order, with their scores."""
        return tuple(map(_as_hotword, self.given))


def _as_hotword(given: str | Hotword) -> Hotword:
    return Hotword(given) if isinstance(given, str) else given


def read_hotwords(path: str | Path) -> list[Hotword]:
    """Read a file of hotwords as sherpa-onnx defines it.

    Each line is a phrase; after its words there may be ` :SCORE`. Empty lines are allowed.

    Args:
        path: UTF-8 text.

    Returns:
        The phrases in the order of the file.

    Raises:
        HotwordsError: The file cannot be read, or lines are not as said; all are named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        problem = _one_problem(path, "there is no such file", "name a text file, a phrase a line")
        raise problem from None
    except (OSError, UnicodeDecodeError) as err:
        raise _one_problem(path, f"it cannot be read ({err})", "it must be UTF-8 text") from None
    found: list[Hotword] = []
    problems: list[CommandsProblem] = []
    # Not splitlines: it would part a phrase at characters that no editor shows as a line's end.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        entry = _parsed(line.split(), where)
        if isinstance(entry, Hotword):
            found.append(entry)
        else:
            problems.append(entry)
    if len(found) > MAX_PHRASES:
        problems.append(_too_many(str(path), len(found)))
    if problems:
        raise HotwordsError(problems)
    return found


def _one_problem(path: Path, problem: str, remedy: str) -> HotwordsError:
    return HotwordsError([CommandsProblem(str(path), problem, remedy)])


def _too_many(where: str, count: int) -> CommandsProblem:
    return CommandsProblem(
        where, f"it has {count:,} phrases", f"at most {MAX_PHRASES:,} are allowed"
    )


def _parsed(tokens: Sequence[str], where: str) -> Hotword | CommandsProblem:
    """One line in its parts."""
    words: list[str] = []
    score: float | None = None
    for token in tokens:
        if token[0] == ":" and len(token) > 1:
            if not words:
                return CommandsProblem(
                    where, f"the score {token} comes before the words", "write it after them"
                )
            if score is not None:
                return CommandsProblem(where, f"it has a second score, {token}", "keep one")
            if not _SCORE.fullmatch(token) or not float(token[1:]) <= MAX_SCORE:
                return CommandsProblem(
                    where, f"its score is {token}", f"it must be in :0 .. :{MAX_SCORE:g}"
                )
            score = float(token[1:])
        elif token[0] == "#" and len(token) > 1:
            return CommandsProblem(
                where,
                f"it has the threshold {token}, which belongs to files for keyword spotting",
                "leave it out; the file has no comments either",
            )
        elif token[0] == "@" and len(token) > 1:
            return CommandsProblem(
                where,
                f"it has the display form {token}, which belongs to files for keyword spotting",
                "leave it out",
            )
        elif score is not None:
            return CommandsProblem(
                where, f"'{token}' comes after the score", "write the score at the end"
            )
        else:
            words.append(token)
    return Hotword(" ".join(words), score, where)


def _plain_list(source: Any) -> tuple[str, ...]:
    """A list of strings as it is, which needs no look at every entry; nothing for all else."""
    if not isinstance(source, list | tuple) or len(source) > MAX_PHRASES:
        return ()
    return tuple(source) if all(type(entry) is str for entry in source) else ()


def hotwords_of(source: Any) -> list[Hotword]:
    """Phrases from whatever a program has: a file, a list, or a mapping to scores.

    Args:
        source: Path of a file; or phrases, each a string, a `Hotword` or a pair with its score; or
            a mapping of phrases to scores.

    Returns:
        The phrases.

    Raises:
        HotwordsError: As `read_hotwords`, or a score is not in 0..20.
        TypeError: An entry is of another type.
    """
    if isinstance(source, str | Path):
        return read_hotwords(source)
    entries = source.items() if isinstance(source, Mapping) else source
    found: list[Hotword] = []
    problems: list[CommandsProblem] = []
    for entry in entries:
        if isinstance(entry, str):
            hotword = Hotword(entry)
        elif isinstance(entry, Hotword):
            hotword = entry
        elif isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
            hotword = Hotword(entry[0], float(entry[1]))
        else:
            raise TypeError(
                f"hotwords: an entry is {entry!r}; it must be a phrase, a `Hotword` or a pair of "
                "a phrase and its score."
            )
        found.append(hotword)
        if hotword.score is not None and not 0 <= hotword.score <= MAX_SCORE:
            problems.append(
                CommandsProblem(
                    hotword.where or f"hotword '{hotword.phrase}'",
                    f"its score is {hotword.score}",
                    f"it must be in 0..{MAX_SCORE:g}",
                )
            )
    if len(found) > MAX_PHRASES:
        problems.append(_too_many("hotwords", len(found)))
    if problems:
        raise HotwordsError(problems)
    return found


class HotwordCompiler:
    """Spells phrases for one model and makes what its engine takes.

    Args:
        model: Of a recogniser.
        lexicon: How words are said, for a model that hears phones; None takes the package's.

    Raises:
        ConfigError: The model carries no tokenizer, or not one of SentencePiece's unigram models.
    """

    def __init__(self, model: _native.Model, *, lexicon: Lexicon | None = None) -> None:
        try:
            self._speller = _native.Speller.of(model)
        except ValueError as err:
            raise ConfigError(
                f"{model.name}: hotwords cannot be spelled, because {err}. "
                "Export the model again with `earshot train export`."
            ) from None
        # A model with trained biasing attends to the same phrases.
        biased = "bias" in model.graph_names
        self._encoder = _native.PhraseEncoder(model) if biased else None
        # Without sounds its entries are found too seldom to speak against what was spotted.
        self._attention_weighs = model.bias_phones > 0
        self._pieces = tuple(model.pieces)
        letters = "".join(self._pieces[RESERVED_PIECES:])
        self._upper = letters.isupper()
        self._lexicon = lexicon
        self._hears_phones = list(model.phones) == list(PHONES)
        self._lock = threading.Lock()
        self._compiler = _native.PhraseCompiler(
            self._speller, len(PHONES) if self._hears_phones else 0
        )

    def spoken(self, phrase: str) -> str:
        """A phrase in the model's own spelling; empty if it has none.

        Args:
            phrase: In any case, with any punctuation and numerals.
        """
        return self._texts([phrase])[0]

    def _reworded(self, phrase: str) -> str:
        """A phrase that is not plain words already."""
        for text in (normalise(phrase), spoken_form(phrase)):
            cased = text.upper() if self._upper else text
            if cased and self._speller.spell(cased):
                return cased
        return ""

    def pieces(self, spoken: str) -> tuple[str, ...]:
        """How the model spells a text of `spoken`; empty if it cannot.

        Args:
            spoken: From `spoken`.
        """
        ways = self._speller.spell(spoken)
        return tuple(self._pieces[i] for i in ways[0][0]) if ways else ()

    def phones(self, spoken: str) -> str:
        """How a text of `spoken` is said, as names of phones; empty where the model hears none.

        Args:
            spoken: From `spoken`. It is not heard by its sounds if a word cannot be said.
        """
        if not self._hears_phones:
            return ""
        ways = [self._said(word) for word in spoken.split()]
        return phone_names(b"".join(way[0] for way in ways)) if all(ways) else ""

    def compile(
        self,
        source: Any,
        *,
        default_score: float | None = None,
        attention_weight: float = DEFAULT_ATTENTION_WEIGHT,
    ) -> Hotwords:
        """Make phrases ready for streams; 5,000 take about ten milliseconds.

        Phrases that cannot be spelled do not count: each is logged as a warning and is in
        `problems`.

        Args:
            source: As `hotwords_of`.
            default_score: Nats a piece of phrases without a score of their own, 0..20; None takes
                that of `usual_score` without a language model.
            attention_weight: What the attention of a model with trained biasing adds, 0..10; 1
                is as it was trained. Above 0 it also speaks for and against what sounds
                found, if its entries know sounds. A list that is new to the model takes longer
                there: about 50 milliseconds for 5,000 phrases.

        Returns:
            What `Recognizer.create_stream` and `Stream.set_hotwords` take.

        Raises:
            HotwordsError: As `hotwords_of`.
            ConfigError: The default score or the weight is out of its range.
        """
        if default_score is None:
            default_score = usual_score(language_model=False, phones=self._hears_phones)
        if not 0 <= default_score <= MAX_SCORE:
            raise ConfigError(
                f"hotwords.score is {default_score}; it must lie in 0..{MAX_SCORE:g}."
            )
        if not 0 <= attention_weight <= MAX_ATTENTION_WEIGHT:
            raise ConfigError(
                f"hotwords.attention_weight is {attention_weight}; it must lie in "
                f"0..{MAX_ATTENTION_WEIGHT:g}."
            )
        given: tuple[str | Hotword, ...] = _plain_list(source) or tuple(hotwords_of(source))
        texts = self._texts([p if isinstance(p, str) else p.phrase for p in given])
        own = [None if isinstance(p, str) else p.score for p in given]
        scores = [default_score if score is None else score for score in own]
        attended = None
        with self._lock:  # the words of this list must not be forgotten in between
            native, unspelled = self._tries(texts, scores, weighed=attention_weight > 0)
            for index in unspelled:
                texts[index] = ""
            if self._encoder is not None:
                attended = self._encoder.encode(self._compiler.rows(texts), weight=attention_weight)
            self._compiler.trim()
        problems: list[CommandsProblem] = []
        for index in unspelled:
            problems.append(self._problem(_as_hotword(given[index])))
            logger.warning("%s", problems[-1])
        return Hotwords(native, given, tuple(texts), tuple(problems), attended)

    def _texts(self, phrases: list[str]) -> list[str]:
        """Phrases in the model's spelling, quickly where they are plain words."""
        texts = _native.PhraseCompiler.plain(phrases, self._upper)
        return [
            self._reworded(phrase) if text is None else text
            for phrase, text in zip(phrases, texts, strict=True)
        ]

    def _tries(
        self, texts: list[str], scores: list[float], *, weighed: bool
    ) -> tuple[_native.Hotwords, list[int]]:
        """The engine's tries, and which texts cannot be spelled."""
        weighed = weighed and self._attention_weighs
        while True:
            native, unspelled, unknown = self._compiler.compile(
                texts,
                scores,
                piece_share=PIECE_SHARE if self._hears_phones else 1.0,
                sound_share=SOUND_SHARE,
                sound_cost=SOUND_COST,
                evidence=(EVIDENCE_SHARE, EVIDENCE_EVEN) if weighed else (0.0, 0.0),
            )
            if native is not None:
                return native, unspelled
            for word in unknown:
                self._compiler.add(word, self._said(word))

    def _said(self, word: str) -> list[bytes]:
        """How a word is said, likeliest first; empty if nobody knows."""
        if self._lexicon is None:
            self._lexicon = Lexicon.load()
        try:
            ways = self._lexicon.pronounce(word.lower())
        except ValueError:  # it has signs that nobody can say
            return []
        return [bytes(way) for way in ways[:MAX_WAYS_OF_A_WORD]]

    def _problem(self, hotword: Hotword) -> CommandsProblem:
        text = spoken_form(hotword.phrase) or normalise(hotword.phrase)
        known = set("".join(self._pieces[RESERVED_PIECES:]))
        cased = text.upper() if self._upper else text
        strange = sorted({c for c in cased if c != " " and c not in known})
        if not text:
            problem = f"'{hotword.phrase}' has no letters"
        elif strange:
            problem = f"'{hotword.phrase}' has {' '.join(strange)}, which the model cannot write"
        else:
            problem = f"'{hotword.phrase}' is {len(text.encode())} bytes long, too long to spell"
        return CommandsProblem(
            hotword.where or "hotwords", problem, "it does not count; write it as it is said"
        )
