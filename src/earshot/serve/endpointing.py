"""What clients say about pauses, as settings of the end-pointers.

Every protocol has its own words for how long to wait: milliseconds of silence, an eagerness, a
sensitivity. All become an `EndpointConfig`. Knows nothing of connections.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

PAUSES = ("pause_s", "closed_pause_s", "complete_pause_s", "open_pause_s", "number_pause_s")
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 30.0
_NEVER = 2.0  # a probability that the head does not reach


def endpoint_options(
    recognizer: Any, *, silence_s: float | None = None, scale: float = 1.0, most_s: float = 0.0
) -> dict[str, Any]:
    """The option `endpoint` of a stream.

    Args:
        recognizer: Knows how its model was tuned.
        silence_s: Wait for exactly so much silence, whatever was said; None leaves the decision to
            the final end-pointer.
        scale: Makes its pauses longer or shorter.
        most_s: Wait for no longer than this; 0 sets no bound.

    Returns:
        `{"endpoint": ...}`, or nothing where the recogniser has no such settings.
    """
    configured = getattr(recognizer, "endpoint_config", None)
    if configured is None:
        return {}
    config = configured()
    point = config.final
    if silence_s is not None:
        wait_s = min(max(silence_s, MIN_PAUSE_S), MAX_PAUSE_S)
        pauses = dict.fromkeys(PAUSES, wait_s)
        least = min(point.min_pause_s, wait_s)
        final = replace(point, **pauses, min_pause_s=least, end_probability=_NEVER)
        rule2 = replace(config.rule2, min_trailing_silence_s=wait_s)
        # Speculating later than the final end would be no speculation.
        early = {name: min(getattr(config.speculative, name), wait_s) for name in PAUSES}
        return {
            "endpoint": replace(
                config, final=final, rule2=rule2, speculative=replace(config.speculative, **early)
            )
        }
    pauses = {
        name: min(max(getattr(point, name) * scale, MIN_PAUSE_S), most_s or MAX_PAUSE_S)
        for name in PAUSES
    }
    wait_s = config.rule2.min_trailing_silence_s * scale
    rule2 = replace(config.rule2, min_trailing_silence_s=min(wait_s, most_s or MAX_PAUSE_S))
    return {"endpoint": replace(config, final=replace(point, **pauses), rule2=rule2)}
