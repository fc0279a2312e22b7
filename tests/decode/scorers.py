"""Language models without a network: the score of a word is a hash of what came before it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

Words = tuple[str, ...]


def hashed(before: Words, word: str) -> float:
    """Nats in -8..0, the same on every machine."""
    key = " ".join((*before, word)).encode()
    return -8.0 * (zlib.crc32(key) / 2**32)


class HashScorer:
    """Sees the last `memory` words, all of them by default; keeps what it was asked for."""

    def __init__(self, memory: int | None = None) -> None:
        self.memory = memory
        self.batches: list[int] = []
        self.name = "hashes"

    def start(self) -> Words:
        return ()

    def extend(self, after: Sequence[tuple[Words, str]]) -> list[tuple[float, Words]]:
        self.batches.append(len(after))
        return [(hashed(self._seen(state), word), (*state, word)) for state, word in after]

    def finish(self, states: Sequence[Words]) -> list[float]:
        return [hashed(self._seen(state), "</s>") for state in states]

    def sentence(self, words: Words) -> float:
        """By the definition: a sum over the words, each after those before it."""
        total = 0.0
        for i, word in enumerate((*words, "</s>")):
            total += hashed(self._seen(tuple(words[:i])), word)
        return total

    def _seen(self, words: Words) -> Words:
        return words if self.memory is None else words[max(0, len(words) - self.memory) :]
