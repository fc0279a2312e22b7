"""Fisher's information against a loop of autograd over another loss, and its cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed ([train])")

from torch import Tensor
from torch.nn import functional

from earshot.core.errors import ConfigError
from earshot.models.encoder import EncoderConfig
from earshot.models.loss import reference_transducer_loss
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig
from earshot.train.batches import Batch
from earshot.train.mitigate_fisher import (
    cached_information,
    fisher_information,
    information_key,
    normalised,
    sampled_labels,
)

pytestmark = pytest.mark.train

SHAPE = TransducerConfig(
    vocab_size=12,
    joiner_width=8,
    phones=True,
    encoder=EncoderConfig(num_bins=10, hidden=16, layers=1, dropout=0.3),
    predictor=PredictorConfig(width=8, dropout=0.3),
)


def network(seed: int = 0) -> Transducer:
    torch.manual_seed(seed)
    return Transducer(SHAPE)


def utterance(seed: int, frames: int = 24) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return Batch(
        features=torch.randn(1, frames, 10, generator=rng),
        feature_lengths=torch.tensor([frames]),
        labels=torch.randint(3, 12, (1, 3), generator=rng),
        label_lengths=torch.tensor([3]),
        phones=torch.randint(1, 30, (1, 4), generator=rng),
        phone_lengths=torch.tensor([4]),
        texts=("",),
        kinds=("-1",),
    )


def joined(batches: list[Batch]) -> Batch:
    """Utterances of the same length as one batch."""
    names = ("features", "feature_lengths", "labels", "label_lengths", "phones", "phone_lengths")
    parts = {name: torch.cat([getattr(b, name) for b in batches]) for name in names}
    return Batch(**parts, texts=("",) * len(batches), kinds=("-1",) * len(batches))


def loss_another_way(model: Transducer, batch: Batch) -> Tensor:
    """Nats of one utterance: the forward recursion in plain torch, and torch's CTC."""
    hidden = model.encoder(batch.features)
    encoded, predicted = model.encoder_out(hidden)[0], model.predictor(batch.labels)[0]
    logits = model.joiner(torch.tanh(encoded[:, None] + predicted[None]))
    total = reference_transducer_loss(logits, batch.labels[0], one_symbol_per_frame=True)
    for head, labels, weight in (
        (model.ctc, batch.labels, SHAPE.ctc_weight),
        (model.phones, batch.phones, SHAPE.phone_weight * 3 / 4),  # per phone, times the pieces
    ):
        log_probs = torch.log_softmax(head(hidden), -1).transpose(0, 1)
        frames = torch.tensor([len(log_probs)])
        count = torch.tensor([labels.shape[1]])
        total = total + weight * functional.ctc_loss(
            log_probs, labels, frames, count, reduction="sum"
        )
    return total


def test_information_equals_a_loop_of_autograd() -> None:
    model = network().eval()
    batches = [utterance(seed, frames) for seed, frames in ((1, 24), (2, 32), (3, 20))]
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in batches:
        model.zero_grad()
        loss_another_way(model, batch).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad.square() / len(batches)
    model.train()  # dropout must not matter: importance is that of the network as it is used
    found = fisher_information(model, batches)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=1e-7, msg=name)
        assert value.max() > 0, name


def test_squared_gradients_of_batches_underestimate() -> None:
    """The common shortcut: gradients of the mean loss of 8 utterances, squared."""
    model = network().eval()
    batches = [utterance(seed) for seed in range(16)]
    each = fisher_information(model, batches)
    shortcut = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for first in (0, 8):
        part = joined(batches[first : first + 8])
        losses = model(
            part.features, part.feature_lengths, part.labels, part.label_lengths,
            phones=part.phones, phone_lengths=part.phone_lengths,
        )  # fmt: skip
        mean = losses.total * 3  # nats an utterance
        gradients = torch.autograd.grad(mean, list(model.parameters()))
        for total, gradient in zip(shortcut.values(), gradients, strict=True):
            total += gradient.square() / 2
    sizes = [sum(float(v.sum()) for v in found.values()) for found in (shortcut, each)]
    assert sizes[0] < 0.8 * sizes[1]
    # By Jensen's inequality it can be larger nowhere.
    for name, value in each.items():
        assert (shortcut[name] <= value * 1.01 + 1e-6).all(), name


def test_more_than_one_utterance_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch has 2 utterances"):
        fisher_information(network(), [joined([utterance(1), utterance(2)])])
    with pytest.raises(ValueError, match="0 utterances"):
        fisher_information(network(), [])


def test_transcripts_are_drawn_from_the_model() -> None:
    model = network().eval()
    with torch.no_grad():
        model.joiner.bias[:] = -30.0
        model.joiner.bias[7] = 30.0  # always the piece 7, once a frame
    drawn = sampled_labels(model, utterance(1, 24), torch.Generator())
    assert drawn.labels.tolist() == [[7] * 6]
    assert drawn.label_lengths.tolist() == [6]
    with torch.no_grad():
        model.joiner.bias[0] = 60.0  # always the blank
    assert sampled_labels(model, utterance(1, 24), torch.Generator()).labels.shape == (1, 0)


def test_drawn_information_depends_on_the_seed_and_not_on_the_transcript() -> None:
    model = network()
    batch = utterance(1, 32)
    other = replace(batch, labels=batch.labels.flip(1), phones=batch.phones.flip(1))
    first = fisher_information(model, [batch] * 3, sampled=True, seed=1)
    same = fisher_information(model, [other] * 3, sampled=True, seed=1)
    differs = fisher_information(model, [batch] * 3, sampled=True, seed=2)
    name = "joiner.weight"
    torch.testing.assert_close(first[name], same[name])
    assert not torch.allclose(first[name], differs[name])


def test_importance_has_a_mean_of_one_and_is_clipped() -> None:
    raw = {"a": torch.tensor([0.0, 1.0, 2.0]), "b": torch.tensor([[100.0]])}
    plain = normalised(raw)
    torch.testing.assert_close(plain["b"], torch.tensor([[100 / 25.75]]))
    clipped = normalised(raw, clip=2.0)
    for found in (plain, clipped):
        values = torch.cat([v.flatten() for v in found.values()])
        assert float(values.mean()) == pytest.approx(1.0)
    assert float(clipped["b"] / clipped["a"][2]) == pytest.approx(2.0 / (2 / 25.75))
    with pytest.raises(ConfigError, match="must be above 0"):
        normalised({"a": torch.zeros(3)})


def test_the_cache_is_of_one_model_and_data(tmp_path: Path) -> None:
    model = network()
    file = tmp_path / "model.ear"
    file.write_bytes(b"one")
    made = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    calls: list[str] = []

    def make(label: str) -> dict[str, Tensor]:
        calls.append(label)
        return made

    def key(data: list[str], *, sampled: bool = False, seed: int = 0) -> str:
        return information_key(file, data, sampled=sampled, seed=seed)

    first = key(["a", "b"])
    assert key(["a", "b"], seed=5) == first  # nothing is drawn
    keys = [first, key(["ab"]), key(["a", "b"], sampled=True)]
    keys.append(key(["a", "b"], sampled=True, seed=5))
    file.write_bytes(b"two")
    keys.append(key(["a", "b"]))
    assert len(set(keys)) == len(keys)
    cached_information(tmp_path, first, model, lambda: make("first"))
    again = cached_information(tmp_path, first, model, lambda: make("again"))
    assert calls == ["first"]
    torch.testing.assert_close(again["joiner.bias"], made["joiner.bias"])
    path = tmp_path / f"fisher-{first}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    cached_information(tmp_path, first, model, lambda: make("damaged"))
    assert calls == ["first", "damaged"]
