"""One thread that decodes for everybody: streams of all protocols, a round at a time.

The event loop reads sockets, puts sound into the inbox of a session, and never decodes; the
thread takes at most a slice of sound from each inbox, decodes all of them as one batch, and hands
the events back to the loop. So nobody waits for more than one slice of everybody else, and under
load batches grow, which is what makes the engine efficient.

A session holds little sound at a time: whoever sends more waits (`Session.send`), and with it the
client's own connection. Likewise a client that does not read its events is decoded no further.
Knows nothing of protocols.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from earshot.core.errors import ConfigError, EarshotError
from earshot.core.events import Event, Final, Partial, SpeechStarted, StreamError
from earshot.serve.config import Limits
from earshot.serve.logs import log
from earshot.serve.metrics import Metrics

Samples = npt.NDArray[np.float32] | npt.NDArray[np.int16]

LIVE_SLICE_S = 1.0  # sound that a live stream is decoded for in one round
BULK_SLICE_S = 0.4  # the same for an upload while somebody is speaking live
ALONE_SLICE_S = 4.0  # and while nobody is
GATHER_S = 0.01  # with many streams, how long a round waits for more of them
GATHER_FROM = 8  # streams
OPTIONAL = ("hotwords", "lattice", "nbest")  # a stream is of use without these
COALESCE_FROM = 32  # events that wait to be sent, from which on old partials are left out
PAUSE_FROM = 4096  # and from which on the stream is not decoded
WATCH_S = 0.5


class EventStreamLike(Protocol):
    """What is needed of `session.event_stream.EventStream`."""

    def accept_waveform(self, sample_rate_hz: int, samples: npt.ArrayLike) -> None:
        """Take more sound."""

    def flush(self) -> None:
        """End the utterance that is open."""

    def input_finished(self) -> None:
        """End the stream."""

    def is_ready(self) -> bool:
        """Whether `decode` has something to do."""

    def decode(self) -> list[Event]:
        """Decode what came in."""


class RecognizerLike(Protocol):
    """What is needed of `session.recognizer.Recognizer`."""

    @property
    def name(self) -> str:
        """The model's name."""

    def create_event_stream(self, **options: Any) -> EventStreamLike:
        """A new stream."""

    def decode_event_streams(self, streams: Sequence[Any]) -> list[list[Event]]:
        """Decode many streams together."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a stream was ended before its client ended it.

    Args:
        code: A short name that programs can go by.
        message: What is wrong and what to do.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last thing that comes from a session.

    Args:
        utterances: Number of final results.
        audio_s: Sound that was taken, seconds.
    """

    utterances: int
    audio_s: float


class RefusedError(EarshotError):
    """No session can be had; the message says why.

    Args:
        code: `too_many_streams` or `shutting_down`.
        message: What is wrong and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(slots=True)
class _Audio:
    sample_rate_hz: int
    samples: Samples
    arrived: float


@dataclass(frozen=True, slots=True)
class _Flush:
    pass


@dataclass(frozen=True, slots=True)
class _Change:
    """A call of a method of the stream, in its place among the sound."""

    method: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _End:
    pass


@dataclass(eq=False)
class Session:
    """One stream of sound on its way through the engine; made by `Engine.open`.

    Lives in the event loop, except for `_stream`, which the decoding thread alone touches. Use it
    as an asynchronous context manager, so that it is closed however its task ends.
    """

    engine: Engine
    client: str
    protocol: str
    is_bulk: bool
    options: Mapping[str, Any]
    audio_s: float = 0.0
    utterances: int = 0
    begun: float = field(default_factory=time.monotonic)
    touched: float = field(default_factory=time.monotonic)
    sending_since: float | None = None
    task: asyncio.Task[Any] | None = None
    _inbox: deque[_Audio | _Flush | _Change | _End] = field(default_factory=deque)
    _backlog_s: float = 0.0
    _stream: EventStreamLike | None = None
    _outbox: deque[Event | Problem | Done] = field(default_factory=deque)
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # no more sound is taken
    _arrival: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _problem: Problem | None = None
    _is_ended: bool = False  # no more sound comes
    _is_done: bool = False  # `Done` is in the outbox
    _is_closed: bool = False
    _is_paused: bool = False
    _is_speaking: bool = False
    _heard_s: float = 0.0  # where the last speech ended

    async def send(self, sample_rate_hz: int, samples: Samples) -> None:
        """Give more sound; returns when there is room for the next.

        Args:
            sample_rate_hz: Its rate, the same for the whole stream.
            samples: Shape (n,): int16, or float32 in -1..1.
        """
        if self._is_ended or self._is_closed or not len(samples):
            return
        self.touched = time.monotonic()
        limits = self.engine.limits
        most_s = limits.max_audio_s if self.is_bulk else limits.max_stream_s
        self.audio_s += len(samples) / sample_rate_hz
        if self.audio_s > most_s:
            self.fail(
                Problem(
                    "stream_too_long",
                    f"The stream holds more than {most_s:g} s of sound, which is the most that "
                    "this server takes. Start a new one.",
                )
            )
            return
        silence_s = 0.0 if self._is_speaking else self.audio_s - self._heard_s
        if not self.is_bulk and silence_s - self._backlog_s > limits.max_silence_s:
            self.fail(
                Problem(
                    "silence",
                    f"Nobody spoke for {limits.max_silence_s:g} s. Connect again when there is "
                    "something to hear.",
                )
            )
            return
        self.engine._put(self, _Audio(sample_rate_hz, samples, self.touched))
        while self._backlog_s > limits.max_backlog_s and not self._is_ended:
            self._room.clear()
            await self._room.wait()
            self.touched = time.monotonic()

    def flush(self) -> None:
        """End the utterance that is open; its final result comes."""
        if not self._is_ended:
            self.touched = time.monotonic()
            self.engine._put(self, _Flush())

    def change(self, method: str, **arguments: Any) -> None:
        """Call a method of the stream in its place among the sound."""
        if not self._is_ended:
            self.touched = time.monotonic()
            self.engine._put(self, _Change(method, arguments))

    def finish(self) -> None:
        """End the stream; what was said so far is finished, then `Done` comes."""
        if not self._is_ended:
            self._is_ended = True
            self.touched = time.monotonic()
            self._room.set()
            self.ended.set()
            self.engine._put(self, _End())

    def fail(self, problem: Problem) -> None:
        """End the stream for a reason, which comes after what was said so far is finished."""
        if self._problem is None and not self._is_done:
            self._problem = problem
        self.finish()

    async def events(self) -> AsyncIterator[Event | Problem | Done]:
        """What comes of the sound: events, at most one problem, then `Done`."""
        while True:
            item = await self.next_event()
            yield item
            if isinstance(item, Done):
                return

    async def next_event(self) -> Event | Problem | Done:
        """The next event, problem, or `Done`; nothing may be asked for after `Done`."""
        while not self._outbox:
            self._arrival.clear()
            await self._arrival.wait()
        item = self._outbox.popleft()
        if self._is_paused and len(self._outbox) < PAUSE_FROM // 2:
            self._is_paused = False
            self.engine._wake_up(self)
        return item

    def close(self) -> None:
        """Give the session up; nothing more comes. Closing twice is allowed."""
        if not self._is_closed:
            self._is_closed = self._is_ended = True
            self._room.set()
            self.ended.set()
            self.engine._forget(self)

    async def __aenter__(self) -> Session:
        self.task = asyncio.current_task()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # What follows is called by the engine, in the event loop.

    def _deliver(self, events: Sequence[Event], used_s: float, *, is_done: bool) -> None:
        self._backlog_s -= used_s
        if self._backlog_s <= self.engine.limits.max_backlog_s / 2:
            self._room.set()
        if self._is_closed:
            return
        for event in events:
            self._follow(event)
            if isinstance(event, StreamError) and event.fatal:
                self.fail(Problem(event.code, event.message))
                continue
            if isinstance(event, Partial) and len(self._outbox) >= COALESCE_FROM:
                last = self._outbox[-1]
                if isinstance(last, Partial) and last.utterance == event.utterance:
                    self._outbox.pop()
            self._outbox.append(event)
        if is_done:
            self._is_done = True
            if self._problem is not None:
                self._outbox.append(self._problem)
            self._outbox.append(Done(self.utterances, self.audio_s))
        if len(self._outbox) > PAUSE_FROM:
            self._is_paused = True
        if self._outbox:
            self._arrival.set()

    def _follow(self, event: Event) -> None:
        if isinstance(event, SpeechStarted):
            self._is_speaking = True
        elif isinstance(event, Final):
            self._is_speaking = False
            self.utterances += 1
            self._heard_s = event.t_s
        self.engine.metrics.saw(event)


class Engine:
    """Decodes the streams of all clients over one model.

    Args:
        recognizer: Does the work.
        limits: What clients may ask for.
        metrics: Counts what happens.
    """

    def __init__(self, recognizer: RecognizerLike, *, limits: Limits, metrics: Metrics) -> None:
        self.recognizer = recognizer
        self.limits = limits
        self.metrics = metrics
        self._accepted = _accepted_options(recognizer.create_event_stream)
        self._condition = threading.Condition()
        self._work: dict[Session, None] = {}  # those with something in the inbox, oldest first
        self._sessions: set[Session] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._watch: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.is_draining = False

    def start(self) -> None:
        """Start to decode; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="earshot-decoder", daemon=True)
        self._thread.start()
        self._watch = self._loop.create_task(self._watch_sessions())

    async def drain(self) -> None:
        """Take no new session and finish the live ones: what was said gets its final result."""
        self.is_draining = True
        for session in list(self._sessions):
            if not session.is_bulk:
                session.finish()
        deadline = time.monotonic() + self.limits.drain_timeout_s
        while self._sessions and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._sessions:
            log("drain gave up", level=logging.WARNING, streams=len(self._sessions))

    async def stop(self) -> None:
        """End the thread; sessions that are still open get nothing more."""
        self.is_draining = True
        if self._watch is not None:
            self._watch.cancel()
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        for session in list(self._sessions):
            session.close()

    @property
    def num_sessions(self) -> int:
        """Streams and uploads that are open."""
        return len(self._sessions)

    def unsupported(self, options: Mapping[str, Any]) -> list[str]:
        """Which options this engine's streams do not have, of those that ask for something."""
        return [name for name in options if name not in self._accepted]

    def open(
        self,
        client: str,
        *,
        protocol: str,
        is_bulk: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Session:
        """Start a stream for a client.

        Args:
            client: Who asks, as limits go by clients.
            protocol: How, for the metrics.
            is_bulk: True for a recording, which gives way to people who are speaking.
            options: Settings of the stream; those that it does not have are left out.

        Returns:
            The session; use it in `async with`.

        Raises:
            RefusedError: There are too many streams, or the server is being stopped.
        """
        if self.is_draining:
            raise RefusedError("shutting_down", "The server is being stopped. Try again later.")
        if len(self._sessions) >= self.limits.max_streams:
            self.metrics.refused("too_many_streams")
            raise RefusedError(
                "too_many_streams",
                f"All {self.limits.max_streams} streams of this server are in use. Try again "
                "later.",
            )
        own = sum(session.client == client for session in self._sessions)
        if own >= self.limits.max_streams_per_client:
            self.metrics.refused("too_many_streams")
            raise RefusedError(
                "too_many_streams",
                f"This client has {own} streams open, which is the most that it may. Close one of "
                "them first.",
            )
        wanted = {k: v for k, v in (options or {}).items() if k in self._accepted}
        session = Session(self, client, protocol, is_bulk, wanted)
        self._sessions.add(session)
        self.metrics.opened(protocol)
        return session

    # Called by sessions, in the event loop.

    def _put(self, session: Session, item: _Audio | _Flush | _Change | _End) -> None:
        if isinstance(item, _Audio):
            session._backlog_s += len(item.samples) / item.sample_rate_hz
        with self._condition:
            session._inbox.append(item)
            if not session._is_paused and session not in self._work:
                self._work[session] = None
                self._condition.notify()

    def _wake_up(self, session: Session) -> None:
        with self._condition:
            if session._inbox and not session._is_closed:
                self._work[session] = None
                self._condition.notify()

    def _forget(self, session: Session) -> None:
        with self._condition:
            session._inbox.clear()
            self._work.pop(session, None)
        if session in self._sessions:
            self._sessions.remove(session)
            self.metrics.closed(session.protocol, session.audio_s)

    async def _watch_sessions(self) -> None:
        """Ends streams that are silent on the wire, and aborts clients that do not read."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            for session in list(self._sessions):
                since = session.sending_since
                if since is not None and now - since > self.limits.stall_timeout_s:
                    log("client does not read", level=logging.WARNING, client=session.client)
                    self.metrics.refused("stalled")
                    if session.task is not None:
                        session.task.cancel()
                    session.close()
                elif (
                    not session.is_bulk
                    and not session._is_ended
                    and now - session.touched > self.limits.idle_timeout_s
                ):
                    session.fail(
                        Problem(
                            "idle",
                            f"Nothing was received for {self.limits.idle_timeout_s:g} s. Send "
                            "sound all the time, silence too, and end the stream when done.",
                        )
                    )

    # The decoding thread.

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._work and not self._is_stopping:
                    self._condition.wait()
                if self._is_stopping:
                    return
                is_busy = len(self._sessions) >= GATHER_FROM
            if is_busy:
                time.sleep(GATHER_S)
            begun = time.monotonic()
            taken = self._take()
            if not taken:
                continue
            try:
                outcome = self._round(taken)
            except Exception:  # must never end the thread: everybody depends on it
                log("round failed", level=logging.ERROR, trace=_trace())
                outcome = [
                    (session, [], used_s, _internal_problem(), True)
                    for session, _, used_s, _ in taken
                ]
            now = time.monotonic()
            self.metrics.round(len(taken), now - begun, [now - t for *_, t in taken if t])
            loop = self._loop
            assert loop is not None
            try:
                loop.call_soon_threadsafe(self._deliver, outcome)
            except RuntimeError:  # the loop has ended
                return

    def _take(self) -> list[tuple[Session, list[Any], float, float]]:
        """A slice of every inbox: items, their seconds, and when the first of them arrived."""
        taken = []
        with self._condition:
            is_live = any(not session.is_bulk for session in self._work)
            for session in list(self._work):
                slice_s = LIVE_SLICE_S
                if session.is_bulk:
                    slice_s = BULK_SLICE_S if is_live else ALONE_SLICE_S
                items: list[Any] = []
                used_s, arrived = 0.0, 0.0
                inbox = session._inbox
                while inbox and used_s < slice_s:
                    item = inbox.popleft()
                    if not isinstance(item, _Audio):
                        items.append(item)
                        break  # what comes after it is decoded after it
                    arrived = arrived or item.arrived
                    room = max(1, round((slice_s - used_s) * item.sample_rate_hz))
                    if len(item.samples) > room:
                        rest = _Audio(item.sample_rate_hz, item.samples[room:], item.arrived)
                        inbox.appendleft(rest)
                        item = _Audio(item.sample_rate_hz, item.samples[:room], item.arrived)
                    used_s += len(item.samples) / item.sample_rate_hz
                    items.append(item)
                if not inbox or session._is_paused:
                    del self._work[session]
                if items:
                    taken.append((session, items, used_s, arrived))
        return taken

    def _round(
        self, taken: Sequence[tuple[Session, list[Any], float, float]]
    ) -> list[tuple[Session, list[Event], float, Problem | None, bool]]:
        """Decode one slice of each: events, seconds used, what went wrong, whether it is done."""
        events: dict[Session, list[Event]] = {}
        problems: dict[Session, Problem] = {}
        ended: set[Session] = set()
        for session, items, _, _ in taken:
            events[session] = []
            try:
                if session._stream is None:
                    session._stream, left_out = self._create(session.options)
                    events[session] += left_out
                for item in items:
                    events[session] += _apply(session._stream, item)
                    if isinstance(item, _End):
                        ended.add(session)
            except (EarshotError, ValueError, RuntimeError) as err:
                problems[session] = Problem(_code(err), str(err))
            except Exception:
                log("stream failed", level=logging.ERROR, trace=_trace())
                problems[session] = _internal_problem()
            if session in problems and session._stream is not None:
                # What was heard before still gets its result.
                try:
                    session._stream.input_finished()
                except Exception:
                    session._stream = None
        self._decode([s for s, *_ in taken if s._stream is not None], events, problems)
        return [
            (session, events[session], used_s, problems.get(session), session in ended)
            for session, _, used_s, _ in taken
        ]

    def _create(self, options: Mapping[str, Any]) -> tuple[EventStreamLike, list[Event]]:
        """A stream with as many of the options as it can have, and what is said of the others."""
        wanted = dict(options)
        left_out: list[Event] = []
        while True:
            try:
                return self.recognizer.create_event_stream(**wanted), left_out
            except (ConfigError, NotImplementedError) as err:
                message = str(err)
                blamed = [name for name in OPTIONAL if name in wanted]
                if not blamed:
                    raise
            # The message begins with the name of the option.
            named = [name for name in blamed if message.startswith(name)]
            del wanted[(named or blamed)[0]]
            left_out.append(StreamError(code="unsupported", message=message, fatal=False))

    def _decode(
        self,
        sessions: Sequence[Session],
        events: dict[Session, list[Event]],
        problems: dict[Session, Problem],
    ) -> None:
        waiting = [s for s in sessions if s._stream is not None and s._stream.is_ready()]
        while waiting:
            try:
                found = self.recognizer.decode_event_streams([s._stream for s in waiting])
            except Exception:
                if len(waiting) == 1:
                    log("decoding failed", level=logging.ERROR, trace=_trace())
                    problems[waiting[0]] = _internal_problem()
                    waiting[0]._stream = None
                    return
                for session in waiting:  # one of them is to blame: the others go on
                    self._decode([session], events, problems)
                return
            for session, new in zip(waiting, found, strict=True):
                events[session] += new
            waiting = [s for s in waiting if s._stream is not None and s._stream.is_ready()]

    def _deliver(
        self, outcome: Sequence[tuple[Session, list[Event], float, Problem | None, bool]]
    ) -> None:
        for session, events, used_s, problem, is_done in outcome:
            if problem is not None and not session._is_done:
                session._problem = session._problem or problem
                session._is_ended = True
                session._room.set()
                session.ended.set()
                with self._condition:
                    session._inbox.clear()
                    self._work.pop(session, None)
                is_done = True
            if not session._is_done:
                session._deliver(events, used_s, is_done=is_done)


def _apply(stream: EventStreamLike, item: _Audio | _Flush | _Change | _End) -> list[Event]:
    """Give a stream what was in the inbox; what is said of it where it cannot be had."""
    if isinstance(item, _Audio):
        stream.accept_waveform(item.sample_rate_hz, item.samples)
    elif isinstance(item, _Flush):
        stream.flush()
    elif isinstance(item, _Change):
        return _changed(stream, item)
    else:
        stream.input_finished()
    return []


def _changed(stream: EventStreamLike, change: _Change) -> list[Event]:
    method = getattr(stream, change.method, None)
    what = ", ".join(change.arguments)
    if method is None:
        message = f"{what}: not available in this version. Leave it out."
        return [StreamError(code="unsupported", message=message, fatal=False)]
    try:
        method(**change.arguments)
    except ConfigError as err:  # the stream is as it was before
        return [StreamError(code="bad_setting", message=str(err), fatal=False)]
    return []


def _accepted_options(create: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(create).parameters)


def _code(error: Exception) -> str:
    return "bad_setting" if isinstance(error, ConfigError) else "bad_audio"


def _internal_problem() -> Problem:
    return Problem("internal", "Something went wrong inside the server; its log says what.")


def _trace() -> str:
    import traceback

    return traceback.format_exc()
