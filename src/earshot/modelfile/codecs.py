"""How numbers of a model lie in a file: the codecs of `docs/formats/ear.md`, in numpy.

Packs arrays into section bytes and back. Knows nothing of files, graphs or torch. The unpack
side exists to show what a packed tensor means and to test the engine against it; a running
model reads the packed bytes in place and never unpacks.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Codec = Literal["f32", "f32_r16", "i8_r16x4", "u8"]
CODECS: tuple[Codec, ...] = get_args(Codec)

ROW_BLOCK = 16  # rows that one kernel call computes side by side
COLUMN_GROUP = 4  # int8 products that one dot-product instruction sums
COLUMN_PAD = 64  # int8 rows are padded to this many columns
MAX_COLUMNS = 131_072  # 127 * 127 * K must stay below 2^31
MAX_ELEMENTS = 2**31
MAX_INT8 = 127  # symmetric: -128 is never used, so that |q| has one bound


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
        expected = section_bytes(self.codec, self.shape)
        if len(self.data) != expected:
            raise ValueError(
                f"tensor: {len(self.data)} bytes for codec {self.codec} and shape "
                f"{self.shape}; there must be {expected}."
            )


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def section_bytes(codec: Codec, shape: tuple[int, ...]) -> int:
    """The size of a section in bytes.

    Args:
        codec: One of `CODECS`.
        shape: Logical shape, 1..4 positive integers.

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
    return padded_rows * _rounded_up(shape[1], COLUMN_PAD) + 8 * padded_rows


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
        Float32 of the logical shape; int8 weights come back times their scale, bytes as
        0..255.
    """
    if tensor.codec == "f32":
        return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape).copy()
    if tensor.codec == "u8":
        return np.frombuffer(tensor.data, np.uint8).astype(np.float32)
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
