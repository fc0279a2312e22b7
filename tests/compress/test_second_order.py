"""Pruning and rounding by second derivatives: the algebra against its definition, and networks."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from torch import Tensor

from earshot.compress.blocks import block_norms, lowest_blocks
from earshot.compress.config import (
    CompressConfig,
    QuantiseConfig,
    SecondOrderConfig,
    SparsifyConfig,
)
from earshot.compress.export import read_transducer
from earshot.compress.grid import Grid, codebook_grid
from earshot.compress.quantisation import fit_grids
from earshot.compress.second_order import (
    Site,
    observe,
    prune,
    removal_order,
    round_weights,
    rounded,
    without,
)
from earshot.compress.training import batch_losses
from earshot.core.errors import ConfigError
from earshot.modelfile.reader import ModelFile
from earshot.models.second_pass import SecondPassConfig
from earshot.models.transducer import Transducer
from earshot.train.batches import Batch
from tests.compress.tiny_training import SHAPE, batch, network, write

ALL_FRAMES = SecondOrderConfig(share=0.5, bits=4, batches=2, frames=100_000)


def correlated(columns: int, *, seed: int = 0) -> Tensor:
    """A second derivative of inputs that go together."""
    rng = torch.Generator().manual_seed(seed)
    few = torch.randn(400, columns // 2, generator=rng)
    mixed = few @ torch.randn(columns // 2, columns, generator=rng)
    inputs = mixed + 0.3 * torch.randn(400, columns, generator=rng)
    return inputs.t() @ inputs / 400


def block(columns: int, *, rows: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def cost(weights: Tensor, changed: Tensor, curvature: Tensor) -> float:
    change = (changed - weights).double()
    return float(((change @ curvature.double()) * change).sum())


def test_what_stays_makes_up_for_what_goes() -> None:
    weights, curvature = block(12), correlated(12)
    kept = torch.tensor([True, False, True, True] * 3)
    made = without(weights, curvature, kept)
    assert not made[:, ~kept].any()
    # The definition: least squares over the columns that stay.
    root = torch.linalg.cholesky(curvature.double()).t()
    best = torch.linalg.lstsq(root[:, kept], root @ weights.double().t()).solution.t()
    torch.testing.assert_close(made[:, kept].double(), best, rtol=1e-3, atol=1e-3)
    assert cost(weights, made, curvature) < 0.5 * cost(weights, weights * kept, curvature)
    nothing = torch.zeros(12, dtype=torch.bool)
    assert not without(weights, curvature, nothing).any()


def test_columns_go_in_the_order_of_what_they_cost() -> None:
    weights, curvature = block(10), correlated(10)
    order, costs = removal_order(weights, curvature)
    assert sorted(order.tolist()) == list(range(10))
    kept = torch.ones(10, dtype=torch.bool)
    before, rises = 0.0, []
    for column in order.tolist():
        tried = {}
        for other in kept.nonzero()[:, 0].tolist():
            fewer = kept.clone()
            fewer[other] = False
            tried[other] = cost(weights, without(weights, curvature, fewer), curvature)
        assert tried[column] == pytest.approx(min(tried.values()), rel=1e-3)
        rises.append(tried[column] - before)
        before = tried[column]
        kept[column] = False
    expected = torch.tensor(rises).cummax(dim=0).values
    torch.testing.assert_close(costs.double(), expected.double(), rtol=2e-3, atol=1e-3)


def test_rounding_makes_up_for_itself() -> None:
    weights, curvature = block(24), correlated(24)
    weights[:, ::4] = 0
    parts = [codebook_grid(weights[:, :10], 4), codebook_grid(weights[:, 10:], 4)]
    grids = [(10, parts[0]), (14, parts[1])]

    def stored(values: Tensor) -> Tensor:
        return torch.cat([parts[0].nearest(values[:, :10]), parts[1].nearest(values[:, 10:])], 1)

    made = stored(rounded(weights, curvature, grids))
    assert not made[:, ::4].any()
    assert cost(weights, made, curvature) < 0.8 * cost(weights, stored(weights), curvature)
    alone = rounded(weights, torch.eye(24), grids)  # where nothing goes together
    torch.testing.assert_close(alone, weights)
    assert not rounded(torch.zeros(16, 24), curvature, grids).any()


def with_phones(seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed + 50)
    return replace(
        batch(seed),
        phones=torch.randint(1, 40, (3, 6), generator=rng),
        phone_lengths=torch.tensor([6, 4, 5]),
    )


def test_inputs_and_gradients_are_those_of_the_network() -> None:
    shape = replace(SHAPE, phones=True, second_pass=SecondPassConfig(layers=1, dropout=0.0))
    torch.manual_seed(3)
    model = Transducer(shape).eval()
    heard = with_phones()
    batch_losses(model, heard).total.backward()
    sites = observe(model, [heard], replace(ALL_FRAMES, batches=1))
    names = {path for site in sites for path in site.paths}
    assert {"encoder.lstms.1.weight_hh_l0", "second_pass.lstms.0.weight_ih_l0"} <= names
    assert {"encoder.project.weight", "ctc.weight", "phones.weight"} <= names
    assert "joiner.weight" not in names
    for site in sites:
        expected = torch.cat([model.get_parameter(p).grad for p in site.paths], dim=1)
        found = site.gradients.float().t() @ site.inputs.float()
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * scale)
        # Frames behind the end of an utterance have no say.
        assert (site.gradients.abs().amax(dim=1) > 0).all()


def test_fewer_frames_are_kept_on_demand() -> None:
    model = network()
    sites = observe(model, [batch(0), batch(1)], replace(ALL_FRAMES, frames=20))
    assert all(len(site.inputs) == len(site.gradients) <= 20 for site in sites)
    again = observe(model, [batch(0), batch(1)], replace(ALL_FRAMES, frames=20))
    for one, other in zip(sites, again, strict=True):
        torch.testing.assert_close(one.inputs, other.inputs, rtol=0, atol=0)


def loss_of(model: Transducer, batches: list[Batch]) -> float:
    with torch.no_grad():
        return sum(float(batch_losses(model.eval(), b).total) for b in batches)


def columns_that_are_zero(model: Transducer, path: str) -> Tensor:
    return block_norms(model.get_parameter(path), (16, 1)) == 0


def trained_a_little() -> tuple[Transducer, list[Batch]]:
    """A network that minds what its weights are, and what it has learnt."""
    model, batches = network(), [batch(0), batch(1)]
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(40):
        for heard in batches:
            optimiser.zero_grad()
            batch_losses(model, heard).total.backward()
            optimiser.step()
    return model.eval(), batches


def test_pruning_costs_less_than_that_of_the_smallest(tmp_path: Path) -> None:
    model, batches = trained_a_little()
    sites = observe(model, batches, ALL_FRAMES)
    before = loss_of(model, batches)
    smallest = network()
    smallest.load_state_dict(model.state_dict())
    shares = prune(model, sites, ALL_FRAMES)
    paths = [path for site in sites for path in site.paths]
    assert shares.keys() == set(paths)
    blocks = torch.cat([columns_that_are_zero(model, path).flatten() for path in paths])
    assert float(blocks.float().mean()) == pytest.approx(0.5, abs=0.01)
    for path in paths:
        norms = block_norms(smallest.get_parameter(path), (16, 1))
        zero = lowest_blocks(norms, 0.5).repeat_interleave(16, 0)
        values = smallest.get_parameter(path).data
        values[zero[: len(values)]] = 0
    assert loss_of(model, batches) - before < 0.5 * (loss_of(smallest, batches) - before)
    # Zeros survive the file that training starts from.
    start = write(model, tmp_path / "pruned.ear", codec="f32_r16")
    back = read_transducer(start, SHAPE)
    for path in paths:
        assert torch.equal(columns_that_are_zero(back, path), columns_that_are_zero(model, path))


def test_rounding_costs_less_than_to_the_nearest_level(tmp_path: Path) -> None:
    model, batches = trained_a_little()
    plain = network()
    plain.load_state_dict(model.state_dict())
    prune(model, observe(model, batches, ALL_FRAMES), replace(ALL_FRAMES, share=0.3))
    plain.load_state_dict(model.state_dict())
    before = loss_of(model, batches)
    config = replace(ALL_FRAMES, exceptions={"joiner.*": 8, "predictor.*.table": 4})
    observed: list[Tensor] = []

    def seen(rounded: Transducer) -> list[Site]:
        observed.append(rounded.get_parameter("predictor.embedding.weight").clone())
        return observe(rounded, batches, ALL_FRAMES)

    grids = round_weights(model, seen, config)
    assert torch.equal(grids["predictor.embedding0.table"].nearest(observed[0]), observed[0])
    assert len(grids["joiner.logits.weight"].levels) > 16
    assert len(grids["encoder.lstm3.weight_x"].levels) <= 16
    files = []
    for kind, chosen in ((model, grids), (plain, fit_grids(plain, QuantiseConfig(bits=4)))):
        path = write(kind, tmp_path / f"{len(files)}.ear", grids=chosen)
        files.append(loss_of(read_transducer(path, SHAPE).eval(), batches))
    assert files[0] - before < 0.7 * (files[1] - before)
    codecs = {t.name: t.codec for t in ModelFile(tmp_path / "0.ear").tensors}
    assert codecs["encoder.lstm3.weight_h"] in ("i4_b16x1", "i4_b16x4", "i4_r16x4")
    assert any(codec == "i4_b16x1" for codec in codecs.values())
    assert codecs["predictor.embedding0.table"] == "i4_r16x4"


def test_a_block_that_loses_everything() -> None:
    model, batches = trained_a_little()
    sites = [
        replace(s, gradients=torch.zeros_like(s.gradients)) if n == 0 else s
        for n, s in enumerate(observe(model, batches, ALL_FRAMES))
    ]
    prune(model, sites, ALL_FRAMES)
    assert not model.get_parameter(sites[0].paths[0]).any()  # which the loss does not mind at all
    grids = round_weights(model, lambda _: sites, ALL_FRAMES)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(isinstance(grid, Grid) for grid in grids.values())


def test_a_head_that_the_loss_does_not_mind_is_left_out() -> None:
    torch.manual_seed(0)
    model = Transducer(replace(SHAPE, ctc_weight=0.0))
    sites = observe(model, [batch(0), batch(1)], ALL_FRAMES)
    assert sites and ("ctc.weight",) not in {site.paths for site in sites}


def test_a_thinned_site_costs_as_much() -> None:
    model, batches = trained_a_little()
    thin = observe(model, batches, replace(ALL_FRAMES, frames=20))
    for one, other in zip(observe(model, batches, ALL_FRAMES), thin, strict=True):
        assert len(other.inputs) <= 20 and one.seen == other.seen == len(one.inputs)
        doubled = replace(one, seen=2 * one.seen).curvature(0, ALL_FRAMES)
        torch.testing.assert_close(doubled, 2 * one.curvature(0, ALL_FRAMES))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"share": 1.0, "bits": 4}, "share is 1.0"),
        ({"share": 0.5}, "bits is 0"),
        ({"exceptions": {"joiner.*": 8}}, "bits is 0"),
        ({"bits": 3}, "bits is 3"),
        ({"exceptions": {"joiner.*": 7}}, "joiner"),
        ({"even": -0.1}, "even -0.1"),
        ({"damping": 0.0}, "damping 0.0"),
        ({"batches": 0}, "batches is 0"),
        ({"frames": 3}, "frames 3"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        SecondOrderConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"quantise": QuantiseConfig(bits=8)},
        {"sparsify": SparsifyConfig(share=0.5)},
        {"changed_blocks": 0.2},
    ],
)
def test_one_method_at_a_time(other: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="one method"):
        CompressConfig(second_order=SecondOrderConfig(bits=4), **other)  # type: ignore[arg-type]
