"""The decoding thread, over a recogniser that is told what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from earshot.core.errors import AudioError, ConfigError
from earshot.core.events import Event, Final, Partial, SpeechStarted, StreamError
from earshot.serve.config import Limits
from earshot.serve.engine import Done, Engine, Problem, RefusedError, Session
from earshot.serve.metrics import Metrics

RATE_HZ = 1000
WAIT_S = 20.0


class CountedStream:
    """Says how much it heard, at every decode; values below 0 are orders to fail."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.heard = self.decoded = 0
        self.is_over = self.is_broken = False

    def accept_waveform(self, sample_rate_hz: int, samples: Any) -> None:
        if samples[0] == -1:
            raise AudioError("stream", "told so", remedy="Do not")
        self.is_broken = bool(samples[0] == -2)
        self.heard += len(samples)

    def flush(self) -> None:
        self.heard += 0

    def input_finished(self) -> None:
        self.is_over = True

    def is_ready(self) -> bool:
        return self.decoded < self.heard or self.is_over

    def take(self) -> list[Event]:
        first = self.decoded == 0 and self.heard > 0
        self.decoded = self.heard
        t_s = self.decoded / RATE_HZ
        found: list[Event] = []
        if first:
            found.append(SpeechStarted(utterance="u1", t_s=t_s, start_s=0.0))
        if self.is_over:
            self.is_over = False
            found.append(
                Final(
                    utterance="u1",
                    t_s=t_s,
                    spec_id=None,
                    matched=False,
                    text=str(self.decoded),
                    words=(),
                    confidence=1.0,
                    start_s=0.0,
                    end_s=t_s,
                    reason="end",
                )
            )
        elif self.heard:
            text = str(self.decoded)
            found.append(Partial(utterance="u1", t_s=t_s, text=text, stable_chars=0))
        return found


class CountingRecognizer:
    name = "counting"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def create_event_stream(self, *, nbest: int = 1, lattice: bool = False) -> CountedStream:
        if lattice:
            raise ConfigError("lattice: not in this one. Leave it out.")
        return CountedStream({"nbest": nbest})

    def decode_event_streams(self, streams: Sequence[CountedStream]) -> list[list[Event]]:
        self.batches.append(len(streams))
        if any(stream.is_broken for stream in streams):
            raise MemoryError("told so")
        return [stream.take() for stream in streams]


def run(work: Any, **limits: Any) -> Any:
    async def main() -> Any:
        engine = Engine(CountingRecognizer(), limits=Limits(**limits), metrics=Metrics())
        engine.start()
        try:
            return await asyncio.wait_for(work(engine), WAIT_S)
        finally:
            await engine.stop()

    return asyncio.run(main())


def sound(length: int, value: int = 1) -> np.ndarray:
    return np.full(length, value, np.int16)


async def all_of(session: Session) -> list[Any]:
    return [event async for event in session.events()]


def test_everything_that_was_sent_is_decoded_in_order() -> None:
    async def work(engine: Engine) -> list[Any]:
        async with engine.open("c", protocol="p") as session:
            reading = asyncio.create_task(all_of(session))
            for length in (1, 999, 5000, 20_000, 7):
                await session.send(RATE_HZ, sound(length))
            session.finish()
            return await reading

    events = run(work, max_backlog_s=3.0)
    heard = [int(event.text) for event in events if isinstance(event, Partial | Final)]
    assert heard == sorted(heard)
    assert heard[-1] == 26_007
    assert events[-1] == Done(1, 26.007)


def test_a_sender_waits_while_the_engine_is_behind() -> None:
    async def work(engine: Engine) -> None:
        async with engine.open("c", protocol="p") as session:
            most = 0.0
            for _ in range(50):
                await session.send(RATE_HZ, sound(500))
                most = max(most, session._backlog_s)
            assert most <= 2.0 + 0.5

    run(work, max_backlog_s=2.0)


def test_one_broken_stream_does_not_take_its_batch_with_it() -> None:
    async def one(engine: Engine, value: int) -> list[Any]:
        async with engine.open("c", protocol="p") as session:
            await session.send(RATE_HZ, sound(100))
            await session.send(RATE_HZ, sound(100, value))
            session.finish()
            return await all_of(session)

    async def work(engine: Engine) -> list[list[Any]]:
        return await asyncio.gather(*(one(engine, value) for value in (1, -1, 1, -2, 1)))

    good, refused, _, broken, last = run(work)
    for events in (good, last):
        assert [event.text for event in events if isinstance(event, Final)] == ["200"]
        assert not [event for event in events if isinstance(event, Problem)]
    # What was heard before the bad sound still gets its final.
    assert [event.text for event in refused if isinstance(event, Final)] == ["100"]
    assert [event.code for event in refused if isinstance(event, Problem)] == ["bad_audio"]
    assert [event.code for event in broken if isinstance(event, Problem)] == ["internal"]
    assert isinstance(broken[-1], Done)


def test_an_option_that_cannot_be_had_is_said_and_left_out() -> None:
    async def work(engine: Engine) -> list[Any]:
        options = {"lattice": True, "nbest": 3, "unheard_of": 1}
        assert engine.unsupported(options) == ["unheard_of"]
        async with engine.open("c", protocol="p", options=options) as session:
            await session.send(RATE_HZ, sound(10))
            session.finish()
            found = await all_of(session)
            assert session._stream is not None
            assert session._stream.options == {"nbest": 3}  # type: ignore[attr-defined]
            return found

    events = run(work)
    assert isinstance(events[0], StreamError)
    assert (events[0].code, events[0].fatal) == ("unsupported", False)
    assert "lattice" in events[0].message


def test_an_upload_gives_way_to_people_who_speak() -> None:
    """In a round with both, an upload is decoded for less than a second of sound."""

    async def work(engine: Engine) -> None:
        async with (
            engine.open("c", protocol="p", is_bulk=True) as upload,
            engine.open("d", protocol="p") as live,
        ):
            with engine._condition:  # the thread waits, so that one round takes both
                engine._put(upload, _audio(20_000))
                engine._put(live, _audio(300))
                taken = {session: used for session, _, used, _ in engine._take()}
            assert taken[live] == pytest.approx(0.3)
            assert taken[upload] <= 0.5

    def _audio(length: int) -> Any:
        from earshot.serve.engine import _Audio

        return _Audio(RATE_HZ, sound(length), 0.0)

    run(work)


def test_partials_that_nobody_reads_are_left_out_and_finals_are_not() -> None:
    async def work(engine: Engine) -> list[Any]:
        async with engine.open("c", protocol="p") as session:
            for _ in range(300):
                await session.send(RATE_HZ, sound(20))
                await asyncio.sleep(0)
                while session._backlog_s > 0:
                    await asyncio.sleep(0.0005)
            session.finish()
            return await all_of(session)

    events = run(work)
    partials = [event for event in events if isinstance(event, Partial)]
    assert len(partials) < 50
    assert [event.text for event in events if isinstance(event, Final)] == ["6000"]


def test_a_client_that_does_not_take_its_events_is_given_up() -> None:
    async def work(engine: Engine) -> None:
        async def client() -> None:
            async with engine.open("a", protocol="p") as session:
                session.sending_since = time.monotonic() - 1.0  # a message is stuck for so long
                await asyncio.sleep(WAIT_S)

        stuck = asyncio.create_task(client())
        with pytest.raises(asyncio.CancelledError):
            await stuck
        assert engine.num_sessions == 0

    run(work, stall_timeout_s=0.5)


def test_a_client_that_sends_nothing_is_told_so() -> None:
    async def work(engine: Engine) -> list[Any]:
        async with engine.open("a", protocol="p") as session:
            return await all_of(session)

    *_, problem, done = run(work, idle_timeout_s=0.2)
    assert problem.code == "idle"
    assert isinstance(done, Done)


def test_limits_of_streams_are_per_client_and_given_back() -> None:
    async def work(engine: Engine) -> None:
        with pytest.raises(RefusedError):
            async with engine.open("a", protocol="p"), engine.open("b", protocol="p"):
                engine.open("c", protocol="p").close()
                engine.open("a", protocol="p")
        engine.open("a", protocol="p").close()
        assert engine.num_sessions == 0

    run(work, max_streams_per_client=1)


def test_draining_finishes_what_was_said() -> None:
    async def work(engine: Engine) -> list[Any]:
        async def client() -> list[Any]:
            async with engine.open("a", protocol="p") as session:
                await session.send(RATE_HZ, sound(100))
                return await all_of(session)  # it never ends its stream

        talking = asyncio.create_task(client())
        await asyncio.sleep(0.05)
        await engine.drain()
        with pytest.raises(RefusedError) as caught:
            engine.open("b", protocol="p")
        assert caught.value.code == "shutting_down"
        return await talking

    events = run(work)
    assert [event.text for event in events if isinstance(event, Final)] == ["100"]
    assert isinstance(events[-1], Done)
