"""Earshot's own WebSocket, spoken by the `websockets` client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from earshot.serve.sockets import MessageError
from earshot.serve.stream_socket import START_KEYS, parse_hotwords, parse_start
from tests.serve.conftest import (
    DIGITS,
    DIGITS_TEXT,
    LIGHTS,
    LIGHTS_TEXT,
    RunningServer,
    int16_of,
    pieces,
)

WAIT_S = 20.0


@contextmanager
def open_stream(server: RunningServer, **start: Any) -> Iterator[ClientConnection]:
    with connect(f"{server.ws}/v1/stream", proxy=None) as socket:
        socket.send(json.dumps({"type": "start", **start}))
        yield socket


def read_all(socket: ClientConnection) -> list[dict[str, Any]]:
    """All messages until the server closes."""
    found = []
    try:
        while True:
            found.append(json.loads(socket.recv(timeout=WAIT_S)))
    except ConnectionClosed:
        return found


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def check_guarantees(events: list[dict[str, Any]]) -> None:
    """What EVENTS promises of any stream, by a state machine written from its text."""
    assert [event["seq"] for event in events] == list(range(len(events)))
    open_utterance, open_spec, stable, closed = None, None, "", set()
    for event in events:
        kind = event["type"]
        if kind == "speech_started":
            assert open_utterance is None
            assert event["utterance"] not in closed
            open_utterance, stable = event["utterance"], ""
        elif kind in ("partial", "speculative_endpoint", "speculation_cancelled", "final"):
            assert event["utterance"] == open_utterance
        if kind == "partial":
            assert event["text"].startswith(stable)
            assert event["stable_chars"] >= len(stable)
            stable = event["text"][: event["stable_chars"]]
        elif kind == "speculative_endpoint":
            assert open_spec is None
            open_spec = event["spec_id"]
        elif kind == "speculation_cancelled":
            assert event["spec_id"] == open_spec
            open_spec = None
        elif kind == "final":
            assert event["text"].startswith(stable)
            assert event["spec_id"] == open_spec
            open_spec, open_utterance = None, None
            closed.add(event["utterance"])
    assert open_utterance is None
    assert open_spec is None


@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
@pytest.mark.parametrize("rate_hz", [16_000, 48_000, 8_000])
def test_a_clip_becomes_its_words(server: RunningServer, encoding: str, rate_hz: int) -> None:
    samples = int16_of(LIGHTS, silence_s=1.0, rate_hz=rate_hz)
    data = samples if encoding == "s16le" else (samples / 32768).astype("<f4")
    with open_stream(server, sample_rate=rate_hz, encoding=encoding) as socket:
        for piece in pieces(data, rate_hz // 10):
            socket.send(piece.tobytes())
        socket.send('{"type":"end"}')
        events = read_all(socket)
        assert socket.protocol.close_code == 1000
    check_guarantees(events)
    assert events[0]["type"] == "ready"
    assert events[0]["sample_rate"] == rate_hz
    assert events[0]["model"] == "assistant-en"
    (final,) = of_type(events, "final")
    if rate_hz >= 16_000:
        assert final["text"] == LIGHTS_TEXT
    assert events[-1] == {
        "type": "closed",
        "seq": len(events) - 1,
        "utterances": 1,
        "audio_s": round(len(samples) / rate_hz, 3),
    }


def test_every_key_of_start_may_be_missing(server: RunningServer) -> None:
    with open_stream(server) as socket:
        socket.send(int16_of(DIGITS).tobytes())
        socket.send('{"type":"end"}')
        events = read_all(socket)
    (final,) = of_type(events, "final")
    assert final["text"] == DIGITS_TEXT
    assert final["reason"] in ("end", "endpoint")
    assert [word["word"] for word in final["words"]] == DIGITS_TEXT.split()
    starts = [word["start_s"] for word in final["words"]]
    assert starts == sorted(starts)


def test_flush_ends_the_utterance_and_the_stream_goes_on(server: RunningServer) -> None:
    with open_stream(server) as socket:
        socket.send(int16_of(LIGHTS).tobytes())
        socket.send('{"type":"flush"}')
        seen = []
        while not of_type(seen, "final"):
            seen.append(json.loads(socket.recv(timeout=WAIT_S)))
        socket.send(int16_of(DIGITS).tobytes())
        socket.send('{"type":"end"}')
        events = seen + read_all(socket)
    check_guarantees(events)
    first, second = of_type(events, "final")
    assert (first["text"], first["utterance"]) == (LIGHTS_TEXT, "u1")
    assert (second["text"], second["utterance"]) == (DIGITS_TEXT, "u2")
    assert second["start_s"] >= first["end_s"]


def test_commands_come_with_intent_and_slots(command_server: RunningServer) -> None:
    with open_stream(command_server, commands="smart-home") as socket:
        socket.send(int16_of(LIGHTS, silence_s=3.0).tobytes())
        socket.send('{"type":"end"}')
        events = read_all(socket)
    check_guarantees(events)
    (final,) = of_type(events, "final")
    assert final["intent"] == "TurnOn"
    assert final["slots"]["domain"] == {"value": "light", "spoken": ""}
    speculations = of_type(events, "speculative_endpoint")
    assert speculations
    assert speculations[-1]["t_s"] <= final["t_s"]


def test_silence_gives_nothing(server: RunningServer) -> None:
    with open_stream(server) as socket:
        socket.send(np.zeros(48_000, "<i2").tobytes())
        socket.send('{"type":"end"}')
        events = read_all(socket)
    assert [event["type"] for event in events] == ["ready", "closed"]
    assert events[-1]["utterances"] == 0


def test_the_subprotocol_is_optional_and_answered(server: RunningServer) -> None:
    with connect(f"{server.ws}/v1/stream", subprotocols=["earshot.v1"], proxy=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "earshot.v1"
        socket.send('{"type":"start"}')
        assert json.loads(socket.recv(timeout=WAIT_S))["type"] == "ready"


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"\0\0", "start_expected"),
        ("no json", "bad_message"),
        ("[]", "bad_message"),
        ('{"type":"end"}', "start_expected"),
        ('{"type":"start","sample_rate":"fast"}', "bad_message"),
        ('{"type":"start","sample_rate":1}', "bad_message"),
        ('{"type":"start","sample_rate":NaN}', "bad_message"),
        ('{"type":"start","encoding":"mp3"}', "bad_message"),
        ('{"type":"start","commands":"garden"}', "unknown_commands"),
        ('{"type":"start","language":"de"}', "unsupported_language"),
        ('{"type":"start","nbest":0}', "bad_message"),
        ('{"type":"start","hotwords":[{"boost":1}]}', "bad_message"),
        ("[" * 10_000 + "]" * 10_000, "bad_message"),
        ('{"a":' * 40 + "1" + "}" * 40, "bad_message"),
    ],
)
def test_a_bad_start_is_one_clear_error(server: RunningServer, first: Any, code: str) -> None:
    with connect(f"{server.ws}/v1/stream", proxy=None) as socket:
        socket.send(first)
        events = read_all(socket)
        assert socket.protocol.close_code == 1008
    (error,) = events
    assert (error["type"], error["code"], error["fatal"]) == ("error", code, True)
    assert error["seq"] == 0


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"\0", "bad_audio"),
        ("{", "bad_message"),
        ('{"type":"begin"}', "bad_message"),
        ('{"type":"start"}', "bad_message"),
    ],
)
def test_after_an_error_what_was_said_gets_its_final(
    server: RunningServer, bad: Any, code: str
) -> None:
    with open_stream(server) as socket:
        socket.send(int16_of(LIGHTS).tobytes())
        socket.send(bad)
        events = read_all(socket)
        assert socket.protocol.close_code == 1008
    check_guarantees(events)
    assert of_type(events, "final")[0]["text"] == LIGHTS_TEXT
    assert events[-1]["type"] == "error"
    assert (events[-1]["code"], events[-1]["fatal"]) == (code, True)


def test_samples_that_are_not_finite_end_the_stream_after_its_final(server: RunningServer) -> None:
    with open_stream(server, encoding="f32le") as socket:
        socket.send((int16_of(LIGHTS) / 32768).astype("<f4").tobytes())
        socket.send(np.array([np.nan], "<f4").tobytes())
        events = read_all(socket)
    check_guarantees(events)
    assert of_type(events, "final")[0]["text"] == LIGHTS_TEXT
    assert events[-1]["code"] == "bad_audio"


def test_unknown_keys_are_said_and_left_out(server: RunningServer) -> None:
    with open_stream(server, sampel_rate=8000) as socket:
        socket.send('{"type":"end"}')
        events = read_all(socket)
    assert [event["type"] for event in events] == ["ready", "error", "closed"]
    assert events[1]["fatal"] is False
    assert "sampel_rate" in events[1]["message"]


def test_one_client_does_not_disturb_another(server: RunningServer) -> None:
    """Guarantee 8, with both in the engine at the same time."""
    with open_stream(server) as good, open_stream(server, encoding="f32le") as bad:
        samples = int16_of(DIGITS, silence_s=1.0)
        for number, piece in enumerate(pieces(samples, 1600)):
            good.send(piece.tobytes())
            if number == 5:
                bad.send(np.full(100, np.inf, "<f4").tobytes())
        good.send('{"type":"end"}')
        events = read_all(good)
        assert read_all(bad)[-1]["code"] == "bad_audio"
    check_guarantees(events)
    assert [final["text"] for final in of_type(events, "final")] == [DIGITS_TEXT]


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(1, 40_000), max_size=6), flush_after=st.integers(0, 6))
def test_how_the_sound_is_cut_changes_nothing(
    server: RunningServer, cuts: list[int], flush_after: int
) -> None:
    samples = int16_of(LIGHTS, silence_s=1.5)
    with open_stream(server) as socket:
        for piece in np.split(samples, sorted(cuts)):
            socket.send(piece.tobytes())
        socket.send('{"type":"end"}')
        events = read_all(socket)
    check_guarantees(events)
    whole = [{k: v for k, v in e.items() if k != "seq"} for e in of_type(events, "final")]
    with open_stream(server) as socket:
        socket.send(samples.tobytes())
        socket.send('{"type":"end"}')
        expected = of_type(read_all(socket), "final")
    assert whole == [{k: v for k, v in e.items() if k != "seq"} for e in expected]


_text = st.sampled_from(["", "en", "s16le", "phrase", "boost", "tea kettle", "\0", "é"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)


@given(
    message=st.fixed_dictionaries(
        {"type": st.just("start")},
        optional=dict.fromkeys(START_KEYS[1:], _json),
    )
)
def test_any_start_is_parsed_or_refused(message: dict[str, Any]) -> None:
    try:
        start = parse_start(message, language="en", commands=("home",))
    except MessageError:
        return
    assert 1000 <= start.sample_rate_hz <= 1_000_000
    assert start.encoding in ("s16le", "f32le")
    assert start.nbest >= 1


def test_hotwords_may_be_plain_texts() -> None:
    assert parse_hotwords(["tea  kettle", {"phrase": "lamp", "boost": 3}]) == (
        ("tea kettle", 2.0),
        ("lamp", 3.0),
    )
