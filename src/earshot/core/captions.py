"""Captions: timed words cut into pieces that can be read while they show, as SRT and VTT.

The only place that knows how captions are cut. Knows nothing of audio, models or where the
strings go. Times come in as seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earshot.core.transcript import Word

__all__ = ["MAX_CUE_CHARS", "MAX_CUE_S", "Cue", "cues", "srt", "vtt"]

MAX_CUE_S = 7.0  # longer than this and a reader loses the link to the picture
MAX_CUE_CHARS = 84  # two lines of MAX_LINE_CHARS
MAX_LINE_CHARS = 42
CUE_PAUSE_S = 1.0  # a pause this long always ends a cue


@dataclass(frozen=True, slots=True)
class Cue:
    """One caption: when it shows and what it says."""

    start_s: float
    end_s: float
    text: str


def cues(words: Sequence[Word]) -> list[Cue]:
    """Captions of at most `MAX_CUE_S` seconds and `MAX_CUE_CHARS` characters.

    A cue that would grow beyond a limit is cut at its longest pause in the second half, so that
    captions break where the speaker did and none is a lone word without need.

    Args:
        words: In order of time.

    Returns:
        Cues in order that together hold every word once. A single word beyond a limit is a cue
        of its own.
    """
    done: list[Cue] = []
    open_words: list[Word] = []
    for word in words:
        if open_words and word.start_s - open_words[-1].end_s >= CUE_PAUSE_S:
            done.append(_cue(open_words))
            open_words = []
        open_words.append(word)
        while len(open_words) > 1 and not _fits(open_words):
            cut = _longest_pause(open_words)
            done.append(_cue(open_words[:cut]))
            open_words = open_words[cut:]
    if open_words:
        done.append(_cue(open_words))
    return done


def srt(words: Sequence[Word]) -> str:
    """SubRip captions: numbered from 1, `HH:MM:SS,mmm`, a blank line after each."""
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n"
        f"{_two_lines(cue.text)}\n\n"
        for number, cue in enumerate(cues(words), start=1)
    )


def vtt(words: Sequence[Word]) -> str:
    """WebVTT captions: the `WEBVTT` line, then `HH:MM:SS.mmm` cues."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
        f"{_escaped(_two_lines(cue.text))}\n\n"
        for cue in cues(words)
    )


def _fits(words: Sequence[Word]) -> bool:
    chars = sum(len(word.word) for word in words) + len(words) - 1
    return chars <= MAX_CUE_CHARS and words[-1].end_s - words[0].start_s <= MAX_CUE_S


def _longest_pause(words: Sequence[Word]) -> int:
    """Index of the word that starts the next cue; the later one where pauses are equal."""
    first = max(1, len(words) // 2)
    return max(
        range(first, len(words)),
        key=lambda i: (round(words[i].start_s - words[i - 1].end_s, 3), i),
    )


def _cue(words: Sequence[Word]) -> Cue:
    return Cue(words[0].start_s, words[-1].end_s, " ".join(word.word for word in words))


def _clock(seconds: float, separator: str) -> str:
    ms = max(0, round(seconds * 1000))
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{ms // 1000:02d}{separator}{ms % 1000:03d}"


def _two_lines(text: str) -> str:
    """The text broken at the space nearest its middle when it is wider than one line."""
    if len(text) <= MAX_LINE_CHARS:
        return text
    spaces = [i for i, letter in enumerate(text) if letter == " "]
    if not spaces:
        return text
    middle = min(spaces, key=lambda i: abs(i - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
