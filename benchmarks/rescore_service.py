"""The rescoring service under load and under faults: 64 clients at once, for a minute.

    python benchmarks/rescore_service.py --language-model exp/rescoring-lm/rescoring-lm.ear

Some clients talk to the service, through a listener that reads every byte they send; others to one
that is slow, dead, answers garbage or too much, or they send a wrong token or lattices that are too
large. The first pass of each clip is decoded before; an utterance is one lattice with a number of
its own. Counted: utterances without a transcript, with more than one, or with another clip's
words; bytes that are no request; how long each waited. Everything is on 127.0.0.1. Prints a table
and, as the last line, one JSON object; exits 1 if anything was lost, doubled, mixed up, or sent
that must not be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from systems import default_model
from wer import circumstances, print_aligned

from earshot.core.transcript import Transcript
from earshot.decode.language import EarScorer
from earshot.decode.lattice import Lattice
from earshot.decode.lattice_wire import decode_lattice
from earshot.decode.rescoring import RescoringConfig, rescore, stored_config
from earshot.decode.rescoring_client import ClientConfig, RescoringClient
from earshot.decode.rescoring_pb2 import Request
from earshot.decode.result import rescored_transcript
from earshot.serve.rescore_config import RescoreLimits, RescoreServeConfig
from earshot.serve.rescore_server import RescoreServer
from earshot.session.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "only-for-this-benchmark-0123456789"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
KINDS = {  # clients of 64
    "served": 40, "slow": 4, "dead": 4, "garbage": 4, "too much": 4, "wrong token": 4,
    "too large": 4,
}  # fmt: skip


@dataclass(slots=True)
class Clip:
    """A recording that was decoded once."""

    first: Transcript
    lattice: Lattice
    says: set[str] = field(default_factory=set)  # all that a right answer may make of it


def decoded(paths: Sequence[Path], model: Path, scorer: EarScorer, config: RescoringConfig,
            client: ClientConfig) -> list[Clip]:  # fmt: skip
    """First passes, and what the service would rank first."""
    recognizer = Recognizer.load(model)
    clips = []
    for path in paths:
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
        stream = recognizer.create_stream(lattice=True)
        stream.accept_waveform(rate, samples.mean(axis=1))
        stream.input_finished()
        stream.decode()
        clip = Clip(stream.result(), stream.lattice())
        sent = decode_lattice(client.encoded(clip.lattice))
        clip.says = {clip.first.text, rescore([sent], scorer, config)[0][0].text}
        clips.append(clip)
    return clips


class Listener:
    """Passes on what clients send, and checks that it is heads and requests and nothing else."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._server.settimeout(0.1)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.requests = self.bytes = self.body_bytes = 0
        self.strange: list[str] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def _accept(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                near = self._server.accept()[0]
                far = socket.create_connection(self._to)
                said = bytearray()
                for source, sink, kept in ((near, far, said), (far, near, None)):
                    thread = threading.Thread(
                        target=self._pass_on, args=(source, sink, kept), daemon=True
                    )
                    thread.start()
                    self._threads.append(thread)

    def _pass_on(self, source: socket.socket, sink: socket.socket, said: bytearray | None) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
                if said is not None:
                    said += data
                    self._check(said)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        if said:
            self._note(f"{len(said)} bytes that are no whole request")

    def _check(self, said: bytearray) -> None:
        """Take whole requests off what was said."""
        while (end := said.find(b"\r\n\r\n")) >= 0:
            lines = bytes(said[:end]).split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
            length = int(headers.get(b"content-length", b"-1"))
            known = {b"host", b"content-type", b"accept", b"authorization", b"content-length"}
            if not lines[0].startswith(b"POST /v1/rescore ") or not set(headers) <= known:
                self._note(f"a strange head: {lines[0]!r} {sorted(headers)}")
            if len(said) < end + 4 + length:
                return
            body = bytes(said[end + 4 : end + 4 + length])
            message = Request.FromString(body)
            if message.SerializeToString(deterministic=True) != body:
                self._note("a body with fields that no request has")
            decode_lattice(message.lattice)
            with self._lock:
                self.requests += 1
                self.bytes += end + 4 + length
                self.body_bytes += length
            del said[: end + 4 + length]

    def _note(self, text: str) -> None:
        with self._lock:
            self.strange.append(text)

    def close(self) -> None:
        """Stop."""
        self._ended.set()
        self._threads[0].join()
        self._server.close()


class Faulty:
    """A service that answers each connection as `answer` likes."""

    def __init__(self, answer: Callable[[socket.socket], object]) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._server.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def _accept(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                near = self._server.accept()[0]
                threading.Thread(target=self._handle, args=(near,), daemon=True).start()

    def _handle(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            near.settimeout(5)
            near.recv(65_536)
            self._answer(near)

    def close(self) -> None:
        """Stop."""
        self._ended.set()
        self._thread.join()
        self._server.close()


@dataclass(slots=True)
class Seen:
    """What a run saw; one lock for all of it."""

    transcripts: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    took_ms: dict[str, list[float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    given: int = 0


def client_loop(kind: str, url: str, clips: Sequence[Clip], seen: Seen, until: float,
                config: ClientConfig) -> None:  # fmt: skip
    """One client: utterance after utterance."""
    token = "wrong-token" if kind == "wrong token" else TOKEN
    with RescoringClient(url, token=token, config=config) as client:
        while time.monotonic() < until:
            with seen.lock:
                number = seen.given
                seen.given += 1
            clip = clips[number % len(clips)]
            began = time.monotonic()
            result = rescored_transcript(clip.first, client.rescore(clip.lattice))
            took_ms = 1000 * (time.monotonic() - began)
            assert result.rescoring is not None
            with seen.lock:
                seen.transcripts.setdefault(number, []).append((number % len(clips), result.text))
                seen.reasons.setdefault(kind, Counter())[result.rescoring.reason or "rescored"] += 1
                seen.took_ms.setdefault(kind, []).append(took_ms)
            time.sleep(0.25)  # a person speaks less often than that


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All clients at once; what was seen."""
    scorer = EarScorer(options.language_model)
    config = stored_config(options.language_model) or RescoringConfig()
    clients = ClientConfig(deadline_ms=options.deadline_ms)
    model = options.model or default_model()
    paths = sorted((ROOT / "examples").glob("*.flac"))
    clips = decoded(paths, model, scorer, config, clients)
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        tokens = Path(folder) / "tokens"
        tokens.write_text(TOKEN + "\n")
        limits = RescoreLimits(max_per_client=256)
        server = stack.enter_context(
            RescoreServer(
                scorer, config, RescoreServeConfig(port=0, token_file=tokens, limits=limits)
            )
        )
        small = RescoreLimits(max_request_bytes=64)
        narrow = stack.enter_context(
            RescoreServer(
                EarScorer(options.language_model), config,
                RescoreServeConfig(port=0, token_file=tokens, limits=small),
            )
        )  # fmt: skip
        host, _, port = server.url.removeprefix("http://").partition(":")
        listener = Listener((host, int(port)))
        stack.callback(listener.close)
        noise = np.random.default_rng(1).bytes(64)
        faulty = {
            "slow": Faulty(lambda s: time.sleep(3)),
            "garbage": Faulty(lambda s: s.sendall(OK + b"Content-Length: 64\r\n\r\n" + noise)),
            "too much": Faulty(lambda s: s.sendall(OK + b"Content-Length: 999999999\r\n\r\n")),
        }
        for service in faulty.values():
            stack.callback(service.close)
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        urls = {kind: service.url for kind, service in faulty.items()}
        urls |= {"served": listener.url, "wrong token": listener.url, "dead": dead,
                 "too large": narrow.url}  # fmt: skip
        until = time.monotonic() + options.seconds
        threads = [
            threading.Thread(
                target=client_loop, args=(kind, urls[kind], clips, seen, until, clients)
            )
            for kind, count in KINDS.items()
            for _ in range(max(1, count * options.clients // 64))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counted = server.engine.metrics.text().decode()
    return report_of(options, model, clips, seen, listener, len(threads), counted)


def report_of(options: argparse.Namespace, model: Path, clips: Sequence[Clip], seen: Seen,
              listener: Listener, num_clients: int, counted: str) -> dict[str, Any]:  # fmt: skip
    """The figures."""
    mixed_up = sum(
        text not in clips[clip].says for rows in seen.transcripts.values() for clip, text in rows
    )
    pcm = sum(clip.first.duration_s for clip in clips) / len(clips) * 32_000
    served = [line for line in counted.splitlines() if line.startswith("earshot_rescored_total")]
    return {
        "benchmark": "rescore_service",
        **circumstances([model, options.language_model]),
        "clients": num_clients,
        "seconds": options.seconds,
        "deadline_ms": options.deadline_ms,
        "utterances": seen.given,
        "lost": seen.given - len(seen.transcripts),
        "doubled": sum(len(rows) > 1 for rows in seen.transcripts.values()),
        "mixed_up": mixed_up,
        "requests_read_on_the_socket": listener.requests,
        "strange_bytes": listener.strange[:5],
        "request_bytes_over_pcm": round(listener.body_bytes / max(1, listener.requests) / pcm, 5),
        "rescored_by_the_server": int(float(served[0].split()[1])) if served else 0,
        "kinds": {
            kind: {
                "outcomes": dict(seen.reasons.get(kind, {})),
                "ms_p50": round(float(np.percentile(seen.took_ms[kind], 50)), 1),
                "ms_p95": round(float(np.percentile(seen.took_ms[kind], 95)), 1),
                "ms_max": round(max(seen.took_ms[kind]), 1),
            }
            for kind in KINDS
            if seen.took_ms.get(kind)
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=None, help="recogniser; default: embedded")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--deadline-ms", type=float, default=300.0)
    parser.add_argument("--json", type=Path, default=None, help="write the report here, too")
    options = parser.parse_args(argv)
    if not 1 <= options.clients <= 256 or not 0 < options.seconds <= 600:
        parser.error("--clients must lie in 1..256 and --seconds in 0..600")
    report = run(options)
    lines = [("clients", "outcomes", "ms p50", "p95", "max")]
    for kind, row in report["kinds"].items():
        outcomes = ", ".join(f"{n} {what}" for what, n in sorted(row["outcomes"].items()))
        lines.append((kind, outcomes, *(str(row[k]) for k in ("ms_p50", "ms_p95", "ms_max"))))
    print_aligned(lines)
    text = json.dumps(report)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    bad = report["lost"] + report["doubled"] + report["mixed_up"] + len(report["strange_bytes"])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
