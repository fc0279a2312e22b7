"""What a sentence wants: command templates, their recognition network, intents and slots.

Knows words, never audio; `session` joins it with recognition. What most programs need is named
here and loaded on first use.
"""

from typing import TYPE_CHECKING

from earshot.core.understanding import SlotValue, Understanding

if TYPE_CHECKING:
    from earshot.understand.graph import CommandGraph, compile_commands
    from earshot.understand.templates import Commands, Sample, load_commands

__all__ = [
    "CommandGraph",
    "Commands",
    "Sample",
    "SlotValue",
    "Understanding",
    "compile_commands",
    "load_commands",
]

_LAZY = {
    "CommandGraph": "graph",
    "Commands": "templates",
    "Sample": "templates",
    "compile_commands": "graph",
    "load_commands": "templates",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"earshot.understand.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'earshot.understand' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
