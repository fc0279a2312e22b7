"""From what the search found, in frames, to a transcript in seconds. Knows no audio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earshot.core.features import ENCODER_CLOCK, FrameClock
from earshot.core.transcript import Transcript, Word

if TYPE_CHECKING:
    from earshot._native import StreamResult


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
