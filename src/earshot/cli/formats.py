"""Written forms of a transcript and of what it asks for: text, JSON, SRT, VTT, CTM.

Pure functions from timed words to strings; `core.captions` knows how captions are cut. Knows
nothing of audio, models or where the strings go. Times come in as seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from earshot.core.captions import MAX_CUE_CHARS, MAX_CUE_S, Cue, cues, srt, vtt
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
    return Transcript(tuple(words), transcript.duration_s, transcript.rescoring)


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
