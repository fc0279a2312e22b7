"""What all WebSocket protocols share: bytes to samples, JSON in and out, two tasks a connection.

Knows nothing of any one protocol.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from earshot.core.errors import EarshotError
from earshot.serve.engine import Samples, Session

NORMAL, POLICY, INTERNAL, TRY_LATER = 1000, 1008, 1011, 1013
MAX_DEPTH = 32  # of JSON from clients
DTYPES: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}


class MessageError(EarshotError):
    """A message that does not keep to the protocol.

    Args:
        code: A short name that programs can go by.
        message: What is wrong and what to do.
        param: The field that is to blame, if one is.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        self.code = code
        self.param = param
        super().__init__(message)


class Disconnected(Exception):
    """The client is gone."""


async def receive(socket: WebSocket) -> str | bytes:
    """The next message: text as `str`, binary as `bytes`.

    Raises:
        Disconnected: There will be none.
    """
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise Disconnected
    text = message.get("text")
    return text if text is not None else message.get("bytes") or b""


async def send(socket: WebSocket, text: str, session: Session | None = None) -> None:
    """Send a text; the time it takes counts against the session of a client that does not read.

    Raises:
        Disconnected: The client is gone.
    """
    if session is not None:
        session.sending_since = time.monotonic()
    try:
        await socket.send_text(text)
    except (WebSocketDisconnect, RuntimeError, OSError) as err:
        raise Disconnected from err
    finally:
        if session is not None:
            session.sending_since = None


async def close(socket: WebSocket, code: int = NORMAL, reason: str = "") -> None:
    """Close, if it is not closed yet."""
    if socket.application_state == WebSocketState.CONNECTED:
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            await socket.close(code, reason[:100])


async def together(reading: Coroutine[Any, Any, None], writing: Coroutine[Any, Any, None]) -> None:
    """Run both sides of a connection.

    The connection is over when the writing is; the reading may end earlier, when the client has
    said all, or be cut off, when the server has.

    Raises:
        Disconnected: The client is gone.
    """
    reader, writer = asyncio.ensure_future(reading), asyncio.ensure_future(writing)
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        if not writer.done():
            reader.result()
        await writer
    finally:
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)


def samples_of(data: bytes, encoding: str) -> Samples:
    """The samples of a binary message.

    Args:
        data: Little-endian, mono.
        encoding: A key of `DTYPES`.

    Returns:
        Shape (n,).

    Raises:
        MessageError: The length is no multiple of the sample size.
    """
    dtype = DTYPES[encoding]
    if len(data) % dtype.itemsize:
        raise MessageError(
            "bad_audio",
            f"audio: the message has {len(data)} bytes; {encoding} takes {dtype.itemsize} a "
            "sample. Send whole samples.",
        )
    samples: Samples = np.frombuffer(data, dtype)
    return samples


def to_json(value: Any) -> str:
    """A value as JSON text, letters of every script as themselves."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def json_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object in a message.

    Args:
        text: What came.

    Returns:
        The object.

    Raises:
        MessageError: It is no JSON object, or nested too deeply.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MessageError(
            "bad_message", "message: it is not JSON. Send one JSON object a text message."
        ) from None
    if not isinstance(value, dict):
        raise MessageError(
            "bad_message",
            f"message: it is a JSON {type(value).__name__}; it must be an object.",
        )
    if _depth(value) > MAX_DEPTH:
        raise MessageError("bad_message", f"message: it is nested deeper than {MAX_DEPTH} levels.")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _depth(value: Any) -> int:
    """Levels of nesting, without recursion: the depth comes from the client."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        item, level = waiting.pop()
        deepest = max(deepest, level)
        if level > MAX_DEPTH:
            return level
        children = item.values() if isinstance(item, dict) else item
        waiting += [(child, level + 1) for child in children if isinstance(child, dict | list)]
    return deepest
