"""OpenAI's Realtime transcription, spoken by OpenAI's own client and by hand."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from earshot.serve.realtime import default_input, updated_input
from earshot.serve.sockets import MessageError
from earshot.serve.telephony import decode_alaw, decode_mulaw
from tests.serve.conftest import (
    DIGITS,
    DIGITS_TEXT,
    LIGHTS,
    LIGHTS_TEXT,
    TWO_TEXTS,
    RunningServer,
    int16_of,
    pieces,
    two_utterances,
)

RATE_HZ = 24_000
WAIT_S = 20.0
PREFIX = "conversation.item.input_audio_transcription."


def appended(samples: np.ndarray, size: int = 2400) -> Iterator[dict[str, Any]]:
    for piece in pieces(samples, size):
        audio = base64.b64encode(piece.tobytes()).decode()
        yield {"type": "input_audio_buffer.append", "audio": audio}


@contextmanager
def session(server: RunningServer, query: str = "?intent=transcription") -> Iterator[Any]:
    with connect(f"{server.ws}/v1/realtime{query}", proxy=None) as socket:
        yield Talk(socket)


class Talk:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, **event: Any) -> None:
        self.socket.send(json.dumps(event))

    def receive(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.socket.recv(timeout=WAIT_S))
        assert event["event_id"]
        return event

    def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while sum(event["type"] == kind for event in found) < count:
            found.append(self.receive())
            assert kind == "error" or found[-1]["type"] != "error", found[-1]
        return found

    def detect(self, detection: Any, **audio: Any) -> dict[str, Any]:
        given = {"input": {"turn_detection": detection, **audio}}
        self.send(type="session.update", session={"type": "transcription", "audio": given})
        return self.until("session.updated")[-1]["session"]


def by_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


@pytest.mark.parametrize("detection", [{"type": "server_vad"}, {"type": "semantic_vad"}])
def test_openais_client(server: RunningServer, detection: dict[str, Any]) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed (pip install openai)")
    with (
        openai.OpenAI(base_url=f"{server.http}/v1", api_key="any") as client,
        client.realtime.connect(
            extra_query={"intent": "transcription"},
            websocket_connection_options={"proxy": None},
        ) as connection,
    ):
        created = connection.recv()
        assert created.type == "session.created"
        assert created.session.type == "transcription"
        assert created.session.object == "realtime.transcription_session"
        connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": RATE_HZ},
                        "transcription": {"model": "whisper-1", "language": "en"},
                        "turn_detection": detection,
                    }
                },
            }
        )
        assert connection.recv().type == "session.updated"
        for event in appended(int16_of(LIGHTS, silence_s=3.0, rate_hz=RATE_HZ)):
            connection.input_audio_buffer.append(audio=event["audio"])
        events = []
        while not events or events[-1].type != f"{PREFIX}completed":
            events.append(connection.recv())
    assert events[-1].transcript == LIGHTS_TEXT
    assert events[-1].usage.type == "duration"
    deltas = [event.delta for event in events if event.type == f"{PREFIX}delta"]
    assert "".join(deltas) == LIGHTS_TEXT
    kinds = [event.type for event in events if event.type.startswith("input_audio_buffer")]
    assert kinds == [f"input_audio_buffer.{name}" for name in ("speech_started", "speech_stopped",
                                                                "committed")]  # fmt: skip


def test_turns_are_items_in_a_row(server: RunningServer) -> None:
    with session(server) as talk:
        talk.until("session.created")
        for event in appended(two_utterances(RATE_HZ)):
            talk.send(**event)
        for event in appended(np.zeros(4 * RATE_HZ, np.int16)):
            talk.send(**event)
        events = talk.until(f"{PREFIX}completed", count=2)
    texts = [event["transcript"] for event in by_type(events, f"{PREFIX}completed")]
    assert " ".join(texts) == TWO_TEXTS
    first, second = by_type(events, "input_audio_buffer.committed")
    assert first["previous_item_id"] is None
    assert second["previous_item_id"] == first["item_id"]
    for item_id, text in zip((first["item_id"], second["item_id"]), texts, strict=True):
        own = [event for event in events if event.get("item_id") == item_id]
        kinds = [event["type"] for event in own]
        assert kinds[0] == "input_audio_buffer.speech_started"
        assert kinds.index("input_audio_buffer.speech_stopped") < kinds.index(
            "input_audio_buffer.committed"
        )
        assert "".join(event["delta"] for event in by_type(own, f"{PREFIX}delta")) == text
        started, stopped = (
            own[0]["audio_start_ms"],
            by_type(own, "input_audio_buffer.speech_stopped")[0]["audio_end_ms"],
        )
        assert 0 <= started < stopped
    speculated = by_type(events, "earshot.speculative_endpoint")
    assert speculated
    assert all("utterance" not in event for event in speculated)


def test_without_turn_detection_the_client_commits(server: RunningServer) -> None:
    with session(server) as talk:
        assert talk.detect(None)["audio"]["input"]["turn_detection"] is None
        for clip in (LIGHTS, DIGITS):
            for event in appended(int16_of(clip, rate_hz=RATE_HZ)):
                talk.send(**event)
            talk.send(type="input_audio_buffer.commit")
        events = talk.until(f"{PREFIX}completed", count=2)
        assert [event["transcript"] for event in by_type(events, f"{PREFIX}completed")] == [
            LIGHTS_TEXT, DIGITS_TEXT,
        ]  # fmt: skip
        assert not by_type(events, "input_audio_buffer.speech_started")
        talk.send(type="input_audio_buffer.commit", event_id="mine")
        error = talk.until("error")[-1]["error"]
        assert error["code"] == "input_audio_buffer_commit_empty"
        assert error["event_id"] == "mine"


def test_clear_drops_what_was_appended(server: RunningServer) -> None:
    with session(server) as talk:
        talk.detect(None)
        for event in appended(int16_of(DIGITS, rate_hz=RATE_HZ)):
            talk.send(**event)
        talk.send(type="input_audio_buffer.clear")
        talk.until("input_audio_buffer.cleared")
        for event in appended(int16_of(LIGHTS, rate_hz=RATE_HZ)):
            talk.send(**event)
        talk.send(type="input_audio_buffer.commit")
        events = talk.until(f"{PREFIX}completed")
    assert events[-1]["transcript"] == LIGHTS_TEXT


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_telephone_sound(server: RunningServer, kind: str) -> None:
    table = (decode_mulaw if kind == "audio/pcmu" else decode_alaw)(np.arange(256, dtype=np.uint8))
    samples = int16_of(DIGITS, rate_hz=8000)
    order = np.argsort(table)
    nearest = np.searchsorted(table[order], samples).clip(0, 255)
    with session(server) as talk:
        talk.detect(None, format={"type": kind})
        for event in appended(order[nearest].astype(np.uint8), 800):
            talk.send(**event)
        talk.send(type="input_audio_buffer.commit")
        heard = talk.until(f"{PREFIX}completed")[-1]["transcript"]
    # At 8 kHz the model misses a little; what matters is that the sound is intelligible.
    assert len(set(heard.split()) & set(DIGITS_TEXT.split())) >= 4


def test_logprobs_where_asked_for(server: RunningServer) -> None:
    with session(server) as talk:
        talk.send(
            type="session.update",
            session={
                "type": "transcription",
                "audio": {"input": {"turn_detection": None}},
                "include": ["item.input_audio_transcription.logprobs"],
            },
        )
        for event in appended(int16_of(LIGHTS, rate_hz=RATE_HZ)):
            talk.send(**event)
        talk.send(type="input_audio_buffer.commit")
        completed = talk.until(f"{PREFIX}completed")[-1]
    assert "".join(token["token"] for token in completed["logprobs"]) == LIGHTS_TEXT


def test_settings_may_change_while_somebody_speaks(server: RunningServer) -> None:
    with session(server) as talk:
        talk.until("session.created")
        for event in appended(int16_of(LIGHTS, rate_hz=RATE_HZ)):
            talk.send(**event)
        talk.send(
            type="session.update",
            session={
                "audio": {"input": {"turn_detection": None, "format": {"type": "audio/pcmu"}}}
            },
        )
        events = talk.until("session.updated")
        assert by_type(events, f"{PREFIX}completed")[0]["transcript"] == LIGHTS_TEXT


@pytest.mark.parametrize(
    ("event", "param"),
    [
        ({"type": "input_audio_buffer.append", "audio": "%"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "YQ=="}, None),
        ({"type": "input_audio_buffer.append"}, "audio"),
        ({"type": "response.create"}, "type"),
        ({"type": "session.update"}, "session"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "session.type"),
        ({"type": "session.update", "session": {"include": ["x"]}}, "session.include"),
        ({"type": "session.update", "session": {"audio": {"input": []}}}, None),
    ],
)
def test_errors_do_not_end_the_session(
    server: RunningServer, event: dict[str, Any], param: str | None
) -> None:
    with session(server) as talk:
        talk.until("session.created")
        talk.send(**event, event_id="e1")
        if event.get("session", {}).get("audio") == {"input": []}:
            talk.until("session.updated")  # nothing is nothing to change
        else:
            error = talk.until("error")[-1]["error"]
            assert error["type"] == "invalid_request_error"
            assert error["event_id"] == "e1"
            assert error["param"] == param
        talk.socket.send("not json")
        assert talk.until("error")[-1]["error"]["code"] == "bad_message"
        talk.detect(None)


def test_another_intent_is_refused(server: RunningServer) -> None:
    with session(server, "?intent=conversation") as talk:
        assert talk.until("error")[-1]["error"]["param"] == "intent"
        with pytest.raises(ConnectionClosed):
            talk.receive()


def test_the_interface_as_it_was_before_its_release(server: RunningServer) -> None:
    with connect(
        f"{server.ws}/v1/realtime?intent=transcription",
        additional_headers={"OpenAI-Beta": "realtime=v1"},
        proxy=None,
    ) as socket:
        talk = Talk(socket)
        assert talk.receive()["type"] == "transcription_session.created"
        talk.send(
            type="transcription_session.update",
            session={"input_audio_format": "pcm16", "turn_detection": None},
        )
        updated = talk.until("transcription_session.updated")[-1]["session"]
        assert updated["input_audio_format"] == "pcm16"
        for event in appended(int16_of(LIGHTS, rate_hz=RATE_HZ)):
            talk.send(**event)
        talk.send(type="input_audio_buffer.commit")
        assert talk.until(f"{PREFIX}completed")[-1]["transcript"] == LIGHTS_TEXT


@pytest.mark.parametrize(
    "wanted",
    [
        {"format": {"type": "audio/mp3"}},
        {"format": {"type": "audio/pcm", "rate": 16_000}},
        {"format": None},
        {"noise_reduction": {"type": "loud"}},
        {"transcription": {"language": "de"}},
        {"transcription": {"language": 7}},
        {"transcription": {"keywords": "tea"}},
        {"turn_detection": {"type": "none"}},
        {"turn_detection": {"type": "semantic_vad", "eagerness": "very"}},
        {"turn_detection": {"type": "server_vad", "silence_duration_ms": -1}},
        {"turn_detection": {"type": "server_vad", "threshold": True}},
    ],
)
def test_settings_that_cannot_be_used_name_themselves(wanted: dict[str, Any]) -> None:
    before = default_input("m")
    with pytest.raises(MessageError) as caught:
        updated_input(before, wanted, language="en")
    assert caught.value.param is not None
    assert caught.value.param.startswith("") and next(iter(wanted)) in caught.value.param
    assert before == default_input("m")


def test_g711_against_its_definition() -> None:
    """Values of the recommendation's tables: the ends, and the smallest of each sign."""
    assert decode_mulaw(np.array([0x00, 0x80, 0x7F, 0xFF, 0x0F], np.uint8)).tolist() == [
        -32124, 32124, 0, 0, -16764,
    ]  # fmt: skip
    assert decode_alaw(np.array([0x2A, 0xAA, 0x55, 0xD5, 0x5A], np.uint8)).tolist() == [
        -32256, 32256, -8, 8, -248,
    ]  # fmt: skip


def test_g711_against_pythons_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop", reason="Python 3.13 has no audioop")
    codes = np.arange(256, dtype=np.uint8)
    theirs = np.frombuffer(audioop.ulaw2lin(codes.tobytes(), 2), "<i2")
    assert decode_mulaw(codes).tolist() == theirs.tolist()
    theirs = np.frombuffer(audioop.alaw2lin(codes.tobytes(), 2), "<i2")
    assert decode_alaw(codes).tolist() == theirs.tolist()
