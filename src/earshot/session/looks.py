"""Hears a sound again, a little slower and lower, or quicker and higher.

Played at another rate, a voice has a longer or shorter vocal tract, another pitch and another
tempo. A network that met few voices hears some people better so, and which ones is seen from how
sure it is. A look costs as much as the first one; it is taken at ends, and only where something is
in doubt (`CommandConfig.looks`). Knows nothing of what commands mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import soxr

from earshot.core.features import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from earshot import _native

    Look = tuple[_native.CommandResult, _native.StreamResult]

__all__ = ["LONGEST_S", "hear", "hear_again"]

Samples = npt.NDArray[np.float32]
LONGEST_S = 20.0  # no command takes longer


def hear(
    engine: _native.Recognizer, sounds: Sequence[Samples], looks: Sequence[float]
) -> list[list[Look]]:
    """Search whole signals, all together as they are and each again at other rates.

    Args:
        engine: With a grammar.
        sounds: Shape (N,) each, 16 kHz, in [-1, 1].
        looks: Rates, above 0; none searches each signal once.

    Returns:
        For each signal what it was found to be as it is, and what `hear_again` says.
    """
    found = _searched(engine, sounds)
    return [
        [first, *hear_again(engine, samples, looks)]
        for first, samples in zip(found, sounds, strict=True)
    ]


def hear_again(engine: _native.Recognizer, samples: Samples, looks: Sequence[float]) -> list[Look]:
    """Search a whole signal at other rates.

    Args:
        engine: With a grammar.
        samples: Shape (N,), 16 kHz, in [-1, 1].
        looks: Rates, above 0: 0.9 plays it a tenth slower.

    Returns:
        For each look what `command_result` and `result` say, frames counted as in the signal
        itself; nothing for a signal that is longer than any command.
    """
    if not 0 < len(samples) <= LONGEST_S * SAMPLE_RATE_HZ:
        return []
    played = [
        soxr.resample(samples, SAMPLE_RATE_HZ * look, SAMPLE_RATE_HZ, quality="MQ")
        for look in looks
    ]
    heard = []
    sounds = [np.clip(one, -1.0, 1.0).astype(np.float32) for one in played]
    for (found, free), look in zip(_searched(engine, sounds), looks, strict=True):
        paths = [{**path, "words": _words(path["words"], look)} for path in found["paths"]]
        heard.append(
            (
                cast("_native.CommandResult", {**found, "paths": paths}),
                cast("_native.StreamResult", {**free, "words": _words(free["words"], look)}),
            )
        )
    return heard


def _searched(engine: _native.Recognizer, sounds: Sequence[Samples]) -> list[Look]:
    """What both searches say of whole signals that are decoded together."""
    streams = []
    for samples in sounds:
        stream = engine.create_stream()
        stream.accept_waveform(samples)
        stream.input_finished()
        streams.append(stream)
    engine.decode_streams(streams)
    heard = []
    for stream in streams:
        found = stream.command_result(ended=True)
        assert found is not None  # the engine has a grammar
        heard.append((found, stream.result()))
    return heard


def _words(words: Sequence[Any], look: float) -> list[Any]:
    """With frames as they are where the signal is played as it is."""
    return [
        {**word, **{key: round(word[key] * look) for key in ("start_frame", "end_frame")}}
        for word in words
    ]
