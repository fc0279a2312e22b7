"""Wyoming's framing: a line of JSON, then as many bytes of JSON and of payload as it says.

Bounded in every part, unlike the reference reader, because anybody on the network may write.
Knows nothing of what events mean.

Source: https://github.com/OHF-Voice/wyoming, version 1.10.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from earshot.core.errors import EarshotError

MAX_LINE_BYTES = 65_536
MAX_DATA_BYTES = 1_048_576
VERSION = "1.10.2"  # of the protocol that this speaks


class FrameError(EarshotError):
    """Bytes that are no event; the connection cannot go on, as nobody knows where the next is."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event.

    Args:
        type: Such as "audio-chunk".
        data: Its fields.
        payload: Its bytes, often none.
    """

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        """The event as it goes over the wire."""
        header: dict[str, Any] = {"type": self.type, "version": VERSION}
        data = json.dumps(self.data, ensure_ascii=False).encode() if self.data else b""
        if data:
            header["data_length"] = len(data)
        if self.payload:
            header["payload_length"] = len(self.payload)
        return json.dumps(header, ensure_ascii=False).encode() + b"\n" + data + self.payload


async def read_frame(reader: asyncio.StreamReader, *, max_payload_bytes: int) -> Frame | None:
    """The next event.

    Args:
        reader: Made with a limit of at least `MAX_LINE_BYTES`.
        max_payload_bytes: The largest payload that is taken.

    Returns:
        The event, or None where the connection ends between two.

    Raises:
        FrameError: It is broken or too large, or the connection ends inside it.
    """
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as err:
        if not err.partial.strip():
            return None
        raise FrameError("The connection ended in the middle of a line.") from None
    except asyncio.LimitOverrunError:
        raise FrameError(f"A line is longer than {MAX_LINE_BYTES} bytes.") from None
    if len(line) > MAX_LINE_BYTES:
        raise FrameError(f"A line is longer than {MAX_LINE_BYTES} bytes.")
    header = _object(line, "The line of an event")
    kind = header.get("type")
    if not isinstance(kind, str):
        raise FrameError("An event has no type. It must be a JSON object with a text as its type.")
    data_length = _length(header, "data_length", MAX_DATA_BYTES)
    payload_length = _length(header, "payload_length", max_payload_bytes)
    data = header.get("data")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise FrameError(f"The data of {kind[:40]!r} is no JSON object.")
    try:
        if data_length:
            data = {**data, **_object(await reader.readexactly(data_length), "The data")}
        payload = await reader.readexactly(payload_length) if payload_length else b""
    except asyncio.IncompleteReadError:
        raise FrameError(f"The connection ended in the middle of {kind[:40]!r}.") from None
    return Frame(kind, data, payload)


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise FrameError(f"{what} is not JSON.") from None
    if not isinstance(value, dict):
        raise FrameError(f"{what} is a JSON {type(value).__name__}; it must be an object.")
    return value


def _length(header: Mapping[str, Any], name: str, most: int) -> int:
    value = header.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise FrameError(f"{name} is {str(value)[:40]}; it must be a whole number up to {most}.")
    return value
