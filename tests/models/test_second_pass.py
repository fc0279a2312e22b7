"""The second pass: padding changes nothing, the future counts, and the engine computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from earshot import _native
from earshot.compress.export import export_transducer, read_transducer, transducer_config
from earshot.core.errors import ConfigError
from earshot.data.pronunciation import PHONES
from earshot.modelfile.reader import ModelFile
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.rival_loss import RivalBatch
from earshot.models.second_pass import SecondPass, SecondPassConfig, reversed_order
from earshot.models.transducer import Losses, Transducer, TransducerConfig
from earshot.understand.confidence import CommandConfig

PIECES = ["<blk>", "<sos/eos>", "<unk>", *(f"▁w{i}" for i in range(29))]


def config(layers: int, **more: object) -> TransducerConfig:
    return TransducerConfig(
        vocab_size=32, joiner_width=16, phones=True,
        encoder=EncoderConfig(hidden=32, layers=1),
        predictor=PredictorConfig(width=16),
        second_pass=SecondPassConfig(layers=layers), **more,
    )  # fmt: skip


def test_turned_round_twice_is_as_before() -> None:
    order = reversed_order(torch.tensor([3, 5, 1]), 5)
    assert order.tolist() == [[2, 1, 0, 3, 4], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]]
    assert torch.equal(order.gather(1, order), torch.arange(5).expand(3, 5))


def test_padding_changes_nothing_and_the_future_counts() -> None:
    torch.manual_seed(1)
    second = SecondPass(SecondPassConfig(layers=2), hidden=16, outputs=7).eval()
    hidden, frames = torch.randn(3, 40, 16), torch.tensor([40, 25, 1])
    with torch.no_grad():
        together = second(hidden, frames)
        for row, count in enumerate(frames.tolist()):
            alone = second(hidden[row : row + 1, :count], frames[row : row + 1])
            torch.testing.assert_close(together[row, :count], alone[0], atol=1e-5, rtol=1e-5)
        later = hidden.clone()
        later[0, 30] += 1.0
        changed = (second(later, frames) - together)[0].abs().amax(dim=1)
    assert (changed[:31] > 0).all()
    assert (changed[31:] == 0).all()


def test_its_loss_trains_the_encoder_too() -> None:
    torch.manual_seed(1)
    model = Transducer(config(1))
    losses = model(
        torch.randn(2, 80, 80), torch.tensor([80, 60]), torch.tensor([[3, 4], [5, 3]]),
        torch.tensor([2, 1]), phones=torch.tensor([[1, 2, 3], [4, 5, 0]]),
        phone_lengths=torch.tensor([3, 2]), with_transducer=False,
    )  # fmt: skip
    assert float(losses.second_pass) > 0
    losses.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.second_pass.parameters())
    model.zero_grad()
    hidden = model.encoder(torch.randn(1, 40, 80))
    model.second_pass(hidden, torch.tensor([10])).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
    plain = Transducer(config(0))
    assert plain.second_pass is None
    with pytest.raises(ConfigError, match=r"second_pass\.layers is 1, but the model hears no"):
        TransducerConfig(second_pass=SecondPassConfig(layers=1))


def test_rivals_are_told_apart_by_both_passes() -> None:
    torch.manual_seed(1)
    model = Transducer(config(1))
    assert model.config.rivals.blank_penalty == CommandConfig().phone_blank_penalty
    assert CommandConfig().second_pass_share == 0.5  # as the loss mixes them

    def heard(rivals: RivalBatch | None) -> Losses:
        torch.manual_seed(2)  # dropout
        return model(
            torch.ones(1, 80, 80), torch.tensor([80]), torch.tensor([[3, 4]]), torch.tensor([2]),
            phones=torch.tensor([[1, 2, 3]]), phone_lengths=torch.tensor([3]),
            with_transducer=False, rivals=rivals,
        )  # fmt: skip

    alone = heard(None)
    beside = heard(RivalBatch(torch.tensor([[1, 4, 3]]), torch.tensor([3]), torch.tensor([0])))
    assert alone.rivals.item() == 0 < beside.rivals.item()
    added = beside.total - alone.total
    assert added.item() == pytest.approx(
        model.config.rivals.weight * beside.rivals.item(), abs=1e-4
    )
    added.backward()
    for head in (model.phones, model.second_pass.phones):
        assert head.weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize("layers", [1, 2])
def test_the_engine_computes_the_same(tmp_path: Path, layers: int) -> None:
    torch.manual_seed(layers)
    model = Transducer(config(layers)).eval()
    path = tmp_path / "m.ear"
    export_transducer(model, path, name="m", pieces=PIECES, tokenizer=b"-", codec="f32_r16")
    graph = _native.Model(str(path)).graph("second_pass")
    hidden = np.random.default_rng(1).standard_normal((37, 32)).astype(np.float32)
    turned = np.ascontiguousarray(hidden[::-1])
    found = graph.step(turned, graph.initial_state())["log_probs"][::-1]
    with torch.no_grad():
        logits = model.second_pass(torch.from_numpy(hidden)[None], torch.tensor([37]))
    np.testing.assert_allclose(found, torch.log_softmax(logits[0], -1), atol=2e-5)
    # It comes back, to be trained further, or is left out.
    assert read_transducer(path, config(0)).second_pass is None
    assert transducer_config(ModelFile(path)).second_pass.layers == layers
    again = read_transducer(path, config(layers))
    for name, value in model.state_dict().items():
        if name.endswith("bias_hh_l0"):
            continue  # both biases of a layer come back as one
        if not name.endswith("bias_ih_l0"):
            torch.testing.assert_close(again.state_dict()[name], value)


def test_a_model_without_one_is_given_one(tmp_path: Path) -> None:
    path = tmp_path / "m.ear"
    model = Transducer(config(0)).eval()
    export_transducer(model, path, name="m", pieces=PIECES, tokenizer=b"-", codec="f32_r16")
    assert transducer_config(ModelFile(path)).second_pass.layers == 0
    read_transducer(path, config(0))
    given = read_transducer(path, config(1))
    assert given.second_pass is not None
    assert given.second_pass.phones.out_features == len(PHONES) + 1
    torch.testing.assert_close(given.phones.weight, model.phones.weight)
