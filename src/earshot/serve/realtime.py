"""OpenAI's Realtime interface for transcription, `/v1/realtime?intent=transcription`.

A turn of speech is one item. With turn detection the final end-pointer ends it; without, the
client does. Text is given out as soon as it is stable, so an item's deltas may come before it is
committed; they concatenate to its transcript. Speculative end-points have no place in OpenAI's
protocol and go out as `earshot.speculative_endpoint` and `earshot.speculation_cancelled`.

Source: the event types of OpenAI's Python client 3.x, which the tests parse these with.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import copy
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.websockets import WebSocket

from earshot.core.events import (
    Event,
    Final,
    Partial,
    SpeculationCancelled,
    SpeculativeEndpoint,
    SpeechStarted,
)
from earshot.serve import sockets
from earshot.serve.endpointing import endpoint_options
from earshot.serve.engine import Done, Engine, Problem, RefusedError, Samples, Session
from earshot.serve.languages import LanguageError, check_language
from earshot.serve.logs import log
from earshot.serve.sockets import Disconnected, MessageError, json_object, to_json
from earshot.serve.telephony import decode_alaw, decode_mulaw
from earshot.serve.transcriptions import DeltaWriter, logprobs

PCM_RATE_HZ = 24_000
TELEPHONE_RATE_HZ = 8_000
LOGPROBS = "item.input_audio_transcription.logprobs"
# Pauses relative to the tuned ones, and how long each waits at most, seconds; auto is medium.
EAGERNESS = {"low": (2.0, 8.0), "medium": (1.0, 4.0), "high": (0.75, 2.0), "auto": (1.0, 4.0)}
PADDING_MS, SILENCE_MS, THRESHOLD = 300, 500, 0.5
_BETA_FORMATS: dict[str, dict[str, Any]] = {
    "pcm16": {"type": "audio/pcm", "rate": PCM_RATE_HZ},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}


def default_input(model: str) -> dict[str, Any]:
    """The settings of a session before its client changes them."""
    return {
        "format": {"type": "audio/pcm", "rate": PCM_RATE_HZ},
        "transcription": {"model": model},
        "noise_reduction": None,
        "turn_detection": {
            "type": "server_vad",
            "threshold": THRESHOLD,
            "prefix_padding_ms": PADDING_MS,
            "silence_duration_ms": SILENCE_MS,
        },
    }


@dataclass(slots=True)
class _Item:
    """One turn of speech."""

    id: str
    writer: DeltaWriter = field(default_factory=DeltaWriter)


class RealtimeConnection:
    """One connection; `run` serves it.

    Args:
        socket: Accepted.
        engine: Decodes.
        client: Who it is.
        language: Of the model.
        is_beta: Speak as the interface did before it was released.
    """

    def __init__(
        self, socket: WebSocket, engine: Engine, *, client: str, language: str, is_beta: bool
    ) -> None:
        self._socket = socket
        self._engine = engine
        self._client = client
        self._language = language
        self._is_beta = is_beta
        self._id = f"sess_{secrets.token_hex(12)}"
        self._input = default_input(engine.recognizer.name)
        self._include: list[str] = []
        self._turn: _Turn | None = None
        self._previous: str | None = None
        self._lock = asyncio.Lock()
        self._offset_s = 0.0  # sound of the turns before this one

    async def run(self) -> None:
        """Serve until the client leaves, or is idle for too long."""
        await self.send({"type": f"{self._kind}.created", "session": self._session()})
        reader = asyncio.ensure_future(self._read())
        try:
            await reader
        finally:
            if self._turn is not None:
                await self._turn.abort()

    async def send(self, event: dict[str, Any], session: Session | None = None) -> None:
        """Send an event with an id of its own."""
        event = {"type": event.pop("type"), "event_id": f"event_{secrets.token_hex(10)}", **event}
        async with self._lock:
            await sockets.send(self._socket, to_json(event), session)

    async def error(
        self, code: str | None, message: str, *, param: str | None = None, cause: Any = None
    ) -> None:
        """Say what is wrong; the connection goes on."""
        kind = "server_error" if code == "internal" else "invalid_request_error"
        error = {
            "type": kind,
            "code": code,
            "message": message,
            "param": param,
            "event_id": cause if isinstance(cause, str) else None,
        }
        await self.send({"type": "error", "error": error})

    @property
    def _kind(self) -> str:
        return "transcription_session" if self._is_beta else "session"

    def _session(self) -> dict[str, Any]:
        if self._is_beta:
            names = {str(value["type"]): name for name, value in _BETA_FORMATS.items()}
            return {
                "id": self._id,
                "object": "realtime.transcription_session",
                "input_audio_format": names[self._input["format"]["type"]],
                "input_audio_transcription": self._input["transcription"],
                "input_audio_noise_reduction": self._input["noise_reduction"],
                "turn_detection": self._input["turn_detection"],
                "include": self._include,
            }
        return {
            "type": "transcription",
            "id": self._id,
            "object": "realtime.transcription_session",
            "audio": {"input": copy.deepcopy(self._input)},
            "include": list(self._include),
        }

    async def _read(self) -> None:
        idle_s = self._engine.limits.idle_timeout_s
        while True:
            # Without a turn the engine does not watch this connection.
            receiving = sockets.receive(self._socket)
            try:
                message = await (
                    receiving if self._turn is not None else asyncio.wait_for(receiving, idle_s)
                )
            except TimeoutError:
                await self.error("idle", f"Nothing was received for {idle_s:g} s.")
                await sockets.close(self._socket, sockets.POLICY, "idle")
                return
            if self._turn is not None and self._turn.is_over:
                return
            cause: Any = None
            try:
                request = json_object(message)
                cause = request.get("event_id")
                await self._obey(request)
            except MessageError as err:
                await self.error(err.code, str(err), param=err.param, cause=cause)
            except RefusedError as err:
                await self.error(err.code, str(err), cause=cause)
                await sockets.close(self._socket, sockets.TRY_LATER, err.code)
                return

    async def _obey(self, request: dict[str, Any]) -> None:
        kind = request.get("type")
        if kind == "input_audio_buffer.append":
            await self._append(request)
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "input_audio_buffer.clear":
            if self._turn is not None:
                turn, self._turn = self._turn, None
                self._offset_s += turn.session.audio_s
                await turn.abort()
            await self.send({"type": "input_audio_buffer.cleared"})
        elif kind == "session.update":
            await self._update(_object(request, "session"))
        elif kind == "transcription_session.update":
            await self._update(_from_beta(_object(request, "session")))
        else:
            raise MessageError(
                "unknown_event",
                f"type: {str(kind)[:80]!r} is not an event of transcription sessions.",
                param="type",
            )

    async def _append(self, request: dict[str, Any]) -> None:
        audio = request.get("audio")
        if not isinstance(audio, str):
            raise MessageError(
                "missing_required_parameter", "audio: it must be base64 text.", param="audio"
            )
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise MessageError(
                "invalid_value", "audio: it is not base64. Encode the bytes.", param="audio"
            ) from None
        rate, samples = _samples(data, self._input["format"])
        if not len(samples):
            return
        if self._turn is None:
            self._turn = _Turn(self, self._open(), offset_s=self._offset_s)
        await self._turn.session.send(rate, samples)

    def _open(self) -> Session:
        options: dict[str, Any] = {}
        transcription = self._input.get("transcription") or {}
        if keywords := transcription.get("keywords"):
            options["hotwords"] = tuple((word, 2.0) for word in keywords)
        options |= _endpoint(self._engine.recognizer, self._input["turn_detection"])
        return self._engine.open(self._client, protocol="realtime", options=options)

    async def _commit(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None or turn.session.audio_s == 0:
            raise MessageError(
                "input_audio_buffer_commit_empty",
                "The buffer is empty: append sound before you commit it.",
            )
        self._offset_s += turn.session.audio_s
        await turn.commit()

    async def _update(self, session: dict[str, Any]) -> None:
        kind = session.get("type", "transcription")
        if kind != "transcription":
            raise MessageError(
                "invalid_value",
                f"session.type: it is {str(kind)[:40]!r}; this server has transcription only.",
                param="session.type",
            )
        audio = session.get("audio") or {}
        wanted = audio.get("input") if isinstance(audio, dict) else None
        updated = updated_input(self._input, wanted or {}, language=self._language)
        include = session.get("include")
        if include is not None:
            if not isinstance(include, list) or any(value != LOGPROBS for value in include):
                raise MessageError(
                    "invalid_value", f"include: it may hold {LOGPROBS}.", param="session.include"
                )
            self._include = list(include)
        if updated != self._input and self._turn is not None:
            # What was said under the old settings is finished under them.
            turn, self._turn = self._turn, None
            self._offset_s += turn.session.audio_s
            await turn.finish()
        self._input = updated
        await self.send({"type": f"{self._kind}.updated", "session": self._session()})

    @property
    def detects_turns(self) -> bool:
        """Whether the server ends turns."""
        return self._input["turn_detection"] is not None

    @property
    def wants_logprobs(self) -> bool:
        """Whether results carry log-probabilities."""
        return bool(self._include)

    def new_item(self) -> _Item:
        """A turn that has begun."""
        return _Item(f"item_{secrets.token_hex(10)}")

    async def commit_item(self, item: _Item, session: Session) -> None:
        """Say that a turn is over."""
        await self.send(
            {
                "type": "input_audio_buffer.committed",
                "item_id": item.id,
                "previous_item_id": self._previous,
            },
            session,
        )
        content = [{"type": "input_audio", "transcript": None}]
        for kind in ("created",) if self._is_beta else ("added",):
            await self.send(
                {
                    "type": f"conversation.item.{kind}",
                    "previous_item_id": self._previous,
                    "item": _item(item.id, content),
                },
                session,
            )
        self._previous = item.id

    async def complete_item(
        self, item: _Item, text: str, words: Any, seconds: float, session: Session
    ) -> None:
        """Give out what was said in a turn."""
        about = {"item_id": item.id, "content_index": 0}
        completed: dict[str, Any] = {
            "type": "conversation.item.input_audio_transcription.completed",
            **about,
            "transcript": text,
            "usage": {"type": "duration", "seconds": round(seconds, 3)},
        }
        if self.wants_logprobs:
            completed["logprobs"] = logprobs(words)
        await self.send(completed, session)
        if not self._is_beta:
            await self.send(
                {
                    "type": "conversation.item.done",
                    "previous_item_id": None,
                    "item": _item(item.id, [{"type": "input_audio", "transcript": text}]),
                },
                session,
            )

    async def leave(self, problem: Problem) -> None:
        """End the connection for a reason."""
        await self.error(problem.code, problem.message)
        code = sockets.INTERNAL if problem.code == "internal" else sockets.POLICY
        await sockets.close(self._socket, code, problem.code)


class _Turn:
    """A stretch of sound under one set of settings: one stream of the engine.

    With turn detection it has many items, one an utterance; without, all of it is one item.
    """

    def __init__(
        self, connection: RealtimeConnection, session: Session, *, offset_s: float
    ) -> None:
        self.session = session
        self.is_over = False
        self._connection = connection
        self._offset_s = offset_s
        self._detects = connection.detects_turns
        self._items: dict[str, _Item] = {}
        self._finals: list[Final] = []
        self._committed = 0
        session.task = asyncio.current_task()
        self._pump = asyncio.create_task(self._run())

    async def commit(self) -> None:
        """The client has ended the turn."""
        if self._detects:
            await self.finish()
            if not self._committed:
                raise MessageError(
                    "input_audio_buffer_commit_empty",
                    "Nobody spoke since the last turn, so there is nothing to commit.",
                )
            return
        item = self._connection.new_item()
        await self._connection.commit_item(item, self.session)
        await self.finish()
        text = " ".join(final.text for final in self._finals if final.text)
        words = [word for final in self._finals for word in final.words]
        if delta := text:
            await self._delta(item, delta)
        await self._connection.complete_item(item, text, words, self.session.audio_s, self.session)

    async def finish(self) -> None:
        """Let everything come that was said."""
        self.session.finish()
        await self._pump

    async def abort(self) -> None:
        """Drop everything."""
        self.session.close()
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    async def _run(self) -> None:
        connection = self._connection
        try:
            async for event in self.session.events():
                if isinstance(event, Problem):
                    self.is_over = True
                    await connection.leave(event)
                elif isinstance(event, Done):
                    if self._connection._engine.is_draining:
                        self.is_over = True
                        await sockets.close(connection._socket)
                elif self._detects:
                    await self._follow(event)
                elif isinstance(event, Final):
                    self._finals.append(event)
        except Disconnected:
            self.is_over = True
        finally:
            self.session.close()

    async def _follow(self, event: Event) -> None:
        handlers: dict[type[Any], Callable[[Any], Any]] = {
            SpeechStarted: self._started,
            Partial: self._grew,
            SpeculativeEndpoint: self._speculated,
            SpeculationCancelled: self._speculated,
            Final: self._ended,
        }
        handler = handlers.get(type(event))
        if handler is not None:
            await handler(event)

    async def _started(self, event: SpeechStarted) -> None:
        item = self._items[event.utterance] = self._connection.new_item()
        padding_s = (self._connection._input["turn_detection"] or {}).get(
            "prefix_padding_ms", PADDING_MS
        ) / 1000
        start_s = max(0.0, event.start_s - padding_s)
        await self._send(
            {
                "type": "input_audio_buffer.speech_started",
                "audio_start_ms": self._stream_ms(start_s),
                "item_id": item.id,
            }
        )

    async def _grew(self, event: Partial) -> None:
        item = self._items[event.utterance]
        if delta := item.writer.push(event):
            await self._delta(item, delta)

    async def _speculated(self, event: SpeculativeEndpoint | SpeculationCancelled) -> None:
        item = self._items[event.utterance]
        fields = {k: v for k, v in event.to_json().items() if k not in ("type", "utterance")}
        await self._send(
            {"type": f"earshot.{event.to_json()['type']}", "item_id": item.id, **fields}
        )

    async def _ended(self, event: Final) -> None:
        item = self._items.pop(event.utterance)
        self._committed += 1
        await self._send(
            {
                "type": "input_audio_buffer.speech_stopped",
                "audio_end_ms": self._stream_ms(event.t_s),
                "item_id": item.id,
            }
        )
        await self._connection.commit_item(item, self.session)
        if delta := item.writer.push(event):
            await self._delta(item, delta)
        await self._connection.complete_item(
            item, event.text, event.words, event.end_s - event.start_s, self.session
        )

    async def _delta(self, item: _Item, delta: str) -> None:
        await self._send(
            {
                "type": "conversation.item.input_audio_transcription.delta",
                "item_id": item.id,
                "content_index": 0,
                "delta": delta,
            }
        )

    async def _send(self, event: dict[str, Any]) -> None:
        await self._connection.send(event, self.session)

    def _stream_ms(self, seconds: float) -> int:
        return round(1000 * (self._offset_s + seconds))


async def serve(socket: WebSocket, engine: Engine, *, client: str, language: str) -> None:
    """Serve one connection until it is closed.

    Args:
        socket: Not accepted yet.
        engine: Decodes.
        client: Who it is.
        language: Of the model.
    """
    offered = socket.scope.get("subprotocols", [])
    await socket.accept("realtime" if "realtime" in offered else None)
    connection = RealtimeConnection(
        socket,
        engine,
        client=client,
        language=language,
        is_beta="realtime=v1" in socket.headers.get("openai-beta", ""),
    )
    try:
        intent = socket.query_params.get("intent", "transcription")
        if intent != "transcription":
            await connection.error(
                "invalid_value",
                f"intent: it is {intent[:40]!r}; this server has transcription only.",
                param="intent",
            )
            await sockets.close(socket, sockets.POLICY, "intent")
            return
        await connection.run()
    except Disconnected:
        pass
    log("realtime closed", client=client)


def updated_input(current: Mapping[str, Any], wanted: Any, *, language: str) -> dict[str, Any]:
    """Settings after an update; what it leaves out stays.

    Args:
        current: The settings before.
        wanted: `session.audio.input` of the update.
        language: Of the model.

    Returns:
        The settings after.

    Raises:
        MessageError: A value cannot be used; `.param` names it.
    """
    updated = copy.deepcopy(dict(current))
    if not isinstance(wanted, dict):
        raise _bad("audio.input", "it must be an object")
    if "format" in wanted:
        updated["format"] = _format(wanted["format"])
    if "noise_reduction" in wanted:
        reduction = wanted["noise_reduction"]
        if reduction is not None and (
            not isinstance(reduction, dict)
            or reduction.get("type") not in ("near_field", "far_field")
        ):
            raise _bad("audio.input.noise_reduction", "its type must be near_field or far_field")
        updated["noise_reduction"] = reduction
    if "transcription" in wanted:
        updated["transcription"] = _transcription(wanted["transcription"], language)
    if "turn_detection" in wanted:
        updated["turn_detection"] = _turn_detection(wanted["turn_detection"])
    return updated


def _format(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("type") not in (
        "audio/pcm", "audio/pcmu", "audio/pcma",
    ):  # fmt: skip
        raise _bad("audio.input.format.type", "it must be audio/pcm, audio/pcmu or audio/pcma")
    if value["type"] == "audio/pcm":
        if value.get("rate", PCM_RATE_HZ) != PCM_RATE_HZ:
            raise _bad("audio.input.format.rate", f"it must be {PCM_RATE_HZ}")
        return {"type": "audio/pcm", "rate": PCM_RATE_HZ}
    return {"type": value["type"]}


def _transcription(value: Any, language: str) -> dict[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _bad("audio.input.transcription", "it must be an object or null")
    for spoken in (value.get("language"), *(_texts(value, "languages"))):
        if spoken is not None and not isinstance(spoken, str):
            raise _bad("audio.input.transcription.language", "it must be a text")
        try:
            check_language(spoken, language)
        except LanguageError as err:
            raise MessageError(
                "unsupported_language", str(err), param="audio.input.transcription.language"
            ) from None
    _texts(value, "keywords")
    return dict(value)


def _texts(value: dict[str, Any], name: str) -> list[str]:
    found = value.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise _bad(f"audio.input.transcription.{name}", "it must be a list of texts")
    return found


def _turn_detection(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    where = "audio.input.turn_detection"
    if not isinstance(value, dict):
        raise _bad(where, "it must be an object or null")
    kind = value.get("type", "server_vad")
    if kind == "semantic_vad":
        eagerness = value.get("eagerness", "auto")
        if eagerness not in EAGERNESS:
            raise _bad(f"{where}.eagerness", f"it must be {', '.join(EAGERNESS)}")
        return {**value, "type": kind, "eagerness": eagerness}
    if kind != "server_vad":
        raise _bad(f"{where}.type", "it must be server_vad or semantic_vad")
    detection = {
        "threshold": THRESHOLD,
        "prefix_padding_ms": PADDING_MS,
        "silence_duration_ms": SILENCE_MS,
        **{k: v for k, v in value.items() if v is not None},
        "type": kind,
    }
    for name, most in (
        ("threshold", 1),
        ("prefix_padding_ms", 10_000),
        ("silence_duration_ms", 60_000),
    ):
        number = detection[name]
        if (
            not isinstance(number, int | float)
            or isinstance(number, bool)
            or not 0 <= number <= most
        ):
            raise _bad(f"{where}.{name}", f"it must lie in 0..{most}")
    return detection


def _endpoint(recognizer: Any, detection: Mapping[str, Any] | None) -> dict[str, Any]:
    """Turn detection as settings of the end-pointers.

    Whoever did not choose a silence gets the end-pointers as they were tuned, which is better than
    OpenAI's default of half a second.
    """
    if detection is None:
        return {}
    if detection["type"] == "semantic_vad":
        scale, most_s = EAGERNESS[detection["eagerness"]]
        return endpoint_options(recognizer, scale=scale, most_s=most_s)
    if detection["silence_duration_ms"] == SILENCE_MS:
        return {}
    return endpoint_options(recognizer, silence_s=detection["silence_duration_ms"] / 1000)


def _from_beta(session: dict[str, Any]) -> dict[str, Any]:
    """The settings of `transcription_session.update` in today's places."""
    wanted: dict[str, Any] = {}
    if "input_audio_format" in session:
        name = session["input_audio_format"]
        if not isinstance(name, str) or name not in _BETA_FORMATS:
            raise _bad("input_audio_format", f"it must be {', '.join(_BETA_FORMATS)}")
        wanted["format"] = _BETA_FORMATS[name]
    for old, new in (
        ("input_audio_transcription", "transcription"),
        ("input_audio_noise_reduction", "noise_reduction"),
        ("turn_detection", "turn_detection"),
    ):
        if old in session:
            wanted[new] = session[old]
    found: dict[str, Any] = {"type": "transcription", "audio": {"input": wanted}}
    if "include" in session:
        found["include"] = session["include"]
    return found


def _samples(data: bytes, form: Mapping[str, Any]) -> tuple[int, Samples]:
    if form["type"] == "audio/pcmu":
        return TELEPHONE_RATE_HZ, decode_mulaw(np.frombuffer(data, np.uint8))
    if form["type"] == "audio/pcma":
        return TELEPHONE_RATE_HZ, decode_alaw(np.frombuffer(data, np.uint8))
    return PCM_RATE_HZ, sockets.samples_of(data, "s16le")


def _item(item_id: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": content,
    }


def _object(request: dict[str, Any], name: str) -> dict[str, Any]:
    value = request.get(name)
    if not isinstance(value, dict):
        raise MessageError(
            "missing_required_parameter", f"{name}: it must be an object.", param=name
        )
    return value


def _bad(param: str, problem: str) -> MessageError:
    return MessageError("invalid_value", f"{param}: {problem}.", param=f"session.{param}")
