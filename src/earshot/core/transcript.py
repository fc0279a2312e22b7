"""What was said: words with their times and confidences.

Seconds from the start of the audio, because this is where results leave the package. Knows
nothing of word pieces or frames; see `decode.result` for who builds it.
"""

from dataclasses import dataclass


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
class Transcript:
    """The words of a stretch of audio, in order.

    Args:
        words: The words.
        duration_s: Length of the audio heard so far, seconds.
    """

    words: tuple[Word, ...]
    duration_s: float = 0.0

    @property
    def text(self) -> str:
        """The words, separated by one space."""
        return " ".join(word.word for word in self.words)

    def as_dict(self) -> dict[str, object]:
        """The transcript as JSON-ready values; times are rounded to milliseconds.

        Returns:
            `{"text", "words": [{"word", "start_s", "end_s", "confidence"}], "duration_s"}`.
        """
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
        }
