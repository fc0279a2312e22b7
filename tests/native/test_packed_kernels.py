"""Block-sparse and 4-bit products of every instruction set of this CPU, against numpy bit for bit.

Weights are packed by the writer; the expected product is computed from the integers that a test
chose, never from the packed bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot import _native
from earshot.modelfile.codecs import encode_int4, encode_sparse

ISAS = _native.available_isas()
LEVELS = np.array(
    [-127, -90, -64, -40, -23, -11, -5, -1, 2, 6, 12, 24, 41, 66, 91, 127], np.int8
)  # fmt: skip
# Block of rows and columns, or None for every column, and bits.
KINDS = [((16, 1), 8), ((16, 4), 8), ((16, 1), 4), ((16, 4), 4), (None, 4)]
EXTREME_SEED = next(seed for seed in range(99) if np.random.default_rng(seed).random() < 0.3)
SHAPES = [(1, 1), (16, 64), (7, 3), (17, 65), (80, 100), (130, 63), (192, 320), (33, 1280)]


def up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class Packed:
    """A section taken apart, and the integers that it stands for."""

    steps: npt.NDArray[np.int64]
    columns_of_a_block: int
    masks: npt.NDArray[np.uint64] | None
    levels: npt.NDArray[np.int8] | None
    scale: npt.NDArray[np.uint16]
    rowsum: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.uint8]


def pack(
    kind: tuple[tuple[int, int] | None, int], shape: tuple[int, int], seed: int, zeros: float
) -> Packed:
    block, bits = kind
    rng = np.random.default_rng(seed)
    rows, columns = shape
    padded_rows, padded_columns = up(rows, 16), up(columns, 64)
    extreme = rng.random() < 0.3
    if bits == 4:
        codes = rng.choice([0, 15], shape) if extreme else rng.integers(0, 16, shape)
        steps = LEVELS[codes].astype(np.int64)
    else:
        steps = rng.choice([-127, 127], shape) if extreme else rng.integers(-127, 128, shape)
    width = 1 if block is None else block[1]
    keep = rng.random((padded_rows // 16, padded_columns // width)) >= zeros
    if block is None:
        keep[:] = True
    stored = np.repeat(np.repeat(keep, 16, 0), width, 1)
    steps = np.where(stored[:rows, :columns], steps, 0)
    ones = np.ones(rows, np.float32)
    if block is None:
        tensor = encode_int4(steps, codebook=LEVELS, scale=ones)
    else:
        book = LEVELS if bits == 4 else None
        tensor = encode_sparse(steps, block=block, bits=bits, codebook=book, scale=ones)
    data, at = tensor.data, 0
    levels = masks = None
    if bits == 4:
        levels, at = np.frombuffer(data, np.int8, 16), 16
    if block is not None:
        words = up(padded_columns // width, 64) // 64
        masks = np.frombuffer(data, "<u8", padded_rows // 16 * words, at).reshape(-1, words)
        at += masks.nbytes
        # A block in which every weight happens to be 0 is not stored.
        bits_set = np.unpackbits(masks.view(np.uint8).reshape(len(masks), -1), 1, None, "little")
        stored = np.repeat(np.repeat(bits_set[:, : keep.shape[1]], 16, 0), width, 1).astype(bool)
        if bits == 4:  # 0 is no level: a weight of 0 in a stored block became the nearest
            nearest = LEVELS[np.abs(LEVELS.astype(int)).argmin()]
            stays = stored[:rows, :columns]
            steps = np.where(stays & (steps == 0), nearest, steps)
    scale = np.frombuffer(data, "<u2", padded_rows, at).copy()
    assert (scale[:rows] == 0x3F80).all()
    scale[:rows] = (np.linspace(0.5, 1.5, rows).astype(np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    )
    at = up(at + scale.nbytes, 64)
    full = np.full((padded_rows, padded_columns), 0 if levels is None else int(LEVELS[0]))
    full[:rows, :columns] = steps
    rowsum = 128 * np.where(stored, full, 0).sum(axis=1)
    vectors = np.frombuffer(data, np.uint8, -1, at).reshape(-1, 64)
    return Packed(steps, width, masks, levels, scale, rowsum.astype(np.int32), vectors)


def product(
    isa: str,
    packed: Packed,
    x: npt.NDArray[np.int8],
    bias: npt.NDArray[np.float32] | None = None,
    add_to: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    rows, columns = packed.steps.shape
    padded = np.zeros((len(x), up(columns, 64)), np.int8)
    padded[:, :columns] = x
    result: npt.NDArray[np.float32] = _native._test_linear_packed(
        isa,
        packed.masks,
        packed.columns_of_a_block,
        packed.levels,
        packed.scale,
        packed.rowsum,
        packed.vectors,
        bias,
        rows,
        columns,
        padded,
        np.linspace(0.01, 0.02, len(x)).astype(np.float32),
        add_to,
    )
    return result


def expected(
    packed: Packed,
    x: npt.NDArray[np.int8],
    bias: npt.NDArray[np.float32] | None = None,
    add_to: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    acc = x.astype(np.int64) @ packed.steps.T
    scale = (packed.scale[: len(packed.steps)].astype(np.uint32) << 16).view(np.float32)
    xscale = np.linspace(0.01, 0.02, len(x)).astype(np.float32)
    y = acc.astype(np.float32) * (xscale[:, None] * scale)
    y = y if bias is None else y + bias
    return y if add_to is None else add_to + y


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact(
    isa: str, kind: tuple[tuple[int, int] | None, int], shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(shape)
    bias = rng.normal(size=shape[0]).astype(np.float32)
    for zeros in (0.0, 0.75, 1.0):
        packed = pack(kind, shape, seed=int(100 * zeros), zeros=zeros)
        for frames in (1, 3, 5, 8):
            x = rng.integers(-127, 128, (frames, shape[1])).astype(np.int8)
            add_to = rng.normal(size=(frames, shape[0])).astype(np.float32)
            for b, a in ((None, None), (bias, add_to)):
                np.testing.assert_array_equal(
                    product(isa, packed, x, b, a), expected(packed, x, b, a)
                )


@given(
    isa=st.sampled_from(ISAS),
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 90),
    columns=st.integers(1, 300),
    frames=st.integers(1, 9),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_of_any_shape(
    isa: str,
    kind: tuple[tuple[int, int] | None, int],
    rows: int,
    columns: int,
    frames: int,
    zeros: float,
    seed: int,
) -> None:
    packed = pack(kind, (rows, columns), seed, zeros)
    rng = np.random.default_rng(seed)
    x = rng.choice(np.array([-127, -1, 0, 1, 127], np.int8), (frames, columns))
    np.testing.assert_array_equal(product(isa, packed, x), expected(packed, x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_rows_neither_saturate_nor_overflow(
    isa: str, kind: tuple[tuple[int, int] | None, int]
) -> None:
    packed = pack(kind, (3, 131071), seed=EXTREME_SEED, zeros=0.0)
    assert set(np.unique(packed.steps)) == {-127, 127}
    values = (127 * np.sign(packed.steps[:2])).astype(np.int8)
    np.testing.assert_array_equal(product(isa, packed, -values), expected(packed, -values))
    np.testing.assert_array_equal(product(isa, packed, values), expected(packed, values))
