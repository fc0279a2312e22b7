"""Simulated rooms: responses that start at the direct path and die away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyroomacoustics", reason="needs pyroomacoustics; install earshot[train]")

from earshot.train import rooms


def _decay_s(response: np.ndarray) -> float:
    """Time for the backward-integrated energy to fall from -5 to -20 dB, times four."""
    energy = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0] + 1e-12)
    return float(4 * (np.argmax(level < -20) - np.argmax(level < -5)) / 16000)


@pytest.fixture(scope="module")
def responses() -> list[np.ndarray]:
    return [rooms.simulate(np.random.default_rng(n)) for n in range(20)]


def test_responses_start_at_the_direct_path_with_unit_energy(
    responses: list[np.ndarray],
) -> None:
    for response in responses:
        assert response.dtype == np.float32
        assert np.isfinite(response).all()
        assert 200 < len(response) <= 6400
        assert np.sum(response[:40].astype(np.float64) ** 2) == pytest.approx(1.0, rel=1e-4)
        early = np.abs(response[:40])
        assert early.argmax() < 20
        assert early.max() > 0.3


def test_responses_die_away(responses: list[np.ndarray]) -> None:
    for response in responses:
        quarter = len(response) // 4
        assert np.sum(response[:quarter] ** 2) > 4 * np.sum(response[-quarter:] ** 2)
        assert abs(response[-1]) < 1e-3


def test_a_longer_reverberation_time_is_a_longer_echo() -> None:
    def mean_decay(t60_s: float) -> float:
        config = rooms.RoomsConfig(t60_s=(t60_s, t60_s), distance_m=(1.0, 2.0))
        return float(
            np.mean([_decay_s(rooms.simulate(np.random.default_rng(n), config)) for n in range(6)])
        )

    assert mean_decay(0.5) > 1.5 * mean_decay(0.2)


def test_stage_is_seeded_and_made_once(tmp_path: Path) -> None:
    config = rooms.RoomsConfig(count=4)
    assert rooms.prepare(tmp_path / "a", seed=7, config=config) == 4
    rooms.prepare(tmp_path / "b", seed=7, config=config)
    rooms.prepare(tmp_path / "c", seed=8, config=config)
    loaded = [np.load(tmp_path / n / "rooms" / "rirs.npz") for n in "abc"]
    assert len(loaded[0].files) == 4
    for name in loaded[0].files:
        np.testing.assert_array_equal(loaded[0][name], loaded[1][name])
        assert not np.array_equal(loaded[0][name], loaded[2][name])
    path = tmp_path / "a" / "rooms" / "rirs.npz"
    before = path.stat().st_mtime_ns
    rooms.prepare(tmp_path / "a", seed=7, config=config)
    assert path.stat().st_mtime_ns == before


def test_ranges_are_checked() -> None:
    with pytest.raises(ValueError, match="positive range"):
        rooms.RoomsConfig(t60_s=(0.5, 0.1))
