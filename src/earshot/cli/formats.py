"""Written forms of a transcript and of what it asks for: text, JSON, SRT, VTT, CTM.

Pure functions from timed words to strings; the only place that knows how captions are cut.
Knows nothing of audio, models or where the strings go. Times come in as seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earshot.core.transcript import Transcript, Word

if TYPE_CHECKING:
    from earshot.core.understanding import Understanding
    from earshot.decode.lattice import Lattice, LatticePath

__all__ = [
    "MAX_CUE_CHARS",
    "MAX_CUE_S",
    "Cue",
    "ctm",
    "cues",
    "in_figures",
    "json_line",
    "nbest_lines",
    "nbest_objects",
    "srt",
    "text_line",
    "transcript_object",
    "vtt",
]

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


def ctm(words: Sequence[Word], *, recording: str, channel: int = 0) -> str:
    """NIST CTM: `recording channel start duration word confidence`, one word a line.

    Args:
        words: In order of time.
        recording: Name of the recording; white space in it becomes `_`, since fields are split
            at white space.
        channel: Channel number; Lhotse and Kaldi start at 0.

    Returns:
        Lines sorted by start, two decimals, each ended by a newline; empty without words.
    """
    name = "_".join(recording.split()) or "-"
    lines = []
    for word in sorted(words, key=lambda w: w.start_s):
        # Rounding both ends keeps start + duration equal to the rounded end.
        start, end = round(word.start_s, 2), round(word.end_s, 2)
        lines.append(
            f"{name} {channel} {start:.2f} {end - start:.2f} {word.word} {word.confidence:.2f}\n"
        )
    return "".join(lines)


def in_figures(transcript: Transcript) -> Transcript:
    """The transcript in its written form: numbers, times and amounts in figures.

    Args:
        transcript: In the recogniser's spelling.

    Returns:
        Words that may stand for several spoken ones: from the start of the first to the end of
        the last, with the geometric mean of their confidences.
    """
    from earshot.understand.written import written_words

    words = []
    for written in written_words([word.word for word in transcript.words]):
        spoken = transcript.words[written.first : written.last + 1]
        confidence = math.prod(word.confidence for word in spoken) ** (1 / len(spoken))
        words.append(Word(written.text, spoken[0].start_s, spoken[-1].end_s, confidence))
    return Transcript(tuple(words), transcript.duration_s)


def text_line(text: str, understanding: Understanding | None = None) -> str:
    """One transcript on one line, with commands followed by intent and slots.

    Args:
        text: What was said.
        understanding: What it asks for; None where no commands were given.

    Returns:
        The text; then, each after a tab, the intent and every `slot=value`, or `-` where no
        command was accepted. Ended by a newline.
    """
    fields = [text]
    if understanding is not None:
        fields.append(understanding.intent or "-")
        fields += [
            f"{name}={_plain_value(slot.value)}" for name, slot in understanding.slots.items()
        ]
    return "\t".join(fields) + "\n"


def transcript_object(
    transcript: Transcript,
    *,
    processing_s: float,
    model: str,
    understanding: Understanding | None = None,
) -> dict[str, object]:
    """The JSON object of one transcript.

    Args:
        transcript: What was said.
        processing_s: Wall seconds it took, reading included.
        model: Name of the model.
        understanding: What it asks for; None where no commands were given.

    Returns:
        `text`, `words` (each `word, start_s, end_s, confidence`), `duration_s`, `processing_s`,
        `model`, in that order; times to the millisecond. With commands, `intent`, `slots`
        (`{name: {"value", "spoken"}}`) and `confidence` follow `text`.
    """
    value = transcript.as_dict()
    return {
        "text": value.pop("text"),
        **({} if understanding is None else understanding.as_dict()),
        **value,
        "processing_s": round(processing_s, 3),
        "model": model,
    }


def nbest_lines(lattice: Lattice, n: int) -> str:
    """The likeliest hypotheses, one a line: a tab, its probability, a tab, the words.

    Args:
        lattice: Of one recording.
        n: How many at most.
    """
    return "".join(f"\t{p:.4f}\t{path.text}\n" for path, p in _nbest(lattice, n))


def nbest_objects(lattice: Lattice, n: int) -> list[dict[str, object]]:
    """The likeliest hypotheses for JSON, best first.

    Args:
        lattice: Of one recording.
        n: How many at most.

    Returns:
        Objects `text, probability, score, acoustic, prior, words`: probability among all that
        the lattice holds, scores in nats, words as in `transcript_object` but with the
        lattice's confidences.
    """
    from earshot.core.features import ENCODER_CLOCK
    from earshot.decode.lattice import word_confidences

    out: list[dict[str, object]] = []
    for path, probability in _nbest(lattice, n):
        arcs = [arc for arc in path.arcs if lattice.word_at(arc)]
        words = [
            Word(
                lattice.word_at(arc),
                ENCODER_CLOCK.start_s(int(lattice.start_frame[arc])),
                ENCODER_CLOCK.start_s(int(lattice.end_frame[arc])),
                confidence,
            )
            for arc, confidence in zip(arcs, word_confidences(lattice, path), strict=True)
        ]
        out.append(
            {
                "text": path.text,
                "probability": round(probability, 6),
                "score": round(path.score, 4),
                "acoustic": round(path.acoustic, 4),
                "prior": round(path.prior, 4),
                "words": Transcript(tuple(words)).as_dict()["words"],
            }
        )
    return out


def _nbest(lattice: Lattice, n: int) -> list[tuple[LatticePath, float]]:
    from earshot.decode.lattice import nbest, total_score

    total = total_score(lattice)
    return [(path, min(1.0, math.exp(path.score - total))) for path in nbest(lattice, n)]


def json_line(value: dict[str, object]) -> str:
    """One JSON object on one line, letters of every script as themselves."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _plain_value(value: object) -> str:
    """Text as it is, but on one line and without tabs; everything else as in JSON."""
    if isinstance(value, str):
        return " ".join(value.split())
    return json.dumps(value, ensure_ascii=False)


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
