"""Commands that could be mistaken for one another, for training that tells them apart.

CTC learns what was said; it is not told what else could have been said instead. A grammar says
exactly that: of the sentences that differ in one place from what was said, each is a rival that
the network must find less likely than the truth (maximum mutual information over sampled
competitors). A rival is made by putting words into a sentence that stood between the same two
words in another one; the grammar is asked whether it is a sentence, and whether it means something
else. Knows nothing of losses or batches.

Sources:
    Bahl et al., "Maximum mutual information estimation of hidden Markov model parameters for speech
    recognition", 1986; Povey et al., "Purely sequence-trained neural networks for ASR based on
    lattice-free MMI", 2016, for what the denominator is; sampling it from a grammar is ours.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from earshot.core.errors import ConfigError
from earshot.core.understanding import Understanding
from earshot.data.pronunciation import Lexicon
from earshot.train.text import load_texts
from earshot.understand.decision import meaning_key
from earshot.understand.matching import Matcher
from earshot.understand.templates import load_commands

__all__ = ["Rivals", "RivalsOf"]

_MOST_WORDS = 3  # that are put in or taken out at once
_MOST_NEAR = 12  # rivals of a sentence that sound most like it
_MOST_OTHERS = 8  # any others
_BOUND = ""  # stands before the first word and behind the last


class Rivals:
    """Draws rivals of commands.

    Args:
        texts: Sentences of the grammar, as many as there are.
        interpret: What words mean; None for what is no command.
        sound: Phones of a word.
    """

    def __init__(
        self,
        texts: Iterable[str],
        interpret: Callable[[Sequence[str]], Understanding | None],
        sound: Callable[[str], Sequence[int]],
    ) -> None:
        self._interpret = interpret
        self._sound = sound
        self._known: dict[str, tuple[int, ...]] = {}
        self._rivals: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        between: defaultdict[tuple[str, str], dict[tuple[str, ...], None]] = defaultdict(dict)
        for text in dict.fromkeys(texts):
            words = [_BOUND, *text.split(), _BOUND]
            for before, behind in _gaps(len(words)):
                inside = tuple(words[before + 1 : behind])
                between[words[before], words[behind]][inside] = None
        self._between = {ends: tuple(insides) for ends, insides in between.items()}

    def draw(self, text: str, rng: np.random.Generator, *, count: int) -> list[str]:
        """Other commands, half of them of those that sound most like it.

        Args:
            text: What was said.
            rng: Draws them.
            count: How many at most.

        Returns:
            Sentences of the grammar that mean something else; none where `text` is no command.
        """
        if text not in self._rivals:
            self._rivals[text] = self._found(text)
        near, others = self._rivals[text]
        wanted = min(count, len(near) + len(others))
        from_near = min(len(near), max((wanted + 1) // 2, wanted - len(others)))
        drawn = [near[n] for n in rng.permutation(len(near))[:from_near]]
        return drawn + [others[n] for n in rng.permutation(len(others))[: wanted - from_near]]

    def _found(self, text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        meant = self._interpret(text.split())
        if meant is None:
            return (), ()
        said = meaning_key(meant)
        words = [_BOUND, *text.split(), _BOUND]
        changes: dict[str, int] = {}  # sentence to how many phones are others
        for before, behind in _gaps(len(words)):
            spoken = words[before + 1 : behind]
            sounds = self._sounds(spoken)
            for inside in self._between.get((words[before], words[behind]), ()):
                changed = " ".join([*words[1 : before + 1], *inside, *words[behind:-1]])
                distance = Levenshtein.distance(sounds, self._sounds(inside))
                changes[changed] = min(distance, changes.get(changed, distance))

        def rivals_among(sentences: Sequence[str], most: int) -> list[str]:
            found: list[str] = []
            for sentence in sentences:
                meaning = self._interpret(sentence.split())
                if meaning is not None and meaning_key(meaning) != said:
                    found.append(sentence)
                    if len(found) == most:
                        break
            return found

        by_likeness = sorted(changes, key=lambda sentence: (changes[sentence], sentence))
        near = rivals_among(by_likeness, _MOST_NEAR)
        if len(near) < _MOST_NEAR:
            return tuple(near), ()
        left = by_likeness[by_likeness.index(near[-1]) + 1 :]
        shuffled = np.random.default_rng(zlib.crc32(text.encode())).permutation(len(left))
        return tuple(near), tuple(rivals_among([left[n] for n in shuffled], _MOST_OTHERS))

    def _sounds(self, words: Sequence[str]) -> list[int]:
        for word in words:
            if word not in self._known:
                self._known[word] = tuple(self._sound(word))
        return [phone for word in words for phone in self._known[word]]


class RivalsOf:
    """Draws rivals of the commands of an experiment; read when the first is asked for.

    Processes of a loader get it before that: it holds names of files then, and little else.

    Args:
        files: Templates, as of `load_commands`.
        texts: The sentences of them that the text stage wrote.
        lexicon: How words are said.
        count: How many are drawn at most.

    Raises:
        ConfigError: `texts` is not there.
    """

    def __init__(self, files: Sequence[str], texts: Path, lexicon: Lexicon, *, count: int) -> None:
        if not texts.is_file():
            raise ConfigError(
                f"commands.rivals is {count} and {texts} is not there. Run the stage that writes "
                "the text first, or set commands.rivals to 0."
            )
        self._files = files
        self._texts = texts
        self._lexicon = lexicon
        self._count = count
        self._rivals: Rivals | None = None

    def __call__(self, text: str, rng: np.random.Generator) -> list[str]:
        """What could have been said instead of a text; see `Rivals.draw`."""
        if self._rivals is None:
            commands = load_commands(self._files)
            self._rivals = Rivals(
                (item.text for item in load_texts(self._texts)),
                Matcher(commands.network).exact,
                lambda word: self._lexicon.pronounce(word)[0],
            )
        return self._rivals.draw(text, rng, count=self._count)

    def __getstate__(self) -> dict[str, object]:
        """Without what was read."""
        return {**self.__dict__, "_rivals": None}


def _gaps(count: int) -> Iterable[tuple[int, int]]:
    """Places (before, behind) of words that have at most `_MOST_WORDS` between them."""
    for before in range(count - 1):
        for behind in range(before + 1, min(before + _MOST_WORDS + 2, count)):
            yield before, behind
