"""Lists of phrases to train biasing with: those of a batch's references, and distractors.

Per batch one list: of each clip the phrase that it is about, or a stretch of its words, and names
and stretches of other texts that nobody says. Some clips' phrases are left out, so that it is
learnt what to do when a list does not help. Knows nothing of networks or audio.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from earshot.core.errors import ConfigError
from earshot.data.pronunciation import Lexicon
from earshot.data.tokenizer import Tokenizer
from earshot.models.biasing import NONE, UNGUIDED, BiasConfig, PhraseBatch, phrase_windows
from earshot.train.alignment import Sounds, sounds_of
from earshot.train.phrase_text import random_name

__all__ = ["ListConfig", "PhraseSampler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListConfig:
    """How lists are drawn while biasing is trained."""

    smallest: int = 4  # distractors
    largest_first: int = 50  # most distractors at the start of the run,
    largest_last: int = 1000  # and at its end
    kept_share: float = 0.8  # of the clips' phrases that are on the list
    span_share: float = 0.35  # of the clips that are about no phrase: a stretch of their words is
    span_words: int = 3  # most words of a stretch
    name_share: float = 0.8  # of the distractors: names; the others are stretches of texts
    alone_share: float = 0.1  # of the batches: nothing on the list is said

    def __post_init__(self) -> None:
        if not 0 <= self.smallest <= self.largest_first <= self.largest_last:
            raise ConfigError(
                f"lists: smallest is {self.smallest}, largest_first {self.largest_first} and "
                f"largest_last {self.largest_last}; they must not fall. Change one."
            )
        for name in ("kept_share", "span_share", "name_share", "alone_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"lists.{name} is {getattr(self, name)}; it must lie between 0 and 1. "
                    "Change it."
                )


class PhraseSampler:
    """Draws the list of a batch.

    Args:
        tokenizer: Word pieces.
        bias: Shape of the entries.
        lists: How lists are drawn.
        rare: Words that names are made of.
        texts: Sentences, for stretches that nobody says.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        bias: BiasConfig,
        lists: ListConfig,
        *,
        rare: Sequence[str],
        texts: Sequence[str],
    ) -> None:
        self._tokenizer = tokenizer
        self._bias = bias
        self._lists = lists
        self._rare = rare
        self._texts = texts
        self._windows: dict[str, list[tuple[int, ...]]] = {}

    def windows(self, phrase: str) -> list[tuple[int, ...]]:
        """The entries of a phrase."""
        if phrase not in self._windows:
            if len(self._windows) > 200_000:
                self._windows.clear()
            self._windows[phrase] = self._windows_of(phrase)
        return self._windows[phrase]

    def _windows_of(self, phrase: str) -> list[tuple[int, ...]]:
        if self._bias.phones == 0:
            return phrase_windows(self._tokenizer.encode(phrase), self._bias)
        lexicon = Lexicon.load()
        words = (sounds_of(word, self._tokenizer, lexicon) for word in phrase.split())
        sounds = sum(words, Sounds((), (), ()))
        return phrase_windows(
            sounds.pieces,
            self._bias,
            phones=sounds.phones,
            ends=sounds.ends,
            vocab_size=len(self._tokenizer.pieces),
        )

    def distractors(self, count: int, rng: random.Random) -> list[str]:
        """Phrases that, but for chance, nobody says."""
        made = []
        for _ in range(count):
            named = not self._texts or (self._rare and rng.random() < self._lists.name_share)
            made.append(
                random_name(self._rare, rng) if named else self._span(rng.choice(self._texts), rng)
            )
        return [phrase for phrase in made if phrase]

    def draw(
        self,
        texts: Sequence[str],
        phrases: Sequence[str | None],
        progress: float,
        rng: random.Random,
    ) -> tuple[PhraseBatch, list[str]]:
        """A list for a batch.

        Args:
            texts: What is said, one a clip.
            phrases: What each clip is about; None takes a stretch now and then.
            progress: Share of the run that is done: lists grow.
            rng: Source of randomness.

        Returns:
            The batch, without `frame_entries`, and the phrases that are listed.
        """
        lists = self._lists
        alone = rng.random() < lists.alone_share
        listed: list[str] = []
        for text, phrase in zip(texts, phrases, strict=True):
            if phrase is None and rng.random() < lists.span_share:
                phrase = self._span(text, rng)
            if phrase and not alone and rng.random() < lists.kept_share:
                listed.append(phrase)
        largest = lists.largest_first + progress * (lists.largest_last - lists.largest_first)
        low, high = np.log(max(1, lists.smallest)), np.log(max(1.0, largest))
        count = round(float(np.exp(rng.uniform(low, high))))
        said = {f" {text} " for text in texts}
        for phrase in self.distractors(count, rng):
            if not alone or not any(f" {phrase} " in text for text in said):
                listed.append(phrase)
        return self.batch(texts, listed), listed

    def batch(self, texts: Sequence[str], listed: Sequence[str]) -> PhraseBatch:
        """Entries of a list, and where the texts have them.

        Args:
            texts: What is said, one a clip.
            listed: The phrases; those that have no piece count nothing.
        """
        index: dict[tuple[int, ...], int] = {}
        by_first: dict[str, list[list[str]]] = {}
        for phrase in dict.fromkeys(listed):
            words = phrase.split()
            if words:
                by_first.setdefault(words[0], []).append(words)
            for window in self.windows(phrase):
                index.setdefault(window, len(index))
        for others in by_first.values():
            others.sort(key=len, reverse=True)
        rows = [self._entries(text.split(), by_first, index) for text in texts]
        table = torch.full((len(rows), max(map(len, rows), default=0) + 1), UNGUIDED)
        for row, entries in enumerate(rows):
            table[row, : len(entries)] = torch.tensor(entries, dtype=torch.int64)
            table[row, len(entries)] = NONE  # nothing follows
        size = (len(index), self._bias.window)
        windows = torch.tensor(list(index), dtype=torch.int64).reshape(size)
        return PhraseBatch(windows, table)

    def _entries(
        self,
        words: list[str],
        by_first: dict[str, list[list[str]]],
        index: dict[tuple[int, ...], int],
    ) -> list[int]:
        """The entry of every piece of a text, the longest phrase first where several fit."""
        entries: list[int] = []
        at = 0
        while at < len(words):
            for phrase in by_first.get(words[at], ()):
                if words[at : at + len(phrase)] == phrase:
                    entries += [index[w] for w in self.windows(" ".join(phrase))]
                    at += len(phrase)
                    break
            else:
                entries += [NONE] * len(self.windows(words[at]))
                at += 1
        return entries

    def _span(self, text: str, rng: random.Random) -> str:
        words = text.split()
        if not words:
            return ""
        count = rng.randint(1, min(self._lists.span_words, len(words)))
        start = rng.randint(0, len(words) - count)
        return " ".join(words[start : start + count])
