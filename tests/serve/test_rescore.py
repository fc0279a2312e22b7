"""The rescoring server and its client over real sockets, and what either may do to the other."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="the server needs the extra [serve]")
pytest.importorskip("websockets", reason="the server needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="the server needs the extra [serve]")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "decode"))

from lattices import lattices, make, paths
from scorers import HashScorer
from websockets.sync.client import connect

from earshot.core.errors import ConfigError
from earshot.decode.lattice import Lattice
from earshot.decode.lattice_wire import decode_lattice, encode_lattice
from earshot.decode.rescoring import RescoringConfig, rescore
from earshot.decode.rescoring_client import CircuitBreaker, ClientConfig, RescoringClient
from earshot.decode.rescoring_pb2 import Answer
from earshot.decode.rescoring_wire import (
    CONTENT_TYPE,
    MAX_ANSWER_BYTES,
    BadMessage,
    Refusal,
    decode_answer,
    decode_request,
    encode_answer,
    encode_refusal,
    encode_request,
)
from earshot.serve.rescore_config import RescoreLimits, RescoreServeConfig
from earshot.serve.rescore_server import RescoreServer

CONFIG = RescoringConfig(language=0.8, word=0.1)
TOKEN = "0123456789abcdef-secret"
LATTICE = make(
    [
        (0, 1, "turn", 0, 5, -1.0, 0.0),
        (0, 1, "torn", 0, 5, -1.3, 0.0),
        (1, 2, "on", 5, 8, -0.5, 0.0),
        (1, 2, "and", 5, 8, -0.4, 0.0),
        (2, 3, "light", 8, 15, -0.1, 0.0),
    ]
)
BODY = encode_request(encode_lattice(LATTICE))


class SlowScorer(HashScorer):
    """Takes its time; `gate` holds it back altogether."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()

    def extend(self, after: Sequence[tuple[tuple[str, ...], str]]) -> Any:
        self.gate.wait(10)
        time.sleep(self.seconds)
        return super().extend(after)


@contextlib.contextmanager
def serving(scorer: HashScorer | None = None, **options: Any) -> Iterator[RescoreServer]:
    limits = options.pop("limits", RescoreLimits(drain_timeout_s=2.0))
    config = RescoreServeConfig(port=0, limits=limits, **options)
    with RescoreServer(scorer or HashScorer(), CONFIG, config) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[RescoreServer]:
    with serving() as running:
        yield running


def asking(url: str, *, token: str | None = None, **options: Any) -> RescoringClient:
    options.setdefault("deadline_ms", 5000.0)
    return RescoringClient(url, token=token, config=ClientConfig(**options))


def post(
    url: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    if headers is None:
        headers = {"Content-Type": CONTENT_TYPE}
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request("POST", "/v1/rescore", body, headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- messages -------------------------------------------------------------------------------


@given(lattices(), st.integers(0, 2**64 - 1), st.integers(0, 100), st.integers(0, 10_000))
def test_a_request_there_and_back(lattice: Lattice, number: int, nbest: int, ms: int) -> None:
    data = encode_request(encode_lattice(lattice), request_id=number, nbest=nbest, timeout_ms=ms)
    got = decode_request(data)
    assert (got.id, got.nbest, got.timeout_ms) == (number, nbest, ms)
    assert got.lattice.num_arcs == lattice.num_arcs


@given(lattices())
def test_an_answer_there_and_back(lattice: Lattice) -> None:
    found = rescore([lattice], HashScorer(), CONFIG)[0]
    data = encode_answer(found, request_id=7, model="hashes", computed_ms=1.5)
    got = decode_answer(data, lattice, request_id=7)
    assert not isinstance(got, Refusal)
    hypotheses, model = got
    assert model == "hashes"
    assert [(h.words, h.arcs) for h in hypotheses] == [(h.words, h.arcs) for h in found]
    assert [h.score for h in hypotheses] == pytest.approx([h.score for h in found], rel=1e-5)


@settings(max_examples=200)
@given(lattices(), st.data())
def test_an_answer_says_nothing_that_was_not_heard(lattice: Lattice, data: st.DataObject) -> None:
    """Whatever the arcs of an answer: it is a path of the lattice, or it is refused."""
    every = set(paths(lattice))
    arcs = data.draw(
        st.lists(st.integers(0, lattice.num_arcs), max_size=6).map(tuple)
        | st.sampled_from(sorted(every))
    )
    message = Answer(version=1)
    message.hypotheses.add(arc=arcs, score=-1.0)
    if arcs in every:
        got = decode_answer(message.SerializeToString(), lattice)
        assert not isinstance(got, Refusal)
        assert got[0][0].arcs == arcs
    else:
        with pytest.raises(BadMessage):
            decode_answer(message.SerializeToString(), lattice)


def test_a_refusal_there_and_back() -> None:
    refusal = Refusal(429, "queue_full", "come back", 1.5)
    assert decode_answer(encode_refusal(refusal, request_id=3), LATTICE, request_id=3) == refusal


def answer_with(*scores: float, **fields: Any) -> bytes:
    message = Answer(version=1)
    for score in scores:
        message.hypotheses.add(arc=[0, 2, 4], score=score)
    for name, value in fields.items():
        setattr(message, name, value)
    return message.SerializeToString()


BAD_ANSWERS = {
    "nothing": b"",
    "another version": answer_with(-1.0, version=2),
    "another id": answer_with(-1.0, id=5),
    "no protobuf": b"\xff" * 40,
    "html": b"<html>502 Bad Gateway</html>",
    "no hypotheses": answer_with(),
    "too many": answer_with(*([-1.0] * 101)),
    "a score that is no number": answer_with(float("nan")),
    "out of order": answer_with(-2.0, -1.0),
    "too many bytes": b"x" * (MAX_ANSWER_BYTES + 1),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_bad_answers_are_refused(what: str) -> None:
    with pytest.raises(BadMessage):
        decode_answer(BAD_ANSWERS[what], LATTICE)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_request(data: bytes) -> None:
    with contextlib.suppress(BadMessage):
        decode_request(data)


def test_requests_that_ask_for_too_much() -> None:
    with pytest.raises(BadMessage, match="at most 100"):
        decode_request(encode_request(encode_lattice(LATTICE), nbest=101))


# --- circuit breaker ------------------------------------------------------------------------


def test_the_circuit_opens_tries_and_closes() -> None:
    now = [0.0]
    config = ClientConfig(failures=2, open_s=10, max_open_s=15)
    breaker = CircuitBreaker(config, clock=lambda: now[0])
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()
    now[0] = 10.5
    assert breaker.allows()  # one tries
    assert not breaker.allows()  # and nobody else meanwhile
    breaker.failed()
    now[0] = 25.4  # for longer this time, but not for 20 s
    assert not breaker.allows()
    now[0] = 25.6
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    assert breaker.allows()
    assert not breaker.is_open
    breaker.failed(retry_after_s=3)  # was asked to: at once
    assert not breaker.allows()


# --- server and client ----------------------------------------------------------------------


@settings(max_examples=15)
@given(lattice=lattices(max_states=8))
def test_over_the_wire_it_is_the_same_ranking(server: RescoreServer, lattice: Lattice) -> None:
    with asking(server.url) as client:
        got = client.rescore(lattice)
    if lattice.num_arcs == lattice.num_states - 1:
        assert (got.note.status, got.note.reason) == ("kept", "certain")
        return
    assert got.note.status == "rescored", got.note
    sent = decode_lattice(encode_lattice(lattice))
    want = rescore([sent], HashScorer(), CONFIG)[0]
    assert [h.words for h in got.hypotheses] == [h.words for h in want]
    assert got.note.model == "hashes"


def test_a_connection_is_used_again_and_one_that_was_closed_is_not_missed() -> None:
    limits = RescoreLimits(drain_timeout_s=1.0, idle_timeout_s=1.0)
    with serving(limits=limits) as running, asking(running.url) as client:
        for pause in (0.0, 0.0, 1.6):
            time.sleep(pause)
            assert client.rescore(LATTICE).note.status == "rescored"
            assert len(client._idle) == 1


def test_who_has_no_token_is_kept_out(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n{TOKEN}\n")
    with serving(token_file=file) as running:
        for token, reason in ((TOKEN, ""), (None, "unauthorised"), ("x" * 20, "unauthorised")):
            with asking(running.url, token=token) as client:
                assert client.rescore(LATTICE).note.reason == reason
        status, headers, _ = post(running.url, b"")
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        with pytest.raises(Exception, match="401"):
            connect(running.url.replace("http", "ws") + "/v1/rescore/stream")


def test_what_is_no_request_is_refused(server: RescoreServer) -> None:
    wav = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(2000)
    protobuf = {"Content-Type": CONTENT_TYPE}
    for body, headers, status in (
        (BODY, protobuf, 200),
        (b"", protobuf, 400),
        (wav, protobuf, 400),
        (BODY[:-3], protobuf, 400),
        (wav, {"Content-Type": "audio/wav"}, 415),
        (BODY, {"Content-Type": "application/json"}, 415),
        (BODY, {**protobuf, "Host": "evil.example.com"}, 421),
        (BODY, {**protobuf, "Origin": "https://evil.example"}, 403),
        (b"x" * 300_000, protobuf, 413),
    ):
        got, _, answer = post(server.url, body, headers)
        assert got == status, answer
        if status != 200:
            assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}


def test_a_lattice_with_too_many_arcs_is_refused() -> None:
    with serving(limits=RescoreLimits(max_arcs=4)) as running, asking(running.url) as client:
        assert client.rescore(LATTICE).note.reason == "too_large"


def test_a_body_without_end_and_one_that_comes_slowly() -> None:
    limits = RescoreLimits(max_request_bytes=10_000, max_body_s=0.5, drain_timeout_s=1.0)
    with serving(limits=limits) as running:
        host, port = running.url.removeprefix("http://").split(":")
        head = (
            f"POST /v1/rescore HTTP/1.1\r\nHost: {host}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        ).encode()
        with socket.create_connection((host, int(port)), timeout=5) as endless:
            endless.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(4):
                endless.sendall(b"1000\r\n" + bytes(4096) + b"\r\n")
            assert b" 413 " in endless.recv(1000)
        with socket.create_connection((host, int(port)), timeout=5) as slow:
            slow.sendall(head + b"Content-Length: 100\r\n\r\nx")
            assert b" 408 " in slow.recv(1000)


def test_whoever_comes_when_the_queue_is_full_is_told_when_to_come_back() -> None:
    scorer = SlowScorer()
    scorer.gate.clear()
    limits = RescoreLimits(max_queue=2, max_batch=1, drain_timeout_s=5.0)
    with serving(scorer, limits=limits) as running, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(post, running.url, BODY)]
        until(lambda: running.engine.waiting == 1 and not running.engine._queue)
        answers += [pool.submit(post, running.url, BODY) for _ in range(2)]
        until(lambda: running.engine.waiting == 3)
        status, headers, _ = post(running.url, BODY)
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        scorer.gate.set()
        assert [answer.result()[0] for answer in answers] == [200, 200, 200]
        counted = running.engine.metrics.text()
        assert b'earshot_rescore_refused_total{reason="queue_full"} 1.0' in counted
        assert b"earshot_rescored_total 3.0" in counted


def test_one_client_cannot_fill_the_queue() -> None:
    scorer = SlowScorer()
    scorer.gate.clear()
    limits = RescoreLimits(max_per_client=1, drain_timeout_s=5.0)
    with serving(scorer, limits=limits) as running, ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, running.url, BODY)
        until(lambda: running.engine.waiting == 1)
        assert post(running.url, BODY)[0] == 429
        scorer.gate.set()
        assert first.result()[0] == 200


def test_what_takes_too_long_is_given_up() -> None:
    hurried = encode_request(encode_lattice(LATTICE), timeout_ms=60)
    with serving(SlowScorer(0.1)) as running:
        assert post(running.url, hurried)[0] == 504
        assert running.engine.waiting == 0


def test_lattices_join_the_batch_as_they_come() -> None:
    scorer = SlowScorer(0.02)
    with serving(scorer) as running, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(running.url, BODY), range(16)))
    assert {status for status, _, _ in answers} == {200}
    assert max(scorer.batches) > 4  # one lattice alone asks for 2, 4 and 4 words
    assert sum(scorer.batches) == 16 * (2 + 4 + 4)


def test_a_model_that_fails_does_not_take_the_server_with_it() -> None:
    class Failing(HashScorer):
        fail = True

        def extend(self, after: Any) -> Any:
            if self.fail:
                raise RuntimeError("torn apart")
            return super().extend(after)

    scorer = Failing()
    with serving(scorer) as running:
        status, _, answer = post(running.url, BODY)
        assert status == 500
        assert b"RuntimeError" in answer
        assert b"torn" not in answer
        scorer.fail = False
        assert post(running.url, BODY)[0] == 200


def test_what_is_there_is_finished_when_the_server_is_stopped() -> None:
    with ThreadPoolExecutor(4) as pool:
        with serving(SlowScorer(0.1), limits=RescoreLimits(drain_timeout_s=5.0)) as running:
            answers = [pool.submit(post, running.url, BODY) for _ in range(4)]
            until(lambda: running.engine.waiting == 4)
            url = running.url
        assert [answer.result()[0] for answer in answers] == [200] * 4
        with pytest.raises(OSError):
            post(url, BODY)


def test_many_requests_on_one_socket(server: RescoreServer) -> None:
    lattice = encode_lattice(LATTICE)
    with connect(server.url.replace("http", "ws") + "/v1/rescore/stream") as opened:
        for number in (5, 9, 7):
            opened.send(encode_request(lattice, request_id=number, nbest=2))
        opened.send(encode_request(b"no lattice", request_id=11))
        answers = [Answer.FromString(opened.recv(timeout=5)) for _ in range(4)]
        by_id = {answer.id: answer for answer in answers}
        assert set(by_id) == {5, 7, 9, 11}
        assert by_id[11].error.status == 400
        assert len(by_id[5].hypotheses) == 2
        opened.send("text")
        with pytest.raises(Exception, match="1008"):
            opened.recv(timeout=5)


def test_a_message_too_large_for_the_socket() -> None:
    limits = RescoreLimits(max_request_bytes=1000, drain_timeout_s=1.0)
    with (
        serving(limits=limits) as running,
        connect(running.url.replace("http", "ws") + "/v1/rescore/stream") as opened,
    ):
        with contextlib.suppress(Exception):
            opened.send(b"x" * 5000)
        with pytest.raises(Exception, match="1009"):
            opened.recv(timeout=5)


# --- what the other side may be ---------------------------------------------------------------


@contextlib.contextmanager
def fake(answer: Callable[[socket.socket, bytes], object]) -> Iterator[str]:
    """A server that does as it likes with each connection once it has read something."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    ended = threading.Event()
    threads = []

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            answer(connection, connection.recv(100_000))

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                thread = threading.Thread(target=handle, args=(listener.accept()[0],))
                thread.start()
                threads.append(thread)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        accepting.join()
        for thread in threads:
            thread.join()
        listener.close()


def says(data: bytes, *, then_s: float = 0.0) -> Callable[[socket.socket, bytes], object]:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(data)
        time.sleep(then_s)

    return answer


def drips(data: bytes, pause_s: float) -> Callable[[socket.socket, bytes], object]:
    def answer(connection: socket.socket, _: bytes) -> None:
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
            time.sleep(pause_s)

    return answer


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"


def status(line: str, headers: str = "") -> bytes:
    return f"HTTP/1.1 {line}\r\n{headers}Content-Length: 0\r\n\r\n".encode()


FAULTS: dict[str, tuple[Callable[[socket.socket, bytes], object], str]] = {
    "silence": (says(b"", then_s=0.5), "timeout"),
    "a header in drops": (drips(OK + b"Content-Length: 5\r\n\r\nhello", 0.02), "timeout"),
    "a body that stops": (says(OK + b"Content-Length: 50\r\n\r\nhello", then_s=0.5), "timeout"),
    "hangs up": (says(b""), "unreachable"),
    "hangs up within": (says(OK + b"Content-Length: 50\r\n\r\nhello"), "unreachable"),
    "no http": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "bad_answer"),
    "binary": (says(bytes(range(1, 256)) * 200, then_s=0.1), "bad_answer"),
    "a header without end": (
        says(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, then_s=0.1),
        "bad_answer",
    ),
    "no length": (says(OK + b"\r\nhello"), "bad_answer"),
    "a length that is none": (says(OK + b"Content-Length: -5\r\n\r\n"), "bad_answer"),
    "html": (says(HTML), "bad_answer"),
    "garbage": (says(OK + b"Content-Length: 5\r\n\r\nhello"), "bad_answer"),
    "empty": (says(OK + b"Content-Length: 0\r\n\r\n"), "bad_answer"),
    "chunks of garbage": (says(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "bad_answer"),
    "an oversized body": (says(OK + b"Content-Length: 99999999\r\n\r\n"), "too_large"),
    "an oversized chunk": (
        says(OK + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n"),
        "too_large",
    ),
    "401": (says(status("401 No")), "unauthorised"),
    "413": (says(status("413 No")), "too_large"),
    "429": (says(status("429 No", "Retry-After: 7\r\n")), "busy"),
    "503": (says(status("503 No")), "busy"),
    "500": (says(status("500 No")), "refused"),
    "redirected": (says(status("302 Go", "Location: http://evil.example\r\n")), "refused"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_whatever_the_server_does_the_first_pass_stands_in_time(what: str) -> None:
    answer, reason = FAULTS[what]
    with fake(answer) as url, asking(url, deadline_ms=250) as client:
        began = time.monotonic()
        got = client.rescore(LATTICE)
        took_s = time.monotonic() - began
        assert (got.note.status, got.note.reason) == ("kept", reason)
        assert got.lattice is LATTICE
        assert not got.hypotheses
        assert took_s < 1.0  # the deadline, and what a busy machine adds
        assert client.breaker.is_open == (what == "429")


def test_good_answers_in_other_forms() -> None:
    found = rescore([decode_lattice(encode_lattice(LATTICE))], HashScorer(), CONFIG)[0]
    body = encode_answer(found, model="m", computed_ms=1)
    whole = b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (body[:20], body[20:]))
    for data in (
        OK + b"Connection: close\r\n" + whole,
        OK.replace(b"1.1", b"1.0") + whole,
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + whole,
    ):
        with fake(says(data)) as url, asking(url) as client:
            assert client.rescore(LATTICE).note.status == "rescored"


def test_nobody_there_and_the_circuit_opens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with asking(f"http://127.0.0.1:{port}", failures=2, open_s=60) as client:
        reasons = [client.rescore(LATTICE).note.reason for _ in range(4)]
    assert reasons == ["unreachable", "unreachable", "circuit_open", "circuit_open"]


def test_the_client_comes_back_when_the_server_does() -> None:
    limits = RescoreLimits(drain_timeout_s=0.5)
    with serving(limits=limits) as running:
        port = int(running.url.rpartition(":")[2])
        client = asking(running.url, failures=1, open_s=0.2)
        assert client.rescore(LATTICE).note.status == "rescored"
    with client:
        assert client.rescore(LATTICE).note.reason == "unreachable"
        assert client.rescore(LATTICE).note.reason == "circuit_open"
        config = RescoreServeConfig(port=port, limits=limits)
        with RescoreServer(HashScorer(), CONFIG, config):
            time.sleep(0.25)
            assert client.rescore(LATTICE).note.status == "rescored"


def test_addresses_and_tokens_that_cannot_be_used() -> None:
    for url in (
        "localhost:80",
        "ftp://a",
        "http://",
        "http://a:99999",
        "http://u:p@a/",
        "http://a/?x=1",
        "http://a/ü",
    ):
        with pytest.raises(ConfigError, match="rescorer"):
            RescoringClient(url)
    with pytest.raises(ConfigError, match="token"):
        RescoringClient("http://a", token="two words")
    with pytest.raises(ConfigError, match="deadline_ms"):
        ClientConfig(deadline_ms=0)


def test_settings_of_a_server_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="positive"):
        RescoreLimits(max_queue=0)
    with pytest.raises(ConfigError, match="wire format"):
        RescoreLimits(max_request_bytes=10**8)
    with pytest.raises(ConfigError, match="TLS needs both"):
        RescoreServeConfig(tls_cert=tmp_path / "c.pem")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = RescoreServeConfig(port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot be listened on"):
            RescoreServer(HashScorer(), CONFIG, config)
    with pytest.raises(ConfigError, match="token file"):
        RescoreServer(
            HashScorer(), CONFIG, RescoreServeConfig(port=0, token_file=tmp_path / "none")
        )
