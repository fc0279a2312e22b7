"""Oversized, endless, silent and stalled clients end in an error to themselves alone."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.serve.conftest import LIGHTS, LIGHTS_TEXT, RunningServer, int16_of, pieces

WAIT_S = 20.0
SECOND = np.zeros(16_000, "<i2")


def start(socket: ClientConnection, **more: Any) -> None:
    socket.send(json.dumps({"type": "start", **more}))
    assert json.loads(socket.recv(timeout=WAIT_S))["type"] == "ready"


def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    found = []
    try:
        while True:
            found.append(json.loads(socket.recv(timeout=WAIT_S)))
    except ConnectionClosed:
        return found


def flood(socket: ClientConnection, seconds: int, piece: np.ndarray = SECOND) -> None:
    try:
        for _ in range(seconds):
            socket.send(piece.tobytes())
    except ConnectionClosed:
        pass


def test_an_endless_stream_is_ended_after_its_final(serving: Callable[..., RunningServer]) -> None:
    server = serving(limits={"max_stream_s": 3.0})
    with connect(f"{server.ws}/v1/stream", proxy=None) as endless:
        start(endless)
        endless.send(int16_of(LIGHTS).tobytes())
        flood(endless, 10)
        events = rest(endless)
    assert [event["text"] for event in events if event["type"] == "final"] == [LIGHTS_TEXT]
    assert events[-1]["code"] == "stream_too_long"
    assert events[-1]["fatal"]


def test_endless_silence_is_ended_and_speech_is_not(
    serving: Callable[..., RunningServer],
) -> None:
    server = serving(limits={"max_silence_s": 4.0})
    with connect(f"{server.ws}/v1/stream", proxy=None) as silent:
        start(silent)
        flood(silent, 20)
        assert rest(silent)[-1]["code"] == "silence"
    with connect(f"{server.ws}/v1/stream", proxy=None) as spoken:
        start(spoken)
        for _ in range(4):
            for piece in pieces(int16_of(LIGHTS, silence_s=2.5), 8000):
                spoken.send(piece.tobytes())
                time.sleep(0.005)
        spoken.send('{"type":"end"}')
        events = rest(spoken)
    assert events[-1]["type"] == "closed"
    assert events[-1]["utterances"] == 4


def test_a_client_that_sends_nothing_is_ended(serving: Callable[..., RunningServer]) -> None:
    server = serving(limits={"idle_timeout_s": 0.5})
    with connect(f"{server.ws}/v1/stream", proxy=None) as silent:
        assert rest(silent)[-1]["code"] == "idle"
    with connect(f"{server.ws}/v1/stream", proxy=None) as silent:
        start(silent)
        assert rest(silent)[-1]["code"] == "idle"
    with connect(f"{server.ws}/v1/realtime", proxy=None) as silent:
        assert rest(silent)[-1]["error"]["code"] == "idle"
    for path in ("/", "/sherpa", "/vosk", "/wenet"):
        with (
            connect(f"{server.ws}{path}", proxy=None) as silent,
            pytest.raises(ConnectionClosed),
        ):
            while True:
                silent.recv(timeout=WAIT_S)
    with socket.create_connection(server.wyoming) as raw:
        raw.settimeout(WAIT_S)
        assert raw.recv(1) == b""
    assert httpx.get(f"{server.http}/healthz").json()["streams"] == 0


def test_too_many_streams(serving: Callable[..., RunningServer]) -> None:
    server = serving(limits={"max_streams_per_client": 2})
    with (
        connect(f"{server.ws}/v1/stream", proxy=None) as first,
        connect(f"{server.ws}/v1/stream", proxy=None) as second,
        connect(f"{server.ws}/v1/stream", proxy=None) as third,
    ):
        start(first)
        start(second)
        third.send('{"type":"start"}')
        (error,) = rest(third)
        assert error["code"] == "too_many_streams"
        with open(LIGHTS, "rb") as file:
            answer = httpx.post(
                f"{server.http}/v1/audio/transcriptions",
                data={"model": "m"},
                files={"file": file},
            )
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "rate_limit_error"
        first.send('{"type":"end"}')
        assert rest(first)[-1]["type"] == "closed"
    assert "earshot_refused_total" in httpx.get(f"{server.http}/metrics").text


def test_a_message_beyond_the_limit_closes_that_connection(
    serving: Callable[..., RunningServer],
) -> None:
    server = serving(limits={"max_message_bytes": 50_000})
    with (
        connect(f"{server.ws}/v1/stream", proxy=None) as good,
        connect(f"{server.ws}/v1/stream", proxy=None) as big,
    ):
        start(good)
        start(big)
        flood(big, 1, np.zeros(40_000, "<i2"))
        with pytest.raises(ConnectionClosed) as caught:
            big.recv(timeout=WAIT_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        for piece in pieces(int16_of(LIGHTS), 1600):
            good.send(piece.tobytes())
        good.send('{"type":"end"}')
        finals = [event for event in rest(good) if event["type"] == "final"]
    assert [final["text"] for final in finals] == [LIGHTS_TEXT]


@pytest.mark.slow  # buffers of the kernel take long to fill; test_engine.py has the quick one
def test_a_client_that_does_not_read_is_cut_off_and_others_are_not(
    serving: Callable[..., RunningServer],
) -> None:
    """Its socket takes nothing, so what the server sends is stuck."""
    server = serving(limits={"stall_timeout_s": 1.0})
    host, port = server.http.removeprefix("http://").split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.connect((host, int(port)))
    try:
        raw.sendall(
            f"GET /vosk HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "\r\n".encode()
        )
        raw.settimeout(0.5)
        message = b"\x82\x82\0\0\0\0\1\0"  # a masked binary message of one sample
        deadline = time.monotonic() + 10 * WAIT_S
        is_stuck = False
        while time.monotonic() < deadline:  # an answer a message, and none is read
            try:
                raw.sendall(message * 2000)
            except TimeoutError:
                is_stuck = True
            except OSError:
                break
        else:
            pytest.fail("a client that reads nothing is served for ever")
        assert is_stuck or time.monotonic() < deadline
    finally:
        raw.close()
    with connect(f"{server.ws}/v1/stream", proxy=None) as good:
        start(good)
        good.send(int16_of(LIGHTS).tobytes())
        good.send('{"type":"end"}')
        assert rest(good)[-1]["utterances"] == 1


def test_a_slow_request_is_given_up_and_a_stream_is_not(
    serving: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from earshot.serve import server as module

    monkeypatch.setattr(module, "HEADERS_WITHIN_S", 0.3)
    server = serving()
    host, port = server.http.removeprefix("http://").split(":")
    with (
        socket.create_connection((host, int(port))) as raw,
        connect(f"{server.ws}/v1/stream", proxy=None) as stream,
    ):
        start(stream)
        raw.sendall(b"GET / HTTP/1.1\r\nHost:")
        raw.settimeout(WAIT_S)
        assert raw.recv(100) == b""
        stream.send('{"type":"end"}')
        assert rest(stream)[-1]["type"] == "closed"
