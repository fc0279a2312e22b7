"""The WebSocket protocols of sherpa-onnx, Vosk and WeNet, for clients written for those servers.

All three connect to `/`; which one speaks is plain from its first message, and `/sherpa`, `/vosk`
and `/wenet` say it beforehand. Knows how each asks and answers; nothing is checked that they do
not check.

Source: the servers in k2-fsa/sherpa-onnx (streaming_server.py, online-websocket-server.cc),
alphacep/vosk-server (asr_server.py) and wenet-e2e/wenet (websocket_server.cc).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.websockets import WebSocket

from earshot.core.events import Event, Final, Partial
from earshot.core.transcript import Word
from earshot.data.audio import MAX_RATE_HZ, MIN_RATE_HZ
from earshot.serve import sockets
from earshot.serve.engine import Done, Engine, Problem, RefusedError, Session
from earshot.serve.sockets import Disconnected, MessageError, json_object, samples_of, to_json

RATE_HZ = 16_000


async def serve(socket: WebSocket, engine: Engine, *, client: str, protocol: str | None) -> None:
    """Serve one connection until it is closed.

    Args:
        socket: Not accepted yet.
        engine: Decodes.
        client: Who it is.
        protocol: "sherpa", "vosk" or "wenet"; None goes by the first message.
    """
    await socket.accept()
    try:
        first: str | bytes | None = None
        if protocol is None:
            first = await asyncio.wait_for(sockets.receive(socket), engine.limits.idle_timeout_s)
            protocol = protocol_of(first)
        elif protocol == "wenet":
            first = await asyncio.wait_for(sockets.receive(socket), engine.limits.idle_timeout_s)
        async with engine.open(client, protocol=protocol) as session:
            await _PROTOCOLS[protocol](socket, session, first)
    except TimeoutError:
        await sockets.close(socket, sockets.POLICY, "idle")
    except MessageError as err:
        await sockets.close(socket, sockets.POLICY, str(err))
    except RefusedError as err:
        await sockets.close(socket, sockets.TRY_LATER, err.code)
    except Disconnected:
        pass


def protocol_of(first: str | bytes) -> str:
    """Whose client this is.

    Args:
        first: Its first message.

    Returns:
        "sherpa" for sound and for `Done`, "vosk" for `config` and `eof`, "wenet" for `signal`.

    Raises:
        MessageError: It is none of them.
    """
    if isinstance(first, bytes) or first == "Done":
        return "sherpa"
    message = json_object(first)
    if "signal" in message:
        return "wenet"
    if "config" in message or "eof" in message:
        return "vosk"
    raise MessageError(
        "bad_message",
        "The first message belongs to none of sherpa-onnx, Vosk and WeNet. Earshot's own is at "
        "/v1/stream.",
    )


async def _messages(socket: WebSocket, first: str | bytes | None) -> AsyncIterator[str | bytes]:
    if first is not None:
        yield first
    while True:
        yield await sockets.receive(socket)


# sherpa-onnx: float32 at 16 kHz, then `Done`; an answer for every change, `Done!` at the end.


async def _serve_sherpa(socket: WebSocket, session: Session, first: str | bytes | None) -> None:
    async def read() -> None:
        try:
            async for message in _messages(socket, first):
                if isinstance(message, bytes):
                    await session.send(RATE_HZ, samples_of(message, "f32le"))
                elif message.strip() == "Done":
                    session.finish()
        except MessageError as err:
            session.fail(Problem(err.code, str(err)))

    async def write() -> None:
        segment = 0
        async for event in session.events():
            if isinstance(event, Partial | Final):
                is_final = isinstance(event, Final)
                answer = _sherpa_answer(event, segment, is_final=is_final)
                await sockets.send(socket, to_json(answer), session)
                segment += is_final
            elif isinstance(event, Problem):
                await sockets.close(socket, sockets.POLICY, event.message)
            elif isinstance(event, Done):
                await sockets.send(socket, "Done!", session)
                await sockets.close(socket)

    await sockets.together(read(), write())


def _sherpa_answer(event: Partial | Final, segment: int, *, is_final: bool) -> dict[str, Any]:
    words = event.words if isinstance(event, Final) else ()
    start_s = words[0].start_s if words else 0.0
    return {
        "text": event.text,
        # sherpa-onnx gives word pieces here; ours are whole words.
        "tokens": [word.word for word in words],
        "timestamps": [round(word.start_s - start_s, 3) for word in words],
        "ys_probs": [],
        "segment": segment,
        "start_time": round(start_s, 3),
        "is_final": is_final,
    }


# Vosk: int16, any rate by `config`, one answer a message.


@dataclass(slots=True)
class _VoskState:
    rate_hz: int = RATE_HZ
    max_alternatives: int = 0
    words: bool = True
    partial: str = ""
    finals: list[Final] = field(default_factory=list)


async def _serve_vosk(socket: WebSocket, session: Session, first: str | bytes | None) -> None:
    """One task, as every message has one answer: what is known by then."""
    state = _VoskState()
    message = first
    while True:
        if message is None:
            message = await _message_unless_ended(socket, session)
        if message is None:
            break
        if isinstance(message, bytes):
            await session.send(state.rate_hz, samples_of(message, "s16le"))
            # Give the engine the time of a round: the answer is about this sound, not older.
            await _settle(session)
            await _take(session, state)
            await sockets.send(socket, to_json(_vosk_answer(state)), session)
        elif _vosk_configure(state, json_object(message), session):
            break
        message = None
    session.finish()
    async for event in session.events():
        _vosk_note(state, event)
    await sockets.send(socket, to_json(_vosk_final(state, state.finals)), session)
    await sockets.close(socket)


async def _message_unless_ended(socket: WebSocket, session: Session) -> str | bytes | None:
    """The next message; None where the server ends the stream first."""
    receiving = asyncio.ensure_future(sockets.receive(socket))
    ended = asyncio.ensure_future(session.ended.wait())
    try:
        await asyncio.wait((receiving, ended), return_when=asyncio.FIRST_COMPLETED)
        return receiving.result() if receiving.done() else None
    finally:
        for task in (receiving, ended):
            task.cancel()
        await asyncio.gather(receiving, ended, return_exceptions=True)


def _vosk_configure(state: _VoskState, request: dict[str, Any], session: Session) -> bool:
    """Do what a text message says; True if it ends the stream."""
    if isinstance(config := request.get("config"), dict):
        rate = config.get("sample_rate", state.rate_hz)
        if not isinstance(rate, int | float) or not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise MessageError("bad_message", f"sample_rate: it is {str(rate)[:40]}.")
        state.rate_hz = int(rate)
        state.words = bool(config.get("words", True))
        alternatives = config.get("max_alternatives", 0)
        state.max_alternatives = alternatives if isinstance(alternatives, int) else 0
    if request.get("reset"):
        session.flush()
    return bool(request.get("eof"))


async def _settle(session: Session) -> None:
    for _ in range(100):
        if session._backlog_s <= 0:
            return
        await asyncio.sleep(0.002)


async def _take(session: Session, state: _VoskState) -> None:
    while session._outbox:
        event = await session.next_event()
        if isinstance(event, Done):  # the end is not here
            session._outbox.append(event)
            return
        _vosk_note(state, event)


def _vosk_note(state: _VoskState, event: Event | Problem | Done) -> None:
    if isinstance(event, Problem):
        raise MessageError(event.code, event.message)
    if isinstance(event, Partial):
        state.partial = event.text
    elif isinstance(event, Final):
        state.partial = ""
        if event.text:
            state.finals.append(event)


def _vosk_answer(state: _VoskState) -> dict[str, Any]:
    if not state.finals:
        return {"partial": state.partial}
    finals, state.finals = state.finals, []
    return _vosk_final(state, finals)


def _vosk_final(state: _VoskState, finals: list[Final]) -> dict[str, Any]:
    words = [word for final in finals for word in final.words]
    text = " ".join(final.text for final in finals)
    result = [_vosk_word(word) for word in words]
    if state.max_alternatives:
        confidence = sum(f.confidence for f in finals) / len(finals) if finals else 1.0
        best: dict[str, Any] = {"text": text, "confidence": round(confidence, 4)}
        if state.words:
            best["result"] = [{k: v for k, v in w.items() if k != "conf"} for w in result]
        return {"alternatives": [best]}
    if not state.words or not result:
        return {"text": text}
    return {"result": result, "text": text}


def _vosk_word(word: Word) -> dict[str, Any]:
    return {
        "conf": round(word.confidence, 4),
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "word": word.word,
    }


# WeNet: `start`, int16 at 16 kHz, `end`; results carry an n-best list that is JSON inside JSON.


async def _serve_wenet(socket: WebSocket, session: Session, first: str | bytes | None) -> None:
    request = json_object(first) if isinstance(first, str) else {}
    if request.get("signal") != "start":
        raise MessageError("bad_message", 'The first message must be {"signal": "start"}.')
    continuous = bool(request.get("continuous_decoding", False))
    await sockets.send(socket, to_json({"status": "ok", "type": "server_ready"}), session)

    async def read() -> None:
        try:
            async for message in _messages(socket, None):
                if isinstance(message, bytes):
                    await session.send(RATE_HZ, samples_of(message, "s16le"))
                elif json_object(message).get("signal") == "end":
                    session.finish()
        except MessageError as err:
            session.fail(Problem(err.code, str(err)))

    async def write() -> None:
        async for event in session.events():
            if isinstance(event, Partial):
                await answer("partial_result", event.text, ())
            elif isinstance(event, Final):
                await answer("final_result", event.text, event.words)
                if not continuous:
                    break
            elif isinstance(event, Problem):
                failed = {"status": "failed", "type": "server_ready", "message": event.message}
                await sockets.send(socket, to_json(failed), session)
        await sockets.send(socket, to_json({"status": "ok", "type": "speech_end"}), session)
        await sockets.close(socket)

    async def answer(kind: str, text: str, words: tuple[Word, ...]) -> None:
        best: dict[str, Any] = {"sentence": text}
        if words:
            best["word_pieces"] = [
                {"word": w.word, "start": round(w.start_s * 1000), "end": round(w.end_s * 1000)}
                for w in words
            ]
        message = {"status": "ok", "type": kind, "nbest": to_json([best])}
        await sockets.send(socket, to_json(message), session)

    await sockets.together(read(), write())


_PROTOCOLS: dict[str, Callable[..., Any]] = {
    "sherpa": _serve_sherpa,
    "vosk": _serve_vosk,
    "wenet": _serve_wenet,
}
