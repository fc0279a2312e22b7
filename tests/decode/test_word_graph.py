"""The Python side of a word graph: what it checks itself, and what reaches the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from earshot.decode.word_graph import ArcKind, WordGraph

# "lights [on]": one word, an optional second, in a sub-graph.
GRAPH = WordGraph(
    words=("lights", "on"),
    pieces=((3, 4), (5,)),
    arc_begin=np.array([0, 1, 2, 2, 4, 4], np.int32),
    arc_kind=np.array([ArcKind.WORD, ArcKind.CALL, ArcKind.WORD, ArcKind.EPSILON], np.uint8),
    arc_label=np.array([0, 3, 1, 0], np.int32),
    arc_dest=np.array([1, 2, 4, 4], np.int32),
    arc_weight=np.array([0, 0, -0.5, -0.25], np.float32),
    final=np.array([0, 0, 1, 0, 1], np.uint8),
    start=0,
)


def test_it_reaches_the_engine_whole() -> None:
    assert (GRAPH.num_nodes, GRAPH.num_arcs) == (5, 4)
    native = GRAPH.to_native(vocabulary=6)
    said = native.walk(np.array([3, 4], np.int32))
    assert said == {"next": [5], "final": True, "weight": -0.25, "final_weight": -0.25}
    longer = native.walk(np.array([3, 4, 5], np.int32))
    assert longer == {"next": [], "final": True, "weight": -0.5, "final_weight": -0.5}
    assert native.walk(np.array([5], np.int32)) is None
    assert 0 < native.size_bytes < 100_000


def test_a_graph_of_phones() -> None:
    spoken = replace(GRAPH, pronunciations=(((1, 2), (1, 3)), ((2,),)))
    native = spoken.to_native(vocabulary=6, phones=3)
    first, whole = (native.walk(np.array(said, np.int32)) for said in ([1], [1, 3, 2]))
    assert first is not None and first["next"] == [2, 3]
    assert whole is not None and whole["final_weight"] == -0.5
    assert GRAPH.to_native(vocabulary=6, phones=3).walk(np.array([1], np.int32)) is None
    with pytest.raises(ValueError, match="spelled in phones, of which there are none"):
        spoken.to_native(vocabulary=6)


def test_no_words() -> None:
    """A graph of the empty sentence only."""
    empty: Any = {
        name: getattr(GRAPH, name)[:0]
        for name in ("words", "pieces", "arc_kind", "arc_label", "arc_dest", "arc_weight")
    }
    graph = WordGraph(**empty, arc_begin=np.zeros(2, np.int32), final=np.ones(1, np.uint8), start=0)
    position = graph.to_native(vocabulary=6).walk(np.zeros(0, np.int32))
    assert position == {"next": [], "final": True, "weight": 0, "final_weight": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": ("lights",)}, "1 words and 2 rows of pieces"),
        ({"pronunciations": (((1,),),)}, "2 words and pronunciations of 1"),
        ({"arc_begin": np.zeros(6, np.int64)}, r"arc_begin is int64 of shape \(6,\)"),
        ({"arc_begin": np.zeros(5, np.int32)}, r"must be int32 of shape \(6,\)"),
        ({"arc_label": np.zeros((4, 1), np.int32)}, r"arc_label is int32 of shape \(4, 1\)"),
        ({"arc_weight": np.zeros(4, np.float64)}, "arc_weight is float64"),
        ({"arc_dest": np.zeros(8, np.int32)[::2]}, "arc_dest is not contiguous"),
    ],
)
def test_arrays_of_a_wrong_kind(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"word graph: .*{message}"):
        replace(GRAPH, **changes)


def test_what_the_engine_refuses() -> None:
    with pytest.raises(ValueError, match=r"piece_ids has 5 at 2; ids must be in 1\.\.4"):
        GRAPH.to_native(vocabulary=5)
    with pytest.raises(ValueError, match="start is node 9"):
        replace(GRAPH, start=9).to_native(vocabulary=6)
