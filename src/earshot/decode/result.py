"""From what the search found, in frames, to a transcript in seconds. Knows no audio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from earshot.core.features import ENCODER_CLOCK, FrameClock
from earshot.core.transcript import Transcript, Word

if TYPE_CHECKING:
    from earshot._native import LatticeArcs, StreamResult
    from earshot.decode.lattice import Lattice
    from earshot.decode.rescoring import Rescored


def to_transcript(
    result: StreamResult, *, duration_s: float, clock: FrameClock = ENCODER_CLOCK
) -> Transcript:
    """Put the words of a search result on the time line.

    Args:
        result: From the engine's stream.
        duration_s: Audio heard so far, seconds.
        clock: Of the frames that the search counts in.

    Returns:
        The words: a word starts with the frame of its first piece and ends after the frame of
        its last.
    """
    words = tuple(
        Word(
            word=word["word"],
            start_s=clock.start_s(word["start_frame"]),
            end_s=clock.start_s(word["end_frame"]),
            confidence=word["confidence"],
        )
        for word in result["words"]
    )
    return Transcript(words, duration_s)


def rescored_transcript(
    first: Transcript, rescored: Rescored, *, clock: FrameClock = ENCODER_CLOCK
) -> Transcript:
    """What a second pass makes of a transcript.

    Args:
        first: That of the first pass.
        rescored: What came of the second.
        clock: Of the frames that the lattice counts in.

    Returns:
        The best hypothesis, its times and confidences from the lattice; or the first pass's
        words as they were, where they are the same or nothing came. The note says which.
    """
    from earshot.decode.lattice import LatticePath, word_confidences

    words = first.words
    best = rescored.hypotheses[0] if rescored.hypotheses else None
    if best is not None and best.words != tuple(word.word for word in first.words):
        lattice, arcs = rescored.lattice, list(best.arcs)
        path = LatticePath(best.words, best.arcs, best.first, best.first, 0.0)
        spoken = [arc for arc in arcs if lattice.word_at(arc)]
        words = tuple(
            Word(
                word=lattice.word_at(arc),
                start_s=clock.start_s(int(lattice.start_frame[arc])),
                end_s=clock.start_s(int(lattice.end_frame[arc])),
                confidence=min(1.0, confidence),
            )
            for arc, confidence in zip(spoken, word_confidences(lattice, path), strict=True)
        )
    return Transcript(words, first.duration_s, rescored.note)


def to_lattice(arcs: LatticeArcs) -> Lattice:
    """A lattice of what the engine recorded.

    Args:
        arcs: From the engine's stream.

    Returns:
        The lattice. Pieces that spell nothing, and different pieces that spell the same, are
        gone: what is left are words.
    """
    # Imported here: who asks for no lattice does not wait for it.
    from earshot.decode.lattice import NOTHING, Arc, Lattice, assembled

    texts = [" ".join(word.split()) for word in arcs["words"]]
    table = tuple(dict.fromkeys(texts))
    index = np.array([table.index(text) for text in texts], np.int32)
    word = index[arcs["word"]]
    last = int(arcs["dst"].max())
    silent = word == table.index(NOTHING) if NOTHING in table else np.zeros(len(word), bool)
    if not (silent & ((arcs["src"] != 0) | (arcs["dst"] != last))).any():
        return Lattice(
            arcs["src"],
            arcs["dst"],
            word,
            arcs["start_frame"],
            arcs["end_frame"],
            arcs["acoustic"],
            arcs["prior"],
            table,
        )
    columns = ("src", "dst", "start_frame", "end_frame", "acoustic", "prior")
    src, dst, start, end, acoustic, prior = (arcs[name].tolist() for name in columns)  # type: ignore[literal-required]
    said = [table[w] for w in word]
    rows = map(Arc, src, dst, said, start, end, acoustic, prior)
    return assembled(rows, start=0, finals={last: 0.0})
