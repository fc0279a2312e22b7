"""What was said: words with their times and confidences.

Seconds from the start of the audio, because this is where results leave the package. Knows
nothing of word pieces or frames; see `decode.result` for who builds it.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word.

    Args:
        word: The word as written.
        start_s: When it starts, seconds from the start of the audio.
        end_s: When it ends, > start_s.
        confidence: The geometric mean of the probabilities of its pieces, in [0, 1].
    """

    word: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Rescoring:
    """What came of the second pass over the words; whatever it says, there is a transcript.

    Args:
        status: "rescored", or "kept" where the first pass stands.
        reason: Why it stands: "certain" (there was one reading only), "timeout", "unreachable",
            "unauthorised", "busy", "refused", "bad_answer", "too_large" or "circuit_open"; empty
            if rescored.
        model: The language model's name; empty if unknown.
        took_ms: Milliseconds that the attempt took here, waiting included.
    """

    status: Literal["rescored", "kept"]
    reason: str = ""
    model: str = ""
    took_ms: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """JSON-ready values: `{"status", "reason", "model", "took_ms"}`."""
        return {
            "status": self.status,
            "reason": self.reason,
            "model": self.model,
            "took_ms": round(self.took_ms, 1),
        }


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of a stretch of audio, in order.

    Args:
        words: The words.
        duration_s: Length of the audio heard so far, seconds.
        rescoring: What came of the second pass; None where there was to be none.
    """

    words: tuple[Word, ...]
    duration_s: float = 0.0
    rescoring: Rescoring | None = None

    @property
    def text(self) -> str:
        """The words, separated by one space."""
        return " ".join(word.word for word in self.words)

    def as_dict(self) -> dict[str, object]:
        """The transcript as JSON-ready values; times are rounded to milliseconds.

        Returns:
            `{"text", "words": [{"word", "start_s", "end_s", "confidence"}], "duration_s"}`, and
            `rescoring` where there was a second pass.
        """
        note = {} if self.rescoring is None else {"rescoring": self.rescoring.as_dict()}
        return {
            "text": self.text,
            "words": [
                {
                    "word": word.word,
                    "start_s": round(word.start_s, 3),
                    "end_s": round(word.end_s, 3),
                    "confidence": round(word.confidence, 4),
                }
                for word in self.words
            ],
            "duration_s": round(self.duration_s, 3),
            **note,
        }
