"""Fine-tuning that changes little: blocks of 64 bytes, zeros and grids as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot.compress.config import CompressConfig, QuantiseConfig, SecondOrderConfig
from earshot.compress.export import file_grids, read_transducer
from earshot.compress.methods import export_grids
from earshot.compress.quantisation import fit_grids
from earshot.compress.updates import stored_blocks
from earshot.compress.weights import list_weights
from earshot.core.errors import ConfigError
from earshot.modelfile.reader import ModelFile
from tests.compress.tiny_training import SHAPE, Run, network, whole_and_resumed, write


def start_file(folder: Path, *, zeros: bool = False) -> Path:
    model = network(3)
    if zeros:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("encoder.lstms") and parameter.dim() == 2:
                    parameter[16:48, ::3] = 0
    return write(model, folder / "start.ear")


def sparse_start(folder: Path) -> Path:
    """Four bits, and LSTMs that lack three quarters of the columns of most of their rows."""
    model = network(3)
    model.encoder.set_statistics(torch.linspace(-8, 3, 80), torch.linspace(1, 4, 80))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("encoder.lstms") and parameter.dim() == 2:
                parameter[16:, torch.arange(parameter.shape[1]) % 4 > 0] = 0
    return write(model, folder / "start.ear", grids=fit_grids(model, QuantiseConfig(bits=4)))


def fine_tuned(config: CompressConfig, start: Path, folder: Path, steps: int = 20) -> Path:
    network = read_transducer(start, SHAPE)
    run = Run(config, steps=steps, start=network, start_path=start).until(steps)
    saved = run.save(folder / "c.ckpt")
    made = run.module.transducer  # at the end of training it holds the average
    grids = export_grids(config, saved, made)
    return write(made, folder / "new.ear", grids=grids, codecs=saved["codecs"])


def blocks(path: Path) -> dict[str, np.ndarray]:
    """Sections as rows of 64 bytes, filled up with zeros."""
    file = ModelFile(path)
    rows = {}
    for tensor in file.tensors:
        data = np.frombuffer(file.tensor_bytes(tensor.name), np.uint8)
        rows[tensor.name] = np.pad(data, (0, -len(data) % 64)).reshape(-1, 64)
    return rows


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_no_more_blocks_change_than_are_allowed(tmp_path: Path, share: float) -> None:
    start = start_file(tmp_path)
    config = CompressConfig(changed_blocks=share)
    before, after = blocks(start), blocks(fine_tuned(config, start, tmp_path))
    tiles = changed = total = sums = 0
    for tensor in ModelFile(start).tensors:
        old, new = before[tensor.name], after[tensor.name]
        differs = (old != new).any(axis=1)
        if tensor.codec == "i8_r16x4":
            rows = -(-tensor.shape[0] // 16) * 16
            tiles = rows * (-(-tensor.shape[1] // 64) * 64) // 64
            np.testing.assert_array_equal(  # scales stand
                old.reshape(-1)[64 * tiles : 64 * tiles + 4 * rows],
                new.reshape(-1)[64 * tiles : 64 * tiles + 4 * rows],
            )
            sums += differs[tiles:].sum()
            differs = differs[:tiles]
        changed += differs.sum()
        total += len(differs)
    assert 0.3 * share * total < changed <= share * total
    assert sums > 0  # of rows, which the docstring owns up to


def test_blocks_of_a_sparse_file_are_counted_without_those_that_it_leaves_out(
    tmp_path: Path,
) -> None:
    start = sparse_start(tmp_path)
    begun = read_transducer(start, SHAPE)
    run = Run(CompressConfig(changed_blocks=0.2), steps=20, start=begun, start_path=start)
    free = run.until(20).save(tmp_path / "c.ckpt")["free"]
    codecs = {tensor.name: tensor.codec for tensor in ModelFile(start).tensors}
    every = 4 * SHAPE.encoder.hidden // 16 * SHAPE.encoder.layers  # of the LSTMs' biases
    chosen = sum(
        len(stored_blocks(mask, "f32")[mask].unique())
        for path, mask in free.items()
        if path.endswith("bias_ih_l0")
    )
    for weight in list_weights(begun):
        ids = stored_blocks(weight.of(begun).detach(), codecs[weight.name])
        every += len(ids[ids >= 0].unique())
        chosen += len(ids[free[weight.path]].unique())
    assert chosen == int(0.2 * every)


def test_what_nothing_trains_stays_the_same_bytes(tmp_path: Path) -> None:
    start = sparse_start(tmp_path)
    made = fine_tuned(CompressConfig(changed_blocks=0.6), start, tmp_path)
    before, after = blocks(start), blocks(made)
    assert any((before[name] != after[name]).any() for name in before)
    for name in ("encoder.normalize0.mean", "encoder.normalize0.inv_std"):
        np.testing.assert_array_equal(before[name], after[name])


def test_the_blocks_that_moved_most_are_the_ones_that_change(tmp_path: Path) -> None:
    start = start_file(tmp_path)
    config = CompressConfig(changed_blocks=0.1, chosen_at=0.5)
    begun = read_transducer(start, SHAPE)
    moved: dict[str, torch.Tensor] = {}

    def see(module: Any, step: int) -> None:
        if step == 10:  # the last before the choice
            moved["free"] = module.transducer.joiner.weight.detach() - begun.joiner.weight
        if step == 20:
            moved["end"] = module.transducer.joiner.weight.detach() - begun.joiner.weight

    Run(config, steps=20, start=begun, start_path=start, see=see).until(20)
    kept = moved["end"].detach() != 0
    assert 0 < kept.float().mean() < 0.9
    sizes = moved["free"].detach().square()
    assert sizes[kept].mean() > sizes[~kept].mean()


def test_zero_blocks_stay_zero_and_codes_stay_on_the_grid(tmp_path: Path) -> None:
    start = start_file(tmp_path, zeros=True)
    made = fine_tuned(CompressConfig(keep_mask=True), start, tmp_path)
    old, new = ModelFile(start), ModelFile(made)
    name = "encoder.lstm3.weight_h"
    was, now = old.dequantise(name), new.dequantise(name)
    columns = np.array([~was[r : r + 16].any(axis=0) for r in range(0, 128, 16)])
    assert columns.mean() > 0.05
    found = np.array([~now[r : r + 16].any(axis=0) for r in range(0, 128, 16)])
    assert found[columns].all()
    assert (was != now).any()


@pytest.mark.parametrize("rounded_anew", [False, True])
def test_steps_compute_with_the_levels_of_the_file_and_train_what_lies_between(
    tmp_path: Path, rounded_anew: bool
) -> None:
    model = network(3)
    grids = fit_grids(model, QuantiseConfig(bits=4))
    start = write(model, tmp_path / "start.ear", grids=grids)
    begun = read_transducer(start, SHAPE)
    computed, trained = [], []
    name = next(w.name for w in list_weights(begun) if w.path == "joiner.weight")
    grid = file_grids(ModelFile(start), begun)[name]

    def distance(module: torch.nn.Module) -> float:
        values = module.joiner.weight.detach()
        return float((values - grid.nearest(values)).abs().max())

    def see(module: Any, step: int) -> None:
        trained.append(distance(module.transducer))

    own = SecondOrderConfig(bits=4 if rounded_anew else 0)
    config = CompressConfig(keep_mask=True, second_order=own)
    run = Run(config, steps=4, start=begun, start_path=start, see=see, rate=5e-4)
    run.module.transducer.register_forward_pre_hook(
        lambda module, _: computed.append(distance(module))
    )
    run.until(4)
    assert len(computed) == len(trained) == 4
    assert trained[-1] > 2 * trained[0] > 1e-4  # pushes add up
    if rounded_anew:  # the levels will be others
        assert max(computed) > 1e-4
    else:
        assert max(computed) < 1e-6


def test_what_a_sparse_codec_leaves_out_stays_zero_in_every_step(tmp_path: Path) -> None:
    start = sparse_start(tmp_path)
    begun = read_transducer(start, SHAPE)
    path = "encoder.lstms.0.weight_ih_l0"
    zeros = begun.get_parameter(path) == 0
    assert zeros.float().mean() > 0.1
    seen = []
    config = CompressConfig(changed_blocks=0.5, chosen_at=0.9)
    run = Run(config, steps=3, start=begun, start_path=start)
    run.module.transducer.register_forward_pre_hook(
        lambda module, _: seen.append(module.get_parameter(path).detach()[zeros].abs().max())
    )
    run.until(3)
    assert len(seen) == 3
    assert max(seen) == 0


def test_a_run_that_is_stopped_within_a_step_loses_no_push(tmp_path: Path) -> None:
    model = network(3)
    start = write(model, tmp_path / "start.ear", grids=fit_grids(model, QuantiseConfig(bits=4)))
    begun = read_transducer(start, SHAPE)
    trained: list[torch.Tensor] = []

    def see(module: Any, step: int) -> None:
        trained.append(module.transducer.joiner.weight.detach().clone())

    def stop(module: torch.nn.Module, _: Any) -> None:
        if len(trained) == 2:
            raise RuntimeError("stopped")

    run = Run(CompressConfig(keep_mask=True), steps=4, start=begun, start_path=start, see=see)
    run.module.transducer.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="stopped"):
        run.until(4)
    assert (trained[1] != trained[0]).any()
    found = run.module.transducer.joiner.weight.detach()
    torch.testing.assert_close(found, trained[1], rtol=0, atol=0)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    start = start_file(tmp_path)
    whole, resumed = whole_and_resumed(
        CompressConfig(changed_blocks=0.1),
        tmp_path,
        start=read_transducer(start, SHAPE),
        start_path=start,
    )
    for part in ("state_dict", "current_model_state", "free"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)


def test_blocks_of_sparse_codecs_pack_what_is_not_zero() -> None:
    weights = torch.ones(32, 12)
    weights[:16, [0, 3, 4]] = 0
    ids = stored_blocks(weights, "i8_b16x1")
    assert ids[0].tolist() == [-1, 0, 0, -1, -1, 0, 0, 1, 1, 1, 1, 2]
    assert ids[16].tolist() == [3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5]
    assert (ids[:16] == ids[0]).all()
    pairs = stored_blocks(weights, "i4_b16x1")
    assert pairs[0].tolist() == [-1, 0, 0, -1, -1, 0, 0, 0, 0, 0, 0, 1]
    weights[:16, 4:8] = 0
    tiles = stored_blocks(weights, "i8_b16x4")
    assert tiles[0].tolist() == [0] * 4 + [-1] * 4 + [1] * 4
    assert stored_blocks(weights, "i4_b16x4")[0].tolist() == [0] * 4 + [-1] * 4 + [0] * 4
    assert stored_blocks(torch.zeros(20), "f32").tolist() == [0] * 16 + [1] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"changed_blocks": 0.0}, "changed_blocks is 0.0 and chosen_at 0.3; the first must lie"),
        (
            {"keep_mask": True, "quantise": QuantiseConfig(bits=8)},
            "a file that is changed a little keeps its own zeros and grids",
        ),
    ],
)
def test_settings_that_contradict_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CompressConfig(**options)
    assert message in str(caught.value)
