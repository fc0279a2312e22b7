"""Applies an `.eard` update to a model: the side that must not trust its input.

Everything that an update states is checked against `docs/formats/eard.md` before a byte of it is
unpacked; the new model has its hash and has passed the reader before it takes a name. Memory
does not grow with the sizes that an update states, but for the head and the map, which the format
bounds. Knows no paths but those it was called with.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
import numpy.typing as npt
import zstandard

from earshot.core.errors import ModelFileError, ModelUpdateError
from earshot.data.atomic import remove_leftovers, replaced_file
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.signature import is_signed_by, read_public_key
from earshot.modelfile.update_layout import (
    BLOCK_BYTES,
    CHECK_BYTES,
    MAX_WINDOW_LOG,
    PREAMBLE_BYTES,
    ROW_BYTES,
    SIGNATURE_BYTES,
    Operation,
    Section,
    UpdateHeader,
    num_sections,
    unpacked,
)

_CHUNK_BLOCKS = 4096  # 256 KiB at a time
_READ_BYTES = 1 << 16
_COPY_AGAIN = "The update is damaged or cut short: copy it again"
_MAKE_AGAIN = "Make the update again with `earshot model diff`"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchReport:
    """What a patch did.

    Args:
        output: The model that is now there.
        size_bytes: Its size.
        sha256: Its hash.
        signature: `none`; `checked` against the key; `unchecked`: there is one, but no key.
        was_current: The model had the update already, and nothing was written.
    """

    output: Path
    size_bytes: int
    sha256: bytes
    signature: Literal["none", "checked", "unchecked"]
    was_current: bool

    def summary(self) -> dict[str, object]:
        """What `earshot model patch` shows, JSON-ready."""
        return {
            "output": str(self.output),
            "size_bytes": self.size_bytes,
            "sha256": self.sha256.hex(),
            "signature": self.signature,
            "was_current": self.was_current,
        }


def patch_model(
    base: Path, update: Path, *, output: Path, required_key: Path | None = None
) -> PatchReport:
    """Make the new model from the old one and an update.

    Killed at any moment, the file `output` is what it was, or the new model. What killed runs
    left beside it is deleted. The new file has the permissions of the one that it replaces.

    Args:
        base: The model that the update was made for.
        update: The `.eard` file.
        output: The model to make or replace; may be `base`.
        required_key: PEM file of the public key that must have signed the update; without one a
            signature is not looked at.

    Returns:
        What was done. A base that already is the result, and is the output, is left as it is.

    Raises:
        ModelUpdateError: The update is damaged, for another model, or not signed as demanded.
        MissingExtraError: A key is given, and the extra `[sign]` is not installed.
        OSError: A file cannot be read or written.
    """
    output = output.resolve()  # a link goes on pointing to the model
    with _opened(update) as file, _opened(base) as old:
        header, signature = _verified(file, update, required_key)
        remove_leftovers(output)
        found, size = _sha256(old), old.tell()
        is_own = output.exists() and os.path.samestat(output.stat(), os.fstat(old.fileno()))
        was_current = is_own and found == header.result_sha256 != header.base_sha256
        if not was_current:
            _require_base(found, size, header, base=base, update=update)
            _write(old, file, header, update=update, output=output)
    return PatchReport(
        output=output,
        size_bytes=header.result_blocks * BLOCK_BYTES,
        sha256=header.result_sha256,
        signature=signature,
        was_current=was_current,
    )


def read_update(file: BinaryIO, *, where: str) -> tuple[UpdateHeader, bytes, bytes]:
    """Check all of an update that can be checked without its base and without unpacking it.

    Args:
        file: The update, open for reading; a real file or a `BytesIO`.
        where: Its name, for errors.

    Returns:
        Its header, the SHA-256 that it ends in, and its signature, empty if it has none.

    Raises:
        ModelUpdateError: A rule of the format is broken, or the file is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    fixed = file.read(PREAMBLE_BYTES)
    fixed += file.read(ROW_BYTES * num_sections(where, fixed, file_bytes=size))
    header = unpacked(where, fixed, file_bytes=size)
    digest = hashlib.sha256(fixed)
    left = header.checked_bytes - len(fixed)
    while left > 0 and (chunk := file.read(min(left, _READ_BYTES))):
        digest.update(chunk)
        left -= len(chunk)
    check, signature = file.read(CHECK_BYTES), file.read(SIGNATURE_BYTES * header.is_signed)
    if digest.digest() != check or len(signature) != SIGNATURE_BYTES * header.is_signed:
        raise ModelUpdateError(
            where, "the SHA-256 at its end does not fit its bytes", remedy=_COPY_AGAIN
        )
    return header, check, signature


def _verified(
    file: BinaryIO, update: Path, required_key: Path | None
) -> tuple[UpdateHeader, Literal["none", "checked", "unchecked"]]:
    key = read_public_key(required_key) if required_key is not None else None
    header, check, signature = read_update(file, where=str(update))
    if key is None:
        return header, "unchecked" if signature else "none"
    if not signature:
        raise ModelUpdateError(
            update,
            f"the update is not signed, and must be signed by the key of {required_key}",
            remedy="Sign it with `earshot model diff --sign`",
        )
    if not is_signed_by(key, check, signature=signature):
        raise ModelUpdateError(
            update,
            f"the update was not signed by the key of {required_key}",
            remedy="Take the update from where it comes from, or the right key",
        )
    return header, "checked"


def _require_base(
    found: bytes, size: int, header: UpdateHeader, *, base: Path, update: Path
) -> None:
    if found == header.base_sha256:
        if size == header.base_blocks * BLOCK_BYTES:
            return
        raise ModelUpdateError(
            update,
            f"it says that its base has {header.base_blocks} blocks of {BLOCK_BYTES} bytes; "
            f"{base} has the right SHA-256 and {size} bytes",
            remedy=_MAKE_AGAIN,
        )
    if found == header.result_sha256:
        raise ModelUpdateError(
            update,
            f"{base} already is the model that this update leads to",
            remedy="There is nothing to do; to have it under another name, copy the file",
        )
    raise ModelUpdateError(
        update,
        f"it is made for the model with SHA-256 {header.base_sha256.hex()}, and {base} has "
        f"{found.hex()}",
        remedy="Take the update that was made for this model, or the whole new model",
    )


def _write(
    base: BinaryIO, update_file: BinaryIO, header: UpdateHeader, *, update: Path, output: Path
) -> None:
    """Write the result beside `output`, check hash and soundness, and let it take the name."""
    size = header.result_blocks * BLOCK_BYTES
    disk = os.statvfs(output.parent)
    free = disk.f_bavail * disk.f_frsize
    if size > free:
        raise ModelUpdateError(
            output,
            f"the new model has {size} bytes, and {output.parent} has {free} free beside the old",
            remedy="Make space, or name another place",
        )
    with replaced_file(output) as out:
        if output.exists():
            old = output.stat()
            for owner in ((-1, old.st_gid), (old.st_uid, -1)):
                with suppress(OSError):  # who is not root may give nothing away
                    os.fchown(out.fileno(), *owner)
            os.fchmod(out.fileno(), stat.S_IMODE(old.st_mode))
        digest = hashlib.sha256()
        with _unpacking(update):
            for chunk in result_chunks(base, update_file, header=header):
                digest.update(chunk)
                out.write(chunk)
        if digest.digest() != header.result_sha256:
            raise ModelUpdateError(
                update,
                f"the new model has SHA-256 {digest.hexdigest()}, and must have "
                f"{header.result_sha256.hex()}",
                remedy=_MAKE_AGAIN,
            )
        out.flush()
        try:
            ModelFile(Path(out.name))
        except ModelFileError as err:
            raise ModelUpdateError(
                update,
                f"the new model is not sound: {err.problem}",
                remedy="Make the update again, from a model that `earshot model verify` accepts",
            ) from None


class _BadPart(Exception):
    """What is wrong with a compressed part."""


@contextmanager
def _unpacking(update: Path) -> Iterator[None]:
    try:
        yield
    except (_BadPart, zstandard.ZstdError) as err:
        raise ModelUpdateError(
            update, f"its compressed parts cannot be used ({err})", remedy=_MAKE_AGAIN
        ) from None


def result_chunks(base: BinaryIO, update: BinaryIO, *, header: UpdateHeader) -> Iterator[bytes]:
    """The bytes of the result, a piece at a time.

    Args:
        base: The base, open for reading.
        update: The update, open for reading.
        header: What `read_update` gave for it.

    Yields:
        The head, then 256 KiB or less at a time.

    Raises:
        zstandard.ZstdError: A part is no zstd data, or asks for too large a window.
    """
    at = header.fixed_bytes
    dictionary = _read(base, 0, header.base_head_blocks * BLOCK_BYTES)
    with _part(update, at, header.head_bytes, dictionary=dictionary) as part:
        yield part.take(header.head_blocks * BLOCK_BYTES)
        part.finish()
    at += header.head_bytes

    count = header.section_blocks
    with _part(update, at, header.map_bytes) as part:
        data = part.take(-(-count // 8))
        part.finish()
    at += header.map_bytes
    packed, marks = np.frombuffer(data, np.uint8), int.from_bytes(data, "little")
    if marks.bit_count() != header.changed_blocks or marks.bit_length() > count:
        raise _BadPart(
            f"the map marks {marks.bit_count()} blocks up to block {marks.bit_length()}; it must "
            f"mark {header.changed_blocks} of {count}"
        )

    with _part(update, at, header.change_bytes) as part:
        position = 0
        for row in header.sections:
            for start in range(0, row.blocks, _CHUNK_BLOCKS):
                size = min(_CHUNK_BLOCKS, row.blocks - start)
                blocks = _base_blocks(base, row, start, size)
                flags = _bits(packed, position, size)
                changes = part.take(int(flags.sum()) * BLOCK_BYTES)
                delta = np.frombuffer(changes, np.uint8).reshape(-1, BLOCK_BYTES)
                if row.operation is Operation.XOR:
                    blocks[flags] ^= delta
                else:
                    blocks[flags] += delta
                position += size
                yield blocks.tobytes()
        part.finish()


def _base_blocks(base: BinaryIO, row: Section, start: int, size: int) -> npt.NDArray[np.uint8]:
    blocks = np.zeros((size, BLOCK_BYTES), np.uint8)
    have = max(0, min(size, row.base_blocks - start))
    data = _read(base, (row.base_block + start) * BLOCK_BYTES, have * BLOCK_BYTES)
    blocks[:have] = np.frombuffer(data, np.uint8).reshape(-1, BLOCK_BYTES)
    return blocks


def _bits(packed: npt.NDArray[np.uint8], first: int, count: int) -> npt.NDArray[np.bool_]:
    covering = packed[first // 8 : -(-(first + count) // 8)]
    bits = np.unpackbits(covering, bitorder="little")[first % 8 : first % 8 + count]
    return bits.astype(np.bool_)


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    data = file.read(count)
    if len(data) != count:
        raise _BadPart(f"the base ended at byte {offset + len(data)} while it was read")
    return data


class _Window:
    """Bytes `offset .. offset + size` of a file, for the decoder to read."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._at, self._end = file, offset, offset + size

    def read(self, count: int) -> bytes:
        self._file.seek(self._at)
        data = self._file.read(min(count, self._end - self._at))
        self._at += len(data)
        return data


class _Part:
    """A compressed part, of which exactly the expected bytes are taken."""

    def __init__(self, reader: zstandard.ZstdDecompressionReader) -> None:
        self._reader = reader

    def take(self, count: int) -> bytes:
        """The next bytes; fewer are an error."""
        pieces, left = [], count
        while left > 0 and (piece := self._reader.read(left)):
            pieces.append(piece)
            left -= len(piece)
        if left:
            raise _BadPart(f"a part ends {left} bytes early")
        return b"".join(pieces)

    def finish(self) -> None:
        """Nothing may be left."""
        if self._reader.read(1):
            raise _BadPart("a part is longer than it must be")


@contextmanager
def _part(file: BinaryIO, offset: int, size: int, *, dictionary: bytes = b"") -> Iterator[_Part]:
    raw = (
        zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if dictionary
        else None
    )
    decoder = zstandard.ZstdDecompressor(dict_data=raw, max_window_size=1 << MAX_WINDOW_LOG)
    source = cast("BinaryIO", _Window(file, offset, size)) if size else BytesIO()
    with decoder.stream_reader(
        source, read_size=_READ_BYTES, read_across_frames=True, closefd=False
    ) as reader:
        yield _Part(reader)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a real file: a pipe would block, and cannot be read twice."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelUpdateError(path, "this is not a regular file", remedy="Name a file")
    with path.open("rb") as file:
        yield file


def _sha256(file: BinaryIO) -> bytes:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_READ_BYTES):
        digest.update(chunk)
    return digest.digest()
