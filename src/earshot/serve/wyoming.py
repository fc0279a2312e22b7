"""Wyoming, the protocol between Home Assistant and its speech services.

One `transcribe ... audio-stop` gives one `transcript` with all that was said. Text is also given
out while somebody speaks, as soon as it is stable. The end of a command is the client's to find
unless it asks for ours (`vad_sensitivity`), or the server is set to (`--wyoming-endpointing`): then
the transcript is sent when the final end-pointer fires, before `audio-stop`, and later sound is
dropped. With command templates the server is an intent recogniser for texts, too.

Source: https://github.com/OHF-Voice/wyoming, version 1.10, and what Home Assistant's integration
sends and waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from earshot import __version__
from earshot.core.events import Final, Partial, SpeechStarted
from earshot.core.understanding import Understanding
from earshot.data.audio import MAX_RATE_HZ, MIN_RATE_HZ
from earshot.serve.endpointing import endpoint_options
from earshot.serve.engine import Done, Engine, Problem, RefusedError, Samples, Session
from earshot.serve.languages import LanguageError, check_language
from earshot.serve.logs import log
from earshot.serve.transcriptions import DeltaWriter
from earshot.serve.wyoming_frames import MAX_LINE_BYTES, Frame, FrameError, read_frame

PROGRAM = "earshot"
ATTRIBUTION = {"name": "The Earshot authors", "url": "https://pypi.org/project/earshot/"}
MAX_CHANNELS = 16
MAX_BIAS = 1000  # phrases
MAX_TEXT_CHARS = 1000
NAME_BOOST, TERM_BOOST = 3.0, 1.5
# Relative to the pauses of the final end-pointer.
SENSITIVITY = {"default": 1.0, "relaxed": 2.0, "aggressive": 0.6}

Recognize = Callable[[str], Understanding]


@dataclass(frozen=True, slots=True, kw_only=True)
class WyomingService:
    """What the server says of itself.

    Args:
        engine: Decodes.
        language: Of the model.
        description: Of the model, one line.
        recognize: Finds the intent of a text; None without command templates.
        endpointing: End commands by our end-pointer always.
    """

    engine: Engine
    language: str
    description: str
    recognize: Recognize | None = None
    endpointing: bool = False

    def info(self) -> dict[str, Any]:
        """The answer to `describe`."""
        about = {"attribution": ATTRIBUTION, "installed": True, "version": __version__}
        model = {
            "name": self.engine.recognizer.name,
            "description": self.description,
            "languages": [self.language],
            **about,
        }
        asr = {
            "name": PROGRAM,
            "description": "Streaming speech recognition on this device",
            "models": [model],
            "supports_transcript_streaming": True,
            "requires_external_vad": not self.endpointing,
            "prefers_auto_gain_enabled": False,
            "prefers_noise_reduction_enabled": False,
            **about,
        }
        intent = {
            "name": PROGRAM,
            "description": "Intents of the command templates",
            "models": [model],
            **about,
        }
        return {
            "asr": [asr],
            "tts": [],
            "handle": [],
            "intent": [intent] if self.recognize is not None else [],
            "wake": [],
            "mic": [],
            "snd": [],
        }


class WyomingServer:
    """Accepts connections; each is a `_Conversation`.

    Args:
        service: What is served.
    """

    def __init__(self, service: WyomingService) -> None:
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sockets: Any) -> None:
        """Listen.

        Args:
            sockets: Bound ones.
        """
        self._server = await asyncio.start_server(
            self._connected, sock=sockets, limit=MAX_LINE_BYTES
        )

    def stop_listening(self) -> None:
        """Take no new connection."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Close all connections; streams were finished before."""
        self.stop_listening()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        limits = self._service.engine.limits
        if len(self._tasks) >= 2 * limits.max_streams:
            writer.close()
            return
        self._tasks.add(task)
        peer = writer.get_extra_info("peername")
        client = peer[0] if isinstance(peer, tuple) else "local"
        conversation = _Conversation(self._service, reader, writer, client)
        try:
            await conversation.run()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            await conversation.close()


@dataclass(slots=True)
class _Turn:
    """One `transcribe ... transcript`."""

    session: Session
    ends_itself: bool
    language: str | None
    context: Any
    is_answered: bool = False
    answering: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Conversation:
    """One connection."""

    service: WyomingService
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    client: str
    request: Mapping[str, Any] = field(default_factory=dict)
    turn: _Turn | None = None
    is_over: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        while not self.is_over:
            try:
                frame = await self._next_frame()
            except TimeoutError:
                return
            except FrameError as err:
                await self.fail("bad_message", str(err))
                return
            if frame is None:
                # Half-closed: whoever has said all may still be waiting for the answer.
                if self.turn is not None and not self.turn.session._is_closed:
                    self.turn.session.finish()
                    await self._answered()
                return
            handler = _HANDLERS.get(frame.type)
            if handler is None:  # it is to be ignored
                continue
            try:
                await handler(self, frame)
            except FrameError as err:
                await self.fail("bad_message", str(err))

    async def _next_frame(self) -> Frame | None:
        """Wait for a frame, for long only while an answer is worked on.

        Raises:
            TimeoutError: Nothing came in time, or nothing that comes matters any more.
            FrameError: What came is no frame.
        """
        limits = self.service.engine.limits
        reading = asyncio.create_task(
            read_frame(self.reader, max_payload_bytes=limits.max_message_bytes)
        )
        try:
            while not reading.done():
                answering = self.turn.answering if self.turn is not None else None
                if answering is None or answering.done():
                    if self.is_over:
                        raise TimeoutError
                    await asyncio.wait({reading}, timeout=limits.idle_timeout_s)
                    if not reading.done():
                        raise TimeoutError
                else:
                    await asyncio.wait({reading, answering}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def close(self) -> None:
        if self.turn is not None:
            self.turn.session.close()
            if self.turn.answering is not None:
                self.turn.answering.cancel()
                await asyncio.gather(self.turn.answering, return_exceptions=True)
        self.writer.close()
        with contextlib.suppress(ConnectionError, OSError, TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), 1.0)

    async def send(self, kind: str, **data: Any) -> None:
        session = self.turn.session if self.turn is not None else None
        async with self.lock:
            if session is not None:
                session.sending_since = time.monotonic()
            self.writer.write(Frame(kind, data).encode())
            await self.writer.drain()
            if session is not None:
                session.sending_since = None

    async def fail(self, code: str, text: str) -> None:
        """Say what is wrong and end the connection: nobody waits for a transcript in vain."""
        self.is_over = True
        with contextlib.suppress(ConnectionError):
            await self.send("error", text=text, code=code)

    # Events from the client.

    async def describe(self, _: Frame) -> None:
        await self.send("info", **self.service.info())

    async def ping(self, frame: Frame) -> None:
        text = frame.data.get("text")
        await self.send("pong", **({"text": text} if isinstance(text, str) else {}))

    async def select_program(self, frame: Frame) -> None:
        name = frame.data.get("name")
        if name not in (PROGRAM, None):
            await self.fail(
                "unknown_program", f"name: there is no program {str(name)[:40]!r}, but {PROGRAM!r}."
            )

    async def transcribe(self, frame: Frame) -> None:
        language = frame.data.get("language")
        try:
            check_language(language if isinstance(language, str) else None, self.service.language)
        except LanguageError as err:
            await self.fail("unsupported_language", str(err))
            return
        self.request = frame.data

    async def audio_start(self, frame: Frame) -> None:
        _format_of(frame)
        if self.turn is not None:
            await self._drop()
        await self._begin()

    async def audio_chunk(self, frame: Frame) -> None:
        rate, samples = samples_of(frame)
        if self.turn is None:
            await self._begin()
        if self.turn is not None and not self.turn.is_answered:
            await self.turn.session.send(rate, samples)

    async def audio_stop(self, _: Frame) -> None:
        if self.turn is None:
            await self._begin()
        if self.turn is not None:
            self.turn.session.finish()
            await self._answered()

    async def recognize(self, frame: Frame) -> None:
        text, context = frame.data.get("text"), frame.data.get("context")
        more = {"context": context} if isinstance(context, dict) else {}
        if self.service.recognize is None:
            await self.send("not-recognized", text="There are no commands to recognise.", **more)
            return
        if not isinstance(text, str) or len(text) > MAX_TEXT_CHARS:
            await self.fail(
                "bad_message", f"text: it must be a text of at most {MAX_TEXT_CHARS} characters."
            )
            return
        # Near misses are searched for, which takes a while with many commands.
        found = await asyncio.to_thread(self.service.recognize, text)
        if found.intent is None:
            await self.send("not-recognized", **more)
            return
        entities = [{"name": name, "value": slot.value} for name, slot in found.slots.items()]
        await self.send("intent", name=found.intent, entities=entities, **more)

    # One turn.

    async def _begin(self) -> None:
        request, self.request = self.request, {}
        sensitivity = request.get("vad_sensitivity")
        ends_itself = self.service.endpointing or sensitivity in SENSITIVITY
        options: dict[str, Any] = {}
        if sensitivity in SENSITIVITY and sensitivity != "default":
            options |= endpoint_options(
                self.service.engine.recognizer, scale=SENSITIVITY[sensitivity]
            )
        if hotwords := _hotwords(request):
            options["hotwords"] = hotwords
        try:
            session = self.service.engine.open(self.client, protocol="wyoming", options=options)
        except RefusedError as err:
            await self.fail(err.code, str(err))
            return
        session.task = asyncio.current_task()
        language = request.get("language")
        context = request.get("context")
        self.turn = _Turn(
            session,
            ends_itself,
            language if isinstance(language, str) else None,
            context if isinstance(context, dict) else None,
        )
        self.turn.answering = asyncio.create_task(self._answer(self.turn))

    async def _drop(self) -> None:
        """A new recording begins before the last was answered, so nobody waits for that one."""
        turn, self.turn = self.turn, None
        assert turn is not None
        turn.session.close()
        if turn.answering is not None:
            turn.answering.cancel()
            await asyncio.gather(turn.answering, return_exceptions=True)

    async def _answered(self) -> None:
        turn, self.turn = self.turn, None
        assert turn is not None and turn.answering is not None
        try:
            await turn.answering
        finally:
            turn.session.close()

    async def _answer(self, turn: _Turn) -> None:
        """Give out stable text while it comes, then the transcript."""
        writer = DeltaWriter()
        is_open = False
        more: dict[str, Any] = {"language": turn.language} if turn.language else {}
        if turn.context is not None:
            more["context"] = turn.context
        async for event in turn.session.events():
            if isinstance(event, Problem):
                await self.fail(event.code, event.message)
                return
            delta = ""
            if isinstance(event, SpeechStarted):
                await self.send("voice-started", timestamp=round(1000 * event.start_s))
            elif isinstance(event, Partial | Final):
                delta = writer.push(event)
            if delta:
                if not is_open:
                    await self.send("transcript-start", **more)
                    is_open = True
                await self.send("transcript-chunk", text=delta)
            if isinstance(event, Final):
                await self.send("voice-stopped", timestamp=round(1000 * event.end_s))
                if turn.ends_itself and event.text:
                    break
            if isinstance(event, Done):
                break
        if not is_open:
            await self.send("transcript-start", **more)
        await self.send("transcript", text=writer.text, **more)
        await self.send("transcript-stop")
        turn.is_answered = True
        log(
            "transcribed",
            client=self.client,
            protocol="wyoming",
            audio_s=round(turn.session.audio_s, 3),
            transcript=writer.text,
        )
        turn.session.close()
        if self.service.engine.is_draining:
            self.is_over = True
            self.writer.close()


_HANDLERS: dict[str, Callable[[_Conversation, Frame], Any]] = {
    "describe": _Conversation.describe,
    "ping": _Conversation.ping,
    "select-program": _Conversation.select_program,
    "transcribe": _Conversation.transcribe,
    "audio-start": _Conversation.audio_start,
    "audio-chunk": _Conversation.audio_chunk,
    "audio-stop": _Conversation.audio_stop,
    "recognize": _Conversation.recognize,
    # Home Assistant sends what was heard to an intent service as a transcript.
    "transcript": _Conversation.recognize,
}


def _format_of(frame: Frame) -> tuple[int, int, int]:
    found = []
    for name, least, most in (
        ("rate", MIN_RATE_HZ, MAX_RATE_HZ),
        ("width", 1, 4),
        ("channels", 1, MAX_CHANNELS),
    ):
        value = frame.data.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise FrameError(
                f"{frame.type}: {name} is {str(value)[:40]}; it must be a whole number in "
                f"{least}..{most}."
            )
        found.append(value)
    rate, width, channels = found
    return rate, width, channels


def samples_of(frame: Frame) -> tuple[int, Samples]:
    """The sound of an `audio-chunk`.

    Args:
        frame: With `rate`, `width` (bytes, 1 to 4) and `channels`, which are averaged.

    Returns:
        Rate, and shape (n,): int16 where it was that, else float32.

    Raises:
        FrameError: The format cannot be used, or the payload is no whole number of samples.
    """
    rate, width, channels = _format_of(frame)
    data = frame.payload
    if len(data) % (width * channels):
        raise FrameError(
            f"audio-chunk: the payload has {len(data)} bytes; samples of {width} bytes on "
            f"{channels} channels take a multiple of {width * channels}."
        )
    if width == 2 and channels == 1:
        return rate, np.frombuffer(data, "<i2")
    if width == 1:  # unsigned, as in WAV
        values = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif width == 2:
        values = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    elif width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0].astype(np.float32) / 2147483648
    else:
        values = np.frombuffer(data, "<i4").astype(np.float32) / 2147483648
    return rate, values.reshape(-1, channels).mean(axis=1, dtype=np.float32)


def _hotwords(request: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for key, boost in (("transcript_names", NAME_BOOST), ("transcript_terms", TERM_BOOST)):
        values = request.get(key)
        if isinstance(values, list):
            for phrase in values:
                if isinstance(phrase, str) and phrase.strip() and len(found) < MAX_BIAS:
                    found.setdefault(" ".join(phrase.split())[:200], boost)
    return tuple(found.items())
