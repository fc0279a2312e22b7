"""The command as a process: how it starts, stops, and that `--local-only` keeps its word."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.serve.conftest import LIGHTS, LIGHTS_TEXT, int16_of

WAIT_S = 30.0


@contextmanager
def served(
    *options: str, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`earshot serve` on free ports, with the addresses that it prints."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "earshot.cli", "serve", "--http-port", "0",
         "--wyoming-port", "0", "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


def test_sigterm_finishes_what_was_said() -> None:
    with served() as (process, addresses):
        url = addresses["http"].replace("http", "ws", 1)
        with connect(f"{url}/v1/stream", proxy=None) as socket:
            socket.send('{"type":"start"}')
            assert json.loads(socket.recv(timeout=WAIT_S))["type"] == "ready"
            socket.send(int16_of(LIGHTS).tobytes())
            json.loads(socket.recv(timeout=WAIT_S))  # speech has begun, and nothing has ended
            process.send_signal(signal.SIGTERM)
            events = [json.loads(message) for message in socket]
        assert [e["text"] for e in events if e["type"] == "final"] == [LIGHTS_TEXT]
        assert events[-1]["type"] == "closed"
        assert process.wait(WAIT_S) == 0
        log = [json.loads(line) for line in process.communicate()[1].splitlines() if line[0] == "{"]
    said = [entry["event"] for entry in log]
    assert "stopping" in said
    assert said[-1] == "stopped"


def test_the_log_holds_no_transcripts_unless_told_to() -> None:
    for options, is_there in (((), False), (("--log-transcripts",), True)):
        with served(*options) as (process, addresses):
            with open(LIGHTS, "rb") as file:
                answer = httpx.post(
                    f"{addresses['http']}/v1/audio/transcriptions",
                    data={"model": "m"},
                    files={"file": file},
                    timeout=WAIT_S,
                )
            assert answer.json()["text"] == LIGHTS_TEXT
            process.terminate()
            process.wait(WAIT_S)
            log = process.communicate()[1]
        assert '"event": "transcribed"' in log
        assert (LIGHTS_TEXT in log) == is_there


def sockets_of(pid: int) -> tuple[set[str], set[str]]:
    """Inodes of the sockets that a process has, and of those in the system that listen."""
    own = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            own.add(target[8:-1])
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # TCP_LISTEN
                listening.add(fields[9])
    return own, listening


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_local_only_has_no_socket_but_those_that_listen() -> None:
    with served("--local-only") as (process, addresses):
        talk(addresses)
        deadline = time.monotonic() + WAIT_S
        while True:
            own, listening = sockets_of(process.pid)
            unix = {
                line.split()[6]
                for line in Path(f"/proc/{process.pid}/net/unix").read_text().splitlines()[1:]
            }
            # The event loop wakes itself up through a pair of sockets without a name.
            outside = own - unix
            if outside <= listening or time.monotonic() > deadline:
                break
            time.sleep(0.1)  # connections of the requests are being closed
        assert outside <= listening
        assert len(outside) == 2
        locked = Path(f"/proc/{process.pid}/status").read_text()
        assert "Seccomp:\t2" in locked  # a filter is in force


def test_local_only_lets_nothing_out() -> None:
    """Whatever the process tries: Python's sockets, and the C library's behind Python's back."""
    code = """
import ctypes, socket, threading
from earshot.serve import local_only
server = socket.create_server(("127.0.0.1", 0))
results = []
def try_all():
    for attempt in (
        lambda: socket.create_connection(server.getsockname()),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.create_server(("127.0.0.1", 0)),
    ):
        try:
            attempt()
            results.append("done")
        except OSError:
            results.append("refused")
    libc = ctypes.CDLL(None, use_errno=True)
    results.append("refused" if libc.socket(2, 1, 0) == -1 else "done")
import asyncio
ready = threading.Event()
go = threading.Event()
def early():
    ready.set(); go.wait(); try_all()
thread = threading.Thread(target=early); thread.start(); ready.wait()
how = local_only.lock()
go.set(); thread.join()  # a thread from before
try_all()
asyncio.run(asyncio.sleep(0))  # an event loop can still be made
print(how, sorted(set(results)), len(results))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("python"):
        pytest.skip("this kernel takes no filters; only Python's sockets are refused")
    assert done.stdout.strip() == "kernel ['refused'] 10"


def talk(addresses: dict[str, Any]) -> None:
    with open(LIGHTS, "rb") as file:
        answer = httpx.post(
            f"{addresses['http']}/v1/audio/transcriptions",
            data={"model": "m"},
            files={"file": file},
            timeout=WAIT_S,
        )
    assert answer.json()["text"] == LIGHTS_TEXT


CLIENT = """
import asyncio, json, sys, urllib.request
sys.path.insert(0, sys.argv[3])
from websockets.sync.client import connect
from tests.serve.conftest import LIGHTS, LIGHTS_TEXT, int16_of
from tests.serve.test_wyoming import recording, transcript_of
from earshot.serve.wyoming_frames import read_frame
http, wyoming = sys.argv[1:3]
with connect(http.replace("http", "ws", 1) + "/v1/stream", proxy=None) as socket:
    socket.send('{"type":"start"}')
    socket.send(int16_of(LIGHTS).tobytes())
    socket.send('{"type":"end"}')
    events = [json.loads(message) for message in socket]
assert [e["text"] for e in events if e["type"] == "final"] == [LIGHTS_TEXT], events
body = b"".join((
    b'--x\\r\\nContent-Disposition: form-data; name="model"\\r\\n\\r\\nm\\r\\n',
    b'--x\\r\\nContent-Disposition: form-data; name="file"; filename="a.flac"\\r\\n\\r\\n',
    LIGHTS.read_bytes(), b"\\r\\n--x--\\r\\n"))
request = urllib.request.Request(http + "/v1/audio/transcriptions", body,
                                 {"Content-Type": "multipart/form-data; boundary=x"})
assert json.load(urllib.request.urlopen(request))["text"] == LIGHTS_TEXT
assert b"Earshot" in urllib.request.urlopen(http + "/").read()
async def home_assistant():
    host, port = wyoming.removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for frame in recording(int16_of(LIGHTS)):
        writer.write(frame)
    frames = []
    while not frames or frames[-1].type != "transcript-stop":
        frames.append(await read_frame(reader, max_payload_bytes=0))
    writer.close()
    return transcript_of(frames)
assert asyncio.run(home_assistant()) == LIGHTS_TEXT
print("all well")
"""


def test_local_only_in_a_network_without_a_route(repository: Path) -> None:
    """Nothing but loopback exists there, and all protocols work."""
    ip = shutil.which("ip") or "/usr/sbin/ip"
    name = f"earshot-{os.getpid()}"
    made = subprocess.run([ip, "netns", "add", name], capture_output=True, check=False) if (
        Path(ip).exists()
    ) else None  # fmt: skip
    if made is None or made.returncode != 0:
        pytest.skip("network namespaces need root and the ip command")
    inside = (ip, "netns", "exec", name)
    try:
        subprocess.run([*inside, ip, "link", "set", "lo", "up"], check=True)
        routes = subprocess.run([*inside, ip, "route"], check=True, capture_output=True, text=True)
        assert routes.stdout.strip() == ""
        with served("--local-only", prefix=inside) as (_, addresses):
            done = subprocess.run(
                [*inside, sys.executable, "-c", CLIENT, addresses["http"], addresses["wyoming"],
                 str(repository)],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "all well"
    finally:
        subprocess.run([ip, "netns", "delete", name], check=False)


def test_zeroconf_announces_wyoming_and_withdraws(tmp_path: Path) -> None:
    """Found by a browser of the same library; needs an interface that takes multicast."""
    zeroconf = pytest.importorskip("zeroconf", reason="zeroconf is not installed ([serve])")
    found: list[Any] = []

    class Listener:
        def add_service(self, zc: Any, kind: str, name: str) -> None:
            found.append(zc.get_service_info(kind, name))

        def update_service(self, *_: Any) -> None: ...

        def remove_service(self, *_: Any) -> None: ...

    name = f"earshot-{os.getpid()}"
    with served("--host", "0.0.0.0", "--name", name) as (process, addresses):
        with zeroconf.Zeroconf() as zc:
            zeroconf.ServiceBrowser(zc, "_wyoming._tcp.local.", Listener())
            deadline = time.monotonic() + 5.0
            while time.monotonic() < deadline and not any(i and name in i.name for i in found):
                time.sleep(0.1)
        process.terminate()
        process.wait(WAIT_S)
    own = [info for info in found if info and name in info.name]
    if not own:
        pytest.skip("multicast does not work on this machine")
    assert own[0].port == int(addresses["wyoming"].rpartition(":")[2])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--local-only", "--host", "0.0.0.0"), 2, "--local-only"),
        (("--tls-cert", "x.pem"), 2, "--tls-key"),
        (("--http-port", "-1", "--wyoming-port", "-1"), 2, "both ports"),
        (("--token-file", "/nonexistent"), 1, "/nonexistent"),
        (("--model", "/nonexistent.ear"), 1, "/nonexistent.ear"),
        (("--host", "not a host"), 1, "--host"),
    ],
)
def test_wrong_options_are_one_line(options: tuple[str, ...], code: int, message: str) -> None:
    from typer.testing import CliRunner

    from earshot.cli.app import app

    ports = () if "--http-port" in options else ("--http-port", "0", "--wyoming-port", "0")
    done = CliRunner().invoke(app, ["serve", *ports, *options])
    assert done.exit_code == code
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
