"""A real server in a thread of the test process, over the embedded model.

Clients talk to it through its sockets, as they would to any; nothing of it is replaced.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

for package in ("fastapi", "uvicorn", "websockets", "prometheus_client", "python_multipart"):
    pytest.importorskip(package, reason=f"{package} is not installed ([serve])")

from earshot.serve.config import Limits, ServeConfig
from earshot.serve.server import ServedModel, Server

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
LIGHTS, LIGHTS_TEXT = EXAMPLES / "turn-on-the-lights.flac", "turn on the lights"
DIGITS, DIGITS_TEXT = EXAMPLES / "four-one-seven-two-nine.flac", "four one seven two nine"
READY_WITHIN_S = 30.0


@dataclass
class RunningServer:
    """A server on free ports of loopback."""

    server: Server
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    failure: list[BaseException] = field(default_factory=list)

    @property
    def http(self) -> str:
        assert self.server.addresses.http is not None
        return self.server.addresses.http

    @property
    def ws(self) -> str:
        return self.http.replace("http", "ws", 1)

    @property
    def wyoming(self) -> tuple[str, int]:
        assert self.server.addresses.wyoming is not None
        host, _, port = self.server.addresses.wyoming.removeprefix("tcp://").rpartition(":")
        return host, int(port)

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(READY_WITHIN_S)
        assert not self.thread.is_alive(), "the server does not stop"


def start(model: ServedModel, **settings: Any) -> RunningServer:
    settings.setdefault("http_port", 0)
    settings.setdefault("wyoming_port", 0)
    ready = threading.Event()
    server = Server(
        model=model, config=ServeConfig(**settings), on_ready=lambda addresses: ready.set()
    )
    found: list[asyncio.AbstractEventLoop] = []
    failure: list[BaseException] = []

    async def main() -> None:
        found.append(asyncio.get_running_loop())
        await server.run()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as err:
            failure.append(err)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    assert ready.wait(READY_WITHIN_S)
    if failure:
        thread.join()
        raise failure[0]
    return RunningServer(server, thread, found[0], failure)


@pytest.fixture(scope="session")
def model() -> ServedModel:
    """The embedded model, free speech only."""
    import earshot

    return ServedModel(recognizer=earshot.Recognizer.load())


@pytest.fixture(scope="session")
def command_model() -> ServedModel:
    """The embedded model with the commands of a home."""
    import earshot
    from earshot.core.understanding import Understanding
    from earshot.understand.matching import Matcher
    from earshot.understand.templates import load_commands

    path = EXAMPLES / "smart-home.yaml"
    matcher = Matcher(load_commands([path]).network)

    def recognize(text: str) -> Understanding:
        return matcher.closest(text) or Understanding(None, {}, 0.0)

    recognizer = earshot.Recognizer.load(commands=path)
    return ServedModel(recognizer=recognizer, commands=("smart-home",), recognize=recognize)


@pytest.fixture(scope="module")
def server(model: ServedModel) -> Iterator[RunningServer]:
    """A server without tokens, with the usual limits."""
    running = start(model)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def command_server(command_model: ServedModel) -> Iterator[RunningServer]:
    """A server that listens for commands."""
    running = start(command_model)
    yield running
    running.stop()


@pytest.fixture
def serving(model: ServedModel) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers with settings; `limits` takes a dict."""
    running: list[RunningServer] = []

    def make(*, limits: dict[str, Any] | None = None, **settings: Any) -> RunningServer:
        served = settings.pop("model", model)
        running.append(start(served, limits=Limits(**(limits or {})), **settings))
        return running[-1]

    yield make
    for one in running:
        one.stop()


def int16_of(path: Path, *, silence_s: float = 0.0, rate_hz: int = 16_000) -> npt.NDArray[np.int16]:
    """The samples of a clip, with silence after it."""
    import soxr

    samples, rate = soundfile.read(path, dtype="float32")
    if rate != rate_hz:
        samples = soxr.resample(samples, rate, rate_hz)
    samples = np.concatenate([samples, np.zeros(round(silence_s * rate_hz), np.float32)])
    return np.clip(samples * 32767, -32768, 32767).astype("<i2")


def pieces(samples: npt.NDArray[Any], size: int) -> Iterator[npt.NDArray[Any]]:
    """The samples in pieces of so many."""
    for start_ in range(0, len(samples), size):
        yield samples[start_ : start_ + size]


def two_utterances(rate_hz: int = 16_000) -> npt.NDArray[np.int16]:
    """A command, a pause, and digits: two utterances, so that text comes in more than one piece."""
    return np.concatenate(
        [int16_of(LIGHTS, silence_s=2.0, rate_hz=rate_hz), int16_of(DIGITS, rate_hz=rate_hz)]
    )


TWO_TEXTS = f"{LIGHTS_TEXT} {DIGITS_TEXT}"
