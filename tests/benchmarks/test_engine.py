"""The benchmark of steps: everybody runs the same network, and aims that are missed are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

for _needed in ("onnx", "onnxruntime"):
    pytest.importorskip(_needed, reason=f"{_needed} is the other engine; pip install '.[peers]'")

import engine
import onnx
from onnx_runner import one_thread_session

from earshot import _native
from earshot.modelfile.codecs import lstm_unit_blocks
from earshot.modelfile.reader import ModelFile


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LAYERS", 2), ("HIDDEN", 32), ("INPUTS", 20)):
        monkeypatch.setattr(engine, name, value)


def test_pruning_takes_the_smallest_blocks() -> None:
    weights = np.random.default_rng(0).standard_normal((64, 50)).astype(np.float32)
    for block in ((16, 1), (16, 4)):
        kept = engine.pruned(weights, 75, block)
        short = np.pad(kept, ((0, 0), (0, -50 % block[1])))
        tiles = short.reshape(4, 16, -1, block[1]).any(axis=(1, 3))
        assert abs(tiles.mean() - 0.25) < 0.02
        assert np.isin(kept, [0, *weights.ravel()]).all()
        assert np.abs(kept[kept != 0]).mean() > np.abs(weights).mean()


def test_rows_come_back_in_stacked_order() -> None:
    rows = np.arange(4 * 32 * 3, dtype=np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(engine.stacked(lstm_unit_blocks(rows)), rows)


@pytest.mark.parametrize("cells", [False, True])
@pytest.mark.usefixtures("small")
def test_both_onnx_networks_compute_what_our_file_does(cells: bool, tmp_path: Path) -> None:
    layers = engine.gaussian_layers()
    engine.write_lstm(tmp_path / "m.ear", layers, engine.Form(32))
    onnx.save(engine.lstm_graph(layers, cells=cells), str(tmp_path / "m.onnx"))
    session = one_thread_session(tmp_path / "m.onnx")
    graph = _native.Model(str(tmp_path / "m.ear")).graph("lstm")
    state = graph.initial_state()
    theirs = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs() if i.name != "x"}
    names = [output.name for output in session.get_outputs()]
    for frame in np.random.default_rng(1).standard_normal((4, 1, 20)).astype(np.float32):
        results = dict(zip(names, session.run(names, {"x": frame, **theirs}), strict=True))
        theirs = {name: results[f"{name}.next"] for name in theirs}
        ours = graph.step(frame, state)["h1"]
        np.testing.assert_allclose(results["out"].reshape(1, -1), ours, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_other_engines_get_the_weights_of_the_headline(tmp_path: Path) -> None:
    layers = engine.gaussian_layers()
    engine.write_lstm(tmp_path / "m.ear", layers, engine.HEADLINE)
    file = ModelFile(tmp_path / "m.ear")
    for number, (weight, _) in enumerate(engine.shared_weights(layers)):
        ours = file.dequantise(f"{number}.w")
        theirs = lstm_unit_blocks(weight)
        assert not ours[theirs == 0].any()
        assert (theirs == 0).mean() > 0.7
        np.testing.assert_allclose(ours, theirs, atol=np.abs(theirs).max() / 127)


def test_missed_aims_are_said() -> None:
    good = {
        "isa": "avx2", "speedup_int8_75_16x1": 1.9, "speedup_int8_75_16x4": 3.1, "open_ms": 1.0,
        "rss_over_file": 1.1, "file_ratio_int8_75_16x1": 3.81, "file_ratio_int4_75_16x1": 7.2,
    }  # fmt: skip
    assert engine.missed(good) == []
    bad = good | {"speedup_int8_75_16x4": 2.9, "open_ms": 6.0}
    assert engine.missed(bad) == ["speedup_int8_75_16x4 is 2.9, aim 3.0", "open_ms is 6.0, aim 5.0"]
