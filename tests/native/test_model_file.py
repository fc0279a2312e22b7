"""The `.ear` reader against sound files and against every kind of damage.

Files come from `ear_builder`, which shares no code with the reader or the real
writer. An attack passes when the reader says `ModelFileError`; a crash would
take the test run with it.
"""

from __future__ import annotations

import copy
import json
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ear_builder as eb
import numpy as np
import pytest

from earshot import _native

Opener = Callable[[bytes], _native.ModelFile]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A file in memory where there is such a folder: it is written tens of thousands of times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path / "m.ear"
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "m.ear"


@pytest.fixture
def opened(path: Path) -> Opener:
    def open_bytes(data: bytes) -> _native.ModelFile:
        path.write_bytes(data)
        return _native.ModelFile(str(path))

    return open_bytes


def small_file() -> bytes:
    """Every codec, an odd number of rows and columns, and a state, in under 4 kB."""
    rng = np.random.default_rng(0)
    return eb.graph_file(
        [
            {"op": "stack", "in": ["x"], "out": "s", "factor": 2},
            {"op": "linear", "in": ["s"], "out": "a", "tensors": {"weight": "w8", "bias": "b"}},
            {"op": "linear", "in": ["a"], "out": "out", "tensors": {"weight": "w32"}},
        ],
        {
            "w8": ("i8_r16x4", rng.standard_normal((5, 6))),
            "b": ("f32", rng.standard_normal(5)),
            "w32": ("f32_r16", rng.standard_normal((3, 5))),
            "tokenizer": ("u8", np.arange(7)),
        },
    )


def test_reads_what_was_written(opened: Opener) -> None:
    rng = np.random.default_rng(1)
    ear = eb.Ear({"name": "t", "graphs": {}, "metadata": {"licence": "CC0-1.0"}, "later": [1]})
    values: dict[str, Any] = {
        "vector": rng.standard_normal(7).astype(np.float32),
        "cube": rng.standard_normal((2, 3, 4)).astype(np.float32),
        "packed": rng.standard_normal((35, 70)).astype(np.float32),
        "exact": rng.standard_normal((16, 64)).astype(np.float32),
    }
    ear.tensor("vector", "f32", values["vector"])
    ear.tensor("cube", "f32", values["cube"])
    ear.tensor("packed", "f32_r16", values["packed"])
    ear.tensor("exact", "f32_r16", values["exact"])
    ear.tensor("int8", "i8_r16x4", values["packed"])
    ear.tensor("tokenizer", "u8", np.frombuffer(b"sentence", np.uint8))
    data = ear.bytes()
    file = opened(data)
    assert file.size == len(data)
    assert json.loads(file.header_json)["metadata"] == {"licence": "CC0-1.0"}
    for name, value in values.items():
        np.testing.assert_array_equal(file.dequantise(name), value)
    q, scale = eb.quantise_rows(values["packed"])
    np.testing.assert_array_equal(file.dequantise("int8"), q * scale[:, None])
    assert file.tensor_bytes("tokenizer") == b"sentence"
    with pytest.raises(KeyError, match="nothing"):
        file.dequantise("nothing")


def test_an_error_says_file_problem_and_remedy(opened: Opener, path: Path, tmp_path: Path) -> None:
    with pytest.raises(_native.ModelFileError) as caught:
        opened(small_file()[:100])
    error = caught.value
    assert error.path == str(path)
    assert "100" in error.problem
    assert "earshot model verify" in error.remedy
    assert str(error) == f"{error.path}: {error.problem}. {error.remedy}."
    with pytest.raises(_native.ModelFileError, match="No such file"):
        _native.ModelFile(str(tmp_path / "absent.ear"))
    with pytest.raises(_native.ModelFileError, match="not a regular file"):
        _native.ModelFile(str(tmp_path))


def test_truncation_at_every_byte(opened: Opener) -> None:
    data = small_file()
    opened(data)
    for n in range(len(data)):
        with pytest.raises(_native.ModelFileError):
            opened(data[:n])
    with pytest.raises(_native.ModelFileError, match="says it has"):
        opened(data + b"\0")
    # The size field made to agree: then the layout itself has to tell.
    for n in range(32, len(data)):
        head = bytearray(data[:n])
        struct.pack_into("<Q", head, 16, n)
        text = bytes(head[32 : 32 + struct.unpack_from("<I", head, 12)[0]])
        struct.pack_into("<I", head, 24, zlib.crc32(text, zlib.crc32(bytes(head[:24]))))
        with pytest.raises(_native.ModelFileError):
            opened(bytes(head))


def test_every_single_bit_counts(opened: Opener) -> None:
    data = small_file()
    for i in range(len(data)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128):
            damaged = bytearray(data)
            damaged[i] ^= mask
            with pytest.raises(_native.ModelFileError):
                opened(bytes(damaged))


def tampered(change: Callable[[dict[str, Any], list[bytes]], None]) -> bytes:
    """The small file with header or sections changed and all checksums right again."""
    ear = eb.Ear({"name": "test", "graphs": {}})
    rng = np.random.default_rng(0)
    ear.tensor("w8", "i8_r16x4", rng.standard_normal((5, 6)))
    ear.tensor("w32", "f32_r16", rng.standard_normal((3, 5)))
    ear.tensor("b", "f32", rng.standard_normal(5))
    entries, sections = ear.entries()
    header = {**ear.header, "tensors": entries}
    change(header, sections)
    kept = {  # what a change meant to be wrong
        i: entry.pop("kept", None) for i, entry in enumerate(header["tensors"]) if entry
    }
    for i, (entry, section) in enumerate(zip(header["tensors"], sections, strict=False)):
        if isinstance(entry, dict) and "crc32" in entry and kept[i] != "crc32":
            entry["crc32"] = zlib.crc32(section)
    # Changed numbers may be longer or shorter; offsets follow the header's size.
    for _ in range(4):
        at = 32 + len(json.dumps(header, ensure_ascii=False).encode())
        for i, (entry, section) in enumerate(zip(header["tensors"], sections, strict=False)):
            at = eb.up(at, 64)
            if isinstance(entry, dict) and "offset" in entry and kept[i] != "offset":
                entry["offset"] = at
            at += len(section)
    return eb.pack(header, sections)


def poke(index: int, at: int, value: bytes) -> Callable[[dict[str, Any], list[bytes]], None]:
    def change(_: dict[str, Any], sections: list[bytes]) -> None:
        data = bytearray(sections[index])
        data[at : at + len(value)] = value
        sections[index] = bytes(data)

    return change


def entry(index: int, **values: Any) -> Callable[[dict[str, Any], list[bytes]], None]:
    def change(header: dict[str, Any], _: list[bytes]) -> None:
        header["tensors"][index].update(values)

    return change


W8_TILES, W8_SCALES, W8_SUMS = 0, 16 * 64, 16 * 64 + 64
F = struct.Struct("<f").pack
CONTENT: dict[str, tuple[Callable[[dict[str, Any], list[bytes]], None], str]] = {
    "minus 128": (poke(0, 0, b"\x80"), "-128"),
    "int8 beyond the last column": (poke(0, 64 + 2, b"\x01"), "beyond its last column"),
    "int8 beyond the last row": (poke(0, 5 * 4, b"\x01"), "beyond its last row"),
    "a wrong row sum": (poke(0, W8_SUMS, b"\x01"), "row sum"),
    "a scale below zero": (poke(0, W8_SCALES, F(-1.0)), "scale below 0"),
    "a scale that is not a number": (poke(0, W8_SCALES, F(float("nan"))), "not finite"),
    "an infinite scale": (poke(0, W8_SCALES + 4, F(float("inf"))), "not finite"),
    "a scale beyond the last row": (poke(0, W8_SCALES + 4 * 5, F(1.0)), "beyond its last row"),
    "an infinite weight": (poke(1, 0, F(float("-inf"))), "not finite"),
    "a weight beyond the last row": (poke(1, 4 * 3, F(1.0)), "beyond its last row"),
    "a bias that is not a number": (poke(2, 4, F(float("nan"))), "not finite"),
    "a shape that needs more bytes": (entry(2, shape=[6]), "its shape and codec need 24"),
    "a shape that overflows": (entry(2, shape=[2**31, 2**31, 2**31, 2**31]), "more than"),
    "a size beyond 64 bits": (entry(2, shape=[2**70]), "positive whole number"),
    "a huge matrix": (entry(0, shape=[2**20, 2**11]), "bytes"),
    "a negative size": (entry(2, shape=[-5]), "positive whole number"),
    "a size of zero": (entry(2, shape=[0]), "positive whole number"),
    "a fractional size": (entry(2, shape=[5.0]), "positive whole number"),
    "five dimensions": (entry(2, shape=[5, 1, 1, 1, 1]), "1..4 sizes"),
    "no dimensions": (entry(2, shape=[]), "1..4 sizes"),
    "a matrix with one dimension": (entry(0, shape=[30]), "it must have 2"),
    "too many columns": (entry(1, shape=[1, 131072]), "fewer than 131072"),
    "an unknown codec": (entry(0, codec="i9"), 'unknown codec "i9"'),
    "a codec that is no string": (entry(0, codec=8), "`codec`"),
    "an unknown key": (entry(0, colour="blue"), 'unknown key "colour"'),
    "a name twice": (entry(1, name="w8"), "two tensors"),
    "an empty name": (entry(1, name=""), "`name`"),
    "a long name": (entry(1, name="n" * 129), "`name`"),
    "an offset inside another": (entry(1, offset=64, kept="offset"), "must start at byte"),
    "bytes that are no number": (entry(1, bytes="20"), "`bytes`"),
    "a checksum over 32 bits": (entry(1, crc32=2**32, kept="crc32"), r"below 2\^32"),
}


@pytest.mark.parametrize("what", CONTENT)
def test_right_checksums_do_not_excuse(what: str, opened: Opener) -> None:
    change, message = CONTENT[what]
    opened(tampered(lambda header, sections: None))
    with pytest.raises(_native.ModelFileError, match=message):
        opened(tampered(change))


@pytest.mark.parametrize("offset", [0, 64, 63, 2**31, 2**40, 2**63 - 64, 10**18])
def test_extents_that_overflow(offset: int, opened: Opener) -> None:
    ear = eb.Ear({"name": "t", "graphs": {}})
    ear.tensor("b", "f32", np.zeros(4))
    entries, sections = ear.entries()
    entries[0]["offset"] = offset
    with pytest.raises(_native.ModelFileError, match=r"must start at byte|whole number"):
        opened(eb.pack({**ear.header, "tensors": entries}, sections))


def test_padding_and_trailing_bytes(opened: Opener) -> None:
    data = small_file()
    for extra in (1, 63, 64, 128):
        longer = bytearray(data + bytes(extra))
        struct.pack_into("<Q", longer, 16, len(longer))
        text = bytes(longer[32 : 32 + struct.unpack_from("<I", longer, 12)[0]])
        struct.pack_into("<I", longer, 24, zlib.crc32(text, zlib.crc32(bytes(longer[:24]))))
        with pytest.raises(_native.ModelFileError, match="the file must have"):
            opened(bytes(longer))


BOMBS: dict[str, bytes] = {
    "depth": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "depth 33": b'{"later":' + b"[" * 32 + b"]" * 32 + b',"name":"t","graphs":{},"tensors":[]}',
    "objects in objects": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "many tensors": b'{"name":"t","graphs":{},"tensors":[' + b"{}," * 5000 + b"{}]}",
    "only commas": b"[" + b"," * 1000 + b"]",
    "a million zeros": b'{"tensors":[' + b"0," * 500_000 + b"0]}",
    "a long number": b'{"a":' + b"9" * 1_000_000 + b"}",
    "a large exponent": b'{"a":1e999999999}',
    "not a number": b'{"a":NaN}',
    "infinity": b'{"a":Infinity}',
    "two keys": b'{"name":"t","name":"u","graphs":{},"tensors":[]}',
    "two keys, one escaped": b'{"name":"t","n\\u0061me":"u","graphs":{},"tensors":[]}',
    "a comment": b'{"name":"t",/* */"graphs":{},"tensors":[]}',
    "a trailing comma": b'{"name":"t","graphs":{},"tensors":[],}',
    "text after": b'{"name":"t","graphs":{},"tensors":[]} x',
    "single quotes": b"{'name':'t'}",
    "not UTF-8": b'{"name":"\xff","graphs":{},"tensors":[]}',
    "overlong UTF-8": b'{"name":"\xc0\x80","graphs":{},"tensors":[]}',
    "a surrogate in UTF-8": b'{"name":"\xed\xa0\x80","graphs":{},"tensors":[]}',
    "beyond Unicode": b'{"name":"\xf4\x90\x80\x80","graphs":{},"tensors":[]}',
    "cut UTF-8": b'{"name":"\xe2\x96',
    "half a surrogate pair": b'{"name":"\\ud800","graphs":{},"tensors":[]}',
    "the other half": b'{"name":"\\udc00","graphs":{},"tensors":[]}',
    "NUL": b'{"name":"a\\u0000b","graphs":{},"tensors":[]}',
    "a raw newline": b'{"name":"a\nb","graphs":{},"tensors":[]}',
    "an unknown escape": b'{"name":"\\x41","graphs":{},"tensors":[]}',
    "a leading zero": b'{"name":"t","graphs":{},"tensors":[],"a":01}',
    "a plus": b'{"name":"t","graphs":{},"tensors":[],"a":+1}',
    "a bare point": b'{"name":"t","graphs":{},"tensors":[],"a":1.}',
    "an open string": b'{"name":"t',
    "an open escape": b'{"name":"t\\',
    "an open object": b'{"name":"t"',
    "a list": b"[]",
    "a word": b"nu",
    "spaces": b" " * 100,
    "no tensors": b'{"name":"t","graphs":{}}',
    "no graphs": b'{"name":"t","tensors":[]}',
    "no name": b'{"graphs":{},"tensors":[]}',
    "a long name": b'{"name":"' + b"n" * 129 + b'","graphs":{},"tensors":[]}',
    "metadata of numbers": b'{"name":"t","graphs":{},"tensors":[],"metadata":{"a":1}}',
    "an empty graph name": b'{"name":"t","tensors":[],"graphs":{"":{}}}',
    "a graph that is a list": b'{"name":"t","tensors":[],"graphs":{"g":[]}}',
    "a huge header": b'{"name":"t","graphs":{},"tensors":[],"a":"' + b"x" * 2**20 + b'"}',
}


@pytest.mark.parametrize("what", BOMBS)
def test_header_bombs(what: str, opened: Opener) -> None:
    start = time.monotonic()
    with pytest.raises(_native.ModelFileError):
        opened(eb.pack(BOMBS[what]))
    assert time.monotonic() - start < 2


def test_json_that_is_unusual_but_right(opened: Opener) -> None:
    text = (
        b' {"name" : "t\\u00e9\\ud83d\\ude00\\/\\"", "graphs" : { } ,"tensors": [ ]\n, '
        b'"a": [-0, 1.5e-3, 10E+2, true, false, null, {"": {}}], "deep": '
        + b"[" * 31
        + b"]" * 31
        + b"} "
    )
    file = opened(eb.pack(text))
    assert json.loads(file.header_json)["name"] == 'té😀/"'


def test_a_long_key_is_cut_between_characters(opened: Opener) -> None:
    key = "a" * 63 + "é"
    text = f'{{"{key}": 1, "{key}": 2}}'.encode()
    with pytest.raises(_native.ModelFileError, match=r'a{63}\.\.\." twice') as caught:
        opened(eb.pack(text))
    assert str(caught.value).encode()


@pytest.mark.parametrize("start", [b"", eb.MAGIC])
def test_a_huge_file_is_refused_without_reading_it(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "huge.ear"
    try:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(2**40)
    except OSError as error:
        pytest.skip(f"no file of 1 TB with nothing in it here: {error}")
    began = time.monotonic()
    with pytest.raises(_native.ModelFileError):
        _native.ModelFile(str(path))
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("version", [0, 4, 2**32 - 1])
def test_other_versions_are_refused_by_number(version: int, opened: Opener) -> None:
    header = {"name": "t", "graphs": {}, "tensors": []}
    with pytest.raises(_native.ModelFileError, match=f"version is {version}") as caught:
        opened(eb.pack(header, version=version))
    assert "Update earshot" in caught.value.remedy


def header_of(change: Callable[[dict[str, Any]], None]) -> bytes:
    ear = eb.recogniser(layers=1, phones=3)
    ear.header = copy.deepcopy(ear.header)
    change(ear.header)
    return ear.bytes()


def setter(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        at: Any = header
        for key in parents:
            at = at[int(key)] if isinstance(at, list) else at[key]
        if value is None:
            del at[last]
        elif isinstance(at, list):
            at[int(last)] = value
        else:
            at[last] = value

    return change


def widen_in_the_joiner(header: dict[str, Any]) -> None:
    """The predictor puts out 8 values, and the joiner makes 16 of them itself."""
    predictor, joiner = (header["graphs"][name]["nodes"] for name in ("predictor", "joiner"))
    last = predictor.pop()
    predictor[-1]["out"] = "predictor_out"
    joiner.insert(0, {**last, "in": ["predictor_out"], "out": "wide"})
    joiner[1]["in"] = ["encoder_out", "wide"]


ROLES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no features": (setter("features", None), "no `features`"),
    "another sample rate": (setter("features.sample_rate_hz", 8000), "sample_rate_hz"),
    "another window": (setter("features.window", "hann"), "window"),
    "dither": (setter("features.dither", 1), "dither"),
    "snip_edges": (setter("features.snip_edges", True), "snip_edges"),
    "a new feature key": (setter("features.energy", True), '"energy"'),
    "300 bins": (setter("features.num_bins", 300), "num_bins"),
    "79 bins": (setter("features.num_bins", 79), "width"),
    "no search": (setter("search", None), "no `search`"),
    "another blank": (setter("search.blank_id", 1), "blank_id"),
    "a wide context": (setter("search.context_size", 9), "context_size"),
    "a context that the predictor lacks": (setter("search.context_size", 3), "from 3 ids"),
    "no symbols": (setter("search.max_symbols_per_frame", 0), "max_symbols_per_frame"),
    "a strange predictor": (setter("search.predictor", "oracle"), "predictor"),
    "a stateful claim": (setter("search.predictor", "stateful"), "context_size"),
    "a new search key": (setter("search.beam", 4), '"beam"'),
    "no pieces": (setter("pieces", None), "no `pieces`"),
    "pieces too few": (setter("pieces", ["a", "b", "c"]), "number of pieces"),
    "a piece that is a number": (setter("pieces.3", 3), "not a string"),
    "no logits": (setter("graphs.joiner.outputs", ["t"]), "no output `logits`"),
    "a narrow predictor": (widen_in_the_joiner, "`predictor_out` of width 8; it must be 16"),
    "no encoder_out": (setter("graphs.encoder.outputs", ["hidden"]), "`encoder_out`"),
    "an output at 10 ms": (
        setter("graphs.encoder.outputs", ["encoder_out", "hidden", "n"]),
        "does not join 4 frames",
    ),
    "ctc without hidden": (setter("graphs.encoder.outputs", ["encoder_out"]), "`hidden`"),
    "no phones": (setter("phones", None), "no list `phones`"),
    "phones of nothing": (setter("graphs.phones", None), 'no graph "phones"'),
    "an empty list of phones": (setter("phones", []), "`phones` is not a list of 1..1024"),
    "too few phones": (setter("phones", ["A", "B"]), "`log_probs` of width 4; it must be 3"),
    "too many phones": (setter("phones", [f"P{i}" for i in range(1025)]), "list of 1..1024"),
    "a phone twice": (setter("phones", ["A", "B", "A"]), 'has "A" twice, again at 2'),
    "a phone without a name": (setter("phones.1", ""), "at 1 something that is not a string"),
    "a phone that is a number": (setter("phones.2", 7), "at 2 something that is not a string"),
    "phones that are one string": (setter("phones", "ABC"), "`phones` is not a list"),
    "stack 3": (setter("graphs.encoder.nodes.1.factor", 3), "width"),
}


@pytest.mark.parametrize("what", ROLES)
def test_roles_of_a_recogniser(what: str, opened: Opener) -> None:
    change, message = ROLES[what]
    opened(header_of(lambda header: None))
    with pytest.raises(_native.ModelFileError, match=message):
        opened(header_of(change))


def test_a_file_without_a_recogniser_opens_but_does_not_recognise(tmp_path: Path) -> None:
    path = tmp_path / "m.ear"
    path.write_bytes(small_file())
    model = _native.Model(str(path))
    assert model.graph_names == ["net"]
    assert model.search is None
    with pytest.raises(_native.ModelFileError, match="no graph `encoder`"):
        _native.Recognizer(model)
    with pytest.raises(KeyError):
        model.graph("encoder")


def test_the_header_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "m.ear"
    path.write_bytes(eb.recogniser(max_symbols_per_frame=3).bytes())
    model = _native.Model(str(path))
    assert (model.name, model.num_bins, model.sample_rate_hz, model.frame_ms) == (
        "tiny",
        80,
        16000,
        40,
    )
    assert model.graph_names == ["encoder", "predictor", "joiner", "ctc"]
    assert model.pieces[:4] == ["<blk>", "<sos/eos>", "<unk>", "▁a"]
    assert model.phones == []
    assert model.search == {
        "blank_id": 0,
        "unk_id": 2,
        "predictor": "stateless",
        "context_size": 2,
        "max_symbols_per_frame": 3,
    }


def test_opening_four_megabytes_is_quick(tmp_path: Path) -> None:
    """Aim: under 15 ms cold; the bound leaves room for a busy machine."""
    rng = np.random.default_rng(0)
    q = rng.integers(-127, 128, (2048, 32, 16, 4), np.int8)  # 2048 row blocks of 128 columns
    sums = (128 * q.astype(np.int32).sum(axis=(1, 3))).astype("<i4")
    section = q.tobytes() + np.ones(2048 * 16, "<f4").tobytes() + sums.tobytes()
    ear = eb.Ear({"name": "t", "graphs": {}})
    ear.tensor("w", "f32", np.zeros(1))
    entries, _ = ear.entries()
    entries[0].update(
        codec="i8_r16x4", shape=[2048 * 16, 128], bytes=len(section), crc32=zlib.crc32(section)
    )
    header = {**ear.header, "tensors": entries}
    for _ in range(3):
        entries[0]["offset"] = eb.up(32 + len(json.dumps(header).encode()), 64)
    path = tmp_path / "m.ear"
    path.write_bytes(eb.pack(header, [section]))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        _native.ModelFile(str(path))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05
