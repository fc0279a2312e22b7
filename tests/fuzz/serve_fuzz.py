"""Fuzzes the sockets of `earshot serve`: conversations that are almost right.

    PYTHONPATH=src:. python tests/fuzz/serve_fuzz.py --seconds 600

Starts a server, then holds conversations made from valid ones by cutting, repeating, swapping and
damaging messages, over all protocols, eight at a time. Found is: an answer of 500 or the code
`internal`, an error or a trace in the log, a conversation that does not end, a stream that stays
open, or a good client that is not served afterwards. Prints what it found with the seed that makes
it again; the last line is one JSON object. Exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

AT_ONCE = 8
ENDS_WITHIN_S = 20.0  # a conversation; the server's own patience is 1 s
IDLE_S = 1.0
VALUES = (None, True, -1, 0, 1e308, 2**70, "", "x" * 5000, "\0", "ä", [], {}, [[]], {"a": {}}, -0.0)


def damaged(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        chance = rng.random()
        if chance < 0.2:
            return {k: v for k, v in value.items() if k != key}
        if chance < 0.3:
            return {**value, rng.choice(("x", "type", key + "s")): rng.choice(VALUES)}
        return {**value, key: damaged(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        return [damaged(item, rng) for item in value] * rng.choice((1, 1, 2))
    return rng.choice(VALUES)


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with some cut, repeated or changed."""
    data = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        if not data:
            break
        at = rng.randrange(len(data))
        chance = rng.random()
        if chance < 0.4:
            data[at] = rng.randrange(256)
        elif chance < 0.6:
            del data[at : at + rng.randrange(1, 64)]
        elif chance < 0.8:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 16))
    return bytes(data)


def conversation(messages: list[Any], rng: random.Random) -> list[Any]:
    """Messages with some left out, repeated, swapped or damaged; objects become JSON text."""
    found = []
    for message in messages:
        chance = rng.random()
        if chance < 0.1:
            continue
        if chance < 0.3 and isinstance(message, dict):
            message = damaged(message, rng)
        elif chance < 0.4 and isinstance(message, bytes):
            message = damaged_bytes(message, rng)
        found += [message] * (2 if chance > 0.95 else 1)
    if len(found) > 1 and rng.random() < 0.2:
        i, j = rng.sample(range(len(found)), 2)
        found[i], found[j] = found[j], found[i]
    texts = [m if isinstance(m, bytes) else json.dumps(m) for m in found]
    if texts and rng.random() < 0.1:
        at = rng.randrange(len(texts))
        raw = texts[at] if isinstance(texts[at], bytes) else texts[at].encode()
        texts[at] = damaged_bytes(raw, rng).decode("utf-8", "replace")
    return texts


def sound(rng: random.Random, kind: str = "<i2") -> bytes:
    """Up to half a second of noise, sometimes of an odd length or not finite."""
    values = np.random.default_rng(rng.randrange(2**32)).normal(0, 0.2, rng.randrange(1, 8000))
    if kind == "<f4":
        if rng.random() < 0.1:
            values[0] = rng.choice((np.nan, np.inf, 1e9))
        return values.astype("<f4").tobytes()
    return (values.clip(-1, 1) * 32767).astype(kind).tobytes()


def stream_messages(rng: random.Random) -> list[Any]:
    start = {
        "type": "start", "sample_rate": rng.choice((8000, 16_000, 44_100)),
        "encoding": rng.choice(("s16le", "f32le")), "nbest": rng.choice((1, 3)),
        "hotwords": [{"phrase": "tea kettle", "boost": 2.0}], "commands": None, "lattice": False,
        "language": "en",
    }  # fmt: skip
    kind = "<f4" if start["encoding"] == "f32le" else "<i2"
    middle = [sound(rng, kind), {"type": "flush"}, sound(rng, kind),
              {"type": "hotwords", "hotwords": []}]  # fmt: skip
    return [start, *middle, {"type": "end"}]


def realtime_messages(rng: random.Random) -> list[Any]:
    append = {
        "type": "input_audio_buffer.append",
        "audio": base64.b64encode(sound(rng)).decode(),
    }
    turn = rng.choice((None, {"type": "server_vad", "silence_duration_ms": 200},
                       {"type": "semantic_vad", "eagerness": "high"}))  # fmt: skip
    form = rng.choice(({"type": "audio/pcm", "rate": 24_000}, {"type": "audio/pcmu"}))
    update = {
        "type": "session.update",
        "session": {
            "type": "transcription",
            "audio": {"input": {"format": form, "turn_detection": turn,
                                "transcription": {"model": "m", "language": "en"}}},
            "include": ["item.input_audio_transcription.logprobs"],
        },
    }  # fmt: skip
    commit, clear = {"type": "input_audio_buffer.commit"}, {"type": "input_audio_buffer.clear"}
    return [update, append, append, commit, clear, append, update, commit]


def simple_messages(path: str) -> Callable[[random.Random], list[Any]]:
    def make(rng: random.Random) -> list[Any]:
        kind = path.strip("/") or rng.choice(("sherpa", "vosk", "wenet"))
        if kind == "sherpa":
            return [sound(rng, "<f4"), sound(rng, "<f4"), b"Done"]
        if kind == "vosk":
            config = {"config": {"sample_rate": 8000, "words": True, "max_alternatives": 2}}
            return [config, sound(rng), sound(rng), {"eof": 1}]
        return [{"signal": "start", "nbest": 1, "continuous_decoding": True}, sound(rng),
                {"signal": "end"}]  # fmt: skip

    return make


SOCKETS: dict[str, Callable[[random.Random], list[Any]]] = {
    "/v1/stream": stream_messages,
    "/v1/realtime?intent=transcription": realtime_messages,
    **{path: simple_messages(path) for path in ("/", "/sherpa", "/vosk", "/wenet")},
}


async def fuzz_socket(url: str, path: str, rng: random.Random) -> str | None:
    """One conversation over a WebSocket; what is wrong with the answers, if anything is."""
    messages = conversation(SOCKETS[path](rng), rng)
    wrong: str | None = None
    try:
        async with connect(url + path, proxy=None, compression=None, max_size=None) as socket:

            async def write() -> None:
                try:
                    for message in messages:
                        await socket.send(message)
                        await asyncio.sleep(rng.choice((0, 0, 0.01)))
                except ConnectionClosed:
                    pass

            writer = asyncio.create_task(write())
            if rng.random() < 0.2:
                await writer
                socket.transport.abort()
                return None
            try:
                async for answer in socket:
                    if '"internal"' in str(answer):
                        wrong = f"internal error: {str(answer)[:200]}"
            except ConnectionClosed as err:
                if err.rcvd is not None and err.rcvd.code == 1011:
                    wrong = f"closed with 1011: {err.rcvd.reason}"
            await writer
    except (InvalidHandshake, InvalidURI, OSError):
        pass
    return wrong


async def fuzz_bytes(host: str, port: int, data: bytes, rng: random.Random) -> str | None:
    """Bytes over a bare connection; what is wrong with the answer, if anything is."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        at = 0
        while at < len(data):
            size = rng.randrange(1, len(data) + 1)
            writer.write(data[at : at + size])
            at += size
            await writer.drain()
            await asyncio.sleep(0)
        if rng.random() < 0.7:
            writer.write_eof()
        answer = await reader.read()
        if answer.startswith(b"HTTP/1.1 5") or b'"internal"' in answer:
            return f"answered {answer[:200]!r}"
    except (ConnectionError, OSError):
        pass
    finally:
        writer.close()
    return None


def wyoming_bytes(rng: random.Random) -> bytes:
    """A recording as events, some of them damaged."""
    form = {"rate": 16_000, "width": 2, "channels": 1}
    payload = sound(rng)
    events = [
        ({"type": "describe"}, b""),
        ({"type": "transcribe", "data": {"language": "en", "transcript_names": ["tea"]}}, b""),
        ({"type": "audio-start", "data": form}, b""),
        ({"type": "audio-chunk", "data": form, "payload_length": len(payload)}, payload),
        ({"type": "audio-stop"}, b""),
        ({"type": "recognize", "data": {"text": "turn on the light"}}, b""),
        ({"type": "ping", "data": {"text": "x"}}, b""),
    ]
    out = b""
    for header, body in events:
        if rng.random() < 0.15:
            header = damaged(header, rng)
        out += json.dumps(header).encode() + b"\n" + body
    return damaged_bytes(out, rng) if rng.random() < 0.5 else out


def http_bytes(rng: random.Random) -> bytes:
    """A form with a recording, or another request, damaged."""
    wav = b"RIFF" + (36).to_bytes(4, "little") + b"WAVEfmt " + bytes(20) + sound(rng)
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value + b"\r\n"
        for name, value in (
            (b"model", b"m"), (b"response_format", rng.choice((b"json", b"srt", b"verbose_json"))),
            (b"temperature", b"0"), (b"stream", rng.choice((b"true", b"false"))),
        )
    ) + (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
         + rng.choice((wav, b"\xff\xf1" + wav, b"\x1a\x45\xdf\xa3" + wav, b"fLaC" + wav))
         + b"\r\n--b--\r\n")  # fmt: skip
    body = damaged_bytes(body, rng)
    line = rng.choice((b"POST /v1/audio/transcriptions", b"POST /api/speech-to-text",
                       b"GET /metrics", b"GET /page/app.js", b"GET /v1/models/x",
                       b"GET /v1/stream"))  # fmt: skip
    head = (line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: "
            + str(len(body)).encode() + b"\r\n\r\n")  # fmt: skip
    return (damaged_bytes(head, rng) if rng.random() < 0.3 else head) + body


class Target:
    """The server under test, as a process with short patience."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "earshot.cli", "serve", "--http-port", "0", "--wyoming-port",
             "0", "--json", "--idle-timeout-s", str(IDLE_S), "--max-upload-mb", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(self.process.communicate()[1])
        self.addresses = json.loads(line)
        self.complaints: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if '"level": "error"' in line or "Traceback" in line or "exception" in line.lower():
                self.complaints.append(line.strip()[:2000])

    @property
    def url(self) -> str:
        return str(self.addresses["http"]).replace("http", "ws", 1)

    def host_port(self, name: str) -> tuple[str, int]:
        host, _, port = str(self.addresses[name]).rpartition("//")[2].partition(":")
        return host, int(port)

    def streams(self) -> int:
        with urllib.request.urlopen(f"{self.addresses['http']}/healthz", timeout=10) as answer:
            return int(json.load(answer)["streams"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


async def one(target: Target, seed: int) -> str | None:
    """One conversation; what was found, if anything was."""
    rng = random.Random(seed)
    kind = rng.choice(
        (*SOCKETS, *SOCKETS, "wyoming", "wyoming", "wyoming", "http", "http", "noise")
    )
    if kind in SOCKETS:
        work = fuzz_socket(target.url, kind, rng)
    elif kind == "wyoming":
        work = fuzz_bytes(*target.host_port("wyoming"), wyoming_bytes(rng), rng)
    elif kind == "http":
        work = fuzz_bytes(*target.host_port("http"), http_bytes(rng), rng)
    else:
        name = rng.choice(("http", "wyoming"))
        work = fuzz_bytes(*target.host_port(name), rng.randbytes(rng.randrange(1, 3000)), rng)
    try:
        found = await asyncio.wait_for(work, ENDS_WITHIN_S)
    except TimeoutError:
        found = f"does not end within {ENDS_WITHIN_S:g} s"
    return None if found is None else f"seed {seed}, {kind}: {found}"


async def fuzz(seconds: float, seed: int) -> dict[str, Any]:
    """Hold conversations for so long; what was done and found."""
    target = Target()
    found: list[str] = []
    number = 0
    try:
        end = time.monotonic() + seconds
        running: set[asyncio.Task[str | None]] = set()
        while time.monotonic() < end and target.process.poll() is None:
            while len(running) < AT_ONCE:
                running.add(asyncio.create_task(one(target, seed + number)))
                number += 1
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            found += [result for task in done if (result := task.result())]
        for result in await asyncio.gather(*running):
            found += [result] if result else []
        if target.process.poll() is not None:
            found.append(f"the server is gone, with code {target.process.returncode}")
        else:
            left = -1
            for _ in range(100):
                left = await asyncio.to_thread(target.streams)
                if left == 0:
                    break
                await asyncio.sleep(0.1)
            if left:
                found.append(f"{left} streams stay open")
            found += await good_client(target)
    finally:
        target.close()
    found += [f"log: {line}" for line in target.complaints]
    return {"conversations": number, "seconds": seconds, "seed": seed, "found": found}


async def good_client(target: Target) -> list[str]:
    """Whether the server still does its work."""
    import soundfile

    clip = Path(__file__).resolve().parents[2] / "examples" / "turn-on-the-lights.flac"
    samples = soundfile.read(clip, dtype="int16")[0]
    async with connect(f"{target.url}/v1/stream", proxy=None) as socket:
        await socket.send('{"type":"start"}')
        await socket.send(samples.tobytes())
        await socket.send('{"type":"end"}')
        events = [json.loads(message) async for message in socket]
    texts = [event["text"] for event in events if event["type"] == "final"]
    return [] if texts == ["turn on the lights"] else [f"afterwards a good client got {texts}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    report = asyncio.run(fuzz(args.seconds, args.seed))
    for line in report["found"]:
        print(line, file=sys.stderr)
    print(json.dumps(report))
    return 1 if report["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
