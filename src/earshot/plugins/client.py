"""A client of Earshot's own WebSocket protocol, for asyncio. See docs/formats/stream.md.

Knows the protocol and nothing of the frameworks that use it. Needs the package websockets (extra
[serve]), which is imported on first use.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from earshot.core.errors import ConfigError, EarshotError, MissingExtraError

DEFAULT_URL = "ws://127.0.0.1:8080/v1/stream"
OPEN_TIMEOUT_S = 10.0


class StreamRefusedError(EarshotError):
    """The server does not take the stream, or ended it early.

    Args:
        code: The server's short name of the reason, such as `too_many_streams`.
        message: What it said.
        is_retryable: Whether another try may do better.
    """

    def __init__(self, code: str, message: str, *, is_retryable: bool) -> None:
        self.code = code
        self.is_retryable = is_retryable
        super().__init__(message)


class ClientStream:
    """One open stream; made by `open_stream`."""

    def __init__(self, socket: Any, ready: dict[str, Any]) -> None:
        self._socket = socket
        self.model = str(ready.get("model", ""))

    async def send(self, samples: bytes) -> None:
        """Send sound.

        Args:
            samples: In the encoding and at the rate that the stream was opened with.
        """
        await self._socket.send(samples)

    async def flush(self) -> None:
        """End the utterance that is open; its final result comes."""
        await self._socket.send('{"type":"flush"}')

    async def end(self) -> None:
        """End the stream; what was said is finished, then `events` ends."""
        await self._socket.send('{"type":"end"}')

    async def hotwords(self, phrases: Sequence[str]) -> None:
        """Replace the phrases to expect, from the next utterance on."""
        entries = [{"phrase": phrase} for phrase in phrases]
        await self._socket.send(json.dumps({"type": "hotwords", "hotwords": entries}))

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What the server says, up to its `closed`.

        Yields:
            The objects of the protocol, without `ready`; errors that are not fatal too.

        Raises:
            StreamRefusedError: The server ended the stream, or the connection was lost.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            async for message in self._socket:
                event = json.loads(message)
                _raise_if_fatal(event)
                yield event
                if event["type"] == "closed":
                    return
        except ConnectionClosed as err:
            raise _lost(err) from None
        raise _lost(None)


@asynccontextmanager
async def open_stream(
    url: str = DEFAULT_URL,
    *,
    sample_rate_hz: int = 16_000,
    encoding: str = "s16le",
    token: str | None = None,
    hotwords: Sequence[str] = (),
    language: str | None = None,
) -> AsyncIterator[ClientStream]:
    """Open a stream on a server.

    Args:
        url: `ws://` or `wss://`; without a path, `/v1/stream`.
        sample_rate_hz: Of the sound to come.
        encoding: "s16le" or "f32le".
        token: API token, if the server wants one.
        hotwords: Phrases to expect.
        language: Of the speech; None leaves it to the server.

    Yields:
        The stream, once the server is ready for sound.

    Raises:
        ConfigError: The address is none.
        StreamRefusedError: The server cannot be reached or does not take the stream.
        MissingExtraError: The package websockets is not installed.
    """
    try:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake
    except ModuleNotFoundError:
        raise MissingExtraError(
            "the streaming client", package="websockets", extra="serve"
        ) from None
    start: dict[str, Any] = {"type": "start", "sample_rate": sample_rate_hz, "encoding": encoding}
    if hotwords:
        start["hotwords"] = [{"phrase": phrase} for phrase in hotwords]
    if language is not None:
        start["language"] = language
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connecting = connect(
            stream_url(url),
            additional_headers=headers,
            subprotocols=["earshot.v1"],  # type: ignore[list-item]
            compression=None,
            open_timeout=OPEN_TIMEOUT_S,
        )
        socket = await connecting
    except (OSError, TimeoutError) as err:
        raise StreamRefusedError(
            "unreachable", f"{url}: it cannot be reached ({err}). Start `earshot serve` there.",
            is_retryable=True,
        ) from None  # fmt: skip
    except InvalidHandshake as err:
        status = getattr(getattr(err, "response", None), "status_code", 0)
        raise StreamRefusedError(
            "refused",
            f"{url}: the server refuses the connection ({err}). Check the address and the token.",
            is_retryable=status >= 500,
        ) from None
    try:
        try:
            await socket.send(json.dumps(start))
            ready = json.loads(await socket.recv())
        except ConnectionClosed as err:
            raise _lost(err) from None
        _raise_if_fatal(ready)
        yield ClientStream(socket, ready)
    finally:
        await socket.close()


def stream_url(url: str) -> str:
    """The address of the stream on a server.

    Args:
        url: With scheme `ws`, `wss`, `http` or `https`, with or without a path.

    Returns:
        The same as `ws` or `wss`, with the path `/v1/stream` where there was none.

    Raises:
        ConfigError: It is no such address.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise ConfigError(f"url is {url!r}; it must read ws://host:port or wss://host:port.")
    path = parts.path if parts.path not in ("", "/") else "/v1/stream"
    return f"{scheme}://{parts.netloc}{path}" + (f"?{parts.query}" if parts.query else "")


def _raise_if_fatal(event: dict[str, Any]) -> None:
    if event["type"] == "error" and event["fatal"]:
        code = str(event["code"])
        raise StreamRefusedError(
            code,
            str(event["message"]),
            is_retryable=code in ("internal", "idle", "shutting_down", "too_many_streams"),
        )


def _lost(error: Any) -> StreamRefusedError:
    reason = f" ({error})" if error is not None else ""
    return StreamRefusedError(
        "lost", f"The connection to the server was lost{reason}. Connect again.", is_retryable=True
    )
