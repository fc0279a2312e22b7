"""Reads a WAV stream from a pipe while it is being written.

Containers are searched by jumping about in them, which a pipe does not allow; but plain WAV, as
`arecord` and `ffmpeg` write it, can be read from front to back. Anything else goes to `audio`,
which waits for the end first. Knows nothing of devices.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from earshot.core.errors import AudioError
from earshot.data.audio import BLOCK_S, AudioFile, Samples, check_rate, check_samples

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_BYTES = 0x7FFF_0000  # writers into a pipe give 0 or a huge number
_MAX_HEADER_BYTES = 1 << 20
_FULL_SCALE = {8: 128.0, 16: 32768.0, 24: 8388608.0, 32: 2147483648.0}


class Readable(Protocol):
    """What is needed of a pipe; `sys.stdin.buffer` has it."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, fewer only at the end."""

    def read1(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, as soon as there are any; none only at the end."""


class AudioPipe:
    """A WAV stream on a pipe, or any other audio once the pipe has ended.

    Has the face of `AudioFile`. Use it in a `with` block.

    Args:
        pipe: Where the bytes come from.
        name: For messages.

    Raises:
        AudioError: The pipe is empty, or not audio.
    """

    def __init__(self, pipe: Readable, *, name: str = "standard input") -> None:
        self._pipe = pipe
        self._name = name
        self._file: AudioFile | None = None
        self._taken = bytearray()  # the header, kept in case somebody else has to read it
        self.sample_rate_hz = self._num_channels = self._bits = self._promised = 0
        self._is_float = False
        if self._read_header():
            check_rate(self.sample_rate_hz, where=name)
        else:
            self._file = AudioFile(_Rejoined(bytes(self._taken), pipe, name))  # type: ignore[arg-type]
            self.sample_rate_hz = self._file.sample_rate_hz

    @property
    def duration_s(self) -> float | None:
        """Length in seconds, or None where nobody can know."""
        if self._file is not None:
            return self._file.duration_s
        return self._promised / (self._frame_bytes * self.sample_rate_hz) or None

    def blocks(
        self, *, offset_s: float = 0.0, duration_s: float | None = None
    ) -> Iterator[Samples]:
        """The sound as it arrives, at the stream's own rate.

        Args:
            offset_s: Must be 0 for a live stream.
            duration_s: Must be None for a live stream.

        Yields:
            Float32 mono, up to half a second each.

        Raises:
            AudioError: The stream ends before its header says so, or a sample is not finite.
        """
        if self._file is not None:
            yield from self._file.blocks(offset_s=offset_s, duration_s=duration_s)
            return
        if offset_s or duration_s is not None:
            raise AudioError(
                self._name,
                "a stretch was asked for, but a pipe can only be heard from its start to its end",
                remedy="Write it to a file first",
            )
        most = round(BLOCK_S * self.sample_rate_hz) * self._frame_bytes
        rest, position, left = b"", 0, self._promised or None
        while left is None or left > 0:
            data = self._pipe.read1(most if left is None else min(most, left))
            if not data:
                break
            left = None if left is None else left - len(data)
            data = rest + data
            whole = len(data) - len(data) % self._frame_bytes
            rest = data[whole:]
            if whole:
                block = self._decoded(data[:whole])
                check_samples(block, where=self._name, first=position)
                position += len(block)
                yield block
        if left:
            raise AudioError(
                self._name,
                f"the header promises {self._promised} bytes of sound but only "
                f"{self._promised - left} came; the stream is cut short",
                remedy="Look at what the program that writes it says",
            )
        if position == 0:
            raise AudioError(self._name, "there are no samples", remedy="Record it again")

    def close(self) -> None:
        """Free what was kept of the pipe; the pipe itself stays open."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> AudioPipe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _frame_bytes(self) -> int:
        return self._num_channels * self._bits // 8

    def _take(self, count: int) -> bytes:
        data = self._pipe.read(count)
        self._taken += data
        return data

    def _read_header(self) -> bool:
        """Read up to the samples; False where this is not a WAV stream that we decode."""
        head = self._take(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return False
        known = False
        while len(self._taken) < _MAX_HEADER_BYTES:
            chunk = self._take(8)
            if len(chunk) < 8:
                return False
            kind, size = struct.unpack("<4sI", chunk)
            if kind == b"data":
                self._promised = 0 if size >= _UNKNOWN_BYTES else size
                return known
            body = self._take(min(size + size % 2, _MAX_HEADER_BYTES))
            if kind == b"fmt ":
                known = self._read_format(body)
        return False

    def _read_format(self, body: bytes) -> bool:
        if len(body) < 16:
            return False
        tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
        if tag == _EXTENSIBLE and len(body) >= 26:
            tag = int.from_bytes(body[24:26], "little")
        self.sample_rate_hz, self._num_channels, self._bits = rate, channels, bits
        self._is_float = tag == _FLOAT
        if channels == 0:
            return False
        return (tag == _PCM and bits in _FULL_SCALE) or (tag == _FLOAT and bits in (32, 64))

    def _decoded(self, data: bytes) -> Samples:
        values: npt.NDArray[np.float32]
        if self._is_float:
            with np.errstate(over="ignore"):
                values = np.frombuffer(data, f"<f{self._bits // 8}").astype(np.float32)
        else:
            values = _integers(data, self._bits).astype(np.float32)
            values /= np.float32(_FULL_SCALE[self._bits])
        if self._num_channels > 1:
            values = values.reshape(-1, self._num_channels).mean(axis=1)
        return values


def _integers(data: bytes, bits: int) -> npt.NDArray[np.int32]:
    if bits == 8:  # the one unsigned size
        return np.frombuffer(data, np.uint8).astype(np.int32) - 128
    if bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] >> 8
    return np.frombuffer(data, f"<i{bits // 8}").astype(np.int32)


class _Rejoined:
    """What was taken from a pipe, then the rest of it."""

    def __init__(self, taken: bytes, pipe: Readable, name: str) -> None:
        self._taken, self._pipe, self.name = taken, pipe, name

    def read(self, size: int = -1) -> bytes:
        if self._taken:
            taken, self._taken = self._taken, b""
            return taken
        return self._pipe.read(size)
