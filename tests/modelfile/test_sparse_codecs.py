"""Block-sparse and 4-bit packing: what is stored comes back, what is zero is not stored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.modelfile.codecs import (
    EncodedTensor,
    decode_tensor,
    encode_f32,
    encode_int4,
    encode_int8,
    encode_sparse,
    fit_codebook,
    levels_and_scales,
    section_bytes,
)

BLOCKS = ((16, 1), (16, 4))
LEVELS = np.array(
    [-127, -100, -70, -40, -20, -9, -3, 0, 2, 5, 10, 20, 40, 70, 100, 127], np.int8
)  # fmt: skip


def pruned(shape: tuple[int, int], block: tuple[int, int], seed: int, share: float) -> np.ndarray:
    """Normal weights, and whole blocks of zeros among them."""
    rng = np.random.default_rng(seed)
    keep = rng.random((-(-shape[0] // block[0]), -(-shape[1] // block[1]))) >= share
    mask = np.repeat(np.repeat(keep, block[0], 0), block[1], 1)[: shape[0], : shape[1]]
    size = 10.0 ** rng.uniform(-6, 3, (shape[0], 1))
    return (rng.standard_normal(shape) * size * mask).astype(np.float32)


@st.composite
def matrices(draw) -> tuple[np.ndarray, tuple[int, int]]:
    block = draw(st.sampled_from(BLOCKS))
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 200)))
    seed, share = draw(st.integers(0, 2**32)), draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    return pruned(shape, block, seed, share), block


@given(matrices())
def test_eight_bits_are_at_most_half_a_step_off(case):
    matrix, block = case
    values = decode_tensor(encode_sparse(matrix, block=block, bits=8))
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    # The scale has eight significant bits: the largest weight may be clipped by 2^-9 of itself.
    assert np.all(np.abs(values - matrix) <= largest * (0.51 / 127 + 2**-8.9))
    assert not values[matrix == 0].any()


@given(matrices(), st.sampled_from([8, 4]))
def test_packing_again_what_was_unpacked_changes_no_byte(case, bits):
    """A tensor that an update leaves alone must not become another one."""
    matrix, block = case
    first = encode_sparse(matrix, block=block, bits=bits, codebook=LEVELS if bits == 4 else None)
    values = decode_tensor(first)
    again = encode_sparse(values, block=block, bits=bits, codebook=LEVELS if bits == 4 else None)
    np.testing.assert_array_equal(decode_tensor(again), values)


@given(
    st.integers(1, 40), st.integers(1, 200), st.sampled_from([*BLOCKS, None]), st.integers(0, 2**32)
)
def test_weights_on_the_levels_come_back_exactly(rows, columns, block, seed):
    """What training has snapped to a codebook is stored as it is."""
    rng = np.random.default_rng(seed)
    scale = np.float32(2.0) ** rng.integers(-20, 20, rows).astype(np.float32)
    codes = rng.integers(0, 16, (rows, columns))
    matrix = LEVELS[codes] * scale[:, None]
    if block is None:
        packed = encode_int4(matrix, codebook=LEVELS, scale=scale)
    else:
        packed = encode_sparse(matrix, block=block, bits=4, codebook=LEVELS, scale=scale)
    np.testing.assert_array_equal(decode_tensor(packed), matrix)


def test_the_scale_of_a_row_is_found_from_its_weights():
    """Even where a row's largest weight is not on the largest level."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (64, 100))
    codes[:20] = np.clip(codes[:20], 2, 13)
    matrix = LEVELS[codes] * np.float32(0.03)
    values = decode_tensor(encode_sparse(matrix, block=(16, 1), bits=4, codebook=LEVELS))
    np.testing.assert_allclose(values, matrix, rtol=2**-8)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("bits", [8, 4])
def test_layout_bit_by_bit(block, bits):
    """Oracle: the specification read as loops over (row, column)."""
    rows, columns, width = 18, 70, block[1]
    matrix = pruned((rows, columns), block, 5, 0.6)
    tensor = encode_sparse(matrix, block=block, bits=bits, codebook=LEVELS if bits == 4 else None)
    values, data, at = decode_tensor(tensor), tensor.data, 0
    levels = None
    if bits == 4:
        levels = np.frombuffer(data, np.int8, 16)
        assert levels.tolist() == LEVELS.tolist()
        at = 16
    words = 128 // width // 64 if width == 1 else 1
    masks = np.frombuffer(data, "<u8", 2 * words, at).reshape(2, words)
    at += 16 * words
    halves = np.frombuffer(data, "<u2", 32, at)
    assert not halves[rows:].any()
    scale = (halves.astype(np.uint32) << 16).view(np.float32)
    at += 64
    end = -(-at // 64) * 64
    assert not any(data[at:end])
    at, seen = end, np.zeros_like(values)
    for block_of_rows in range(2):
        stored = [
            column
            for column in range(128)
            if int(masks[block_of_rows, column // width // 64]) >> (column // width % 64) & 1
        ]
        per_vector = 4 if bits == 8 else 8
        for place in range(-(-len(stored) // per_vector) * per_vector):
            vector, within = divmod(place, per_vector)
            for lane in range(16):
                byte = data[at + 64 * vector + 4 * lane + within % 4]
                if bits == 4:
                    byte = byte >> 4 if within >= 4 else byte & 15
                row = 16 * block_of_rows + lane
                if row >= rows or place >= len(stored) or stored[place] >= columns:
                    assert byte == 0
                    continue
                step = np.uint8(byte).view(np.int8) if levels is None else levels[byte]
                seen[row, stored[place]] = np.float32(step) * scale[row]
        at += 64 * -(-len(stored) // per_vector)
    assert at == len(data)
    np.testing.assert_array_equal(seen, values)
    assert len(data) < 0.6 * len(encode_sparse(matrix + 1, block=block, bits=bits).data)


def test_dense_four_bits_layout():
    matrix = pruned((17, 66), (16, 1), 2, 0.0)
    data = encode_int4(matrix, codebook=LEVELS).data
    assert len(data) == section_bytes("i4_r16x4", (17, 66)) == 128 + 32 * 128 // 2
    values = decode_tensor(EncodedTensor("i4_r16x4", (17, 66), data))
    for row, column in ((0, 0), (3, 5), (16, 65), (15, 64)):
        block, lane = divmod(row, 16)
        vector, within = divmod(column, 8)
        byte = data[128 + (block * 16 + vector) * 64 + 4 * lane + within % 4]
        level = LEVELS[byte >> 4 if within >= 4 else byte & 15]
        half = np.frombuffer(data, "<u2", 32, 16)[row : row + 1]
        scale = (half.astype(np.uint32) << 16).view(np.float32)[0]
        assert values[row, column] == np.float32(level) * scale


def test_a_codebook_of_the_matrix_beats_even_steps():
    matrix = np.random.default_rng(0).standard_normal((64, 300)).astype(np.float32)
    even = np.rint(np.linspace(-127, 127, 16))
    levels = fit_codebook(matrix)
    assert np.abs(levels.astype(int)).max() == 127
    assert np.all(np.diff(levels.astype(int)) >= 0)
    error = [
        float(((decode_tensor(encode_int4(matrix, codebook=book)) - matrix) ** 2).mean())
        for book in (levels, even)
    ]
    assert error[0] < 0.9 * error[1]
    assert fit_codebook(np.zeros((2, 2))).tolist() == even.tolist()


def test_sizes_of_a_pruned_matrix():
    """75 % of 16x1 blocks left out: about 2.1 and 1.1 bits a weight."""
    matrix = pruned((1280, 640), (16, 1), 1, 0.75)
    for bits, most in ((8, 2.13), (4, 1.14)):
        data = encode_sparse(matrix, block=(16, 1), bits=bits).data
        assert 8 * len(data) / matrix.size < most


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: encode_sparse(np.ones((2, 2)), block=(8, 4), bits=8),
            "tensor: blocks of (8, 4) with 8 bits; blocks must be (16, 1) or (16, 4), bits 8 or 4.",
        ),
        (
            lambda: encode_sparse(np.ones((2, 2)), block=(16, 4), bits=5),
            "tensor: blocks of (16, 4) with 5 bits; blocks must be (16, 1) or (16, 4), "
            "bits 8 or 4.",
        ),
        (
            lambda: encode_sparse([[np.inf]], block=(16, 4), bits=8),
            "tensor: 1 of 1 values are not finite in float32; all must be.",
        ),
        (
            lambda: encode_sparse(np.ones((2, 2)), block=(16, 1), bits=8, codebook=LEVELS),
            "codebook: given for 8 bits; only 4 bits have one.",
        ),
        (
            lambda: encode_int4(np.ones((2, 2)), codebook=[-128, *range(15)]),
            "codebook: [-128, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]; it must be 16 "
            "whole numbers in -127..127, ascending.",
        ),
        (
            lambda: encode_int4(np.ones((2, 2)), scale=[1.0]),
            "tensor: scales have shape (1,) and minimum 1.0; there must be 2, none negative.",
        ),
        (
            lambda: EncodedTensor("i8_b16x1", (16, 64), bytes([1] + [0] * 63)),
            "tensor: 64 bytes for codec i8_b16x1 and shape (16, 64); there must be 128.",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize("made", ["i8_r16x4", "i8_b16x1", "i4_b16x4", "i4_r16x4"])
def test_levels_and_scales_are_what_weights_are_made_of(made: str) -> None:
    weights = np.random.default_rng(7).standard_normal((40, 70)).astype(np.float32)
    weights[:16, :30] = 0
    if made == "i8_r16x4":
        tensor = encode_int8(weights)
    elif made == "i4_r16x4":
        tensor = encode_int4(weights)
    else:
        block = (16, 1) if made.endswith("x1") else (16, 4)
        tensor = encode_sparse(weights, block=block, bits=int(made[1]))
    assert tensor.codec == made
    levels, scale = levels_and_scales(tensor)
    assert scale.shape == (40,)
    values = decode_tensor(tensor)
    for row, step in zip(values, scale, strict=True):
        found = np.unique(row[row != 0])
        np.testing.assert_allclose(found, found.dtype.type(step) * np.rint(found / step), rtol=1e-6)
        assert set(np.rint(found / step).astype(int)) <= set(levels.tolist())


def test_float_tensors_have_no_levels() -> None:
    with pytest.raises(ValueError, match="codec f32; it must be one that stores levels"):
        levels_and_scales(encode_f32(np.ones(3, np.float32)))
