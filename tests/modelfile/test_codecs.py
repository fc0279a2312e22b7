"""Packing of weights: exact where it must be, within half a step where it rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.modelfile.codecs import (
    EncodedTensor,
    decode_tensor,
    encode_f32,
    encode_f32_r16,
    encode_i8_r16x4,
    encode_int8,
    encode_u8,
    lstm_unit_blocks,
    quantize_rows,
    section_bytes,
)


@st.composite
def matrices(draw) -> np.ndarray:
    """Random matrices with rows of very different size, and rows of zeros among them."""
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 140)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = 10.0 ** rng.uniform(-20, 20, (shape[0], 1)) * rng.integers(0, 4, (shape[0], 1))
    return (rng.uniform(-1, 1, shape) * size).astype(np.float32)


MATRICES = matrices()


@given(MATRICES)
def test_f32_r16_round_trip_is_exact(matrix):
    np.testing.assert_array_equal(decode_tensor(encode_f32_r16(matrix)), matrix)


@given(MATRICES)
def test_f32_round_trip_is_exact(matrix):
    np.testing.assert_array_equal(decode_tensor(encode_f32(matrix)), matrix)


@given(MATRICES)
def test_int8_error_is_at_most_half_a_step(matrix):
    values, scale = quantize_rows(matrix)
    assert values.min() >= -127
    error = np.abs(values.astype(np.float64) * scale[:, None] - matrix)
    assert np.all(error <= scale[:, None] * (0.5 + 127 * 2e-7))
    # The largest weight of a row uses the whole range, so no step is wasted.
    largest = np.abs(values).max(axis=1)
    np.testing.assert_array_equal(largest[scale > 0], 127)
    np.testing.assert_array_equal(largest[scale == 0], 0)


@given(MATRICES)
def test_int8_packing_keeps_every_value(matrix):
    values, scale = quantize_rows(matrix)
    np.testing.assert_array_equal(
        decode_tensor(encode_i8_r16x4(values, scale)), values * scale[:, None]
    )


def test_int8_layout_byte_by_byte():
    """Oracle: the layout of the specification, written as loops over (row, column)."""
    rng = np.random.default_rng(7)
    rows, columns = 18, 70
    values = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    scale = rng.random(rows, dtype=np.float32)
    data = encode_i8_r16x4(values, scale).data
    padded_rows, padded_columns = 32, 128
    expected = np.zeros(padded_rows * padded_columns, np.int8)
    for row in range(rows):
        for column in range(columns):
            block, lane = divmod(row, 16)
            group, item = divmod(column, 4)
            expected[((block * 32 + group) * 16 + lane) * 4 + item] = values[row, column]
    tiles_end = padded_rows * padded_columns
    assert data[:tiles_end] == expected.tobytes()
    scales = np.frombuffer(data[tiles_end : tiles_end + 128], "<f4")
    np.testing.assert_array_equal(scales, np.concatenate([scale, np.zeros(14, np.float32)]))
    sums = np.frombuffer(data[tiles_end + 128 :], "<i4")
    assert sums.tolist() == [128 * sum(map(int, row)) for row in values] + [0] * 14


def test_f32_r16_layout_value_by_value():
    matrix = np.arange(17 * 3, dtype=np.float32).reshape(17, 3)
    flat = np.frombuffer(encode_f32_r16(matrix).data, "<f4")
    for row in range(32):
        for column in range(3):
            block, lane = divmod(row, 16)
            value = flat[(block * 3 + column) * 16 + lane]
            assert value == (matrix[row, column] if row < 17 else 0)


def test_a_row_of_zeros_has_scale_zero():
    values, scale = quantize_rows(np.zeros((2, 3)))
    assert not values.any()
    assert scale.tolist() == [0, 0]


def test_float64_input_is_rounded_once():
    tensor = encode_int8(np.linspace(-1, 1, 12).reshape(3, 4))
    assert tensor.shape == (3, 4)
    assert len(tensor.data) == section_bytes("i8_r16x4", (3, 4)) == 16 * 64 + 8 * 16


@pytest.mark.parametrize("blocks", [1, 3])
def test_lstm_rows_go_to_blocks_of_sixteen_units(blocks):
    hidden = 16 * blocks
    stacked = np.array(
        [[gate * 1000 + unit] for gate in range(4) for unit in range(hidden)], np.float32
    )
    ordered = lstm_unit_blocks(stacked)[:, 0]
    for gate in range(4):
        for unit in range(hidden):
            block, lane = divmod(unit, 16)
            assert ordered[(block * 4 + gate) * 16 + lane] == gate * 1000 + unit


def test_bytes_pass_through():
    assert encode_u8(b"model").data == b"model"
    assert decode_tensor(encode_u8(b"\x00\xff")).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: encode_f32([1.0, float("nan")]),
            "tensor: 1 of 2 values are not finite in float32; all must be.",
        ),
        (
            lambda: encode_f32([1e300]),
            "tensor: 1 of 1 values are not finite in float32; all must be.",
        ),
        (
            lambda: encode_f32_r16(np.zeros(4)),
            "tensor: shape (4,) for codec f32_r16; it must be (M, K) with K < 131072.",
        ),
        (
            lambda: encode_f32(np.zeros((1, 1, 1, 1, 1))),
            "tensor: shape (1, 1, 1, 1, 1); it must be 1 to 4 positive sizes with a product of "
            "at most 2147483648.",
        ),
        (
            lambda: encode_i8_r16x4(np.full((1, 1), -128, np.int8), np.ones(1, np.float32)),
            "tensor: a value is -128; int8 weights must lie in -127..127.",
        ),
        (
            lambda: encode_i8_r16x4(np.ones((1, 1), np.int8), np.full(1, -1, np.float32)),
            "tensor: scales have shape (1,) and minimum -1.0; there must be 1, none negative.",
        ),
        (
            lambda: encode_i8_r16x4(np.ones((1, 1)), np.ones(1, np.float32)),
            "tensor: values are float64 of shape (1, 1); they must be int8 of shape (M, K).",
        ),
        (
            lambda: EncodedTensor("f32", (2,), b"1234"),
            "tensor: 4 bytes for codec f32 and shape (2,); there must be 8.",
        ),
        (
            lambda: section_bytes("q4", (2,)),
            "codec: 'q4'; it must be one of f32, f32_r16, i8_r16x4, u8, i8_b16x1, i8_b16x4, "
            "i4_b16x1, i4_b16x4, i4_r16x4.",
        ),
        (
            lambda: section_bytes("u8", (2, 2)),
            "tensor: shape (2, 2) for codec u8; it must be (N,).",
        ),
        (
            lambda: lstm_unit_blocks(np.zeros((96, 2), np.float32)),
            "lstm: 96 rows; there must be a multiple of 64.",
        ),
    ],
)
def test_bad_tensors_are_refused(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message
