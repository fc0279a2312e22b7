"""Clients written for sherpa-onnx, Vosk and WeNet, as their own example clients talk."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from earshot.serve.simple_sockets import protocol_of
from earshot.serve.sockets import MessageError
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

WAIT_S = 20.0


@pytest.mark.parametrize("path", ["/", "/sherpa"])
def test_sherpa(server: RunningServer, path: str) -> None:
    """As in online-websocket-client-decode-file.py: float32, `Done`, results until `Done!`."""
    samples = (two_utterances() / 32768).astype("<f4")
    with connect(f"{server.ws}{path}", proxy=None) as socket:
        for piece in pieces(samples, 3200):
            socket.send(piece.tobytes())
        socket.send("Done")
        answers: list[dict[str, Any]] = []
        while (message := socket.recv(timeout=WAIT_S)) != "Done!":
            answers.append(json.loads(message))
    texts = {answer["segment"]: answer["text"] for answer in answers}
    assert texts == {0: LIGHTS_TEXT, 1: DIGITS_TEXT}
    finals = [answer for answer in answers if answer["is_final"]]
    assert [answer["segment"] for answer in finals] == [0, 1]
    assert len(finals[1]["timestamps"]) == len(DIGITS_TEXT.split())
    assert finals[1]["timestamps"][0] == 0.0


@pytest.mark.parametrize("path", ["/", "/vosk"])
def test_vosk(server: RunningServer, path: str) -> None:
    """As in vosk-server's test.py: one answer a message, the last after `eof`."""
    with connect(f"{server.ws}{path}", proxy=None) as socket:
        socket.send('{"config": {"sample_rate": 8000}}')
        answers = []
        for piece in pieces(int16_of(DIGITS, rate_hz=8000), 2000):
            socket.send(piece.tobytes())
            answers.append(json.loads(socket.recv(timeout=WAIT_S)))
        socket.send('{"eof" : 1}')
        last = json.loads(socket.recv(timeout=WAIT_S))
    assert any(answer.get("partial") for answer in answers)
    texts = [answer["text"] for answer in (*answers, last) if "text" in answer]
    heard = " ".join(text for text in texts if text).split()
    assert len(set(heard) & set(DIGITS_TEXT.split())) >= 4  # 8 kHz is hard on the model
    results = [word for answer in (*answers, last) for word in answer.get("result", [])]
    assert [word["word"] for word in results] == heard
    assert all(0 <= word["conf"] <= 1 and word["start"] < word["end"] for word in results)


def test_vosk_with_alternatives(server: RunningServer) -> None:
    with connect(f"{server.ws}/vosk", proxy=None) as socket:
        socket.send('{"config": {"sample_rate": 16000, "max_alternatives": 3, "words": false}}')
        socket.send(int16_of(LIGHTS).tobytes())
        answers = [json.loads(socket.recv(timeout=WAIT_S))]
        socket.send('{"eof" : 1}')
        answers.append(json.loads(socket.recv(timeout=WAIT_S)))
    # The utterance ends before the clip does, or with it.
    texts = [a["alternatives"][0]["text"] for a in answers if "alternatives" in a]
    assert " ".join(filter(None, texts)) == LIGHTS_TEXT


@pytest.mark.parametrize("path", ["/", "/wenet"])
def test_wenet(server: RunningServer, path: str) -> None:
    with connect(f"{server.ws}{path}", proxy=None) as socket:
        socket.send('{"signal": "start", "nbest": 1, "continuous_decoding": true}')
        assert json.loads(socket.recv(timeout=WAIT_S)) == {"status": "ok", "type": "server_ready"}
        for piece in pieces(two_utterances(), 8000):
            socket.send(piece.tobytes())
        socket.send('{"signal": "end"}')
        answers = []
        while not answers or answers[-1]["type"] != "speech_end":
            answers.append(json.loads(socket.recv(timeout=WAIT_S)))
    finals = [json.loads(a["nbest"])[0] for a in answers if a["type"] == "final_result"]
    assert " ".join(final["sentence"] for final in finals) == TWO_TEXTS
    assert [piece["word"] for piece in finals[0]["word_pieces"]] == LIGHTS_TEXT.split()


@pytest.mark.parametrize("message", ["hello", '{"type":"start"}', "[1]"])
def test_strangers_are_closed(server: RunningServer, message: str) -> None:
    with connect(f"{server.ws}/", proxy=None) as socket:
        socket.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=WAIT_S)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008


@pytest.mark.parametrize(
    ("path", "message"),
    [("/sherpa", b"abc"), ("/vosk", b"abc"), ("/vosk", '{"config":{"sample_rate":"x"}}'),
     ("/wenet", "no")],
)  # fmt: skip
def test_broken_messages_close_that_connection(
    server: RunningServer, path: str, message: Any
) -> None:
    with connect(f"{server.ws}{path}", proxy=None) as socket:
        socket.send(message)
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(timeout=WAIT_S)


def test_first_messages_tell_clients_apart() -> None:
    assert protocol_of(b"") == protocol_of("Done") == "sherpa"
    assert protocol_of('{"config":{}}') == protocol_of('{"eof":1}') == "vosk"
    assert protocol_of('{"signal":"start"}') == "wenet"
    with pytest.raises(MessageError):
        protocol_of('{"type":"start"}')
