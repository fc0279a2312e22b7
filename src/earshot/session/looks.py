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

__all__ = ["LONGEST_SAMPLES", "hear_again"]

LONGEST_SAMPLES = 20 * SAMPLE_RATE_HZ  # no command takes longer


def hear_again(
    engine: _native.Recognizer, samples: npt.NDArray[np.float32], looks: Sequence[float]
) -> list[Look]:
    """Search a whole signal at other rates.

    Args:
        engine: With a grammar.
        samples: Shape (N,), 16 kHz, in [-1, 1].
        looks: Rates, above 0: 0.9 plays it a tenth slower.

    Returns:
        For each look what `command_result` and `result` say, frames counted as in the signal
        itself; nothing for a signal that is longer than any command.
    """
    if not 0 < len(samples) <= LONGEST_SAMPLES:
        return []
    streams = []
    for look in looks:
        played = soxr.resample(samples, SAMPLE_RATE_HZ * look, SAMPLE_RATE_HZ, quality="MQ")
        stream = engine.create_stream()
        stream.accept_waveform(np.clip(played, -1.0, 1.0).astype(np.float32))
        stream.input_finished()
        streams.append(stream)
    engine.decode_streams(streams)
    heard = []
    for stream, look in zip(streams, looks, strict=True):
        found = stream.command_result()
        assert found is not None  # the engine has a grammar
        paths = [{**path, "words": _words(path["words"], look)} for path in found["paths"]]
        free = stream.result()
        heard.append(
            (
                cast("_native.CommandResult", {**found, "paths": paths}),
                cast("_native.StreamResult", {**free, "words": _words(free["words"], look)}),
            )
        )
    return heard


def _words(words: Sequence[Any], look: float) -> list[Any]:
    """With frames as they are where the signal is played as it is."""
    return [
        {**word, **{key: round(word[key] * look) for key in ("start_frame", "end_frame")}}
        for word in words
    ]
