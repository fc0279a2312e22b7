"""Quantisation-aware training: what it does to weights, and that it goes on after a resume."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot import _native
from earshot.compress.config import CompressConfig, QuantiseConfig
from earshot.compress.export import read_transducer
from earshot.compress.methods import export_grids
from earshot.compress.quantisation import QuantisationAware, fit_grids
from earshot.compress.weights import list_weights
from earshot.core.errors import ConfigError
from earshot.modelfile.reader import ModelFile
from earshot.models.transducer import Transducer
from tests.compress.tiny_training import SHAPE, Run, batch, network, whole_and_resumed, write


def aware(**options: Any) -> CompressConfig:
    return CompressConfig(quantise=QuantiseConfig(bits=4, **options))


def method(run: Run) -> QuantisationAware:
    (found,) = (m for m in run.methods if isinstance(m, QuantisationAware))
    return found


def mean_distance(run: Run, model: Transducer) -> float:
    grids = method(run).grids
    matrices = [w for w in list_weights(model) if w.role == "matrix"]
    return sum(grids[w.name].distance(w.of(model).detach())[0] for w in matrices) / len(matrices)


def averaged(saved: dict[str, Any]) -> Transducer:
    model = Transducer(SHAPE)
    prefix = "transducer."
    model.load_state_dict(
        {k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)}
    )
    return model


def test_the_pull_moves_weights_to_their_grids() -> None:
    distances = {}
    for pull in (0.0, 1.0):
        run = Run(aware(pull=pull, full=0.0, snap_steps=0), steps=60).until(60)
        distances[pull] = mean_distance(run, run.module.transducer)
    assert distances[1.0] < 0.4 * distances[0.0]
    assert distances[0.0] > 0.15  # evenly spread weights have 0.25


def test_snapping_hits_the_grid_when_it_is_due_and_not_before() -> None:
    seen = {}

    def see(module: Any, step: int) -> None:
        seen[step] = mean_distance(run, module.transducer)

    run = Run(aware(full=0.5, snap_steps=4), steps=24, see=see)
    run.until(24)
    on_grid = [step for step, distance in seen.items() if distance < 1e-5]
    assert on_grid == [16, 20, 24]  # done is 12/24 at the start of step 13, and 12 is before it


def test_straight_through_computes_with_rounded_weights_and_keeps_the_others() -> None:
    model = network()
    grids = fit_grids(model, QuantiseConfig(bits=4))
    rounded = network()
    with torch.no_grad():
        for weight in list_weights(rounded):
            if weight.name in grids:
                values = weight.of(rounded)
                values.copy_(grids[weight.name].nearest(values))
    losses = {}
    for name, start in (("rounded", rounded), ("float", model)):
        data = batch()
        phones = {"phones": data.phones, "phone_lengths": data.phone_lengths}
        inputs = (data.features, data.feature_lengths, data.labels, data.label_lengths)
        losses[name] = float(start(*inputs, **phones).total.detach())
    run = Run(aware(method="straight_through"), steps=1, start=model, rate=1e-9).until(1)
    logged = run.trainer.logged_metrics
    found = float(logged["loss"]) + SHAPE.ctc_weight * float(logged["ctc"])
    assert losses["rounded"] != pytest.approx(losses["float"], rel=1e-5)
    assert found == pytest.approx(losses["rounded"], rel=1e-5)
    for weight in list_weights(model):
        if weight.name in grids:
            kept = weight.of(model).detach().clone()
            grids[weight.name].clip_(kept)
            after = weight.of(run.module.transducer).detach()
            torch.testing.assert_close(after, kept, rtol=0, atol=1e-6)


def test_weights_stay_within_the_range_they_had() -> None:
    run = Run(aware(snap_steps=0), steps=30).until(30)
    grids = method(run).grids
    for weight in list_weights(run.module.transducer):
        if weight.role != "vector":
            grid, values = grids[weight.name], weight.of(run.module.transducer).detach()
            places = values / grid.scale[:, None].clamp_min(1e-12)
            assert places.max() <= grid.levels[-1] * (1 + 1e-5)
            assert places.min() >= grid.levels[0] * (1 + 1e-5)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    config = aware(start=0.2, full=0.5, snap_steps=3)
    whole, resumed = whole_and_resumed(config, tmp_path)
    for part in ("state_dict", "current_model_state"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    torch.testing.assert_close(resumed["grids"], whole["grids"], rtol=0, atol=0)


@pytest.mark.parametrize("bits", [8, 6, 5, 4])
def test_the_file_holds_the_nearest_point_of_the_grid(tmp_path: Path, bits: int) -> None:
    config = CompressConfig(quantise=QuantiseConfig(bits=bits, snap_steps=3))
    run = Run(config, steps=12).until(12)
    saved = run.save(tmp_path / "c.ckpt")
    model = averaged(saved)
    grids = export_grids(config, saved, model)
    path = write(model, tmp_path / "m.ear", grids=grids)
    file = _native.ModelFile(str(path))
    _, tensors = model.graphs()
    for weight in list_weights(model):
        if weight.role == "vector":
            continue
        grid = method(run).grids[weight.name]
        expected = weight.in_file_order(grid.nearest(weight.of(model).detach()))
        found = torch.from_numpy(file.dequantise(weight.name))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
        assert (found - tensors[weight.name].value).abs().max() > 0
        if weight.role == "matrix":
            assert max(len(row.unique()) for row in found) <= 2**bits


@pytest.mark.parametrize(("share", "codec"), [(0.02, "i4_r16x4"), (0.4, "i8_r16x4")])
def test_a_few_zeros_do_not_keep_a_matrix_from_four_bits(
    tmp_path: Path, share: float, codec: str
) -> None:
    """Those of an int8 file that is trained further; many are training's own, and stay."""
    model = network()
    rng = torch.Generator().manual_seed(1)
    weights = model.joiner.weight.data
    zeros = torch.rand(weights.shape, generator=rng) < share
    weights[zeros] = 0
    grids = fit_grids(model, QuantiseConfig(bits=4))
    assert 0 not in grids["joiner.logits.weight"].levels
    file = ModelFile(write(model, tmp_path / "small.ear", grids=grids))
    stored = {tensor.name: tensor.codec for tensor in file.tensors}
    assert stored["joiner.logits.weight"] == codec
    back = read_transducer(tmp_path / "small.ear", SHAPE).joiner.weight
    assert bool((back[zeros] == 0).all()) == (codec == "i8_r16x4")


def test_without_training_for_it_grids_are_fitted_when_the_file_is_written() -> None:
    model = network()
    config = CompressConfig(quantise=QuantiseConfig(bits=5, aware=False))
    grids = export_grids(config, {}, model)
    table = grids["predictor.embedding0.table"]
    assert len(table.levels) == 255  # nothing is multiplied with it
    assert 16 < len(grids["joiner.logits.weight"].levels) <= 32
    assert export_grids(CompressConfig(), {}, model) == {}
    own = QuantiseConfig(bits=5, aware=False, exceptions={"predictor.*.table": 4})
    assert len(fit_grids(model, own)["predictor.embedding0.table"].levels) <= 16
    run = Run(config, steps=3)
    assert not any(isinstance(m, QuantisationAware) for m in run.methods)


def test_exceptions_get_their_own_bits() -> None:
    config = QuantiseConfig(bits=4, exceptions={"encoder.*": 6, "encoder.lstm*.weight_h": 8})
    levels = {name: len(grid.levels) for name, grid in fit_grids(network(), config).items()}
    assert levels["joiner.logits.weight"] <= 16
    assert 32 < levels["encoder.linear2.weight"] <= 64
    assert [n for name, n in levels.items() if name.endswith("weight_h")] == [255, 255]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 7}, "compress.quantise: bits is 7; it must be one of 4, 5, 6, 8"),
        ({"exceptions": {"a": 3}}, "a is 3; it must be one of 4, 5, 6, 8"),
        ({"start": 0.8}, "start is 0.8 and full 0.7; they must satisfy 0 <= start <= full <= 1"),
        ({"pull": -1.0}, "pull is -1.0 and snap_steps 100; neither may be negative"),
    ],
)
def test_settings_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QuantiseConfig(**options)
    assert message in str(caught.value)
