"""Compares two `.ear` models and writes the `.eard` update that turns one into the other.

Tensors are compared with those of the same name, block by block, wherever they lie in the files.
Takes models that have passed the reader; `patch` is the side that must not trust its input.
Source: `docs/formats/eard.md`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import zstandard

from earshot.core.errors import ModelFileError
from earshot.data.atomic import replaced_file
from earshot.modelfile.reader import ModelFile, TensorInfo
from earshot.modelfile.signature import signature_of
from earshot.modelfile.update_layout import (
    BLOCK_BYTES,
    MAX_BLOCKS,
    MAX_WINDOW_LOG,
    Operation,
    Section,
    UpdateHeader,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Blocks = npt.NDArray[np.uint8]  # (N, 64)

_LEVEL = 19
_TRIAL_LEVEL = 3  # ranks the ways to store a section; the order rarely differs at level 19
_MIN_WINDOW_LOG = 10


@dataclass(frozen=True, slots=True)
class TensorChange:
    """What an update does to one tensor of the result.

    Args:
        name: The tensor.
        kind: `same`, `changed` (stored against the base's tensor of that name), or `whole` (new,
            or too different).
        blocks: Its size in blocks of 64 bytes.
        changed_blocks: How many of them the update carries.
    """

    name: str
    kind: Literal["same", "changed", "whole"]
    blocks: int
    changed_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDiff:
    """The difference of two models, ready to be written.

    Args:
        base: The model that devices have.
        result: The model that they shall have.
        tensors: One row for every tensor of the result.
        removed: Names of tensors that only the base has.
        header: The fixed parts of an unsigned update.
        parts: Head, map and changes, compressed.
    """

    base: ModelFile
    result: ModelFile
    tensors: tuple[TensorChange, ...]
    removed: tuple[str, ...]
    header: UpdateHeader
    parts: tuple[bytes, bytes, bytes]

    @property
    def size_bytes(self) -> int:
        """The size of the update without a signature."""
        return self.header.file_bytes

    def summary(self) -> dict[str, object]:
        """What `earshot model diff` shows.

        Returns:
            JSON-ready: `base` and `result` (`path, size_bytes, sha256`), `size_bytes` of the
            update without a signature, `share` of the result's size, `blocks`,
            `changed_blocks`, `tensors` (`name, kind, blocks, changed_blocks`) and `removed`.
        """
        return {
            "base": _described(self.base, self.header.base_sha256),
            "result": _described(self.result, self.header.result_sha256),
            "size_bytes": self.size_bytes,
            "share": self.size_bytes / self.result.size_bytes,
            "blocks": self.header.section_blocks,
            "changed_blocks": self.header.changed_blocks,
            "tensors": [
                {
                    "name": tensor.name,
                    "kind": tensor.kind,
                    "blocks": tensor.blocks,
                    "changed_blocks": tensor.changed_blocks,
                }
                for tensor in self.tensors
            ],
            "removed": list(self.removed),
        }

    def write(self, path: Path, *, key: Ed25519PrivateKey | None = None) -> int:
        """Write the update.

        Args:
            path: The `.eard` file to make or replace.
            key: Signs it; without one it is unsigned.

        Returns:
            Its size in bytes.

        Raises:
            OSError: The file cannot be written.
        """
        data = self.encoded(key=key)
        with replaced_file(path) as file:
            file.write(data)
        return len(data)

    def encoded(self, *, key: Ed25519PrivateKey | None = None) -> bytes:
        """The bytes of the update, signed if there is a key."""
        header = replace(self.header, is_signed=key is not None)
        body = header.packed() + b"".join(self.parts)
        check = hashlib.sha256(body).digest()
        return body + check + (signature_of(check, key=key) if key is not None else b"")


def compare_models(base: ModelFile, result: ModelFile) -> ModelDiff:
    """Find what turns one model into another.

    Args:
        base: The model that devices have.
        result: The model that they shall have.

    Returns:
        The difference; it needs memory for both files.

    Raises:
        ModelFileError: A file is larger than updates can be, or changed while it was read.
        OSError: A file cannot be read.
    """
    base_data, result_data = _content(base), _content(result)
    base_blocks, result_blocks = _blocks(base_data), _blocks(result_data)
    known = {tensor.name: tensor for tensor in base.tensors}
    rows: list[Section] = []
    changes: list[TensorChange] = []
    flags: list[npt.NDArray[np.bool_]] = []
    carried: list[Blocks] = []
    for tensor in result.tensors:
        wanted = result_blocks[_extent(tensor)]
        old = known.get(tensor.name)
        row, flag, carry = _smallest(wanted, base_blocks, old, tensor.codec)
        rows.append(row)
        flags.append(flag)
        carried.append(carry)
        kind: Literal["same", "changed", "whole"] = "whole"
        if old is not None and row.base_blocks:
            kind = "changed" if len(carry) or old.shape != tensor.shape else "same"
        changes.append(TensorChange(tensor.name, kind, row.blocks, len(carry)))

    head = _head_blocks(result, len(result_blocks))
    base_head = _head_blocks(base, len(base_blocks))
    dictionary = base_data[: base_head * BLOCK_BYTES]
    changed = sum(map(len, carried))
    parts = (
        _compressed(result_data[: head * BLOCK_BYTES], dictionary=dictionary),
        _compressed(np.packbits(np.concatenate(flags), bitorder="little").tobytes())
        if flags
        else b"",
        _compressed(np.concatenate(carried).tobytes()) if changed else b"",
    )
    header = UpdateHeader(
        base_blocks=len(base_blocks),
        result_blocks=len(result_blocks),
        base_sha256=hashlib.sha256(base_data).digest(),
        result_sha256=hashlib.sha256(result_data).digest(),
        base_head_blocks=base_head,
        head_blocks=head,
        changed_blocks=changed,
        head_bytes=len(parts[0]),
        map_bytes=len(parts[1]),
        change_bytes=len(parts[2]),
        is_signed=False,
        sections=tuple(rows),
    )
    names = {tensor.name for tensor in result.tensors}
    return ModelDiff(
        base=base,
        result=result,
        tensors=tuple(changes),
        removed=tuple(name for name in known if name not in names),
        header=header,
        parts=parts,
    )


def _smallest(
    wanted: Blocks, base_blocks: Blocks, base: TensorInfo | None, codec: str
) -> tuple[Section, npt.NDArray[np.bool_], Blocks]:
    """The way to store a section that takes least, by trial: its row, flags and carried blocks.

    Weights that moved by a step or two of int8 are small numbers as differences, but many
    different bytes as exclusive ors wherever a sign or a carry changed; packed codes and floats are
    the other way round.
    """
    candidates: list[tuple[Section, Blocks]] = [
        (Section(len(wanted), 0, 0, Operation.XOR), wanted),
    ]
    if base is not None and base.codec == codec:
        extent = _extent(base)
        count = min(len(wanted), extent.stop - extent.start)
        old = np.zeros_like(wanted)
        old[:count] = base_blocks[extent.start : extent.start + count]
        for operation, delta in (
            (Operation.XOR, wanted ^ old),
            (Operation.SUM, wanted - old),
        ):
            candidates.append((Section(len(wanted), extent.start, count, operation), delta))
        if np.array_equal(old, wanted) and count == len(wanted):
            candidates = candidates[1:2]
    trials: list[tuple[int, Section, npt.NDArray[np.bool_], Blocks]] = []
    for row, delta in candidates:
        flag: npt.NDArray[np.bool_] = np.any(delta, axis=1)
        carry = delta[flag]
        size = len(zstandard.compress(carry.tobytes(), _TRIAL_LEVEL))
        trials.append((size, row, flag, carry))
    return min(trials, key=lambda trial: trial[0])[1:]


def _compressed(data: bytes, *, dictionary: bytes = b"") -> bytes:
    """Pack with the smallest window that sees everything, up to the format's limit."""
    log = (len(data) + len(dictionary)).bit_length()
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(data),
        dict_size=len(dictionary),
        window_log=min(max(log, _MIN_WINDOW_LOG), MAX_WINDOW_LOG),
        write_content_size=False,  # a frame with its size would ask for a window of that size
        write_dict_id=False,
    )
    raw = (
        zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if dictionary
        else None
    )
    return zstandard.ZstdCompressor(dict_data=raw, compression_params=parameters).compress(data)


def _content(model: ModelFile) -> bytes:
    data = model.path.read_bytes()
    if len(data) != model.size_bytes or len(data) % BLOCK_BYTES:
        raise ModelFileError(
            model.path,
            f"the file has {len(data)} bytes and had {model.size_bytes} when it was opened",
            remedy="Wait until nothing writes to it, and run the command again",
        )
    if len(data) > MAX_BLOCKS * BLOCK_BYTES:
        raise ModelFileError(
            model.path,
            f"the file has {len(data)} bytes; updates are for models of at most "
            f"{MAX_BLOCKS * BLOCK_BYTES}",
            remedy="Ship the whole model",
        )
    return data


def _blocks(data: bytes) -> Blocks:
    return np.frombuffer(data, np.uint8).reshape(-1, BLOCK_BYTES)


def _extent(tensor: TensorInfo) -> slice:
    """The blocks of a section, padding included."""
    first = tensor.offset // BLOCK_BYTES
    return slice(first, first - (-tensor.num_bytes // BLOCK_BYTES))


def _head_blocks(model: ModelFile, blocks: int) -> int:
    """Blocks before the first section; the whole file if there is none."""
    return _extent(model.tensors[0]).start if model.tensors else blocks


def _described(model: ModelFile, sha256: bytes) -> dict[str, object]:
    return {
        "path": str(model.path),
        "size_bytes": model.size_bytes,
        "sha256": sha256.hex(),
    }
