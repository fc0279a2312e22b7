"""Which phrase of a list each frame of a recording attended to.

Turns the engine's sparse record of entries and weights into one weight a phrase and frame. Knows
nothing of how it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from earshot import _native

__all__ = ["AttentionMap", "attention_map"]


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """What the frames of one recording attended to.

    Args:
        phrases: The N phrases that were looked at most, the one with the most weight first.
        weights: (N, T) float32 in [0, 1]: of each phrase, the weight of its entries together. An
            entry counts for every phrase that has it, so that a column may sum to more than 1.
        no_bias: (T,) float32 in [0, 1]: what went to none.
        frame_s: Seconds a frame.
        listed: Phrases of the whole list.
    """

    phrases: tuple[str, ...]
    weights: npt.NDArray[np.float32]
    no_bias: npt.NDArray[np.float32]
    frame_s: float
    listed: int


def attention_map(
    found: _native.Attention, phrases: Sequence[str], *, frame_s: float, most: int = 24
) -> AttentionMap:
    """Weights by phrase.

    Args:
        found: What the engine kept, from `_native.Stream.attention`.
        phrases: The list as it was encoded, one text a row.
        frame_s: Seconds a frame.
        most: Phrases to keep.

    Returns:
        The phrases with the most weight, all frames together; equal ones in the list's order.

    Raises:
        ValueError: The list has another number of phrases.
    """
    rows = found["phrases"]
    if len(phrases) != rows.num_phrases:
        raise ValueError(
            f"attention: {len(phrases)} texts for {rows.num_phrases} phrases; there must be one "
            "each."
        )
    frames = len(found["begin"]) - 1
    frame_of = np.repeat(np.arange(frames), np.diff(found["begin"]))
    total = np.zeros(frames)
    np.add.at(total, frame_of, found["weight"])
    # Entries by frames, of those that were ever looked at; then a sum over each phrase's own.
    used, compact = np.unique(found["entry"], return_inverse=True)
    table = np.zeros((len(used) + 1, frames), np.float32)
    table[compact, frame_of] = found["weight"]
    place = np.full(rows.num_entries, len(used))
    place[used] = np.arange(len(used))
    sums = np.zeros(len(phrases), np.float32)
    begin, entries = rows.begin, place[rows.entries]
    looked = np.zeros(len(phrases), bool)
    owner = np.repeat(np.arange(len(phrases)), np.diff(begin))
    looked[owner[entries < len(used)]] = True
    curves: dict[int, npt.NDArray[np.float32]] = {}
    for phrase in np.flatnonzero(looked).tolist():
        own = np.unique(entries[begin[phrase] : begin[phrase + 1]])
        curve = table[own].sum(axis=0)
        sums[phrase] = curve.sum()
        curves[phrase] = curve
    order = np.argsort(-sums, kind="stable")[:most]
    order = order[sums[order] > 0]
    weights = np.zeros((len(order), frames), np.float32)
    for row, phrase in enumerate(order.tolist()):
        weights[row] = np.minimum(curves[phrase], 1.0)
    return AttentionMap(
        phrases=tuple(phrases[i] for i in order.tolist()),
        weights=weights,
        no_bias=np.clip(1.0 - total, 0.0, 1.0).astype(np.float32),
        frame_s=frame_s,
        listed=len(phrases),
    )
