"""Sparsification: the schedule, which blocks go, and that they stay away."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot import _native
from earshot.compress.blocks import block_norms, expanded, lowest_blocks
from earshot.compress.config import CompressConfig, QuantiseConfig, SparsifyConfig
from earshot.compress.methods import export_grids
from earshot.compress.quantisation import fit_grids
from earshot.compress.sparsity import Sparsifier, sparse_weights, zero_share_at
from earshot.compress.weights import list_weights
from earshot.core.errors import ConfigError
from earshot.modelfile.reader import ModelFile
from earshot.models.transducer import Transducer
from tests.compress.tiny_training import SHAPE, Run, network, whole_and_resumed, write

BLOCKS = {"16x1": (16, 1), "16x4": (16, 4), "1x1": (1, 1)}


def sparse(share: float = 0.75, **options: Any) -> CompressConfig:
    settings = {"every_steps": 2, "least_weights": 1000} | options
    return CompressConfig(sparsify=SparsifyConfig(share=share, **settings))


def method(run: Run) -> Sparsifier:
    (found,) = (m for m in run.methods if isinstance(m, Sparsifier))
    return found


def zero_blocks(values: np.ndarray, block: tuple[int, int]) -> float:
    """Share of blocks without a weight, counted block by block."""
    rows, columns = block
    tiles = [
        values[r : r + rows, c : c + columns]
        for r in range(0, values.shape[0], rows)
        for c in range(0, values.shape[1], columns)
    ]
    return sum(not tile.any() for tile in tiles) / len(tiles)


def test_the_schedule_is_cubic() -> None:
    config = SparsifyConfig(share=0.8, start=0.2, end=0.6)
    assert zero_share_at(0.19, config) == 0
    assert zero_share_at(0.2, config) == 0
    assert zero_share_at(0.3, config) == pytest.approx(0.8 * (1 - 0.75**3))
    assert zero_share_at(0.4, config) == pytest.approx(0.8 * (1 - 0.5**3))
    assert zero_share_at(0.6, config) == pytest.approx(0.8)
    assert zero_share_at(1.0, config) == pytest.approx(0.8)
    at_once = SparsifyConfig(share=0.8, start=0.3, end=0.3)
    assert zero_share_at(0.29, at_once) == 0
    assert zero_share_at(0.3, at_once) == pytest.approx(0.8)


@pytest.mark.parametrize("block", BLOCKS.values())
def test_block_norms_are_sums_over_blocks_also_at_ragged_ends(block: tuple[int, int]) -> None:
    weights = torch.randn(40, 35, generator=torch.Generator().manual_seed(0))
    rows, columns = block
    norms = block_norms(weights, block)
    oracle = [
        [
            float(weights[r : r + rows, c : c + columns].square().sum())
            for c in range(0, 35, columns)
        ]
        for r in range(0, 40, rows)
    ]
    np.testing.assert_allclose(norms, oracle, rtol=1e-5)
    assert expanded(norms, block, weights.shape).shape == weights.shape
    assert expanded(norms, block, weights.shape)[39, 34] == norms[-1, -1]


def test_the_lowest_blocks_are_as_many_as_asked_for() -> None:
    norms = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 9.0]])
    assert lowest_blocks(norms, 0.5).tolist() == [[False, True, False], [True, True, False]]
    assert not lowest_blocks(norms, 0.0).any()
    assert lowest_blocks(torch.zeros(10), 0.3).sum() == 3  # ties too


@pytest.mark.parametrize("block", sorted(BLOCKS))
@pytest.mark.parametrize("way", ["gradual", "divergence"])
def test_zeros_survive_averaging_and_export_in_the_files_blocks(
    tmp_path: Path, block: str, way: str
) -> None:
    config = sparse(0.75, block=block, method=way, end=0.5)
    run = Run(config, steps=12, decay=0.95).until(12)
    saved = run.save(tmp_path / "c.ckpt")
    average = {
        k.removeprefix("transducer."): v
        for k, v in saved["state_dict"].items()
        if k.startswith("transducer.")
    }
    model = Transducer(SHAPE)
    model.load_state_dict(average)
    path = write(model, tmp_path / "m.ear", codec="f32_r16")
    file = _native.ModelFile(str(path))
    chosen = sparse_weights(model, config.sparsify)
    assert len(chosen) == 6  # the projection, four matrices of two LSTMs, and the CTC head
    for weight in chosen:
        found = zero_blocks(file.dequantise(weight.name), BLOCKS[block])
        assert found == pytest.approx(0.75, abs=0.003), weight.name
        rest = saved["current_model_state"]["transducer." + weight.path]
        assert zero_blocks(rest.numpy(), BLOCKS[block]) == pytest.approx(0.75, abs=0.003)
    assert zero_blocks(file.dequantise("joiner.logits.weight"), (16, 1)) == 0  # small: stays dense


def test_gradual_pruning_follows_the_schedule_and_never_gives_back() -> None:
    shares: dict[int, float] = {}
    masks: list[torch.Tensor] = []

    def see(module: Any, step: int) -> None:
        values = module.transducer.encoder.lstms[0].weight_hh_l0.detach().numpy()
        shares[step] = zero_blocks(values, (16, 1))
        masks.append(torch.from_numpy(values != 0))

    config = sparse(0.75, start=0.25, end=0.75, every_steps=4)
    Run(config, steps=24, see=see).until(24)
    blocks = (128 // 16) * 32
    for step, share in shares.items():
        chosen_at = step if step >= 19 else step // 4 * 4  # from `end` on at every step
        expected = zero_share_at((chosen_at - 1) / 24, config.sparsify) if chosen_at else 0
        assert share == pytest.approx(expected, abs=0.6 / blocks), step
    for before, after in itertools.pairwise(masks):
        assert not (after & ~before).any()
    assert len(set(shares.values())) >= 4


def test_divergence_pulls_small_blocks_to_zero_before_any_is_cut() -> None:
    spread: dict[float, float] = {}
    for pull in (0.0, 3.0):
        before_cut: dict[int, np.ndarray] = {}

        def see(module: Any, step: int, kept: dict[int, np.ndarray] = before_cut) -> None:
            values = module.transducer.encoder.lstms[1].weight_ih_l0.detach().clone()
            kept[step] = np.sort(block_norms(values, (16, 1)).sqrt().flatten().numpy())

        config = sparse(0.5, method="divergence", pull=pull, end=0.8, every_steps=5)
        Run(config, steps=60, see=see).until(60)
        norms = before_cut[46]
        assert norms[0] > 0  # nothing is cut yet
        half = len(norms) // 2
        spread[pull] = float(norms[half:].mean() / norms[: half // 2].mean())
        assert (before_cut[60] == 0).sum() == half
    assert spread[3.0] > 2 * spread[0.0]


@pytest.mark.parametrize("way", ["gradual", "divergence"])
def test_a_run_resumed_in_mid_schedule_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, way: str
) -> None:
    config = sparse(0.75, method=way, start=0.1, end=0.8)
    whole, resumed = whole_and_resumed(config, tmp_path)
    for part in ("state_dict", "current_model_state"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    for name, mask in whole["sparsity"]["masks"].items():
        torch.testing.assert_close(resumed["sparsity"]["masks"][name], mask)


def test_sparse_and_quantised_together_keeps_zeros_and_codes(tmp_path: Path) -> None:
    config = CompressConfig(
        quantise=QuantiseConfig(bits=4, start=0.5, full=0.6, snap_steps=2),
        sparsify=SparsifyConfig(share=0.75, end=0.5, every_steps=2, least_weights=1000),
    )
    run = Run(config, steps=16).until(16)
    saved = run.save(tmp_path / "c.ckpt")
    path = write(
        run.module.transducer,
        tmp_path / "m.ear",
        grids=export_grids(config, saved, run.module.transducer),
    )
    file = _native.ModelFile(str(path))
    for weight in sparse_weights(run.module.transducer, config.sparsify):
        found = file.dequantise(weight.name)
        assert zero_blocks(found, (16, 1)) == pytest.approx(0.75, abs=0.003)
        assert max(len(np.unique(row[row != 0])) for row in found) <= 16


def test_named_tensors_stay_dense() -> None:
    names = {
        w.name
        for w in sparse_weights(
            network(),
            SparsifyConfig(share=0.5, least_weights=0, dense=("encoder.lstm*", "joiner.*")),
        )
    }
    assert not any(name.startswith(("encoder.lstm", "joiner.")) for name in names)
    assert "ctc.linear0.weight" in names
    assert "predictor.embedding0.table" not in names  # nothing is multiplied with it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "compress.sparsify.share is 1.0; it must be at least 0 and below 1"),
        ({"start": 0.7}, "start is 0.7 and end 0.6; they must satisfy 0 <= start <= end <= 1"),
        ({"every_steps": 0}, "every_steps is 0 and pull 3.0; the first must be at least 1"),
    ],
)
def test_settings_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SparsifyConfig(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("bits", "block", "codec"),
    [
        (8, "16x1", "i8_b16x1"),
        (8, "16x4", "i8_b16x4"),
        (4, "16x1", "i4_b16x1"),
        (4, "16x4", "i4_b16x4"),
        (6, "16x1", "i8_b16x1"),  # no codec of its own: its levels are whole, so 8 bits hold them
        (8, "1x1", "i8_r16x4"),  # nothing to leave out
        (4, "", "i4_r16x4"),
        (5, "", "i8_r16x4"),
    ],
)
def test_the_file_takes_the_smallest_codec_and_the_engine_computes_with_exactly_the_grid(
    tmp_path: Path, bits: int, block: str, codec: str
) -> None:
    model = network(4).eval()
    grids = fit_grids(model, QuantiseConfig(bits=bits))
    chosen = sparse_weights(model, SparsifyConfig(share=0.5, least_weights=1000))
    with torch.no_grad():
        for weight in chosen if block else ():
            values = weight.of(model)
            lowest = lowest_blocks(block_norms(values, BLOCKS[block]), 0.75)
            values *= ~expanded(lowest, BLOCKS[block], values.shape)
    path = write(model, tmp_path / "m.ear", grids=grids)
    held = {t.name: t.codec for t in ModelFile(path).tensors}
    assert {held[w.name] for w in chosen} == {codec}
    assert held["predictor.embedding0.table"] == "i8_r16x4"
    with torch.no_grad():
        for weight in list_weights(model):
            if weight.name in grids:
                values = weight.of(model)
                values.copy_(grids[weight.name].nearest(values))
    rounded = _native.Model(str(write(model, tmp_path / "f.ear", codec="f32_r16")))
    x = np.random.default_rng(0).standard_normal((80, 80)).astype(np.float32)
    found, expected = (
        m.graph("encoder").step({"x": x}, m.graph("encoder").initial_state(), flush=True)["hidden"]
        for m in (_native.Model(str(path)), rounded)
    )
    # What is left is that the engine rounds activations to 8 bits.
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)
