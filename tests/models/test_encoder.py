"""Every streaming layer: causal, chunk-invariant, reset."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.models.encoder import EncoderConfig, LstmEncoder

CONFIG = EncoderConfig(num_bins=8, stack=4, hidden=16, layers=2, dropout=0.1)


@pytest.fixture(scope="module")
def encoder() -> LstmEncoder:
    torch.manual_seed(0)
    encoder = LstmEncoder(CONFIG).eval()
    encoder.set_statistics(torch.randn(8), torch.rand(8) + 0.5)
    return encoder


def test_is_causal(encoder: LstmEncoder) -> None:
    """Frames after t do not change outputs up to t."""
    x = torch.randn(1, 40, 8)
    changed = x.clone()
    changed[:, 20:] += 1.0
    torch.testing.assert_close(encoder(x)[:, :5], encoder(changed)[:, :5], rtol=0, atol=0)
    assert not torch.allclose(encoder(x)[:, 5:], encoder(changed)[:, 5:])


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 10), max_size=5).map(sorted))
def test_chunks_give_what_the_whole_gives(encoder: LstmEncoder, cuts: list[int]) -> None:
    x = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(1))
    state = encoder.initial_state(batch=2)
    parts = []
    for first, last in zip([0, *cuts], [*cuts, 10], strict=True):
        if first < last:
            out, state = encoder.step(x[:, 4 * first : 4 * last], state)
            parts.append(out)
    torch.testing.assert_close(torch.cat(parts, dim=1), encoder(x), rtol=1e-5, atol=1e-5)


def test_step_leaves_its_state_and_a_fresh_state_resets(encoder: LstmEncoder) -> None:
    x = torch.randn(1, 8, 8)
    fresh = encoder.initial_state()
    first, moved = encoder.step(x, fresh)
    assert not fresh.h.any()
    assert moved.h.any()
    again, _ = encoder.step(x, encoder.initial_state())
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_the_last_frame_is_repeated_to_fill_a_stack(encoder: LstmEncoder) -> None:
    x = torch.randn(1, 6, 8)
    filled = torch.cat([x, x[:, -1:], x[:, -1:]], dim=1)
    torch.testing.assert_close(encoder(x), encoder(filled), rtol=0, atol=0)


def test_step_refuses_part_of_a_stack(encoder: LstmEncoder) -> None:
    with pytest.raises(ValueError, match="chunk has 6 frames; it must be a multiple of 4"):
        encoder.step(torch.zeros(1, 6, 8), encoder.initial_state())
