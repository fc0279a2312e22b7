"""Which sentences may be said: a flat recursive network over words, for the engine's search.

Knows words, their pieces, how they are pronounced where the search is to go by sounds, and the
arcs between them; knows nothing of templates, intents or what a tag stands for. See
`docs/concepts/grammar-search.md` for what the engine makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from earshot import _native

_I32 = npt.NDArray[np.int32]


class ArcKind(IntEnum):
    """What an arc does; `arc_label` says with what."""

    WORD = 0  # says word `label`
    EPSILON = 1
    CALL = 2  # goes through the sub-graph that starts at node `label`
    TAG = 3  # as EPSILON; the label is for others


@dataclass(frozen=True, slots=True, eq=False)
class WordGraph:
    """A network of N nodes and A arcs; a node's arcs lie together.

    A top-level final node may end the sentence; in a sub-graph it returns to the caller.
    Sub-graphs are shared: any number of arcs may call one, at most 16 deep.

    Args:
        words: As the recogniser spells them.
        pieces: Word-piece ids of each word.
        arc_begin: Shape (N + 1,): node n has the arcs `arc_begin[n]..arc_begin[n + 1]`.
        arc_kind: Shape (A,): an `ArcKind` each.
        arc_label: Shape (A,): word, 0, start node of the called sub-graph, or tag.
        arc_dest: Shape (A,): the node after the arc; for CALL, after the sub-graph.
        arc_weight: Shape (A,): natural log, -1000..0; the engine rounds to 1/4096.
        final: Shape (N,): 0 or 1.
        start: Node.
        pronunciations: Of each word, rows of phone ids from 1 on; then the search goes by phones.
            None makes a graph of pieces.

    Raises:
        ValueError: The words and pieces do not belong together, or an array has a wrong type
            or shape. What the arcs say is checked by `to_native`.
    """

    words: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...]
    arc_begin: _I32
    arc_kind: npt.NDArray[np.uint8]
    arc_label: _I32
    arc_dest: _I32
    arc_weight: npt.NDArray[np.float32]
    final: npt.NDArray[np.uint8]
    start: int
    pronunciations: tuple[tuple[tuple[int, ...], ...], ...] | None = None

    def __post_init__(self) -> None:
        if len(self.words) != len(self.pieces):
            raise ValueError(
                f"word graph: {len(self.words)} words and {len(self.pieces)} rows of pieces; "
                "there must be one row per word."
            )
        if self.pronunciations is not None and len(self.pronunciations) != len(self.words):
            raise ValueError(
                f"word graph: {len(self.words)} words and pronunciations of "
                f"{len(self.pronunciations)}; there must be some for every word."
            )
        nodes, arcs = len(self.final), len(self.arc_kind)
        for name, dtype, length in (
            ("arc_begin", np.int32, nodes + 1),
            ("arc_kind", np.uint8, arcs),
            ("arc_label", np.int32, arcs),
            ("arc_dest", np.int32, arcs),
            ("arc_weight", np.float32, arcs),
            ("final", np.uint8, nodes),
        ):
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (length,):
                raise ValueError(
                    f"word graph: {name} is {array.dtype} of shape {array.shape}; it must be "
                    f"{np.dtype(dtype)} of shape ({length},), as final and arc_kind have "
                    f"{nodes} nodes and {arcs} arcs."
                )
            if not array.flags.c_contiguous:
                raise ValueError(
                    f"word graph: {name} is not contiguous in memory; "
                    "pass it through numpy.ascontiguousarray."
                )

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.final)

    @property
    def num_arcs(self) -> int:
        """A."""
        return len(self.arc_kind)

    def to_native(self, *, vocabulary: int, phones: int = 0) -> _native.WordGraph:
        """Hand a copy to the engine, which checks it whole.

        Args:
            vocabulary: Word pieces of the model that is to search it.
            phones: Its phones, 0 if it has none; only pronunciations need them.

        Returns:
            A graph for any number of recognisers, streams and threads.

        Raises:
            ValueError: An index is out of range, a word has no pieces or phones, or one that
                the model never puts out, a weight is not in -1000..0, the graph calls itself,
                has a loop that says nothing, or has no sentence.
        """
        piece_begin, piece_ids = _rows(self.pieces)
        sounds: dict[str, Any] = {}
        if self.pronunciations is not None:
            spellings = tuple(chain.from_iterable(self.pronunciations))
            phone_begin, phone_ids = _rows(spellings)
            spelling_begin = np.zeros(len(self.words) + 1, np.int32)
            spelling_begin[1:] = np.cumsum([len(of) for of in self.pronunciations])
            sounds = {
                "spelling_begin": spelling_begin,
                "phone_begin": phone_begin,
                "phone_ids": phone_ids,
            }
        return _native.WordGraph(
            self.arc_begin,
            self.arc_kind,
            self.arc_label,
            self.arc_dest,
            self.arc_weight,
            self.final,
            self.start,
            piece_begin,
            piece_ids,
            vocabulary=vocabulary,
            phones=phones if sounds else 0,
            **sounds,
        )


def _rows(rows: tuple[tuple[int, ...], ...]) -> tuple[_I32, _I32]:
    """Where each row begins in all rows joined, with one more entry for their end; and these."""
    begin = np.zeros(len(rows) + 1, np.int32)
    begin[1:] = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
    return begin, np.fromiter(chain.from_iterable(rows), np.int32, int(begin[-1]))
