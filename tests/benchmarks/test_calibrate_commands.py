"""What the choice of search settings and of the confidence is judged by."""

from __future__ import annotations

import calibrate_commands as calibrate
import numpy as np
import pytest

from earshot.understand.calibration import Heard
from earshot.understand.confidence import CommandConfig, Evidence


def heard(kind: str, gap: float, *, right: bool, grammar: str = "house") -> Heard:
    evidence = Evidence(
        transducer_gap=gap,
        ctc_gap=2 * gap,
        margin=3.0,
        num_words=4,
        num_pieces=8,
        likeness=0.5,
        least_confidence=0.5,
    )
    return Heard(kind, grammar, kind != "read speech", evidence, right, None, False)


def test_confidence_means_what_it_says() -> None:
    rng = np.random.default_rng(4)
    rows = [heard("commands", abs(rng.normal(0, 3)), right=rng.random() < 0.9) for _ in range(300)]
    rows += [heard("read speech", abs(rng.normal(20, 8)), right=False) for _ in range(400)]
    config = calibrate.calibrated(CommandConfig(), rows, false_accepts=0.04)
    assert calibrate.calibration_error(rows, config) < 0.08
    never = CommandConfig(bias=5.0, weights=(0.0,) * 11)  # sure of everything
    assert calibrate.calibration_error(rows, never) > 0.3


def test_shares_of_right_weigh_every_grammar_and_kind_alike() -> None:
    many = [heard("commands", 1.0, right=n % 4 != 0) for n in range(40)]
    one_wrong = heard("loose commands", 1.0, right=False)
    one_right = heard("commands", 1.0, right=True, grammar="player")
    assert calibrate.right_share([*many, one_wrong]) == pytest.approx(0.75 / 2)
    assert calibrate.right_share([*many, one_wrong, one_right]) == pytest.approx(1.75 / 3)
