"""Updates: what comes out is the new model to the byte, and what is forged or damaged is refused.

The oracle reads updates straight from the page of the format, block by block, and shares no code
with the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.core.errors import ModelUpdateError
from earshot.modelfile.codecs import EncodedTensor, encode_f32, encode_int8, encode_u8
from earshot.modelfile.diff import ModelDiff, compare_models
from earshot.modelfile.patch import patch_model
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model, write_with_metadata
from earshot.session.recognizer import embedded_model_path
from tests.child_memory import child_figures
from tests.tiny_model import tiny_parts, write_tiny_model

FIXED = 128  # bytes before the table


def write_plain(path: Path, tensors: Mapping[str, EncodedTensor], note: str = "") -> Path:
    """A model file without graphs: nothing but tensors."""
    write_model(path, name="plain", graphs={}, tensors=tensors, metadata={"note": note})
    return path


def compared(base: Path, result: Path) -> ModelDiff:
    return compare_models(ModelFile(base), ModelFile(result))


def resealed(data: bytes) -> bytes:
    """The same unsigned update with a right check at its end."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def with_field(data: bytes, offset: int, value: int) -> bytes:
    return resealed(data[:offset] + struct.pack("<I", value) + data[offset + 4 :])


def applied_by_the_page(base: bytes, update: bytes) -> bytes:
    """Oracle: sections 1 to 4 of the specification for an unsigned update, one block at a time."""
    base_blocks, result_blocks = struct.unpack_from("<II", update, 24)
    base_head, head, sections, changed, *sizes = struct.unpack_from("<7I", update, 96)
    assert update[:8] == b"\x89EAD\r\n\x1a\n"
    assert struct.unpack_from("<IIQ", update, 8) == (1, 0, len(update))
    assert hashlib.sha256(base).digest() == update[32:64]
    assert hashlib.sha256(update[:-32]).digest() == update[-32:]
    assert base_blocks * 64 == len(base)
    at, parts = FIXED + 16 * sections, []
    for number, size in enumerate(sizes):
        past = base[: 64 * base_head] if number == 0 else b""
        shared = zstandard.ZstdCompressionDict(past, dict_type=1) if past else None
        decoder = zstandard.ZstdDecompressor(dict_data=shared)
        with decoder.stream_reader(update[at : at + size]) as reader:
            parts.append(reader.read() if size else b"")
        at += size
    assert at == len(update) - 32
    out, changes = bytearray(parts[0]), iter(range(0, len(parts[2]), 64))
    assert len(out) == 64 * head
    bit = 0
    for row in range(sections):
        count, first, have, operation = struct.unpack_from("<4I", update, FIXED + 16 * row)
        for i in range(count):
            old = base[64 * (first + i) :][:64] if i < have else bytes(64)
            if parts[1][bit // 8] >> bit % 8 & 1:
                start = next(changes)
                delta = parts[2][start : start + 64]
                if operation == 0:
                    old = bytes(a ^ b for a, b in zip(old, delta, strict=True))
                else:
                    old = bytes((a + b) % 256 for a, b in zip(old, delta, strict=True))
            out += old
            bit += 1
    assert len(out) == 64 * result_blocks
    assert len(parts[2]) == 64 * changed
    return bytes(out)


def changed_parts(codec: str, kind: str) -> dict[str, object]:
    """The tiny model with one kind of change."""
    parts = tiny_parts(codec=codec)  # type: ignore[arg-type]
    tensors = parts["tensors"]
    if kind == "weights":
        parts = tiny_parts(seed=7, codec=codec)  # type: ignore[arg-type]
    elif kind == "header":
        parts["metadata"] = {"licence": "Apache-2.0", "note": "n" * 500}
    elif kind == "grown":
        tensors["tokenizer"] = encode_u8(tensors["tokenizer"].data + bytes(range(200)))
    elif kind == "shrunk":
        tensors["tokenizer"] = encode_u8(tensors["tokenizer"].data[:3])
    elif kind == "moved":
        parts["tensors"] = {"first": encode_f32(np.ones(100))} | tensors
    elif kind == "new and removed":
        del tensors["tokenizer"]
        tensors["added"] = encode_int8(np.random.default_rng(1).normal(0, 1, (40, 70)))
    elif kind == "codec":
        tensors["tokenizer"] = encode_f32(np.arange(5.0))
    else:
        assert kind == "nothing"
    return parts


@pytest.mark.parametrize("codec", ["f32_r16", "i8_r16x4"])
@pytest.mark.parametrize(
    "kind",
    ["nothing", "weights", "header", "grown", "shrunk", "moved", "new and removed", "codec"],
)
def test_the_new_model_comes_out_to_the_byte(tmp_path: Path, codec: str, kind: str) -> None:
    base = write_tiny_model(tmp_path / "old.ear", codec=codec)  # type: ignore[arg-type]
    result = tmp_path / "new.ear"
    write_model(result, **changed_parts(codec, kind))  # type: ignore[arg-type]
    difference = compared(base, result)
    size = difference.write(tmp_path / "update.eard")
    assert size == (tmp_path / "update.eard").stat().st_size == difference.size_bytes
    report = patch_model(base, tmp_path / "update.eard", output=tmp_path / "out.ear")
    assert (tmp_path / "out.ear").read_bytes() == result.read_bytes()
    assert report.sha256 == hashlib.sha256(result.read_bytes()).digest()
    assert not report.was_current and report.signature == "none"
    assert applied_by_the_page(base.read_bytes(), difference.encoded()) == result.read_bytes()
    kinds = {tensor.name: tensor.kind for tensor in difference.tensors}
    expected = {
        "header": {},
        "nothing": {},
        "grown": {"tokenizer": "changed"},
        "shrunk": {"tokenizer": "changed"},
        "moved": {"first": "whole"},
        "new and removed": {"added": "whole"},
        "codec": {"tokenizer": "whole"},
    }
    if kind != "weights":
        odd = {name: how for name, how in kinds.items() if how != "same"}
        assert {name: how for name, how in odd.items() if name != "tokenizer"} == {
            name: how for name, how in expected[kind].items() if name != "tokenizer"
        }
        assert ("tokenizer" in odd) == ("tokenizer" in expected[kind])
    assert difference.removed == (("tokenizer",) if kind == "new and removed" else ())


TENSORS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.binary(min_size=1, max_size=300), max_size=4
)


@settings(max_examples=60)
@given(
    old=TENSORS,
    new=TENSORS,
    kept=st.sets(st.sampled_from(["a", "b", "c", "d"])),
    cut=st.integers(0, 300),
    notes=st.tuples(st.text("xyz", max_size=200), st.text("xyz", max_size=200)),
)
def test_any_two_models(
    tmp_path_factory: pytest.TempPathFactory,
    old: dict[str, bytes],
    new: dict[str, bytes],
    kept: set[str],
    cut: int,
    notes: tuple[str, str],
) -> None:
    """Some tensors stay, some share a beginning, some have nothing in common, some come or go."""
    folder = tmp_path_factory.mktemp("any")
    for name in kept & set(old) & set(new):
        new[name] = (old[name][:cut] + new[name][cut:]) or b"0"
    base, result = folder / "old.ear", folder / "new.ear"
    for path, tensors, note in ((base, old, notes[0]), (result, new, notes[1])):
        write_plain(path, {name: encode_u8(data) for name, data in tensors.items()}, note)
    difference = compared(base, result)
    difference.write(folder / "u.eard")
    assert applied_by_the_page(base.read_bytes(), difference.encoded()) == result.read_bytes()
    expected = result.read_bytes()
    patch_model(base, folder / "u.eard", output=folder / "out.ear")
    assert (folder / "out.ear").read_bytes() == expected


def test_small_steps_are_stored_as_differences(tmp_path: Path) -> None:
    """Steps of one around 0 and -1 flip all bits: the smaller way is found by trial."""
    rng = np.random.default_rng(2)
    values = rng.integers(-3, 4, 20_000)
    moved = values + rng.integers(-1, 2, values.shape)
    files = []
    for name, steps in (("old", values), ("new", moved)):
        tensor = encode_u8(steps.astype(np.int8).tobytes())
        files.append(write_plain(tmp_path / f"{name}.ear", {"w": tensor}))
    difference = compared(*files)
    assert difference.header.sections[0].operation == 1
    exclusive_or = values.astype(np.int8) ^ moved.astype(np.int8)
    assert difference.size_bytes < 0.9 * len(zstandard.compress(exclusive_or.tobytes(), 19))


def test_what_a_tensor_is_called(tmp_path: Path) -> None:
    """Sent or not, larger or smaller: only what is the same is said to be the same."""
    numbers = np.arange(1.0, 101.0)
    old = {name: encode_f32(numbers) for name in ("kept", "zeroed", "cut", "other")}
    new = old | {"zeroed": encode_f32(0 * numbers), "cut": encode_f32(numbers[:48])}
    new |= {"other": encode_f32(np.random.default_rng(1).normal(0, 1, 100)), "late": old["kept"]}
    difference = compared(
        write_plain(tmp_path / "old.ear", old), write_plain(tmp_path / "new.ear", new)
    )
    kinds = {tensor.name: (tensor.kind, tensor.changed_blocks) for tensor in difference.tensors}
    assert kinds == {
        "kept": ("same", 0),
        "zeroed": ("whole", 0),
        "cut": ("changed", 0),
        "other": ("whole", 7),
        "late": ("whole", 7),
    }


def test_new_metadata_alone_is_a_small_update(tmp_path: Path) -> None:
    """Every section moves; not one block is sent."""
    base, result = embedded_model_path(), tmp_path / "new.ear"
    write_with_metadata(ModelFile(base), result, {"note": "".join(map(chr, range(32, 127))) * 20})
    difference = compared(base, result)
    assert difference.header.changed_blocks == 0
    assert difference.size_bytes < 4000
    difference.write(tmp_path / "u.eard")
    patch_model(base, tmp_path / "u.eard", output=tmp_path / "out.ear")
    assert (tmp_path / "out.ear").read_bytes() == result.read_bytes()


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path, bytes]:
    """An old model, a new one, and the bytes of the update between them."""
    rng = np.random.default_rng(3)
    old = {"w": encode_u8(rng.bytes(300)), "v": encode_u8(rng.bytes(100))}
    new = {"w": encode_u8(old["w"].data[:200] + rng.bytes(100)), "x": encode_u8(rng.bytes(70))}
    base = write_plain(tmp_path / "old.ear", old)
    result = write_plain(tmp_path / "new.ear", new, "changed")
    return base, result, compared(base, result).encoded()


@pytest.fixture
def tried(
    tmp_path: Path, small: tuple[Path, Path, bytes]
) -> Callable[[bytes], ModelUpdateError | None]:
    """Patches in place with the given bytes; the model is the old one after any error."""
    old, new = small[0].read_bytes(), small[1].read_bytes()
    folder = tmp_path / "device"
    folder.mkdir()
    model, update = folder / "model.ear", folder / "update.eard"
    model.write_bytes(old)

    def attempt(data: bytes) -> ModelUpdateError | None:
        update.unlink(missing_ok=True)  # faster than to cut the one that is there
        update.write_bytes(data)
        error = None
        try:
            patch_model(model, update, output=model)
        except ModelUpdateError as caught:
            error = caught
            assert "\n" not in str(error) and error.remedy
        assert model.read_bytes() == (new if error is None else old)
        assert sorted(os.listdir(folder)) == ["model.ear", "update.eard"]
        if error is None:
            model.write_bytes(old)
        return error

    return attempt


Attempt = Callable[[bytes], ModelUpdateError | None]


def test_cut_short_at_every_byte(small: tuple[Path, Path, bytes], tried: Attempt) -> None:
    assert tried(small[2]) is None
    for size in range(len(small[2])):
        assert tried(small[2][:size]) is not None, size
    assert tried(small[2] + b"\0") is not None


def test_every_flipped_byte_is_found(small: tuple[Path, Path, bytes], tried: Attempt) -> None:
    for at in range(len(small[2])):
        flipped = bytearray(small[2])
        flipped[at] ^= 1 + at % 255
        assert tried(bytes(flipped)) is not None, at


def test_flipped_bytes_under_a_right_check(small: tuple[Path, Path, bytes], tried: Attempt) -> None:
    """What a forger can do without a key: refused, or it leads to the very same model."""
    outcomes = [
        tried(resealed(small[2][:at] + bytes([small[2][at] ^ flip]) + small[2][at + 1 :]))
        for at in range(len(small[2]) - 32)
        for flip in (1, 0x80)
    ]
    assert sum(error is None for error in outcomes) < 0.02 * len(outcomes)


@pytest.mark.parametrize("offset", [*range(8, 32, 4), *range(96, 128, 4), *range(128, 160, 4)])
def test_numbers_at_their_limits(
    small: tuple[Path, Path, bytes], tried: Attempt, offset: int
) -> None:
    (now,) = struct.unpack_from("<I", small[2], offset)
    for value in {0, 1, now - 1, now + 1, 1 << 24, (1 << 24) + 1, 1 << 31, 0xFFFFFFFF} - {now}:
        if 0 <= value < 1 << 32:
            error = tried(with_field(small[2], offset, value))
            # The dictionary may be larger or smaller than what the head refers to, and blocks
            # that are all sent in full may be combined either way.
            if offset != 96 and not (offset >= 128 and offset % 16 == 12):
                assert error is not None, (offset, value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "this is not an .eard update"),
        (b"RIFF" + bytes(200), "this is not an .eard update"),
        (b"\x89EAR\r\n\x1a\n" + bytes(200), "this is not an .eard update"),
        (b"\x89EAD\r\n\x1a\n", "the file has 8 bytes of at least 128"),
        (b"\x89EAD\r\n\x1a\n\x02" + bytes(200), "the update has version 2; this program reads"),
    ],
)
def test_other_files(tried: Attempt, data: bytes, message: str) -> None:
    error = tried(data)
    assert error is not None and message in str(error)


def forged(
    base: Path,
    *,
    parts: tuple[bytes, bytes, bytes],
    rows: list[tuple[int, int, int, int]],
    head: int,
    changed: int,
    result_sha256: bytes = bytes(32),
) -> bytes:
    """An update with any content, from struct alone; sizes and check are right."""
    data = base.read_bytes()
    blocks = head + sum(row[0] for row in rows)
    table = b"".join(struct.pack("<4I", *row) for row in rows)
    size = FIXED + len(table) + sum(map(len, parts)) + 32
    out = b"\x89EAD\r\n\x1a\n" + struct.pack("<IIQII", 1, 0, size, len(data) // 64, blocks)
    out += hashlib.sha256(data).digest() + result_sha256
    out += struct.pack("<8I", 1, head, len(rows), changed, *map(len, parts), 0)
    out += table + b"".join(parts)
    return out + hashlib.sha256(out).digest()


def zstd(data: bytes, **parameters: int) -> bytes:
    made = zstandard.ZstdCompressionParameters.from_level(3, **parameters)
    stream = zstandard.ZstdCompressor(compression_params=made).compressobj()
    return stream.compress(data) + stream.flush()


def test_a_result_that_is_no_model(small: tuple[Path, Path, bytes], tried: Attempt) -> None:
    """The forger's hash is right; the reader has the last word."""
    garbage = b"\x89EAR\r\n\x1a\n" + bytes(56)
    error = tried(
        forged(
            small[0],
            parts=(zstd(garbage), b"", b""),
            rows=[],
            head=1,
            changed=0,
            result_sha256=hashlib.sha256(garbage).digest(),
        )
    )
    assert error is not None and "the new model is not sound" in str(error)


@pytest.mark.parametrize(
    ("parts", "changed", "message"),
    [
        ((b"x" * 20, zstd(b"\0"), b""), 0, "cannot be used"),
        ((zstd(bytes(63)), zstd(b"\0"), b""), 0, "a part ends 1 bytes early"),
        ((zstd(bytes(65)), zstd(b"\0"), b""), 0, "longer than it must be"),
        ((zstd(bytes(64)), zstd(b"\0\0"), b""), 0, "longer than it must be"),
        ((zstd(bytes(64)), zstd(b"\1"), b""), 0, "the map marks 1 blocks"),
        ((zstd(bytes(64)), zstd(b"\4"), zstd(bytes(64))), 1, "up to block 3; it must"),
        ((zstd(bytes(64)), zstd(b"\3"), zstd(bytes(64))), 2, "a part ends 64 bytes early"),
        ((zstd(bytes(64)), zstd(b"\3"), zstd(bytes(129))), 2, "longer than it must be"),
        ((zstd(bytes(64)), zstd(b"\0") + b"rest", b""), 0, "cannot be used"),
        ((zstd(bytes(64), window_log=24), zstd(b"\0"), b""), 0, "too much memory"),
        ((zstd(bytes(64)), zstd(b"\3"), zstd(bytes(128))), 2, "the new model has SHA-256"),
    ],
)
def test_parts_that_do_not_fit(
    small: tuple[Path, Path, bytes],
    tried: Attempt,
    parts: tuple[bytes, bytes, bytes],
    changed: int,
    message: str,
) -> None:
    error = tried(forged(small[0], parts=parts, rows=[(2, 0, 2, 0)], head=1, changed=changed))
    assert error is not None and message in str(error), str(error)


PATCHED = """
from pathlib import Path
from earshot.core.errors import ModelUpdateError
from earshot.modelfile.patch import patch_model
small, base, update = map(Path, sys.argv[1:])
try:
    patch_model(base, small, output=base.with_name("small.ear"))
except ModelUpdateError:
    pass
before = peak_kib()
try:
    patch_model(base, update, output=base.with_name("out.ear"))
except ModelUpdateError as error:
    print(error, file=sys.stderr)
print(peak_kib() - before)
"""
HUGE = 1 << 28


@pytest.mark.parametrize(
    ("parts", "rows", "head", "changed"),
    [
        ((zstd(bytes(HUGE)), b"", b""), [], 1, 0),
        ((zstd(bytes(64)), zstd(bytes(HUGE)), b""), [(8, 0, 0, 0)], 1, 0),
        ((zstd(bytes(64)), zstd(b"\1"), zstd(bytes(HUGE))), [(8, 0, 0, 0)], 1, 1),
        ((zstd(bytes(64)), zstd(bytes(1 << 18)), b""), [(1 << 21, 0, 0, 0)], 1, 0),
        ((zstd(bytes(64), window_log=27), zstd(b"\0"), b""), [(8, 0, 0, 0)], 1, 0),
    ],
    ids=["head", "map", "changes", "blocks", "window"],
)
def test_bombs_take_no_memory(
    small: tuple[Path, Path, bytes],
    tmp_path: Path,
    parts: tuple[bytes, bytes, bytes],
    rows: list[tuple[int, int, int, int]],
    head: int,
    changed: int,
) -> None:
    update, harmless = tmp_path / "bomb.eard", tmp_path / "harmless.eard"
    harmless.write_bytes(small[2])
    update.write_bytes(forged(small[0], parts=parts, rows=rows, head=head, changed=changed))
    (growth_kib,) = child_figures(PATCHED, harmless, small[0], update)
    assert growth_kib < 12 * 1024  # a window of 8 MiB and the pieces in hand
    assert not (tmp_path / "out.ear").exists()


def test_a_result_larger_than_the_disk(
    small: tuple[Path, Path, bytes], tried: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def nearly_full(path: Path) -> os.statvfs_result:
        return os.statvfs_result((*real(path)[:4], 0, *real(path)[5:]))

    monkeypatch.setattr(os, "statvfs", nearly_full)
    error = tried(small[2])
    assert error is not None and "has 0 free" in str(error)


def test_the_wrong_base(small: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    base, result, data = small
    (tmp_path / "u.eard").write_bytes(data)
    other = write_tiny_model(tmp_path / "other.ear")
    with pytest.raises(ModelUpdateError, match="it is made for the model with SHA-256"):
        patch_model(other, tmp_path / "u.eard", output=tmp_path / "out.ear")
    with pytest.raises(ModelUpdateError, match="already is the model that this update leads to"):
        patch_model(result, tmp_path / "u.eard", output=tmp_path / "out.ear")
    assert not (tmp_path / "out.ear").exists()
    assert patch_model(result, tmp_path / "u.eard", output=result).was_current
    grown = tmp_path / "grown.ear"
    grown.write_bytes(base.read_bytes() + b"\0")
    with pytest.raises(ModelUpdateError, match="it is made for the model"):
        patch_model(grown, tmp_path / "u.eard", output=tmp_path / "out.ear")


def test_pipes_and_folders_are_no_files(small: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ModelUpdateError, match="this is not a regular file"):
            patch_model(small[0], path, output=tmp_path / "out.ear")


def test_links_permissions_and_owners_stay(small: tuple[Path, Path, bytes], tmp_path: Path) -> None:
    base, result, data = small
    (tmp_path / "u.eard").write_bytes(data)
    link = tmp_path / "current.ear"
    link.symlink_to(base)
    base.chmod(0o640)
    with contextlib.suppress(OSError):  # only some may give files away
        os.chown(base, 4321, 1234)
    owner = base.stat().st_uid, base.stat().st_gid
    patch_model(link, tmp_path / "u.eard", output=link)
    assert (base.stat().st_uid, base.stat().st_gid) == owner
    assert link.is_symlink()
    assert base.read_bytes() == result.read_bytes()
    assert base.stat().st_mode & 0o777 == 0o640


# --- signatures -------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A private key, its public key, and the public key of somebody else."""
    pytest.importorskip("cryptography", reason="signatures need the extra [sign]")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    paths = tmp_path / "key.pem", tmp_path / "pub.pem", tmp_path / "other.pem"
    ours, theirs = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    paths[0].write_bytes(
        ours.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    for path, key in zip(paths[1:], (ours, theirs), strict=True):
        path.write_bytes(
            key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        )
    return paths


def test_only_the_right_signature_is_accepted(
    small: tuple[Path, Path, bytes], keys: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    from earshot.modelfile.signature import read_private_key

    base, result, unsigned = small
    private, public, other = keys
    signed = compared(base, result).encoded(key=read_private_key(private))
    assert len(signed) == len(unsigned) + 64
    update, output = tmp_path / "u.eard", tmp_path / "out.ear"

    def patched(data: bytes, key: Path | None) -> str:
        update.write_bytes(data)
        try:
            return patch_model(base, update, output=output, required_key=key).signature
        except ModelUpdateError as error:
            assert not output.exists()
            return str(error)
        finally:
            output.unlink(missing_ok=True)

    assert patched(signed, public) == "checked"
    assert patched(signed, None) == "unchecked"
    assert "was not signed by the key of" in patched(signed, other)
    assert "the update is not signed, and must be" in patched(unsigned, public)
    for at in range(len(signed) - 64, len(signed)):
        assert "was not signed by" in patched(
            signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :], public
        )
    # The signature taken off, or put onto another update, with everything else made right.
    bare = bytearray(signed[:-64])
    struct.pack_into("<IQ", bare, 12, 0, len(bare))
    assert "the update is not signed" in patched(resealed(bytes(bare)), public)
    moved = bytearray(compared(result, base).encoded(key=read_private_key(private)))
    moved[-64:] = signed[-64:]
    assert "was not signed by" in patched(bytes(moved), public)


def test_keys_that_are_none(keys: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from earshot.modelfile.signature import read_private_key, read_public_key

    private, public, _ = keys
    odd = tmp_path / "odd.pem"
    with pytest.raises(ModelUpdateError, match="this is no private key in PEM form"):
        read_private_key(public)
    with pytest.raises(ModelUpdateError, match="this is no public key in PEM form"):
        read_public_key(private)
    curve = generate_private_key(SECP256R1())
    odd.write_bytes(
        curve.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    with pytest.raises(ModelUpdateError, match="not of kind Ed25519"):
        read_private_key(odd)
    odd.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")
        )
    )
    with pytest.raises(ModelUpdateError, match="protected by a password"):
        read_private_key(odd)
