"""The fixed parts of an `.eard` update: its first 128 bytes, its table, and their rules.

Sections 1 and 2 of `docs/formats/eard.md`. Packs and checks numbers; reads no models and
unpacks nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from earshot.core.errors import ModelUpdateError

MAGIC = b"\x89EAD\r\n\x1a\n"
VERSION = 1
BLOCK_BYTES = 64
MAX_BLOCKS = 1 << 24  # 1 GiB
MAX_HEAD_BLOCKS = 16_385  # preamble and the largest header of a model
MAX_SECTIONS = 4096
MAX_WINDOW_LOG = 23  # 8 MiB: what every zstd decoder must offer
CHECK_BYTES = 32
SIGNATURE_BYTES = 64

_PREAMBLE = struct.Struct("<8sIIQII32s32s8I")
_ROW = struct.Struct("<4I")
PREAMBLE_BYTES = _PREAMBLE.size
ROW_BYTES = _ROW.size

_COPY_AGAIN = "The update is damaged or cut short: copy it again"
_MAKE_AGAIN = "Make the update again with `earshot model diff`"


class Operation(IntEnum):
    """How a changed block is made from the base's block and the update's."""

    XOR = 0
    SUM = 1


@dataclass(frozen=True, slots=True)
class Section:
    """A row of the table.

    Args:
        blocks: Of this section of the result.
        base_block: Where the section of the base begins.
        base_blocks: How many blocks it has, at most `blocks`; beyond are zeros.
        operation: How changed blocks are combined.
    """

    blocks: int
    base_block: int
    base_blocks: int
    operation: Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateHeader:
    """What an update says before its compressed parts.

    Args:
        base_blocks: Size of the base, blocks.
        result_blocks: Size of the result, blocks.
        base_sha256: Of the whole base.
        result_sha256: Of the whole result.
        base_head_blocks: Blocks of the base that are the dictionary of the head.
        head_blocks: Blocks of the result before its first section.
        changed_blocks: Blocks in the changes.
        head_bytes: Compressed size of the head.
        map_bytes: Compressed size of the map.
        change_bytes: Compressed size of the changes.
        is_signed: Whether a signature ends the file.
        sections: The table.
    """

    base_blocks: int
    result_blocks: int
    base_sha256: bytes = field(repr=False)
    result_sha256: bytes = field(repr=False)
    base_head_blocks: int
    head_blocks: int
    changed_blocks: int
    head_bytes: int
    map_bytes: int
    change_bytes: int
    is_signed: bool
    sections: tuple[Section, ...] = field(repr=False)

    @property
    def section_blocks(self) -> int:
        """Blocks of the result behind the head."""
        return self.result_blocks - self.head_blocks

    @property
    def fixed_bytes(self) -> int:
        """Where the first compressed part begins."""
        return PREAMBLE_BYTES + ROW_BYTES * len(self.sections)

    @property
    def checked_bytes(self) -> int:
        """How many bytes the check covers: all before it."""
        return self.fixed_bytes + self.head_bytes + self.map_bytes + self.change_bytes

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return self.checked_bytes + CHECK_BYTES + SIGNATURE_BYTES * self.is_signed

    def packed(self) -> bytes:
        """The bytes of the preamble and of the table."""
        preamble = _PREAMBLE.pack(
            MAGIC,
            VERSION,
            int(self.is_signed),
            self.file_bytes,
            self.base_blocks,
            self.result_blocks,
            self.base_sha256,
            self.result_sha256,
            self.base_head_blocks,
            self.head_blocks,
            len(self.sections),
            self.changed_blocks,
            self.head_bytes,
            self.map_bytes,
            self.change_bytes,
            0,
        )
        rows = (
            _ROW.pack(row.blocks, row.base_block, row.base_blocks, row.operation)
            for row in self.sections
        )
        return preamble + b"".join(rows)


class _Refusal(Exception):
    """What is wrong, before it is said of which file."""

    def __init__(self, problem: str, remedy: str = _MAKE_AGAIN) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


def num_sections(where: str, preamble: bytes, *, file_bytes: int) -> int:
    """How many rows follow the first 128 bytes, so that no more than they are read.

    Args:
        where: The update, for errors.
        preamble: The first bytes of the file, 128 if it has as many.
        file_bytes: Size of the file.

    Returns:
        0..4096.

    Raises:
        ModelUpdateError: The file is no update, of another version, or cut short.
    """
    try:
        return _counted(preamble, file_bytes)
    except _Refusal as refusal:
        raise ModelUpdateError(where, refusal.problem, remedy=refusal.remedy) from None


def _counted(preamble: bytes, file_bytes: int) -> int:
    if preamble[: len(MAGIC)] != MAGIC[: len(preamble)] or not preamble:
        raise _Refusal(
            "this is not an .eard update",
            "Name a file that `earshot model diff` made",
        )
    if len(preamble) < PREAMBLE_BYTES:
        raise _Refusal(f"the file has {file_bytes} bytes of at least {PREAMBLE_BYTES}", _COPY_AGAIN)
    fields = _PREAMBLE.unpack(preamble)
    if fields[1] != VERSION:
        raise _Refusal(
            f"the update has version {fields[1]}; this program reads version {VERSION}",
            "Install a newer Earshot, or make the update with this one",
        )
    if fields[3] != file_bytes:
        raise _Refusal(f"the file has {file_bytes} bytes and says {fields[3]}", _COPY_AGAIN)
    sections = int(fields[10])
    if sections > MAX_SECTIONS:
        raise _Refusal(f"the update has {sections} sections; it may have {MAX_SECTIONS}")
    if PREAMBLE_BYTES + sections * ROW_BYTES > file_bytes:
        raise _Refusal(f"the file ends inside its table of {sections} sections", _COPY_AGAIN)
    return sections


def unpacked(where: str, fixed: bytes, *, file_bytes: int) -> UpdateHeader:
    """Read preamble and table, and check every rule that they can break.

    Args:
        where: The update, for errors.
        fixed: The bytes of both.
        file_bytes: Size of the file.

    Returns:
        The header; all its numbers lie within their limits and fit together.

    Raises:
        ModelUpdateError: A rule of the format is broken.
    """
    try:
        return _checked(fixed, file_bytes)
    except _Refusal as refusal:
        raise ModelUpdateError(where, refusal.problem, remedy=refusal.remedy) from None


def _checked(fixed: bytes, file_bytes: int) -> UpdateHeader:
    sections = _counted(fixed[:PREAMBLE_BYTES], file_bytes)
    _, _, signature, _, base, result, base_sha256, result_sha256, *rest = _PREAMBLE.unpack(
        fixed[:PREAMBLE_BYTES]
    )
    base_head, head, _, changed, head_bytes, map_bytes, change_bytes, reserved = rest
    for what, value, least, most in (
        ("signature kind", signature, 0, 1),
        ("base blocks", base, 1, MAX_BLOCKS),
        ("result blocks", result, 1, MAX_BLOCKS),
        ("base head", base_head, 1, min(base, MAX_HEAD_BLOCKS)),
        ("result head", head, 1, min(result, MAX_HEAD_BLOCKS)),
        ("changed blocks", changed, 0, max(0, result - head)),
        ("reserved", reserved, 0, 0),
    ):
        if not least <= value <= most:
            raise _Refusal(f"the field '{what}' is {value}; it must be in {least}..{most}")
    if (map_bytes == 0) != (sections == 0) or (change_bytes == 0) != (changed == 0):
        raise _Refusal(
            f"{map_bytes} bytes of map for {sections} sections, {change_bytes} bytes for "
            f"{changed} changed blocks; a part is empty exactly when it stands for nothing"
        )
    rows = []
    for index in range(sections):
        blocks, base_block, base_blocks, operation = _ROW.unpack_from(
            fixed, PREAMBLE_BYTES + index * ROW_BYTES
        )
        if (
            blocks < 1
            or base_blocks > blocks
            or base_block + base_blocks > base
            or (base_blocks == 0 and base_block > 0)
            or operation not in (Operation.XOR, Operation.SUM)
        ):
            raise _Refusal(
                f"section {index} is {blocks} blocks from {base_blocks} blocks at {base_block} "
                f"of a base of {base}, by operation {operation}; that breaks a rule"
            )
        rows.append(Section(blocks, base_block, base_blocks, Operation(operation)))
    if head + sum(row.blocks for row in rows) != result:
        raise _Refusal(
            f"head and sections have {head + sum(row.blocks for row in rows)} blocks, "
            f"and the result {result}"
        )
    header = UpdateHeader(
        base_blocks=base,
        result_blocks=result,
        base_sha256=base_sha256,
        result_sha256=result_sha256,
        base_head_blocks=base_head,
        head_blocks=head,
        changed_blocks=changed,
        head_bytes=head_bytes,
        map_bytes=map_bytes,
        change_bytes=change_bytes,
        is_signed=bool(signature),
        sections=tuple(rows),
    )
    if header.file_bytes != file_bytes:
        raise _Refusal(f"the parts have {header.file_bytes} bytes, and the file {file_bytes}")
    return header
