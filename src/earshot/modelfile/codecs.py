"""How numbers of a model lie in a file: the codecs of `docs/formats/ear.md`, in numpy.

Packs arrays into section bytes and back. Knows nothing of files, graphs or torch. The unpack
side exists to show what a packed tensor means and to test the engine against it; a running
model reads the packed bytes in place and never unpacks.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

Codec = Literal[
    "f32", "f32_r16", "i8_r16x4", "u8", "i8_b16x1", "i8_b16x4", "i4_b16x1", "i4_b16x4", "i4_r16x4"
]
CODECS: tuple[Codec, ...] = get_args(Codec)
# Those that a reader of version 1 does not know.
VERSION_2_CODECS: frozenset[Codec] = frozenset(
    ("i8_b16x1", "i8_b16x4", "i4_b16x1", "i4_b16x4", "i4_r16x4")
)

ROW_BLOCK = 16  # rows that one kernel call computes side by side
COLUMN_GROUP = 4  # int8 products that one dot-product instruction sums
COLUMN_PAD = 64  # int8 rows are padded to this many columns
MAX_COLUMNS = 131_072  # 127 * 127 * K must stay below 2^31
MAX_ELEMENTS = 2**31
MAX_INT8 = 127  # symmetric: -128 is never used, so that |q| has one bound
VECTOR_BYTES = 64  # 16 rows x 4 columns of 8 bits, or x 8 of 4 bits
MASK_BITS = 64
LEVELS = 16


@dataclass(frozen=True, slots=True)
class EncodedTensor:
    """A tensor as it lies in a file.

    Args:
        codec: How `data` is laid out.
        shape: Logical shape, before padding.
        data: The section's bytes.
    """

    codec: Codec
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        vectors = _stored_vectors(self.codec, self.shape, self.data)
        expected = section_bytes(self.codec, self.shape, vectors=vectors)
        if len(self.data) != expected:
            raise ValueError(
                f"tensor: {len(self.data)} bytes for codec {self.codec} and shape "
                f"{self.shape}; there must be {expected}."
            )


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def is_sparse(codec: Codec) -> bool:
    """Whether blocks of zeros are left out of the file."""
    return codec in ("i8_b16x1", "i8_b16x4", "i4_b16x1", "i4_b16x4")


def _block_columns(codec: Codec) -> int:
    """Columns of a block of a sparse codec."""
    return 4 if codec.endswith("x4") else 1


def _columns_per_vector(codec: Codec) -> int:
    """Columns of 16 rows in 64 bytes."""
    return 2 * COLUMN_GROUP if codec.startswith("i4") else COLUMN_GROUP


def _mask_words(codec: Codec, columns: int) -> int:
    """64-bit words of the mask of a block of rows."""
    groups = _rounded_up(columns, COLUMN_PAD) // _block_columns(codec)
    return -(-groups // MASK_BITS)


def _packed_head(codec: Codec, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Where masks, row scales and vectors start in a section of a sparse or 4-bit codec."""
    padded_rows = _rounded_up(shape[0], ROW_BLOCK)
    masks = LEVELS if codec.startswith("i4") else 0
    scales = masks
    if is_sparse(codec):
        scales += 8 * _mask_words(codec, shape[1]) * (padded_rows // ROW_BLOCK)
    return masks, scales, _rounded_up(scales + 2 * padded_rows, VECTOR_BYTES)


def _stored_vectors(codec: Codec, shape: tuple[int, ...], data: bytes) -> int:
    """How many 64-byte vectors of values the masks of a sparse section ask for; else 0."""
    if not is_sparse(codec) or len(shape) != 2 or len(data) < _packed_head(codec, shape)[2]:
        return 0
    columns = _block_columns(codec) * _masks(codec, shape, data).sum(axis=1, dtype=np.int64)
    return int((-(-columns // _columns_per_vector(codec))).sum())


def _masks(codec: Codec, shape: tuple[int, ...], data: bytes) -> npt.NDArray[np.uint8]:
    """Which blocks a sparse section stores: (row blocks, column blocks), 0 or 1."""
    start, end, _ = _packed_head(codec, shape)
    words = np.frombuffer(data, np.uint8, end - start, start)
    rows = words.reshape(_rounded_up(shape[0], ROW_BLOCK) // ROW_BLOCK, -1)
    return np.unpackbits(rows, axis=1, bitorder="little")


def section_bytes(codec: Codec, shape: tuple[int, ...], *, vectors: int = 0) -> int:
    """The size of a section in bytes.

    Args:
        codec: One of `CODECS`.
        shape: Logical shape, 1..4 positive integers.
        vectors: Of a sparse codec: how many vectors of values its masks ask for.

    Returns:
        The number of bytes, without the padding between sections.

    Raises:
        ValueError: The codec is unknown or does not allow the shape.
    """
    if codec not in CODECS:
        raise ValueError(f"codec: {codec!r}; it must be one of {', '.join(CODECS)}.")
    if not 1 <= len(shape) <= 4 or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(
            f"tensor: shape {shape}; it must be 1 to 4 positive sizes with a product of at "
            f"most {MAX_ELEMENTS}."
        )
    if codec == "f32":
        return 4 * math.prod(shape)
    if codec == "u8":
        if len(shape) != 1:
            raise ValueError(f"tensor: shape {shape} for codec u8; it must be (N,).")
        return shape[0]
    if len(shape) != 2 or shape[1] >= MAX_COLUMNS:
        raise ValueError(
            f"tensor: shape {shape} for codec {codec}; it must be (M, K) with K < {MAX_COLUMNS}."
        )
    padded_rows = _rounded_up(shape[0], ROW_BLOCK)
    if codec == "f32_r16":
        return 4 * padded_rows * shape[1]
    padded_columns = _rounded_up(shape[1], COLUMN_PAD)
    if codec == "i8_r16x4":
        return padded_rows * padded_columns + 8 * padded_rows
    if codec == "i4_r16x4":
        vectors = padded_rows * padded_columns // 2 // VECTOR_BYTES
    return _packed_head(codec, shape)[2] + VECTOR_BYTES * vectors


def _finite_f32(array: npt.ArrayLike) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, dtype="<f4")
    finite = np.isfinite(values)
    if not finite.all():
        raise ValueError(
            f"tensor: {int(np.sum(~finite))} of {values.size} values are not finite in float32; "
            "all must be."
        )
    return values


def encode_f32(array: npt.ArrayLike) -> EncodedTensor:
    """Any tensor as plain row-major float32.

    Args:
        array: 1 to 4 dimensions, finite.

    Returns:
        Codec `f32`.

    Raises:
        ValueError: A value is not finite, or the shape is not allowed.
    """
    values = _finite_f32(array)
    return EncodedTensor("f32", values.shape, values.tobytes())


def encode_f32_r16(matrix: npt.ArrayLike) -> EncodedTensor:
    """A matrix as float32 in blocks of 16 rows: what `linear_f32` reads.

    Args:
        matrix: Shape (M, K): outputs, inputs; finite.

    Returns:
        Codec `f32_r16`: (Mp/16, K, 16), rows beyond M zero.

    Raises:
        ValueError: A value is not finite, or the shape is not allowed.
    """
    values = _finite_f32(matrix)
    section_bytes("f32_r16", values.shape)
    rows, columns = values.shape
    blocks = np.zeros((_rounded_up(rows, ROW_BLOCK), columns), "<f4")
    blocks[:rows] = values
    tiles = blocks.reshape(-1, ROW_BLOCK, columns).transpose(0, 2, 1)  # (Mp/16, K, 16)
    return EncodedTensor("f32_r16", values.shape, tiles.tobytes())


def quantize_rows(
    matrix: npt.ArrayLike,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round a matrix to int8 with one scale a row.

    The scale is the largest magnitude of the row over 127, so nothing is clipped and the
    error of a weight is at most half the scale.

    Args:
        matrix: Shape (M, K), finite.

    Returns:
        Values (M, K) in -127..127, and scales (M,), >= 0; a row of zeros has scale 0.

    Raises:
        ValueError: A value is not finite.
    """
    values = _finite_f32(matrix).astype(np.float64)
    scale = (np.abs(values).max(axis=1) / MAX_INT8).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
    steps = np.where(scale[:, None] > 0, np.rint(values / divisor), 0)
    # The scale itself is rounded to float32, which can push the largest weight past 127.
    return np.clip(steps, -MAX_INT8, MAX_INT8).astype(np.int8), scale


def encode_i8_r16x4(values: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]) -> EncodedTensor:
    """An int8 matrix in the tiles that `linear_i8` reads, with its row scales and row sums.

    Tiles put four inputs of one row side by side (one dot-product lane) and 16 rows beside
    each other (one vector register). Row sums, times 128, undo the +128 that unsigned
    instructions need on the activations.

    Args:
        values: Shape (M, K), in -127..127.
        scale: Shape (M,), finite, >= 0.

    Returns:
        Codec `i8_r16x4`: tiles (Mp/16, Kp/4, 16, 4) int8, then Mp float32 scales, then Mp
        int32 row sums.

    Raises:
        ValueError: A value is -128, or the shapes do not fit.
    """
    if values.dtype != np.int8 or values.ndim != 2:
        raise ValueError(
            f"tensor: values are {values.dtype} of shape {values.shape}; "
            "they must be int8 of shape (M, K)."
        )
    rows, columns = values.shape
    section_bytes("i8_r16x4", (rows, columns))
    if values.min() < -MAX_INT8:
        raise ValueError("tensor: a value is -128; int8 weights must lie in -127..127.")
    scales = _finite_f32(scale)
    if scales.shape != (rows,) or scales.min() < 0:
        raise ValueError(
            f"tensor: scales have shape {scales.shape} and minimum {scales.min()}; "
            f"there must be {rows}, none negative."
        )
    padded_rows = _rounded_up(rows, ROW_BLOCK)
    padded = np.zeros((padded_rows, _rounded_up(columns, COLUMN_PAD)), np.int8)
    padded[:rows, :columns] = values
    tiles = padded.reshape(padded_rows // ROW_BLOCK, ROW_BLOCK, -1, COLUMN_GROUP).transpose(
        0, 2, 1, 3
    )
    padded_scales = np.zeros(padded_rows, "<f4")
    padded_scales[:rows] = scales
    row_sums = (128 * padded.sum(axis=1, dtype=np.int64)).astype("<i4")
    data = tiles.tobytes() + padded_scales.tobytes() + row_sums.tobytes()
    return EncodedTensor("i8_r16x4", (rows, columns), data)


def encode_int8(matrix: npt.ArrayLike) -> EncodedTensor:
    """Quantise a float matrix row by row and pack it.

    Args:
        matrix: Shape (M, K), finite.

    Returns:
        Codec `i8_r16x4`.

    Raises:
        ValueError: A value is not finite, or the shape is not allowed.
    """
    return encode_i8_r16x4(*quantize_rows(matrix))


def _to_bf16(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Rounded to the nearest number that has eight significant bits, ties to even."""
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype("<u4").view("<f4")


def _row_scales(
    scale: npt.ArrayLike | None, default: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """The scales of rows as a file holds them: given ones, else `default`."""
    if scale is None:
        return _to_bf16(default)
    given = _finite_f32(scale)
    if given.shape != default.shape or (given.size and given.min() < 0):
        raise ValueError(
            f"tensor: scales have shape {given.shape} and minimum {given.min(initial=np.inf)}; "
            f"there must be {len(default)}, none negative."
        )
    return _to_bf16(given.astype(np.float64))


def _in_steps(
    values: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Weights over their row's scale; zeros where that is 0."""
    divisor = np.where(scale > 0, scale, np.float32(np.inf))
    # Far beyond the largest step already: the bound only keeps a tiny scale from overflowing.
    with np.errstate(over="ignore"):
        return np.clip(values / divisor[:, None], -1024, 1024)


def _checked_codebook(codebook: npt.ArrayLike) -> npt.NDArray[np.int8]:
    levels = np.asarray(codebook)
    whole = levels.shape == (LEVELS,) and np.isfinite(levels).all()
    whole = whole and np.array_equal(levels, np.rint(levels))
    if not whole or np.abs(levels).max() > MAX_INT8 or np.any(np.diff(levels) < 0):
        raise ValueError(
            f"codebook: {levels.tolist()}; it must be {LEVELS} whole numbers in "
            f"-{MAX_INT8}..{MAX_INT8}, ascending."
        )
    return levels.astype(np.int8)


_FINENESS = 4  # a weight is rounded to a quarter of a step before its nearest level is looked up


def _nearest_levels(levels: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """The code of every quarter step from -128 to 128."""
    steps = np.arange(-128 * _FINENESS, 128 * _FINENESS + 1) / _FINENESS
    distance = np.abs(steps[:, None] - levels.astype(np.float64))
    nearest: npt.NDArray[np.uint8] = distance.argmin(axis=1).astype(np.uint8)
    return nearest


def _codes(
    values: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    nearest: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    steps = np.clip(_in_steps(values, scale), -128, 128) * _FINENESS
    codes: npt.NDArray[np.uint8] = nearest[np.rint(steps).astype(np.int16) + 128 * _FINENESS]
    return codes


def _best_row_scales(
    values: npt.NDArray[np.float32], levels: npt.NDArray[np.int8]
) -> npt.NDArray[np.float32]:
    """Of the scales that put a row's largest weight on a level, those with the least squared error.

    Rows that were made from the codebook come back exactly, whichever level was their largest.
    """
    nearest = _nearest_levels(levels)
    largest = np.abs(values).max(axis=1).astype(np.float64)
    magnitudes = np.unique(np.abs(levels.astype(np.int64)))[::-1]
    best: npt.NDArray[np.float32] = np.zeros(len(values), np.float32)
    least = np.full(len(values), np.inf)
    for magnitude in magnitudes[magnitudes > 0.4 * magnitudes[0]]:
        scale = _to_bf16(largest / magnitude)
        made = levels[_codes(values, scale, nearest)] * scale[:, None]
        # Zeros are mostly left out of the file, so they have no say.
        error = np.where(values != 0, made - values, 0)
        squares = np.einsum("mk,mk->m", error, error, dtype=np.float64)
        better = squares < least
        best[better], least[better] = scale[better], squares[better]
    return best


def fit_codebook(matrix: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """Sixteen levels that fit a matrix: Lloyd-Max over weights relative to their row's largest.

    Zeros are not counted: those of a pruned matrix are not stored.

    Args:
        matrix: Shape (M, K), finite.

    Returns:
        16 levels in -127..127, ascending, the largest magnitude 127.

    Raises:
        ValueError: A value is not finite.
    """
    values = _finite_f32(matrix)
    largest = np.abs(values).max(axis=1, keepdims=True)
    relative = np.divide(values, largest, where=largest > 0, out=np.zeros_like(values))
    stored = np.sort(relative[relative != 0].astype(np.float64))
    if not len(stored):
        return np.linspace(-MAX_INT8, MAX_INT8, LEVELS).round().astype(np.int8)
    # Sorted, an even sample has the distribution of the whole.
    stored = stored[np.linspace(0, len(stored) - 1, min(len(stored), 20_000)).round().astype(int)]
    centres = np.quantile(stored, (np.arange(LEVELS) + 0.5) / LEVELS)
    for _ in range(25):
        cell = np.searchsorted((centres[1:] + centres[:-1]) / 2, stored)
        count = np.bincount(cell, minlength=LEVELS)
        total = np.bincount(cell, stored, minlength=LEVELS)
        centres = np.where(count > 0, total / np.maximum(count, 1), centres)
    return np.sort(np.rint(centres * (MAX_INT8 / np.abs(centres).max()))).astype(np.int8)


def _quantised(
    values: npt.NDArray[np.float32],
    bits: int,
    codebook: npt.ArrayLike | None,
    scale: npt.ArrayLike | None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], bytes]:
    """Stored codes (M, K), row scales (M,) and the bytes of the codebook."""
    largest = np.abs(values).max(axis=1).astype(np.float64)
    if bits == 8:
        if codebook is not None:
            raise ValueError("codebook: given for 8 bits; only 4 bits have one.")
        scales = _row_scales(scale, largest / MAX_INT8)
        steps = np.clip(np.rint(_in_steps(values, scales)), -MAX_INT8, MAX_INT8)
        return steps.astype(np.int8).view(np.uint8), scales, b""
    levels = _checked_codebook(fit_codebook(values) if codebook is None else codebook)
    if scale is None:
        scale = _best_row_scales(values, levels)
    scales = _row_scales(scale, largest)
    return _codes(values, scales, _nearest_levels(levels)), scales, levels.tobytes()


def _packed_vectors(codes: npt.NDArray[np.uint8], per_vector: int) -> bytes:
    """Columns of 16 rows as vectors: [16][4], the low four bits first where 8 share one."""
    short = -codes.shape[1] % per_vector
    filled = np.pad(codes, ((0, 0), (0, short)))
    vectors = filled.reshape(ROW_BLOCK, -1, per_vector // COLUMN_GROUP, COLUMN_GROUP)
    halves = vectors.transpose(1, 2, 0, 3)  # (vector, half, row, column)
    joined = halves[:, 0] if halves.shape[1] == 1 else halves[:, 0] | halves[:, 1] << 4
    return joined.tobytes()


def _row_blocks(
    codec: Codec, codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32], book: bytes
) -> tuple[npt.NDArray[np.uint8], bytes, bytes]:
    """Codes padded to whole blocks (Mp/16, 16, Kp), the scales' bytes, the padding after them."""
    rows, columns = codes.shape
    padded_rows = _rounded_up(rows, ROW_BLOCK)
    padded = np.zeros((padded_rows, _rounded_up(columns, COLUMN_PAD)), np.uint8)
    padded[:rows, :columns] = codes
    _, start, values = _packed_head(codec, codes.shape)
    words = np.zeros(padded_rows, "<u2")
    words[:rows] = scales.view("<u4") >> 16
    filler = bytes(values - start - 2 * padded_rows)
    return padded.reshape(-1, ROW_BLOCK, padded.shape[1]), words.tobytes(), filler


def encode_int4(
    matrix: npt.ArrayLike,
    *,
    codebook: npt.ArrayLike | None = None,
    scale: npt.ArrayLike | None = None,
) -> EncodedTensor:
    """A dense matrix in 4 bits a weight: an index into 16 levels.

    Args:
        matrix: Shape (M, K), finite.
        codebook: 16 whole numbers in -127..127, ascending; without one, `fit_codebook`'s.
        scale: Shape (M,): what a level of 1 is worth in each row, rounded to bfloat16; without
            it, the one with the least squared error. Give it where training knows it.

    Returns:
        Codec `i4_r16x4`.

    Raises:
        ValueError: A value is not finite, or shapes or levels are not allowed.
    """
    values = _finite_f32(matrix)
    section_bytes("i4_r16x4", values.shape)
    codes, scales, book = _quantised(values, 4, codebook, scale)
    blocks, words, filler = _row_blocks("i4_r16x4", codes, scales, book)
    parts = [_packed_vectors(block, 2 * COLUMN_GROUP) for block in blocks]
    return EncodedTensor(
        "i4_r16x4", (values.shape[0], values.shape[1]), b"".join([book, words, filler, *parts])
    )


def encode_sparse(
    weights: npt.ArrayLike,
    *,
    block: tuple[int, int],
    bits: int,
    codebook: npt.ArrayLike | None = None,
    scale: npt.ArrayLike | None = None,
) -> EncodedTensor:
    """A matrix without its blocks of zeros: which blocks there are, and their values.

    Nothing is pruned here. A block is left out when every weight in it is exactly 0; weights of 0
    in blocks that stay are quantised like any other, and with 4 bits become the nearest level.

    Args:
        weights: Shape (M, K), finite.
        block: (16, 1) or (16, 4): rows and columns of a block.
        bits: 8, or 4 with a codebook.
        codebook: For 4 bits: 16 whole numbers in -127..127, ascending; without one,
            `fit_codebook`'s.
        scale: Shape (M,): what a step (8 bits) or a level of 1 (4 bits) is worth in each row,
            rounded to bfloat16; without it, from the row's largest weight (8 bits) or the
            least squared error (4 bits). Give it where training knows it.

    Returns:
        Codec `i8_b16x1`, `i8_b16x4`, `i4_b16x1` or `i4_b16x4`.

    Raises:
        ValueError: A value is not finite, or block, bits, shapes or levels are not allowed.
    """
    if block not in ((16, 1), (16, 4)) or bits not in (8, 4):
        raise ValueError(
            f"tensor: blocks of {block} with {bits} bits; blocks must be (16, 1) or (16, 4), "
            "bits 8 or 4."
        )
    codec = cast("Codec", f"i{bits}_b16x{block[1]}")
    values = _finite_f32(weights)
    section_bytes(codec, values.shape)
    codes, scales, book = _quantised(values, bits, codebook, scale)
    blocks, words, filler = _row_blocks(codec, codes, scales, book)
    rows, columns = values.shape
    present = np.zeros((len(blocks) * ROW_BLOCK, blocks.shape[2]), bool)
    present[:rows, :columns] = values != 0
    cells = present.reshape(len(blocks), ROW_BLOCK, -1, block[1])
    kept = np.zeros(cells.shape[::2], bool)
    cells.any(axis=(1, 3), out=kept)
    bits_of_rows = np.zeros((len(blocks), MASK_BITS * _mask_words(codec, columns)), np.uint8)
    bits_of_rows[:, : kept.shape[1]] = kept
    masks = np.packbits(bits_of_rows, axis=1, bitorder="little").tobytes()
    parts = [
        _packed_vectors(part[:, np.repeat(keep, block[1])], _columns_per_vector(codec))
        for part, keep in zip(blocks, kept, strict=True)
    ]
    return EncodedTensor(codec, (rows, columns), b"".join([book, masks, words, filler, *parts]))


def _decode_packed(tensor: EncodedTensor) -> npt.NDArray[np.float32]:
    """The values of a sparse or 4-bit codec; blocks that are not stored are 0."""
    codec, (rows, columns), data = tensor.codec, tensor.shape, tensor.data
    _, scales_at, values_at = _packed_head(codec, tensor.shape)
    blocks = _rounded_up(rows, ROW_BLOCK) // ROW_BLOCK
    padded_columns = _rounded_up(columns, COLUMN_PAD)
    if is_sparse(codec):
        present = np.repeat(_masks(codec, tensor.shape, data), _block_columns(codec), axis=1)
        present = present[:, :padded_columns].astype(bool)
    else:
        present = np.ones((blocks, padded_columns), bool)
    per_vector = _columns_per_vector(codec)
    steps = np.zeros((blocks, ROW_BLOCK, padded_columns), np.int8)
    for block, keep in zip(steps, present, strict=True):
        count = int(keep.sum())
        vectors = -(-count // per_vector)
        raw = np.frombuffer(data, np.uint8, vectors * VECTOR_BYTES, values_at)
        raw = raw.reshape(vectors, 1, ROW_BLOCK, COLUMN_GROUP)
        values_at += vectors * VECTOR_BYTES
        if per_vector == COLUMN_GROUP:
            packed = raw.view(np.int8)
        else:
            levels = np.frombuffer(data, np.int8, LEVELS)
            packed = levels[np.concatenate([raw & 15, raw >> 4], axis=1)]
        block[:, keep] = packed.transpose(2, 0, 1, 3).reshape(ROW_BLOCK, -1)[:, :count]
    words = np.frombuffer(data, "<u2", rows, scales_at).astype("<u4") << 16
    flat = steps.reshape(-1, padded_columns)[:rows, :columns]
    values: npt.NDArray[np.float32] = flat * words.view("<f4")[:, None]
    return values


def encode_u8(data: bytes) -> EncodedTensor:
    """Bytes as they are.

    Args:
        data: At least one byte.

    Returns:
        Codec `u8`.

    Raises:
        ValueError: There are no bytes.
    """
    return EncodedTensor("u8", (len(data),), bytes(data))


def decode_tensor(tensor: EncodedTensor) -> npt.NDArray[np.float32]:
    """The values of a packed tensor.

    Args:
        tensor: Any codec.

    Returns:
        Float32 of the logical shape; quantised weights come back times their scale, bytes as
        0..255.
    """
    if tensor.codec == "f32":
        return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape).copy()
    if tensor.codec == "u8":
        return np.frombuffer(tensor.data, np.uint8).astype(np.float32)
    if tensor.codec in VERSION_2_CODECS:
        return _decode_packed(tensor)
    rows, columns = tensor.shape
    padded_rows = _rounded_up(rows, ROW_BLOCK)
    if tensor.codec == "f32_r16":
        tiles = np.frombuffer(tensor.data, "<f4").reshape(-1, columns, ROW_BLOCK)
        flat = tiles.transpose(0, 2, 1).reshape(padded_rows, columns)
        return np.ascontiguousarray(flat[:rows])
    padded_columns = _rounded_up(columns, COLUMN_PAD)
    count = padded_rows * padded_columns
    tiles8 = np.frombuffer(tensor.data, np.int8, count)
    tiles8 = tiles8.reshape(-1, padded_columns // COLUMN_GROUP, ROW_BLOCK, COLUMN_GROUP)
    steps = tiles8.transpose(0, 2, 1, 3).reshape(padded_rows, padded_columns)
    scale = np.frombuffer(tensor.data, "<f4", padded_rows, count)
    values: npt.NDArray[np.float32] = steps[:rows, :columns] * scale[:rows, None]
    return values


def levels_and_scales(
    tensor: EncodedTensor,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """What the weights of a quantised tensor are made of: a level times the scale of its row.

    Args:
        tensor: Of an int8 or 4-bit codec.

    Returns:
        The levels that occur or could, ascending and each once; and the scales, shape (M,).

    Raises:
        ValueError: The codec is one of float32 or of bytes.
    """
    rows = tensor.shape[0]
    levels = np.arange(-MAX_INT8, MAX_INT8 + 1, dtype=np.int8)
    if tensor.codec == "i8_r16x4":
        end = len(tensor.data) - 8 * _rounded_up(rows, ROW_BLOCK)  # of the tiles
        return levels, np.frombuffer(tensor.data, "<f4", rows, end).copy()
    if tensor.codec not in VERSION_2_CODECS:
        raise ValueError(f"tensor: codec {tensor.codec}; it must be one that stores levels.")
    if tensor.codec.startswith("i4"):
        levels = np.unique(np.frombuffer(tensor.data, np.int8, LEVELS))
    _, scales_at, _ = _packed_head(tensor.codec, tensor.shape)
    words = np.frombuffer(tensor.data, "<u2", rows, scales_at).astype("<u4") << 16
    return levels, words.view("<f4")


def lstm_unit_blocks(stacked: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Reorder LSTM rows from stacked gates to the order that the engine reads.

    Torch stacks whole gates: i of all units, then f, g, o. The engine wants the four gates of
    16 units together, so that one pass over a block of rows finishes 16 units.

    Args:
        stacked: Shape (4H, ...), gates i, f, g, o; H a multiple of 16. Weights and biases
            alike.

    Returns:
        The same shape: rows ordered (H/16 blocks, 4 gates, 16 units).

    Raises:
        ValueError: The number of rows is not a multiple of 64.
    """
    rows = stacked.shape[0]
    if rows == 0 or rows % (4 * ROW_BLOCK):
        raise ValueError(f"lstm: {rows} rows; there must be a multiple of {4 * ROW_BLOCK}.")
    rest = stacked.shape[1:]
    blocks = stacked.reshape(4, -1, ROW_BLOCK, *rest)  # (gate, block, unit, ...)
    return np.ascontiguousarray(blocks.swapaxes(0, 1).reshape(rows, *rest))
