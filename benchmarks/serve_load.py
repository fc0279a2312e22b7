"""Load and soak of `earshot serve`: live speech at real-time pace, and rough clients.

    python benchmarks/serve_load.py load --streams 100 --seconds 60
    python benchmarks/serve_load.py soak --seconds 1800

The server is a process of its own, pinned to one core; this program and its clients are pinned to
another. Everything talks to 127.0.0.1. Clients send 16-bit sound in pieces of 100 ms, each from a
point of its own in a long recording of speech (utterances one after the other, hardly a pause), at
the times a microphone would. The delay of a partial result is from the moment when the piece that
holds its newest sample (`t_s`) was sent to when the message was read. The last line is one JSON
object; exit code 0 if the goals are met, 1 if not.

A soak adds clients that come and go at random: some end well, some stall, some send garbage, some
are killed. Every client that ends well must get the finals of all utterances that began; memory is
read from /proc every second and its slope fitted over the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

RATE_HZ = 16_000
PIECE_S = 0.1
GOAL_STREAMS, GOAL_P95_S = 100, 0.3
MAX_SLOPE_KB_S = 20.0  # 1.2 MB a minute: the soak fails beyond
START_WITHIN_S = 120.0


@dataclass
class Outcome:
    """What all clients saw."""

    delays_s: list[float] = field(default_factory=list)
    finals: int = 0
    finished: int = 0
    lost_finals: int = 0
    refused: int = 0
    broken: int = 0
    words: int = 0
    late_s: float = 0.0  # how far the clients themselves fell behind real time
    kinds: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1


def speech(data: Path | None, examples: Path) -> tuple[np.ndarray, str]:
    """A long recording of people speaking, int16 at 16 kHz, and where it is from."""
    folder = None if data is None else data / "librispeech_dev_clean_half"
    if folder is not None and folder.is_dir():
        rows = [json.loads(line) for line in (folder / "manifest.jsonl").open()]
        rows = [row for row in rows if row["split"] == "dev"][:60]
        clips = [soundfile.read(folder / row["audio"], dtype="int16")[0] for row in rows]
        return np.concatenate(clips), f"{folder.name}, {len(clips)} utterances of split dev"
    clips = [soundfile.read(path, dtype="int16")[0] for path in sorted(examples.glob("*.flac"))]
    return np.concatenate(clips * 4), "the clips in examples/"


async def microphone(
    socket: ClientConnection, sound: np.ndarray, start: int, seconds: float,
    sent: list[tuple[float, float]], outcome: Outcome,
) -> None:  # fmt: skip
    """Send sound when it would have been recorded."""
    size = round(PIECE_S * RATE_HZ)
    begun = time.monotonic()
    for number in range(round(seconds / PIECE_S)):
        due = begun + (number + 1) * PIECE_S
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        else:
            outcome.late_s = max(outcome.late_s, -wait)
        at = (start + number * size) % (len(sound) - size)
        sent.append(((number + 1) * PIECE_S, time.monotonic()))
        await socket.send(sound[at : at + size].tobytes())


async def listen(
    socket: ClientConnection, sent: list[tuple[float, float]], outcome: Outcome, since: float
) -> bool:
    """Read events until the stream is closed; True if it was closed well, with all finals."""
    open_utterances: set[str] = set()
    async for message in socket:
        now = time.monotonic()
        event = json.loads(message)
        kind = event["type"]
        if kind == "speech_started":
            open_utterances.add(event["utterance"])
        elif kind == "partial":
            outcome.words += 1
            number = min(len(sent) - 1, max(0, int(np.ceil(event["t_s"] / PIECE_S - 1e-6)) - 1))
            if sent and sent[number][1] >= since:
                outcome.delays_s.append(now - sent[number][1])
        elif kind == "final":
            outcome.finals += 1
            open_utterances.discard(event["utterance"])
        elif kind == "error" and event["fatal"]:
            return False
        elif kind == "closed":
            outcome.finished += 1
            outcome.lost_finals += len(open_utterances)
            return True
    return False


async def good_client(
    url: str, sound: np.ndarray, seconds: float, outcome: Outcome, rng: random.Random, since: float
) -> None:
    """A live stream from start to end."""
    sent: list[tuple[float, float]] = []
    try:
        async with connect(f"{url}/v1/stream", proxy=None, compression=None) as socket:
            await socket.send('{"type":"start"}')
            reading = asyncio.create_task(listen(socket, sent, outcome, since))
            try:
                await microphone(socket, sound, rng.randrange(len(sound)), seconds, sent, outcome)
                await socket.send('{"type":"end"}')
                if not await asyncio.wait_for(reading, 60.0):
                    outcome.broken += 1
            finally:
                reading.cancel()
    except InvalidStatus:
        outcome.refused += 1
    except (ConnectionClosed, OSError, TimeoutError) as err:
        outcome.broken += 1
        outcome.count(f"broken: {type(err).__name__} {err}"[:120])


async def rough_client(
    url: str, wyoming: tuple[str, int], sound: np.ndarray, outcome: Outcome, rng: random.Random
) -> None:
    """One of those that a server must outlive."""
    kind = rng.choice(("killed", "garbage", "stalled", "mute", "raw", "wyoming", "upload"))
    outcome.count(kind)
    try:
        if kind == "raw":
            _, writer = await asyncio.open_connection(*_host_port(url))
            writer.write(rng.randbytes(rng.randrange(1, 4000)))
            await asyncio.sleep(rng.random())
            writer.transport.abort()
            return
        if kind == "wyoming":
            _, writer = await asyncio.open_connection(*wyoming)
            header = b'{"type":"audio-chunk","data":{"rate":16000,"width":2,"channels":1},'
            writer.write(header + b'"payload_length":32000}\n' + sound[:16_000].tobytes())
            writer.write(rng.choice((b"", b"garbage\n", rng.randbytes(100))))
            await asyncio.sleep(rng.random())
            writer.transport.abort()
            return
        if kind == "upload":
            _, writer = await asyncio.open_connection(*_host_port(url))
            writer.write(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 900000\r\n\r\n"
                + rng.randbytes(rng.randrange(100_000))
            )
            await asyncio.sleep(rng.random())
            writer.transport.abort()
            return
        async with connect(f"{url}/v1/stream", proxy=None, compression=None) as socket:
            await socket.send('{"type":"start"}')
            at = rng.randrange(len(sound) - 64_000)
            await socket.send(sound[at : at + rng.randrange(1, 64_000)].tobytes())
            if kind == "garbage":
                await socket.send(rng.choice((b"\0", "{", '{"type":"x"}', "[" * 5000)))
                await asyncio.sleep(rng.random())
            elif kind == "stalled":
                socket.transport.pause_reading()
                for _ in range(20):
                    await asyncio.wait_for(socket.send(bytes(32_000)), 5.0)
                await asyncio.sleep(3 * rng.random())
            elif kind == "mute":
                await asyncio.sleep(3 * rng.random())
            else:
                await asyncio.sleep(rng.random())
            socket.transport.abort()
    except (ConnectionClosed, OSError, TimeoutError, InvalidStatus):
        pass


def _host_port(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition("//")[2].partition(":")
    return host, int(port)


@contextmanager
def server(core: int, options: list[str]) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """`earshot serve` on one core."""
    process = subprocess.Popen(
        [sys.executable, "-m", "earshot.cli", "serve", "--http-port", "0", "--wyoming-port", "0",
         "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server does not start: {process.communicate()[1]}")
        # Its log must not fill the pipe.
        asyncio.get_running_loop().run_in_executor(None, process.stderr.read)  # type: ignore[union-attr]
        yield process, json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def memory_kb(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise OSError("no VmRSS")


def cpu_s(pid: int) -> float:
    """Computing time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(args: argparse.Namespace, sound: np.ndarray) -> dict[str, Any]:
    """Many streams at once, all the time."""
    outcome = Outcome()
    rng = random.Random(args.seed)
    with server(args.server_core, args.server_option) as (process, addresses):
        url = addresses["http"].replace("http", "ws", 1)
        begun = time.monotonic()
        # Streams start over the first seconds, as people would, and count once all are there.
        since = begun + args.ramp_s
        clients = []
        for number in range(args.streams):
            await asyncio.sleep(max(0.0, begun + number * args.ramp_s / args.streams
                                    - time.monotonic()))  # fmt: skip
            clients.append(
                asyncio.create_task(
                    good_client(
                        url,
                        sound,
                        args.seconds + since - time.monotonic(),
                        outcome,
                        random.Random(rng.random()),
                        since,
                    )
                )
            )
        used = cpu_s(process.pid)
        wall = time.monotonic()
        await asyncio.sleep(max(0.0, since + args.seconds - time.monotonic()))
        share = (cpu_s(process.pid) - used) / (time.monotonic() - wall)
        await asyncio.gather(*clients)
        memory = memory_kb(process.pid)
    delays = np.sort(np.array(outcome.delays_s or [np.inf]))
    p50, p95, p99 = (float(np.quantile(delays, q)) for q in (0.5, 0.95, 0.99))
    return {
        "mode": "load",
        "streams": args.streams,
        "seconds": args.seconds,
        "partials": len(outcome.delays_s),
        "p50_ms": round(1000 * p50, 1),
        "p95_ms": round(1000 * p95, 1),
        "p99_ms": round(1000 * p99, 1),
        "finals": outcome.finals,
        "finished": outcome.finished,
        "lost_finals": outcome.lost_finals,
        "refused": outcome.refused,
        "broken": outcome.broken,
        "clients_late_ms": round(1000 * outcome.late_s, 1),
        "server_cpu_share": round(share, 3),
        "server_memory_mb": round(memory / 1024, 1),
        "passed": bool(
            p95 < GOAL_P95_S
            and outcome.finished == args.streams
            and not outcome.lost_finals
            # Silence does not count: speech gives a partial result every two seconds or faster.
            and len(outcome.delays_s) >= 0.5 * args.streams * args.seconds
        ),
    }


async def soak(args: argparse.Namespace, sound: np.ndarray) -> dict[str, Any]:
    """Clients of all kinds that come and go."""
    outcome = Outcome()
    rng = random.Random(args.seed)
    samples: list[tuple[float, int]] = []
    with server(args.server_core, args.server_option) as (process, addresses):
        url = addresses["http"].replace("http", "ws", 1)
        host, port = _host_port(addresses["wyoming"])
        begun = time.monotonic()
        end = begun + args.seconds
        good: set[asyncio.Task[None]] = set()
        rough: set[asyncio.Task[None]] = set()
        next_sample = begun
        while time.monotonic() < end and process.poll() is None:
            if len(good) < args.streams:
                seconds = min(rng.uniform(2.0, 20.0), max(1.0, end - time.monotonic()))
                task = asyncio.create_task(
                    good_client(url, sound, seconds, outcome, random.Random(rng.random()), begun)
                )
                good.add(task)
                task.add_done_callback(good.discard)
            if len(rough) < args.rough:
                task = asyncio.create_task(
                    rough_client(url, (host, port), sound, outcome, random.Random(rng.random()))
                )
                rough.add(task)
                task.add_done_callback(rough.discard)
            if time.monotonic() >= next_sample:
                samples.append((time.monotonic() - begun, memory_kb(process.pid)))
                next_sample += 1.0
            await asyncio.sleep(rng.expovariate(1 / args.gap_s))
        await asyncio.gather(*good, *rough)
        is_alive = process.poll() is None
        left = -1
        if is_alive:
            left = await _streams_left(addresses["http"])
    half = [s for s in samples if s[0] >= args.seconds / 2] or samples
    slope = float(np.polyfit([t for t, _ in half], [kb for _, kb in half], 1)[0]) if (
        len(half) > 2) else 0.0  # fmt: skip
    delays = np.array(outcome.delays_s or [np.inf])
    return {
        "mode": "soak",
        "seconds": args.seconds,
        "finished": outcome.finished,
        "finals": outcome.finals,
        "lost_finals": outcome.lost_finals,
        "refused": outcome.refused,
        "broken": outcome.broken,
        "rough": outcome.kinds,
        "p95_ms": round(1000 * float(np.quantile(delays, 0.95)), 1),
        "memory_first_mb": round(samples[0][1] / 1024, 1),
        "memory_last_mb": round(samples[-1][1] / 1024, 1),
        "memory_slope_kb_s": round(slope, 2),
        "streams_left_open": left,
        "passed": bool(
            is_alive
            and left == 0
            and not outcome.lost_finals
            and not outcome.broken
            and outcome.finished
            and slope < MAX_SLOPE_KB_S
        ),
    }


async def _streams_left(http: str) -> int:
    """Streams that are still open once everybody has gone, given a little time."""
    import urllib.request

    def ask() -> int:
        with urllib.request.urlopen(f"{http}/healthz", timeout=10) as answer:
            return int(json.load(answer)["streams"])

    left = -1
    for _ in range(60):
        left = await asyncio.to_thread(ask)
        if left == 0:
            break
        await asyncio.sleep(0.5)
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("load", "soak"))
    parser.add_argument("--streams", type=int, default=None, help="live streams at once")
    parser.add_argument("--rough", type=int, default=8, help="rough clients at once (soak)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ramp-s", type=float, default=10.0, help="time to start all (load)")
    parser.add_argument("--gap-s", type=float, default=0.1, help="mean time between (soak)")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--server-option", action="append", default=[], help="repeatable")
    parser.add_argument("--data", type=Path, default=os.environ.get("EARSHOT_DATA"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.streams is None:
        args.streams = GOAL_STREAMS if args.mode == "load" else 12
    os.sched_setaffinity(0, {args.client_core})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    examples = Path(__file__).resolve().parent.parent / "examples"
    sound, source = speech(Path(args.data) if args.data else None, examples)
    print(f"sound: {source}, {len(sound) / RATE_HZ:.0f} s", file=sys.stderr)
    report = asyncio.run((load if args.mode == "load" else soak)(args, sound))
    report |= {"sound": source, "server_core": args.server_core, "client_core": args.client_core}
    print(json.dumps(report))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
