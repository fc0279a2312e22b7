"""What a stream of audio tells those who listen to it: utterances as they begin, grow and end.

One contract for Python, the WebSocket and every adapter. Per utterance: one `SpeechStarted`, any
number of `Partial`, exactly one `Final`. At most one speculation is open, and each is resolved
once, by a `SpeculationCancelled` or by the `Final` that bears its `spec_id`. Times are seconds of
the stream. Knows nothing of who decides them: that is `session.event_stream`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from earshot.core.transcript import Word
from earshot.core.understanding import SlotValue

__all__ = [
    "Alternative",
    "CancelReason",
    "Event",
    "Final",
    "FinalReason",
    "Partial",
    "SpeculationCancelled",
    "SpeculativeEndpoint",
    "SpeechStarted",
    "StreamError",
]

CancelReason = Literal["speech_resumed", "text_changed", "timeout"]
FinalReason = Literal["endpoint", "flush", "end", "max_length"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of the texts that an utterance may have been.

    Args:
        text: Its words, separated by one space.
        probability: Its share of what the search held at the end, in [0, 1].
    """

    text: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted:
    """Somebody speaks.

    Args:
        utterance: "u1", "u2", ... in the order of the stream.
        t_s: Stream time of the newest sample that the decision rests on.
        start_s: When the speech began, at or before `t_s`.
    """

    utterance: str
    t_s: float
    start_s: float

    def to_json(self) -> dict[str, Any]:
        """The wire object without `seq`; times are rounded to milliseconds."""
        return {
            "type": "speech_started",
            "utterance": self.utterance,
            "t_s": _ms(self.t_s),
            "start_s": _ms(self.start_s),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """The words so far.

    Args:
        utterance: Which one.
        t_s: As in `SpeechStarted`.
        text: Free speech so far; what lies behind `stable_chars` may change.
        stable_chars: So many first characters are whole words that the final text begins with.
    """

    utterance: str
    t_s: float
    text: str
    stable_chars: int

    def to_json(self) -> dict[str, Any]:
        """The wire object without `seq`."""
        return {
            "type": "partial",
            "utterance": self.utterance,
            "t_s": _ms(self.t_s),
            "text": self.text,
            "stable_chars": self.stable_chars,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculativeEndpoint:
    """The utterance is probably over: work on it may start, and may be in vain.

    Args:
        utterance: Which one.
        t_s: As in `SpeechStarted`.
        spec_id: What resolves it: unique in the stream.
        text: As the final would have it now.
        words: With times and confidences.
        confidence: Of the command where the stream hears commands, else of the words, in [0, 1].
        intent: What is wanted; None where nothing matched.
        slots: The filled slots by name.
        end_s: When the speech ended.
    """

    utterance: str
    t_s: float
    spec_id: str
    text: str
    words: tuple[Word, ...]
    confidence: float
    end_s: float
    intent: str | None = None
    slots: Mapping[str, SlotValue] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The wire object without `seq`."""
        return {
            "type": "speculative_endpoint",
            "utterance": self.utterance,
            "t_s": _ms(self.t_s),
            "spec_id": self.spec_id,
            **_said(self.text, self.words, self.confidence, self.intent, self.slots),
            "end_s": _ms(self.end_s),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationCancelled:
    """The utterance goes on, or says something else: what was started on it must be dropped.

    Args:
        utterance: Which one.
        t_s: As in `SpeechStarted`.
        spec_id: Of the speculation.
        reason: The speaker went on; the words or the intent are others; or nothing resolved it
            for too long.
    """

    utterance: str
    t_s: float
    spec_id: str
    reason: CancelReason

    def to_json(self) -> dict[str, Any]:
        """The wire object without `seq`."""
        return {
            "type": "speculation_cancelled",
            "utterance": self.utterance,
            "t_s": _ms(self.t_s),
            "spec_id": self.spec_id,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The utterance is over; nothing of it changes any more.

    Args:
        utterance: Which one.
        t_s: As in `SpeechStarted`.
        spec_id: Of the speculation that this resolves; None if none was open.
        matched: Whether that speculation stands: equal texts, leaving case and punctuation
            aside, equal intent and slots.
        text: The words; empty where the search took back what it had heard.
        words: With times and confidences.
        confidence: As in `SpeculativeEndpoint`.
        intent: What is wanted; None where nothing matched.
        slots: The filled slots by name.
        start_s: When the speech began, as its `SpeechStarted` said.
        end_s: When it ended.
        reason: The end-pointer; `flush`; `end` of the input; or its greatest length.
        nbest: What else it may have been, likeliest first; only where asked for.
        lattice: Serialised word lattice; only where asked for.
        speaker: Who spoke, where voices are told apart.
        whispered: Whether it was whispered, where that is told.
        language: Of the speech, where that is told.
    """

    utterance: str
    t_s: float
    spec_id: str | None
    matched: bool
    text: str
    words: tuple[Word, ...]
    confidence: float
    start_s: float
    end_s: float
    reason: FinalReason
    intent: str | None = None
    slots: Mapping[str, SlotValue] = field(default_factory=dict)
    nbest: tuple[Alternative, ...] | None = None
    lattice: bytes | None = None
    speaker: str | None = None
    whispered: bool | None = None
    language: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The wire object without `seq`; optional fields are there where they have a value."""
        out = {
            "type": "final",
            "utterance": self.utterance,
            "t_s": _ms(self.t_s),
            "spec_id": self.spec_id,
            "matched": self.matched,
            **_said(self.text, self.words, self.confidence, self.intent, self.slots),
            "start_s": _ms(self.start_s),
            "end_s": _ms(self.end_s),
            "reason": self.reason,
        }
        if self.nbest is not None:
            out["nbest"] = [
                {"text": other.text, "probability": round(other.probability, 4)}
                for other in self.nbest
            ]
        if self.lattice is not None:
            from base64 import b64encode

            out["lattice"] = b64encode(self.lattice).decode("ascii")
        for name in ("speaker", "whispered", "language"):
            value = getattr(self, name)
            if value is not None:
                out[name] = value
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamError:
    """Something is wrong with a client's input; no other stream notices.

    Args:
        code: A stable word for programs, such as "bad_audio".
        message: One line for people: what is, and what to do.
        fatal: Whether the stream ends with it.
    """

    code: str
    message: str
    fatal: bool

    def to_json(self) -> dict[str, Any]:
        """The wire object without `seq`."""
        return {
            "type": "error",
            "code": self.code,
            "message": self.message,
            "fatal": self.fatal,
        }


Event = SpeechStarted | Partial | SpeculativeEndpoint | SpeculationCancelled | Final | StreamError


def _ms(seconds: float) -> float:
    return round(seconds, 3)


def _said(
    text: str,
    words: tuple[Word, ...],
    confidence: float,
    intent: str | None,
    slots: Mapping[str, SlotValue],
) -> dict[str, Any]:
    return {
        "text": text,
        "words": [
            {
                "word": word.word,
                "start_s": _ms(word.start_s),
                "end_s": _ms(word.end_s),
                "confidence": round(word.confidence, 4),
            }
            for word in words
        ],
        "confidence": round(confidence, 4),
        "intent": intent,
        "slots": {
            name: {"value": slot.value, "spoken": slot.spoken} for name, slot in slots.items()
        },
    }
