"""Choosing the confidence: other speech stays out, right commands come in, kinds weigh alike."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

import calibrate_commands as calibrate

from earshot.understand.confidence import CommandConfig, Evidence, NearEvidence


def trials(kind: str, meaning: str | None, count: int) -> list[calibrate.Trial]:
    return [
        calibrate.Trial(f"{kind}-{n}", "house", kind, "", meaning, lambda: np.zeros(1, np.float32))
        for n in range(count)
    ]


def evidence(gap: float, margin: float, likeness: float) -> Evidence:
    return Evidence(
        transducer_gap=gap,
        ctc_gap=2 * gap,
        margin=margin,
        num_words=4,
        num_pieces=8,
        likeness=likeness,
        least_confidence=0.5,
    )


@pytest.fixture(scope="module")
def heard() -> list[calibrate.Heard]:
    """Commands with small gaps and speech with large ones, which overlap a little."""
    rng = np.random.default_rng(4)
    made = []
    for trial in trials("commands", "on", 300):
        good = bool(rng.random() < 0.9)
        found = evidence(abs(rng.normal(0, 3)), rng.uniform(1, 9) if good else 0.3, 0.9)
        made.append(calibrate.Heard(trial, found, good, NearEvidence(0.9, 4, 0.8), good))
    for kind, count in (("read speech", 400), ("single words", 50)):
        for trial in trials(kind, None, count):
            found = evidence(abs(rng.normal(20, 8)), rng.uniform(0, 9), rng.uniform(0.1, 0.6))
            near = NearEvidence(rng.uniform(0.5, 0.8), 4, 0.5) if rng.random() < 0.3 else None
            made.append(calibrate.Heard(trial, found, False, near, False))
    return made


def test_every_kind_of_other_speech_stays_out(heard: list[calibrate.Heard]) -> None:
    config = calibrate.choose_confidence(CommandConfig(), heard, false_accepts=0.04)
    rows = {row["kind"]: row for row in calibrate.report(heard, config) if row["grammar"] == "all"}
    assert rows["read speech"]["accepted"] <= 0.04
    assert rows["single words"]["accepted"] <= 0.04
    assert rows["commands"]["accepted_right"] > 0.8
    stricter = calibrate.choose_confidence(CommandConfig(), heard, false_accepts=0.0)
    assert stricter.threshold >= config.threshold


def test_confidence_means_what_it_says(heard: list[calibrate.Heard]) -> None:
    config = calibrate.choose_confidence(CommandConfig(), heard, false_accepts=0.04)
    assert calibrate.calibration_error(heard, config) < 0.08
    never = CommandConfig(bias=5.0, weights=(0.0,) * 8)  # sure of everything
    assert calibrate.calibration_error(heard, never) > 0.3


def test_kinds_weigh_alike(heard: list[calibrate.Heard]) -> None:
    weights = np.asarray(calibrate.balanced(heard))
    kinds = np.asarray([one.trial.kind for one in heard])
    assert weights.sum() == pytest.approx(len(heard))
    assert weights[kinds == "commands"].sum() == pytest.approx(len(heard) / 2)
    of_kind = [weights[kinds == kind].sum() for kind in ("read speech", "single words")]
    assert of_kind[0] == pytest.approx(of_kind[1])


def test_shares_of_right_weigh_every_grammar_and_kind_alike(heard: list[calibrate.Heard]) -> None:
    commands = [one for one in heard if one.trial.kind == "commands"]
    one_wrong = calibrate.Heard(trials("loose commands", "on", 1)[0], None, False, None, False)
    expected = np.mean([one.right for one in commands]) / 2
    assert calibrate.right_share([*commands, one_wrong]) == pytest.approx(expected)
