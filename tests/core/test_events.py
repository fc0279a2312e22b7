"""Events on the wire: every field of the contract and no other."""

from __future__ import annotations

import json

import pytest

from earshot.core import events
from earshot.core.events import (
    Alternative,
    Final,
    Partial,
    SpeculationCancelled,
    SpeculativeEndpoint,
    SpeechStarted,
    StreamError,
)
from earshot.core.transcript import Word
from earshot.core.understanding import SlotValue

SAID = {
    "text": "lights on",
    "words": (Word("lights", 0.5, 0.91234, 0.98765), Word("on", 1.0, 1.2, 0.5)),
    "confidence": 0.87654321,
    "intent": "TurnOn",
    "slots": {"device": SlotValue("light", "lights")},
}
WIRE = {
    "text": "lights on",
    "words": [
        {"word": "lights", "start_s": 0.5, "end_s": 0.912, "confidence": 0.9877},
        {"word": "on", "start_s": 1.0, "end_s": 1.2, "confidence": 0.5},
    ],
    "confidence": 0.8765,
    "intent": "TurnOn",
    "slots": {"device": {"value": "light", "spoken": "lights"}},
}
END = {"start_s": 0.5, "end_s": 1.25, "reason": "endpoint"}


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        (
            SpeechStarted(utterance="u1", t_s=0.60049, start_s=0.5),
            {"type": "speech_started", "utterance": "u1", "t_s": 0.6, "start_s": 0.5},
        ),
        (
            Partial(utterance="u1", t_s=0.7, text="lights", stable_chars=0),
            {
                "type": "partial",
                "utterance": "u1",
                "t_s": 0.7,
                "text": "lights",
                "stable_chars": 0,
            },
        ),
        (
            SpeculativeEndpoint(utterance="u1", t_s=1.5, spec_id="u1.1", end_s=1.25, **SAID),
            {
                "type": "speculative_endpoint",
                "utterance": "u1",
                "t_s": 1.5,
                "spec_id": "u1.1",
                **WIRE,
                "end_s": 1.25,
            },
        ),
        (
            SpeculationCancelled(utterance="u1", t_s=1.6, spec_id="u1.1", reason="timeout"),
            {
                "type": "speculation_cancelled",
                "utterance": "u1",
                "t_s": 1.6,
                "spec_id": "u1.1",
                "reason": "timeout",
            },
        ),
        (
            Final(utterance="u1", t_s=2.0, spec_id=None, matched=False, **SAID, **END),
            {
                "type": "final",
                "utterance": "u1",
                "t_s": 2.0,
                "spec_id": None,
                "matched": False,
                **WIRE,
                **END,
            },
        ),
        (
            Final(
                utterance="u1",
                t_s=2.0,
                spec_id="u1.1",
                matched=True,
                **SAID,
                **END,
                nbest=(Alternative("lights on", 0.91), Alternative("light on", 0.05)),
                lattice=b"\x00\x01",
                speaker="ann",
                whispered=False,
                language="en",
            ),
            {
                "type": "final",
                "utterance": "u1",
                "t_s": 2.0,
                "spec_id": "u1.1",
                "matched": True,
                **WIRE,
                **END,
                "nbest": [
                    {"text": "lights on", "probability": 0.91},
                    {"text": "light on", "probability": 0.05},
                ],
                "lattice": "AAE=",
                "speaker": "ann",
                "whispered": False,
                "language": "en",
            },
        ),
        (
            StreamError(code="bad_audio", message="x", fatal=True),
            {"type": "error", "code": "bad_audio", "message": "x", "fatal": True},
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)
def test_events_on_the_wire(event, wire):
    assert event.to_json() == wire
    assert json.loads(json.dumps(event.to_json())) == wire


def test_what_the_module_offers():
    assert set(events.__all__) <= set(vars(events))
