"""Block-sparse and 4-bit sections in files: read exactly, run exactly, and refused when damaged.

What a graph computes with them is compared, bit for bit, with the same integers and scales in
`i8_r16x4`, whose kernels have their own tests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ear_builder as eb
import numpy as np
import numpy.typing as npt
import pytest

from earshot import _native
from earshot.core.errors import ModelFileError
from earshot.modelfile.codecs import (
    EncodedTensor,
    decode_tensor,
    encode_f32,
    encode_f32_r16,
    encode_i8_r16x4,
    encode_int4,
    encode_sparse,
    levels_and_scales,
)
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model

F32 = npt.NDArray[np.float32]
LEVELS = np.array(
    [-127, -90, -64, -40, -23, -11, -5, -1, 2, 6, 12, 24, 41, 66, 91, 127], np.int8
)  # fmt: skip
ENCODERS: dict[str, Callable[[F32], EncodedTensor]] = {
    "i8_b16x1": lambda w: encode_sparse(w, block=(16, 1), bits=8),
    "i8_b16x4": lambda w: encode_sparse(w, block=(16, 4), bits=8),
    "i4_b16x1": lambda w: encode_sparse(w, block=(16, 1), bits=4, codebook=LEVELS),
    "i4_b16x4": lambda w: encode_sparse(w, block=(16, 4), bits=4, codebook=LEVELS),
    "i4_r16x4": lambda w: encode_int4(w, codebook=LEVELS),
}
CODECS = tuple(ENCODERS)


def weights(rows: int, columns: int, seed: int = 0) -> F32:
    """Half of the blocks of 16 x 4 are zero, and so are more of their columns."""
    rng = np.random.default_rng(seed)
    keep = rng.random((-(-rows // 16), -(-columns // 4))) < 0.5
    mask = np.repeat(np.repeat(keep, 16, 0), 4, 1)[:rows, :columns]
    mask &= np.repeat(rng.random((-(-rows // 16), columns)) < 0.8, 16, 0)[:rows]
    return (rng.standard_normal((rows, columns)) * mask).astype(np.float32)


def same_in_int8(tensor: EncodedTensor) -> EncodedTensor:
    """The same numbers as dense int8 with row scales."""
    values = decode_tensor(tensor).astype(np.float64)
    scale = levels_and_scales(tensor)[1]
    safe = np.where(scale > 0, scale, 1).astype(np.float64)
    return encode_i8_r16x4(np.rint(values / safe[:, None]).astype(np.int8), scale)


def write(path: Path, nodes: list[dict[str, Any]], tensors: dict[str, EncodedTensor]) -> None:
    graph = {"inputs": ["x"], "outputs": [nodes[-1]["out"]], "nodes": nodes}
    write_model(path, name="t", graphs={"net": graph}, tensors=tensors)


LINEAR = {"op": "linear", "in": ["x"], "out": "out", "tensors": {"weight": "w", "bias": "b"}}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 6), (33, 70), (80, 300)])
def test_a_file_gives_back_what_was_packed(
    codec: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    tensor = ENCODERS[codec](weights(*shape))
    path = tmp_path / "m.ear"
    nodes = [{**LINEAR, "tensors": {"weight": "w"}}]
    write(path, nodes, {"w": tensor})
    assert path.read_bytes()[8] == 2
    file = ModelFile(path)
    np.testing.assert_array_equal(file.dequantise("w"), decode_tensor(tensor))
    assert file.tensor_bytes("w") == tensor.data


@pytest.mark.parametrize("codec", CODECS)
def test_a_layer_computes_the_same_bits_as_dense_int8(codec: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((9, 70)).astype(np.float32)
    tensor, bias = ENCODERS[codec](weights(33, 70)), encode_f32(rng.standard_normal(33))
    out = []
    for number, packed in enumerate((tensor, same_in_int8(tensor))):
        path = tmp_path / f"{number}.ear"
        write(path, [LINEAR], {"w": packed, "b": bias})
        graph = _native.Model(str(path)).graph("net")
        out.append(graph.step(x, graph.initial_state())["out"])
        lone = [graph.step(x[i : i + 1], graph.initial_state())["out"] for i in range(9)]
        np.testing.assert_array_equal(np.concatenate(lone), out[-1])
    np.testing.assert_array_equal(out[0], out[1])
    assert np.abs(out[0]).max() > 1


def lstm(joined: bool) -> dict[str, Any]:
    names = {"weight": "w"} if joined else {"weight_x": "wx", "weight_h": "wh"}
    return {
        "op": "lstm",
        "in": ["x"],
        "out": "out",
        "hidden": 32,
        "tensors": {**names, "bias": "b"},
    }


def run(path: Path, chunks: list[list[F32]]) -> list[F32]:
    """Streams over chunks, all streams in one call; frames of every stream joined."""
    graph = _native.Model(str(path)).graph("net")
    states = [graph.initial_state() for _ in chunks]
    parts: list[list[F32]] = [[] for _ in chunks]
    for step in range(len(chunks[0])):
        for got, result in zip(
            parts, graph.step_batch([c[step] for c in chunks], states), strict=True
        ):
            got.append(result["out"])
    return [np.concatenate(p) for p in parts]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("joined", [False, True])
def test_an_lstm_computes_the_same_bits_as_dense_int8(
    codec: str, joined: bool, tmp_path: Path
) -> None:
    x = np.random.default_rng(2).standard_normal((12, 20)).astype(np.float32)
    parts = {"w": weights(128, 52)} if joined else {"wx": weights(128, 20), "wh": weights(128, 32)}
    tensors = {name: ENCODERS[codec](value) for name, value in parts.items()}
    bias = {"b": encode_f32(np.linspace(-1, 1, 128))}
    write(tmp_path / "packed.ear", [lstm(joined)], tensors | bias)
    dense = {name: same_in_int8(tensor) for name, tensor in tensors.items()}
    write(tmp_path / "dense.ear", [lstm(joined)], dense | bias)
    (whole,) = run(tmp_path / "packed.ear", [[x]])
    np.testing.assert_array_equal(whole, run(tmp_path / "dense.ear", [[x]])[0])
    # In chunks, and beside two other streams of other lengths.
    cut = [[x[:1], x[1:6], x[6:]], [x[::-1][:3], x[:0], x[:2]], [x[:0], x[5:9], x[:1]]]
    np.testing.assert_array_equal(run(tmp_path / "packed.ear", cut)[0], whole)


def test_one_matrix_for_input_and_state_is_the_same_lstm(tmp_path: Path) -> None:
    wx, wh = weights(128, 20), weights(128, 32, seed=1)
    bias = {"b": encode_f32(np.linspace(-1, 1, 128))}
    both = {"w": encode_f32_r16(np.concatenate([wx, wh], axis=1))}
    write(tmp_path / "joined.ear", [lstm(joined=True)], both | bias)
    apart = {"wx": encode_f32_r16(wx), "wh": encode_f32_r16(wh)}
    write(tmp_path / "apart.ear", [lstm(joined=False)], apart | bias)
    assert (tmp_path / "joined.ear").read_bytes()[8] == 2
    assert (tmp_path / "apart.ear").read_bytes()[8] == 1
    x = np.random.default_rng(2).standard_normal((12, 20)).astype(np.float32)
    (one,), (two,) = run(tmp_path / "joined.ear", [[x]]), run(tmp_path / "apart.ear", [[x]])
    np.testing.assert_allclose(one, two, atol=2e-6)


def test_an_embedding_in_four_bits(tmp_path: Path) -> None:
    table = ENCODERS["i4_r16x4"](weights(21, 70))
    node = {"op": "embedding", "in": ["y"], "out": "out", "tensors": {"table": "t"}}
    graph = {"inputs": ["y"], "outputs": ["out"], "nodes": [node]}
    write_model(tmp_path / "m.ear", name="t", graphs={"net": graph}, tensors={"t": table})
    net = _native.Model(str(tmp_path / "m.ear")).graph("net")
    got = net.step(np.array([0, 20, -1, 16], np.int32))["out"]
    values = decode_tensor(table)
    np.testing.assert_array_equal(got, np.stack([values[0], values[20], 0 * values[0], values[16]]))


# --- damage ---------------------------------------------------------------------------------

ROWS, COLUMNS = 20, 70  # two blocks of rows, the second not full; a block that columns end within


def full(codec: str) -> EncodedTensor:
    """Every block stored but one, so that the last vectors have room."""
    w = np.random.default_rng(4).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    w[:, :4] = 0
    return ENCODERS[codec](w)


def file_of(codec: str, data: bytes, *, version: int = 2) -> bytes:
    """A file with one tensor whose section is `data`, all sizes and checksums right."""
    ear = eb.Ear({"name": "t", "graphs": {}})
    ear.tensor("w", "u8", np.frombuffer(data, np.uint8))
    entries, sections = ear.entries()
    header: dict[str, Any] = {**ear.header, "tensors": entries}
    entries[0] |= {"codec": codec, "shape": [ROWS, COLUMNS]}
    for _ in range(4):
        entries[0]["offset"] = eb.up(32 + len(json.dumps(header, ensure_ascii=False).encode()), 64)
    return eb.pack(header, sections, version=version)


class Section:
    """Where the parts of the section of `full` are, from the page of the format."""

    def __init__(self, codec: str) -> None:
        self.codec, self.data = codec, bytearray(full(codec).data)
        self.four = codec.startswith("i4")
        self.width = int(codec[-1]) if "_b16x" in codec else 0
        self.words = {0: 0, 1: 2, 4: 1}[self.width]
        self.masks = 16 if self.four else 0
        self.scales = self.masks + 2 * 8 * self.words
        self.vectors = eb.up(self.scales + 2 * 32, 64)
        columns = {0: 128, 1: 66, 4: 68}[self.width]
        self.places = columns  # stored in either block of rows
        self.count = -(-columns // (8 if self.four else 4))


def poke(at: Callable[[Section], int], value: int) -> Callable[[Section], None]:
    def change(section: Section) -> None:
        section.data[at(section)] = value

    return change


def _cut(section: Section) -> None:
    del section.data[-64:]


def _longer(section: Section) -> None:
    section.data += bytes(64)


def _head_only(section: Section) -> None:
    del section.data[section.vectors - 64 :]


def _one_bit_more(section: Section) -> None:
    section.data[section.masks] |= 1  # the block of columns that is zero


def _one_bit_beyond(section: Section) -> None:
    bit = -(-COLUMNS // section.width)
    section.data[section.masks + bit // 8] |= 1 << bit % 8


def _last_place(section: Section) -> None:
    """The last column of the last vector of the first block of rows."""
    high = 0x10 if section.four else 0x01
    section.data[section.vectors + 64 * (section.count - 1) + 3] |= high


def _beyond_columns(section: Section) -> None:
    """The place of column 71 or 72, which no row has."""
    per = 8 if section.four else 4
    place = section.places - (1 if section.width == 4 else 57)
    byte = section.vectors + place // per * 64 + place % 4
    section.data[byte] |= 0x10 if section.four and place % 8 >= 4 else 0x01


def _descending_levels(section: Section) -> None:
    section.data[3], section.data[4] = section.data[4], section.data[3]


SPARSE = CODECS[:4]
FOUR = CODECS[2:]
ATTACKS: dict[str, tuple[tuple[str, ...], Callable[[Section], None], str]] = {
    "a vector missing": (SPARSE, _cut, "its masks need"),
    "a vector too many": (SPARSE, _longer, "its masks need"),
    "no room for masks": (SPARSE, _head_only, "at least"),
    "a dense one cut": (("i4_r16x4",), _cut, "need"),
    "a dense one too long": (("i4_r16x4",), _longer, "need"),
    "a mask bit without values": (("i8_b16x4",), _one_bit_more, "its masks need"),
    "a mask bit beyond the last column": (SPARSE, _one_bit_beyond, "beyond its last column|need"),
    "a scale that is not a number": (CODECS, poke(lambda s: s.scales + 1, 0x7F), "not finite"),
    "a scale below zero": (CODECS, poke(lambda s: s.scales + 1, 0xBF), "scale below 0"),
    "a scale of no row": (CODECS, poke(lambda s: s.scales + 2 * ROWS, 1), "beyond its last row"),
    "a byte in the padding": (
        ("i8_b16x1", "i4_b16x1", "i4_b16x4", "i4_r16x4"),
        poke(lambda s: s.vectors - 1, 1),
        "between scales and values",
    ),
    "a value of no row": (
        CODECS,
        poke(lambda s: s.vectors + 64 * s.count + 4 * (ROWS - 16), 1),
        "beyond its last row",
    ),
    "a value behind the last column": (("i8_b16x1", "i4_b16x1", "i4_b16x4"), _last_place, "column"),
    "a value in a column of none": (
        ("i8_b16x4", "i4_b16x4", "i4_r16x4"), _beyond_columns, "beyond its last column"
    ),
    "minus 128": (("i8_b16x1", "i8_b16x4"), poke(lambda s: s.vectors, 0x80), "-128"),
    "a level of -128": (FOUR, poke(lambda s: 0, 0x80), "level -128"),
    "levels that descend": (FOUR, _descending_levels, "do not ascend"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "codec"),
    [(what, codec) for what, (codecs, _, _) in ATTACKS.items() for codec in codecs],
)
def test_damaged_sections_are_refused(what: str, codec: str, tmp_path: Path) -> None:
    _, change, message = ATTACKS[what]
    section, path = Section(codec), tmp_path / "m.ear"
    path.write_bytes(file_of(codec, bytes(section.data)))
    assert ModelFile(path).tensors[0].codec == codec
    before = copy.copy(section.data)
    change(section)
    assert section.data != before
    path.write_bytes(file_of(codec, bytes(section.data)))
    with pytest.raises(ModelFileError, match=message):
        ModelFile(path)


@pytest.mark.parametrize("codec", CODECS)
def test_any_byte_changed_is_refused_or_read_safely(codec: str, tmp_path: Path) -> None:
    """With checksums made right again: the checks behind them decide, and nothing crashes."""
    original, path = full(codec).data, tmp_path / "m.ear"
    rng = np.random.default_rng(6)
    refused = 0
    for at in rng.permutation(len(original))[:300]:
        damaged = bytearray(original)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(file_of(codec, bytes(damaged)))
        try:
            assert not np.isnan(ModelFile(path).dequantise("w")).any()
        except ModelFileError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("codec", CODECS)
def test_version_1_does_not_have_them(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "m.ear"
    path.write_bytes(file_of(codec, full(codec).data, version=1))
    with pytest.raises(ModelFileError, match="the file must say version 2"):
        ModelFile(path)


def test_lstms_that_are_refused(tmp_path: Path) -> None:
    bias = {"b": encode_f32(np.zeros(128))}
    narrow = {"w": encode_f32_r16(np.ones((128, 32)))}
    with pytest.raises(ModelFileError, match="more than `hidden` 32"):
        write(tmp_path / "m.ear", [lstm(joined=True)], narrow | bias)
    node = lstm(joined=True)
    node["tensors"] |= {"weight_h": "w"}
    with pytest.raises(ModelFileError, match="both `weight` and `weight_h`"):
        write(tmp_path / "m.ear", [node], narrow | bias)
    del node["tensors"]["weight"]
    with pytest.raises(ModelFileError, match="no tensor `weight_x`"):
        write(tmp_path / "m.ear", [node], narrow | bias)
    few = {"w": encode_f32_r16(np.ones((64, 52)))}
    with pytest.raises(ModelFileError, match="must be 128 x 52"):
        write(tmp_path / "m.ear", [lstm(joined=True)], few | bias)
