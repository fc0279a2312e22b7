"""A recogniser with a second pass: what leaves the socket, and a transcript whatever happens."""

from __future__ import annotations

import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

pytest.importorskip("uvicorn", reason="the server needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="the server needs the extra [serve]")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "decode"))

from scorers import HashScorer

from earshot.core.errors import ConfigError
from earshot.core.transcript import Rescoring
from earshot.decode.lattice import Lattice
from earshot.decode.rescoring import LocalRescorer, Rescored, RescoringConfig
from earshot.decode.rescoring_client import ClientConfig, RescoringClient
from earshot.decode.rescoring_pb2 import Request
from earshot.serve.rescore_config import RescoreLimits, RescoreServeConfig
from earshot.serve.rescore_server import RescoreServer
from earshot.session.recognizer import Recognizer

CLIP = Path(__file__).resolve().parents[2] / "examples" / "turn-on-the-lights.flac"
SAMPLES, RATE = sf.read(CLIP, dtype="float32")
CONFIG = RescoringConfig(language=2.0)


class Overhearing:
    """Passes bytes on between a client and a server, and keeps what the client says."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._to = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.heard: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near = self._listener.accept()[0]
            except TimeoutError:
                continue
            far = socket.create_connection(self._to)
            for source, sink, keeps in ((near, far, True), (far, near, False)):
                thread = threading.Thread(target=self._pass_on, args=(source, sink, keeps))
                thread.start()
                self._threads.append(thread)

    def _pass_on(self, source: socket.socket, sink: socket.socket, keeps: bool) -> None:
        with source:
            source.settimeout(0.05)
            while not self._ended.is_set():
                try:
                    data = source.recv(65_536)
                except TimeoutError:
                    continue
                except OSError:
                    break
                if not data:
                    break
                if keeps:
                    self.heard.append(data)
                sink.sendall(data)

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()


@contextmanager
def serving() -> Iterator[str]:
    limits = RescoreLimits(drain_timeout_s=2.0)
    with RescoreServer(HashScorer(), CONFIG, RescoreServeConfig(port=0, limits=limits)) as server:
        yield server.url


class Fixed:
    """Ranks the second best first, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def rescore(self, lattice: Lattice) -> Rescored:
        self.asked += 1
        found = LocalRescorer(HashScorer(), RescoringConfig(language=0.0)).rescore(lattice)
        return Rescored(Rescoring("rescored", model="fixed"), lattice, found.hypotheses[1:])


class Dead:
    def rescore(self, lattice: Lattice) -> Rescored:
        return Rescored(Rescoring("kept", "timeout"), lattice)


def test_the_ranking_becomes_the_transcript_and_is_asked_for_once() -> None:
    fixed = Fixed()
    plain = Recognizer.load().transcribe(SAMPLES, RATE)
    recognizer = Recognizer.load(rescorer=fixed)
    stream = recognizer.create_stream()
    stream.accept_waveform(RATE, SAMPLES)
    stream.decode()
    assert stream.result().rescoring is None  # it may still go on
    assert fixed.asked == 0
    stream.input_finished()
    stream.decode()
    got = [stream.result() for _ in range(3)]
    assert fixed.asked == 1
    assert got[0] == got[1] == got[2]
    assert got[0].text != plain.text
    assert got[0].rescoring == Rescoring("rescored", model="fixed")
    assert got[0].as_dict()["rescoring"]
    ends = [0.0, *(word.end_s for word in got[0].words)]
    for before, word in zip(ends, got[0].words, strict=False):
        assert before <= word.start_s + 1e-9 <= word.end_s
        assert 0 <= word.confidence <= 1
    stream.reset()
    stream.accept_waveform(RATE, SAMPLES)
    stream.input_finished()
    stream.decode()
    assert stream.result().text == got[0].text
    assert fixed.asked == 2


def test_the_first_pass_stands_as_it_was() -> None:
    plain = Recognizer.load().transcribe(SAMPLES, RATE)
    got = Recognizer.load(rescorer=Dead()).transcribe(SAMPLES, RATE)
    assert (got.rescoring.status, got.rescoring.reason) == ("kept", "timeout")
    assert [w.word for w in got.words] == [w.word for w in plain.words]


def test_silence_is_sent_nowhere() -> None:
    fixed = Fixed()
    got = Recognizer.load(rescorer=fixed).transcribe(np.zeros(16_000, np.float32), 16_000)
    assert (got.text, got.rescoring, fixed.asked) == ("", None, 0)


def test_no_audio_is_sent() -> None:
    """Every byte that leaves is an HTTP head or a message of known fields, and small."""
    with serving() as url:
        proxy = Overhearing(url)
        try:
            client = RescoringClient(proxy.url, config=ClientConfig(deadline_ms=10_000))
            with client:
                got = Recognizer.load(rescorer=client).transcribe(SAMPLES, RATE)
        finally:
            proxy.close()
    assert got.rescoring is not None
    assert got.rescoring.status == "rescored"
    sent = b"".join(proxy.heard)
    head, _, body = sent.partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {b"host", b"content-type", b"accept", b"content-length"}
    request = Request.FromString(body)
    assert request.SerializeToString(deterministic=True) == body  # and nothing unknown
    duration_s = len(SAMPLES) / RATE
    assert len(body) <= 0.01 * 32_000 * duration_s + 64
    pcm = (SAMPLES * 32767).astype("<i2").tobytes()
    pieces = {pcm[i : i + 8] for i in range(0, len(pcm) - 8, 2)}
    pieces |= {SAMPLES[i : i + 2].tobytes() for i in range(len(SAMPLES) - 2)}
    pieces = {piece for piece in pieces if len(set(piece)) > 3}  # not silence
    assert not any(sent[i : i + 8] in pieces for i in range(len(sent)))


def test_many_clients_at_once_each_get_their_own_transcript_once() -> None:
    """Some of them of a service that is dead; words differ, so that a mix-up would show."""
    model = Recognizer.load()
    clips = [SAMPLES, SAMPLES[: len(SAMPLES) // 2]]
    with serving() as url:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"

        def one(number: int) -> tuple[int, str, str]:
            address = dead if number % 4 == 3 else url
            config = ClientConfig(deadline_ms=20_000)
            with RescoringClient(address, config=config) as client:
                recognizer = Recognizer(model._model, _search(), rescorer=client)
                got = recognizer.transcribe(clips[number % 2], RATE)
            assert got.rescoring is not None
            return number % 4, got.text, got.rescoring.reason

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(one, range(32)))
    assert len(results) == 32
    by_kind = Counter(results)
    assert len(by_kind) == 4  # all of a kind say the same
    assert all(count == 8 for count in by_kind.values())
    reasons = {kind: reason for kind, _, reason in by_kind}
    assert reasons == {0: "", 1: "", 2: "", 3: "unreachable"}


def _search() -> object:
    from earshot.decode.search import SearchConfig

    return SearchConfig()


def test_a_token_without_an_address() -> None:
    with pytest.raises(ConfigError, match="rescorer_token"):
        Recognizer.load(rescorer_token="x")
    with pytest.raises(ConfigError, match="no address"):
        Recognizer.load(rescorer="localhost")
