"""Finds audio files that were cut short, from the sizes that their own headers promise.

Decoders play what is there and call it the whole, so a half-copied recording would be
transcribed without a word of warning. Knows just enough of each container to compare a promise
with the file's size; does not decode and does not judge anything else.
"""

import struct
from typing import BinaryIO

# Programs that write into a pipe cannot know the length: they leave 0 or a huge number.
_UNKNOWN_SIZE = 0x7FFF_0000
_MP3_SLACK_BYTES = 2048  # encoders disagree on whether the information frame counts itself
_OGG_TAIL_BYTES = 70_000  # a page is at most 65,307 bytes
_MP3_HEAD_BYTES = 4096


def missing_sound(file: BinaryIO) -> tuple[int, int] | None:
    """Compare what a header promises with what the file holds.

    Args:
        file: An audio file, open for reading and able to seek; its position is not kept.

    Returns:
        `(promised, present)` in bytes where less is present than promised, else None. None
        too for containers that promise nothing.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if len(head) < 12:
        return None
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return _chunk_shortfall(file, size, b"data", "<")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _chunk_shortfall(file, size, b"SSND", ">")
    if head[:4] == b".snd":
        start, promised = struct.unpack(">II", head[4:])
        return _shortfall(promised, size - start)
    if head[:4] == b"OggS":
        return _ogg_shortfall(file, size)
    if head[:3] == b"ID3" or (head[0] == 0xFF and head[1] >= 0xE0):
        return _mp3_shortfall(file, size)
    return None


def _shortfall(promised: int, present: int, *, slack: int = 0) -> tuple[int, int] | None:
    if promised == 0 or promised >= _UNKNOWN_SIZE or present + slack >= promised:
        return None
    return promised, max(present, 0)


def _chunk_shortfall(
    file: BinaryIO, size: int, wanted: bytes, byte_order: str
) -> tuple[int, int] | None:
    """Walk the chunks of a RIFF or AIFF file to the one that holds the samples."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{byte_order}4sI", file.read(8))
        if name == wanted:
            return _shortfall(length, size - position - 8)
        position += 8 + length + length % 2  # chunks start at even offsets
    return None


def _ogg_shortfall(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Ogg promises no total, but its last page says how long that page is."""
    file.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = file.read()
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return size + 1, size
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return _shortfall(size - len(page) + length, size)


def _mp3_shortfall(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """The first frame of most MP3 files tells the number of bytes that follow."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        # An ID3 length has seven bits a byte, so that it never looks like a frame.
        start = 10 + sum((head[9 - i] & 0x7F) << (7 * i) for i in range(4))
    file.seek(start)
    frame = file.read(_MP3_HEAD_BYTES)
    for tag in (b"Xing", b"Info"):
        at = frame.find(tag)
        if at >= 0 and at + 16 <= len(frame):
            flags, _, promised = struct.unpack(">III", frame[at + 4 : at + 16])
            # Bit 0: a frame count comes first; bit 1: a byte count follows it.
            if flags & 3 == 3:
                return _shortfall(promised, size - start, slack=_MP3_SLACK_BYTES)
    return None
