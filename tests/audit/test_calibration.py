"""Does what an audit says hold? On planted speech, where the truth is known, 1,000 seeded times.

Two-sided binomial tests at 1 %: a share of 1,000 runs must be what it was set to, or on its safe
side where the promise is an upper bound.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="scipy is not installed ([audit])")
import audit_calibration as calibration
from scipy import stats

from earshot.audit.discovery import adjusted_rand
from earshot.audit.intervals import bootstrap_difference, difference, ratio
from earshot.audit.regions import grow

RUNS = 1000


def is_nominal(hits: int, runs: int, share: float) -> bool:
    return bool(stats.binomtest(hits, runs, share).pvalue > 0.01)


def is_at_least(hits: int, runs: int, share: float) -> bool:
    return bool(stats.binomtest(hits, runs, share, alternative="less").pvalue > 0.01)


def is_at_most(hits: int, runs: int, share: float) -> bool:
    return bool(stats.binomtest(hits, runs, share, alternative="greater").pvalue > 0.01)


@pytest.mark.parametrize("kind", list(calibration.SPREADS))
@pytest.mark.parametrize("size", [8, 12, 40])
def test_intervals_cover_at_the_nominal_rate(kind: str, size: int) -> None:
    errors, words = calibration.few_speakers(np.random.default_rng(size), RUNS, size, kind)
    hits = int(calibration.covered(errors, words, "t").sum())
    assert is_nominal(hits, RUNS, 0.95), hits


@pytest.mark.parametrize("kind", list(calibration.SPREADS))
def test_with_five_speakers_intervals_are_wide_enough(kind: str) -> None:
    """The smallest cohort that is measured: a little too wide where speakers are alike."""
    errors, words = calibration.few_speakers(np.random.default_rng(5), RUNS, 5, kind)
    assert is_at_least(int(calibration.covered(errors, words, "t").sum()), RUNS, 0.95)


def test_the_percentile_bootstrap_does_not_cover() -> None:
    """Why it is not what the audit uses: with ten speakers its 95 % are under 92 %."""
    errors, words = calibration.few_speakers(np.random.default_rng(10), RUNS, 10, "unlike")
    hits = calibration.covered(errors, words, "percentile bootstrap", resamples=200).sum()
    assert not is_at_least(int(hits), RUNS, 0.92)


def test_a_test_of_equal_rates_rejects_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    e1, w1 = calibration.few_speakers(rng, RUNS, 8, "unlike")
    e2, w2 = calibration.few_speakers(rng, RUNS, 40, "unlike")
    rejected = 0
    for at in range(RUNS):
        pad1, pad2 = np.zeros(40), np.zeros(8)
        found = ratio(
            (np.append(e1[at], pad1), np.append(w1[at], pad1)),
            (np.append(pad2, e2[at]), np.append(pad2, w2[at])),
        )
        assert found is not None
        rejected += found.p_value <= 0.05
    assert is_nominal(rejected, RUNS, 0.05), rejected


def test_paired_differences_cover() -> None:
    rng = np.random.default_rng(5)
    base = 0.15 * np.exp(rng.normal(-0.18, 0.6, (RUNS, 25)))
    words = 20.0 + rng.poisson(80, (RUNS, 25))
    first, second = rng.poisson(1.2 * base * words), rng.poisson(base * words)
    hits = 0
    for at in range(RUNS):
        found = difference(first[at].astype(float), second[at].astype(float), words[at])
        hits += found.low <= 0.03 <= found.high
    assert is_nominal(hits, RUNS, 0.95), hits
    low, high = bootstrap_difference(
        first[0].astype(float), second[0].astype(float), words[0], resamples=500
    )
    assert low < first[0].sum() / words[0].sum() - second[0].sum() / words[0].sum() < high


def test_the_tree_recovers_planted_regions() -> None:
    found = calibration.planted_regions(8, calibration.HONEST, 1200)
    assert np.mean([alike for _, alike in found]) >= 0.8


def test_regions_cover_and_alarms_stay_under_their_level() -> None:
    """A twentieth of the runs of the slow test, for everyday."""
    held = [hit for hit, _ in calibration.planted_regions(50, calibration.HONEST, 240)]
    measured = [hit for hit in held if hit is not None]
    assert is_nominal(sum(measured), len(measured), 0.95)
    assert is_at_most(sum(calibration.false_alarms(50, calibration.HONEST, 150)), 50, 0.05)


def test_a_raw_gap_tree_fails_all_of_this() -> None:
    """What the documentation warns of, kept true."""
    assert not is_at_most(sum(calibration.false_alarms(40, calibration.RAW, 150)), 40, 0.05)
    found = list(calibration.planted_regions(40, calibration.RAW, 240))
    held = [hit for hit, _ in found if hit is not None]
    assert not is_at_least(sum(held), len(held), 0.95)
    assert np.mean([alike for _, alike in found]) < 0.8


@pytest.mark.slow
def test_a_thousand_runs_of_whole_discoveries() -> None:
    held = [hit for hit, _ in calibration.planted_regions(RUNS, calibration.HONEST, 400)]
    measured = [hit for hit in held if hit is not None]
    assert len(measured) > 0.9 * RUNS
    assert is_nominal(sum(measured), len(measured), 0.95), (sum(measured), len(measured))
    assert is_at_most(sum(calibration.false_alarms(RUNS, calibration.HONEST, 200)), RUNS, 0.05)


def test_a_bad_strip_across_180_degrees_is_one_region() -> None:
    rng = np.random.default_rng(8)
    lat = rng.uniform(-20, 20, 600)
    lon = np.mod(160 + rng.uniform(0, 40, 600) + 180, 360) - 180
    bad = (lon > 172) | (lon < -172)
    words = np.full(600, 200.0)
    errors = rng.poisson(np.where(bad, 0.3, 0.1) * words).astype(float)
    tree = grow(lat, lon, errors, words, min_speakers=20)
    strip = tree.assign(np.zeros(1), np.full(1, 180.0))
    assert adjusted_rand(tree.assign(lat, lon) == strip, bad) > 0.9
