"""What was wanted: an intent and the values of its slots.

What every way of understanding a sentence ends in, be it templates or a statistical model. Knows
neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SlotValue:
    """One slot that a sentence filled.

    Args:
        value: What a program wants to know, JSON-ready: a text, a number, or what the commands
            file gives as `out`.
        spoken: The words that were said for it, separated by one space; empty where the value
            comes with the intent and is not said.
    """

    value: object
    spoken: str


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a sentence wants.

    Args:
        intent: Name of the intent; None when the sentence is none of the known ones.
        slots: The filled slots by name.
        confidence: How sure this is, in [0, 1].
    """

    intent: str | None
    slots: Mapping[str, SlotValue] = field(default_factory=dict)
    confidence: float = 1.0

    def as_dict(self) -> dict[str, object]:
        """The understanding as JSON-ready values.

        Returns:
            `{"intent", "slots": {name: {"value", "spoken"}}, "confidence"}`, the confidence
            rounded to four places.
        """
        return {
            "intent": self.intent,
            "slots": {
                name: {"value": slot.value, "spoken": slot.spoken}
                for name, slot in self.slots.items()
            },
            "confidence": round(self.confidence, 4),
        }
