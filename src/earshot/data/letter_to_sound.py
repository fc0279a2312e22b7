"""How a word may be pronounced that no dictionary has: a joint n-gram model of letters and phones.

The model was counted from the dictionary (scripts/make-letter-to-sound). A unit is one letter with
the 0 to 2 phones that it stands for; a word is a path through units, and the probability of a unit
depends on those before it, as many as were seen often enough. Knows only letters; apostrophes,
endings and compounds are the caller's business.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earshot import _native

__all__ = ["LETTERS", "MODEL_PATH", "LetterToSound", "UnitTree"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MODEL_PATH = Path(__file__).parent.parent / "assets" / "en.letters"

_LOG_STEP = 1 / 4  # nats; probabilities and back-off weights are kept in a byte
_BACKOFF_ZERO = 14  # the byte of weight 0: weights may be a little above 1
_NUMBERED = bytes(LETTERS.index(chr(byte)) if chr(byte) in LETTERS else 255 for byte in range(256))

Scored = tuple[tuple[int, ...], float]


class UnitTree:
    """A back-off n-gram model as a tree of contexts, in arrays; node 0 is the empty context.

    A node is the context of its path from the root; its children are the units that may follow,
    sorted by unit, and lie together. Nodes are numbered level by level.

    Args:
        letters: Of each unit, its index in `LETTERS`, ascending; 26 is the end of the word and 27
            its start, the two last units.
        phones: Of each unit, 0 to 2 phone ids.
        units: Of each node, the unit that ends its context; node 0 has 0.
        num_children: Of each node.
        log_probs: Of each node, log p(unit | context before it), nats; a byte each, coarse.
        backoffs: Of each node, the weight of what follows it after a shorter context only.
    """

    def __init__(
        self,
        letters: bytes,
        phones: list[bytes],
        *,
        units: npt.NDArray[np.uint16],
        num_children: npt.NDArray[np.uint16],
        log_probs: npt.NDArray[np.uint8],
        backoffs: npt.NDArray[np.uint8],
    ) -> None:
        self.letters = letters
        self.phones = phones
        self.units = units
        self.num_children = num_children
        self.log_probs = log_probs
        self.backoffs = backoffs

    def to_bytes(self) -> bytes:
        """The form in a file."""
        spelled = b"".join(bytes([len(p)]) + p for p in self.phones)
        inner = self.num_children > 0
        body = b"".join(
            (
                self.letters,
                spelled,
                (self.units >> 8).astype(np.uint8).tobytes(),
                (self.units & 255).astype(np.uint8).tobytes(),
                (self.num_children >> 8).astype(np.uint8).tobytes(),
                (self.num_children & 255).astype(np.uint8).tobytes(),
                self.log_probs.tobytes(),
                self.backoffs[inner].tobytes(),
            )
        )
        head = struct.pack("<HIH", len(self.letters), len(self.units), len(spelled))
        return zlib.compress(head + body, 9)

    @staticmethod
    def from_bytes(data: bytes) -> UnitTree:
        """Read what `to_bytes` wrote."""
        raw = zlib.decompress(data)
        num_units, num_nodes, num_spelled = struct.unpack_from("<HIH", raw)
        at = struct.calcsize("<HIH")
        letters = raw[at : at + num_units]
        at += num_units
        spelled, end = [], at + num_spelled
        while at < end:
            size = raw[at]
            spelled.append(raw[at + 1 : at + 1 + size])
            at += 1 + size
        planes = np.frombuffer(raw, np.uint8, 5 * num_nodes, at).reshape(5, num_nodes)
        num_children = planes[2].astype(np.uint16) << 8 | planes[3]
        backoffs = np.full(num_nodes, _BACKOFF_ZERO, np.uint8)
        inner = num_children > 0
        backoffs[inner] = np.frombuffer(raw, np.uint8, int(inner.sum()), at + 5 * num_nodes)
        return UnitTree(
            letters,
            spelled,
            units=planes[0].astype(np.uint16) << 8 | planes[1],
            num_children=num_children,
            log_probs=planes[4],
            backoffs=backoffs,
        )


def coarse_log_probs(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Log probabilities, nats <= 0, as the bytes of a `UnitTree`."""
    return np.clip(np.rint(-values / _LOG_STEP), 0, 255).astype(np.uint8)


def coarse_backoffs(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Logarithms of back-off weights, nats, as the bytes of a `UnitTree`."""
    return np.clip(np.rint(_BACKOFF_ZERO - values / _LOG_STEP), 0, 255).astype(np.uint8)


class LetterToSound:
    """Finds the likeliest phones of a word by a beam search over its letters.

    Args:
        tree: The model.
    """

    def __init__(self, tree: UnitTree) -> None:
        first = np.zeros(len(tree.units) + 1, np.int64)  # of each node's children
        first[0] = 1
        np.cumsum(tree.num_children, out=first[1:])
        first[1:] += 1
        suffix, state = _links(tree, first)
        starts = np.searchsorted(np.frombuffer(tree.letters, np.uint8), np.arange(28))
        self._native = _native.LetterToSound(
            first=first.astype(np.int32),
            units=np.ascontiguousarray(tree.units, np.uint16),
            suffix=suffix.astype(np.int32),
            state=state.astype(np.int32),
            log_prob=tree.log_probs * np.float32(-_LOG_STEP),
            backoff=(_BACKOFF_ZERO - tree.backoffs.astype(np.float32)) * np.float32(_LOG_STEP),
            phones=tree.phones,
            letters=starts.astype(np.int32),
            start=int(state[1 + starts[27]]),  # the root has every unit as a child
        )

    @staticmethod
    @cache
    def load() -> LetterToSound:
        """The model of the package; read once."""
        return LetterToSound(UnitTree.from_bytes(MODEL_PATH.read_bytes()))

    def best(self, letters: str, *, count: int = 2) -> list[Scored]:
        """The likeliest pronunciations.

        Args:
            letters: One or more of a-z.
            count: How many at most, >= 1.

        Returns:
            Phone ids with log p(letters, phones) in nats, likeliest first; empty only where the
            likeliest is that nothing is said.
        """
        numbers = letters.encode("ascii").translate(_NUMBERED)
        return [(tuple(phones), score) for phones, score in self._native.best(numbers, count)]


def _links(
    tree: UnitTree, first: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each node its longest proper suffix, and itself or the suffix that has children."""
    num_nodes = len(tree.units)
    width = len(tree.letters)
    suffix = np.zeros(num_nodes, np.int64)
    state = np.where(tree.num_children > 0, np.arange(num_nodes), 0)
    parent = np.repeat(np.arange(num_nodes), tree.num_children)  # of node n + 1
    keys = parent * width + tree.units[1:]  # ascending: levels, parents, units
    low, high = 1 + width, int(first[1 + width])  # the level of the contexts of two units
    while low < high:
        nodes = np.arange(low, high)
        wanted = suffix[parent[nodes - 1]] * width + tree.units[nodes]
        suffix[nodes] = 1 + np.searchsorted(keys, wanted)  # there: the model is closed
        state[nodes] = np.where(tree.num_children[nodes] > 0, nodes, state[suffix[nodes]])
        low, high = high, int(first[high])
    return suffix, state
