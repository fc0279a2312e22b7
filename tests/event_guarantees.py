"""The guarantees of docs/concepts/events.md, as a check of any list of events."""

from __future__ import annotations

from collections.abc import Sequence

from earshot.core.events import (
    Event,
    Final,
    Partial,
    SpeculationCancelled,
    SpeculativeEndpoint,
    SpeechStarted,
    StreamError,
)

TIMEOUT_SLACK_S = 0.1


def plain(text: str) -> list[str]:
    """Words without case and punctuation."""
    return "".join(c for c in text.casefold() if c.isalnum() or c.isspace()).split()


def check_guarantees(
    events: Sequence[Event], *, duration_s: float, ended: bool, timeout_s: float = 5.0
) -> None:
    """Fail unless the events of one stream keep what is promised of any stream.

    Args:
        events: All of them, in order.
        duration_s: Audio that the stream was given.
        ended: Whether its input was finished and decoded.
        timeout_s: After which a speculation may not be open any more.
    """
    open_name: str | None = None
    number = 0
    speculation: SpeculativeEndpoint | None = None
    spec_ids: set[str] = set()
    start_s = last_end_s = last_t_s = 0.0
    stable = ""
    for event in events:
        assert not isinstance(event, StreamError)
        # Times never go back, and nothing rests on audio that has not come.
        assert last_t_s <= event.t_s <= duration_s + 1e-6
        last_t_s = event.t_s
        if isinstance(event, SpeechStarted):  # 1: utterances do not overlap
            number += 1
            assert open_name is None
            assert event.utterance == f"u{number}"
            assert last_end_s - 0.5 <= event.start_s <= event.t_s
            open_name, start_s, stable = event.utterance, event.start_s, ""
            continue
        assert event.utterance == open_name  # 1: nothing before the start, nothing after the final
        if speculation is not None:  # 2: it does not dangle
            assert event.t_s <= speculation.t_s + timeout_s + TIMEOUT_SLACK_S
        if isinstance(event, Partial):
            assert event.stable_chars >= len(stable)  # 4
            assert event.text[: len(stable)] == stable
            assert event.stable_chars <= len(event.text)
            stable = event.text[: event.stable_chars]
            assert event.text == " ".join(event.text.split())
        elif isinstance(event, SpeculativeEndpoint):
            assert speculation is None  # 2: at most one
            assert event.spec_id not in spec_ids
            spec_ids.add(event.spec_id)
            assert event.text[: len(stable)] == stable
            assert event.text == " ".join(word.word for word in event.words)
            assert start_s <= event.end_s <= event.t_s
            speculation = event
        elif isinstance(event, SpeculationCancelled):
            assert speculation is not None and event.spec_id == speculation.spec_id
            assert event.reason in ("speech_resumed", "text_changed", "timeout")
            if event.reason == "timeout":
                assert event.t_s >= speculation.t_s + timeout_s - TIMEOUT_SLACK_S
            speculation = None
        else:
            assert isinstance(event, Final)
            assert event.spec_id == (None if speculation is None else speculation.spec_id)  # 2
            if speculation is None:
                assert not event.matched
            else:  # 3
                same = (
                    plain(event.text) == plain(speculation.text)
                    and event.intent == speculation.intent
                    and {k: v.value for k, v in event.slots.items()}
                    == {k: v.value for k, v in speculation.slots.items()}
                )
                assert event.matched is same
            assert event.text[: len(stable)] == stable  # 4
            assert event.text == " ".join(word.word for word in event.words)
            assert event.start_s == start_s <= event.end_s <= event.t_s
            times = [word.start_s for word in event.words]
            assert times == sorted(times)
            last_end_s = event.end_s
            open_name = speculation = None
    if ended:  # 1, 2 and 8: what was begun is ended, what was guessed is resolved
        assert open_name is None
        assert speculation is None
