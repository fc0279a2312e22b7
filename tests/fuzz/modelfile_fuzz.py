"""Fuzzes the Python side of model files with atheris: the patcher, and the reader.

    python tests/fuzz/modelfile_fuzz.py patch build/corpus-patch build/seeds/updates
    python tests/fuzz/modelfile_fuzz.py read build/corpus-read build/seeds/models

What follows the target is for libFuzzer, such as -max_total_time=600. An input of `patch` begins
with a byte that says how much of the rest is made right, because hardly any bytes pass a SHA-256
by chance: even, nothing; 1, 5, 9 and so on, sizes and check; 3, 7, 11 and so on: an update is
built from the bytes, with the hash of what an implementation written another way makes of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import atheris
import zstandard

with atheris.instrument_imports(include=["earshot"]):  # before anything else imports the package
    from earshot.core.errors import ModelFileError, ModelUpdateError
    from earshot.modelfile.patch import patch_model
    from earshot.modelfile.reader import ModelFile

from write_seeds import write_base

FIXED = 128
MAX_DEQUANTISED = 1 << 20

# A file system in memory, where there is one: an input is two or three files. atheris ends without
# a last word from Python, so the folder is that of every run: one run a target at a time.
_shared = Path("/dev/shm")
folder = (_shared if _shared.is_dir() else Path(tempfile.gettempdir())) / (
    f"earshot-fuzz-{sys.argv[1] if len(sys.argv) > 1 else 'none'}"
)
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir()
base = write_base(folder / "base.ear")
BASE = base.read_bytes()


def require(holds: bool, error: Exception) -> None:
    """A refusal that is not as it must be is a finding."""
    if not holds:
        raise AssertionError(repr(error)) from error


def mended(data: bytes) -> bytes:
    """The same update with the size of the file, of the last part, and the check made right."""
    if len(data) < FIXED + 32:
        return data
    out = bytearray(data[:-32])
    struct.pack_into("<IQ", out, 12, 0, len(data))
    sections, _, head, marks = struct.unpack_from("<4I", out, 104)
    rest = len(out) - FIXED - 16 * sections - head - marks
    if 0 <= rest < 1 << 32:
        struct.pack_into("<I", out, 120, rest)
    return bytes(out) + hashlib.sha256(out).digest()


def built(data: bytes) -> tuple[bytes, bytes]:
    """An update of random rows and changes, and the result that it must lead to."""
    given = atheris.FuzzedDataProvider(data)
    blocks = len(BASE) // 64
    rows, result, marks, changes = [], bytearray(), [], bytearray()
    head = given.ConsumeIntInRange(1, 4)
    base_head = given.ConsumeIntInRange(1, blocks)
    top = given.ConsumeBytes(64 * head).ljust(64 * head, b"\0")
    for _ in range(given.ConsumeIntInRange(0, 6)):
        count = given.ConsumeIntInRange(1, 40)
        first = given.ConsumeIntInRange(0, blocks)
        have = given.ConsumeIntInRange(0, min(count, blocks - first))
        operation = given.ConsumeIntInRange(0, 1)
        rows.append((count, first if have else 0, have, operation))
        for i in range(count):
            old = BASE[64 * (first + i) :][:64] if i < have else bytes(64)
            marks.append(given.ConsumeBool())
            if marks[-1]:
                delta = given.ConsumeBytes(64).ljust(64, b"\1")
                changes += delta
                if operation:
                    old = bytes((a + b) % 256 for a, b in zip(old, delta, strict=True))
                else:
                    old = bytes(a ^ b for a, b in zip(old, delta, strict=True))
            result += old
    bits = sum(mark << i for i, mark in enumerate(marks))
    past = zstandard.ZstdCompressionDict(BASE[: 64 * base_head], dict_type=1)
    parts = (
        zstandard.ZstdCompressor(dict_data=past).compress(top),
        zstandard.compress(bits.to_bytes(-(-len(marks) // 8), "little")) if rows else b"",
        zstandard.compress(bytes(changes)) if changes else b"",
    )
    whole = top + bytes(result)
    table = b"".join(struct.pack("<4I", *row) for row in rows)
    size = FIXED + len(table) + sum(map(len, parts)) + 32
    out = b"\x89EAD\r\n\x1a\n" + struct.pack("<IIQII", 1, 0, size, blocks, len(whole) // 64)
    out += hashlib.sha256(BASE).digest() + hashlib.sha256(whole).digest()
    out += struct.pack("<8I", base_head, head, len(rows), sum(marks), *map(len, parts), 0)
    out += table + b"".join(parts)
    return out + hashlib.sha256(out).digest(), whole


def patch(data: bytes) -> None:
    """One input of the target `patch`."""
    kind, rest = data[0] % 4 if data else 0, data[1:]
    expected = None
    if kind == 3:
        update_bytes, expected = built(rest)
    else:
        update_bytes = mended(rest) if kind == 1 else rest
    update, output = folder / "update.eard", folder / "out.ear"
    update.write_bytes(update_bytes)
    output.write_bytes(b"old")
    try:
        report = patch_model(base, update, output=output)
    except ModelUpdateError as error:
        require(bool(error.problem and error.remedy) and "\n" not in str(error), error)
        require(output.read_bytes() == b"old", error)
        # What was built is right, but hardly ever a model.
        require(expected is None or "the new model is not sound" in error.problem, error)
    else:
        made = output.read_bytes()
        assert hashlib.sha256(made).digest() == report.sha256
        assert expected is None or made == expected
        ModelFile(output)
    assert base.read_bytes() == BASE
    assert sorted(os.listdir(folder)) == ["base.ear", "out.ear", "update.eard"]


def read(data: bytes) -> None:
    """One input of the target `read`: as it is if its last bit is 0, else with right sums."""
    if len(data) > 32 and data[-1] & 1:
        header = min(struct.unpack_from("<I", data, 12)[0], len(data) - 32)
        start = data[:12] + struct.pack("<IQ", header, len(data))
        check = zlib.crc32(data[32 : 32 + header], zlib.crc32(start))
        data = start + struct.pack("<II", check, 0) + data[32:]
    path = folder / "input.ear"
    path.write_bytes(data)
    try:
        model = ModelFile(path)
    except ModelFileError as error:
        require(bool(error.problem and error.remedy) and "\n" not in str(error), error)
        return
    json.dumps(model.summary())
    for tensor in model.tensors:
        assert len(model.tensor_bytes(tensor.name)) == tensor.num_bytes
        if tensor.num_bytes < MAX_DEQUANTISED:
            assert model.dequantise(tensor.name).shape == tensor.shape


if __name__ == "__main__":
    targets = {"patch": patch, "read": read}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        raise SystemExit("usage: modelfile_fuzz.py patch|read [CORPUS...] [libFuzzer options]")
    target = targets[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
