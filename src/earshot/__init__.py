"""Earshot: speech recognition that stays on the device.

This file only names what most programs need. `Recognizer` is loaded on first use, so that
`import earshot` costs a few milliseconds and opens neither numpy nor the engine.
"""

from typing import TYPE_CHECKING

from earshot.core.errors import (
    AudioError,
    CommandsError,
    ConfigError,
    EarshotError,
    HotwordsError,
    LanguageModelError,
    ManifestError,
    ModelFileError,
)
from earshot.core.transcript import Transcript, Word
from earshot.core.understanding import SlotValue, Understanding
from earshot.core.utterance import Utterance

if TYPE_CHECKING:
    from earshot.session.recognizer import Recognizer, Stream

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "CommandsError",
    "ConfigError",
    "EarshotError",
    "HotwordsError",
    "LanguageModelError",
    "ManifestError",
    "ModelFileError",
    "Recognizer",
    "SlotValue",
    "Stream",
    "Transcript",
    "Understanding",
    "Utterance",
    "Word",
    "__version__",
]

_LAZY = {"Recognizer", "Stream"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from earshot.session import recognizer

        return getattr(recognizer, name)
    raise AttributeError(f"module 'earshot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
