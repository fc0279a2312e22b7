"""Biasing attention in torch: no-bias, permutations, causality, and what its guide asks for."""

from __future__ import annotations

import torch

from earshot.models.biasing import (
    NO_PIECE,
    NONE,
    UNGUIDED,
    BiasConfig,
    PhraseBatch,
    PhraseBias,
    phrase_windows,
)
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig

CONFIG = BiasConfig(
    query="audio_and_label",
    after=1,
    width=12,
    hidden=20,
    key_width=8,
    value_width=6,
    audio_context=3,
)


def networks(seed: int = 0) -> PhraseBias:
    torch.manual_seed(seed)
    return PhraseBias(CONFIG, vocab_size=9, encoder_width=16, joiner_width=10).eval()


def windows(*phrases: list[int]) -> torch.Tensor:
    rows = dict.fromkeys(w for p in phrases for w in phrase_windows(p, CONFIG))
    return torch.tensor(list(rows), dtype=torch.int64).reshape(-1, CONFIG.window)


def test_entries_know_their_neighbours_and_the_ends() -> None:
    assert phrase_windows([5, 6, 7], CONFIG) == [
        (NO_PIECE, NO_PIECE, 5, 6),
        (NO_PIECE, 5, 6, 7),
        (5, 6, 7, NO_PIECE),
    ]
    assert phrase_windows([], CONFIG) == []


@torch.no_grad()
def test_an_empty_list_adds_exactly_nothing() -> None:
    bias = networks()
    table = windows()
    entries = bias.encode(table)
    hidden, predicted = torch.randn(2, 7, 16), torch.randn(2, 4, 10)
    last = torch.full((2, 4), 5)
    assert torch.count_nonzero(bias.look_up_audio(hidden, entries).added) == 0
    assert torch.count_nonzero(bias.look_up_label(predicted, entries, table, last).added) == 0


@torch.no_grad()
def test_histories_see_only_what_can_come_next() -> None:
    bias = networks()
    table = windows([3, 4], [5, 6, 7])
    last = torch.tensor([[0, 5, 6, 8]])
    looked = bias.look_up_label(torch.randn(1, 4, 10), bias.encode(table), table, last)
    seen = looked.log_weights[0, :, 0, :-1] > -1e3
    begins = table[:, 1] == NO_PIECE
    assert begins.sum() == 2
    for position, piece in enumerate([0, 5, 6, 8]):
        assert torch.equal(seen[position], begins | (table[:, 1] == piece))


@torch.no_grad()
def test_what_is_all_no_bias_adds_next_to_nothing() -> None:
    bias = networks()
    entries = bias.encode(windows([3, 4], [5, 6, 7]))
    bias.audio.query.bias.copy_(40 * bias.audio.no_bias_key)  # every frame asks for no-bias
    looked = bias.look_up_audio(torch.randn(1, 9, 16), entries)
    assert looked.log_weights[..., -1].exp().min() > 0.9999
    assert looked.added.abs().max() < 1e-3


@torch.no_grad()
def test_the_order_of_the_list_does_not_matter() -> None:
    bias = networks()
    hidden = torch.randn(1, 11, 16)
    one = bias.look_up_audio(hidden, bias.encode(windows([3, 4], [5, 6, 7]))).added
    other = bias.look_up_audio(hidden, bias.encode(windows([5, 6, 7], [3, 4]))).added
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert one.abs().max() > 1e-3  # and the list says something


@torch.no_grad()
def test_frames_see_nothing_that_comes_after_them() -> None:
    bias = networks()
    entries = bias.encode(windows([3, 4], [5, 6, 7]))
    hidden = torch.randn(1, 12, 16)
    changed = hidden.clone()
    changed[:, 7:] += 1.0
    before = bias.look_up_audio(hidden, entries).added
    after = bias.look_up_audio(changed, entries).added
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7], after[:, 7])


def test_the_guide_teaches_attention_what_is_right() -> None:
    """A few steps on one clip: frames and labels find the entries that they are told."""
    bias = networks().train()
    table = windows([3, 4], [5, 6, 7])
    hidden, predicted = torch.randn(1, 6, 16), torch.randn(1, 4, 10)
    labels = torch.tensor([[3, 4, 8]])
    frames = torch.tensor([[NONE, 0, 1, UNGUIDED, NONE, NONE]])
    phrases = PhraseBatch(table, torch.tensor([[0, 1, NONE, UNGUIDED]]), frames)
    optimizer = torch.optim.Adam(bias.parameters(), lr=0.02)
    for _ in range(60):
        _, _, guide = bias(hidden, torch.ones(1, 6, 10), predicted, labels, phrases)
        optimizer.zero_grad()
        guide.backward()
        optimizer.step()
    weights = bias.look_up_audio(hidden, bias.encode(table)).log_weights.exp().mean(dim=2)[0]
    assert weights[1, 0] > 0.8
    assert weights[2, 1] > 0.8
    assert weights[[0, 4, 5], -1].min() > 0.8
    last = torch.tensor([[0, 3, 4, 8]])
    looked = bias.look_up_label(predicted, bias.encode(table), table, last)
    by_label = looked.log_weights.exp().mean(dim=2)[0]
    assert by_label[0, 0] > 0.8
    assert by_label[1, 1] > 0.8
    assert by_label[2, -1] > 0.8


def test_joint_training_reaches_every_biasing_weight() -> None:
    torch.manual_seed(1)
    model = Transducer(
        TransducerConfig(
            vocab_size=9,
            joiner_width=10,
            encoder=EncoderConfig(num_bins=8, hidden=16, layers=1),
            predictor=PredictorConfig(width=8),
            bias=CONFIG,
        )
    )
    labels = torch.tensor([[3, 4, 8]])
    entries = torch.tensor([[0, 1, NONE, NONE]])
    losses = model(
        torch.randn(1, 40, 8), torch.tensor([40]), labels, torch.tensor([3]),
        phones=labels, phone_lengths=torch.tensor([3]),
        phrases=PhraseBatch(windows([3, 4], [5, 6, 7]), entries),
    )  # fmt: skip
    assert losses.guide > 0
    losses.total.backward()
    assert model.bias is not None
    without = [n for n, p in model.bias.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
