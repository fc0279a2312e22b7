"""Fitting the confidence: other speech stays out, commands come in, values stay with a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from earshot.core.errors import ConfigError, ModelFileError
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model
from earshot.understand.calibration import (
    METADATA_KEY,
    Heard,
    acceptance,
    as_metadata,
    balanced_weights,
    calibrated,
    choose_threshold,
    confidence_of,
    fit_logistic,
    stored_config,
)
from earshot.understand.confidence import CommandConfig, Evidence, NearEvidence
from tests.tiny_model import tiny_parts


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
def heard() -> list[Heard]:
    """Commands with small gaps and speech with large ones, which overlap a little."""
    rng = np.random.default_rng(4)
    made = []
    for _ in range(300):
        good = bool(rng.random() < 0.9)
        found = evidence(abs(rng.normal(0, 3)), rng.uniform(1, 9) if good else 0.3, 0.9)
        near = NearEvidence(0.9, 4, 0.8)
        made.append(Heard("commands", "", True, found, good, near, good))
    for kind, count in (("read speech", 400), ("single words", 50)):
        for _ in range(count):
            found = evidence(abs(rng.normal(20, 8)), rng.uniform(0, 9), rng.uniform(0.1, 0.6))
            other = NearEvidence(rng.uniform(0.5, 0.8), 4, 0.5) if rng.random() < 0.3 else None
            made.append(Heard(kind, "", False, found, False, other, False))
    return made


def test_a_weight_of_the_wrong_sign_is_left_out_and_the_others_fitted_anew() -> None:
    rng = np.random.default_rng(8)
    first = rng.normal(size=400)
    second = first + rng.normal(size=400)  # alone it goes with the answer, beside `first` against
    right = (2 * first - 0.5 * second + rng.normal(size=400) > 0).tolist()
    rows = np.column_stack([first, second]).tolist()
    _, free = fit_logistic(rows, right, [1.0] * 400)
    assert free[1] < 0
    bias, kept = fit_logistic(rows, right, [1.0] * 400, signs=(1, 1))
    alone_bias, alone = fit_logistic([[x] for x in first], right, [1.0] * 400)
    assert kept == (alone[0], 0.0)
    assert bias == alone_bias


def test_the_fit_is_where_the_penalised_likelihood_is_highest() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    y = rng.random(400) < 1 / (1 + np.exp(-(0.5 + x @ [2.0, -1.0, 0.0])))
    share = rng.uniform(0.5, 2.0, 400)
    bias, weights = fit_logistic(x.tolist(), y.tolist(), share.tolist(), penalty=2.0)
    assert bias == pytest.approx(0.5, abs=0.4)
    assert weights == pytest.approx((2.0, -1.0, 0.0), abs=0.4)

    def loss(b: float, w: np.ndarray) -> float:
        total = b + x @ w
        return float(share @ (np.logaddexp(0, total) - y * total) + w @ w)

    best = loss(bias, np.asarray(weights))
    for _ in range(50):
        away = rng.normal(size=4) * 0.02
        assert loss(bias + away[0], np.asarray(weights) + away[1:]) > best


def test_what_held_before_holds_until_rows_say_otherwise() -> None:
    before = (-2.0, (1.0, 0.5))
    rows = [[1.0, 1.0], [0.5, 2.0]]
    none_right = [False, False]
    assert fit_logistic(rows, none_right, [1e-9, 1e-9], toward=before) == before
    few, _ = fit_logistic(rows, none_right, [1.0, 1.0], toward=before)
    many, _ = fit_logistic(rows, none_right, [50.0, 50.0], toward=before)
    assert many < few < before[0]
    assert many > -10  # finite, though all answers are the same


def test_a_fit_of_answers_that_are_certain_stays_finite() -> None:
    rows = [[float(n)] for n in (-3, -2, -1, 1, 2, 3)]
    bias, (weight,) = fit_logistic(rows, [n[0] > 0 for n in rows], [1.0] * 6)
    assert bias == pytest.approx(0.0, abs=1e-3)
    assert 0.5 < weight < 5


@pytest.mark.parametrize("share", [0.0, 0.03, 0.1, 0.5])
@pytest.mark.parametrize("count", [1, 20, 33, 100])
def test_the_threshold_is_the_lowest_that_holds(share: float, count: int) -> None:
    rng = np.random.default_rng(count)
    kinds = {"few": rng.random(count).tolist(), "many": rng.random(300).tolist()}
    threshold = choose_threshold(kinds, false_accepts=share)

    def most(at: float) -> list[bool]:
        return [np.mean([v >= at for v in values]) <= share for values in kinds.values()]

    assert all(most(threshold))
    assert not all(most(threshold - 2e-4))


def test_all_may_be_accepted_and_nothing_is_heard() -> None:
    assert choose_threshold({"a": [0.9, 0.8]}, false_accepts=1.0) < 0.001
    assert choose_threshold({}, false_accepts=0.0) < 0.001
    assert choose_threshold({"a": [1.0]}, false_accepts=0.0) == 1.0


def test_every_kind_of_other_speech_stays_out(heard: list[Heard]) -> None:
    config = calibrated(CommandConfig(), heard, false_accepts=0.04)
    rows = {row["kind"]: row for row in acceptance(heard, config)}
    assert rows["read speech"]["accepted"] <= 0.04
    assert rows["single words"]["accepted"] <= 0.04
    assert rows["commands"]["accepted_right"] > 0.8
    stricter = calibrated(CommandConfig(), heard, false_accepts=0.0)
    assert stricter.threshold >= config.threshold


def test_kinds_weigh_alike(heard: list[Heard]) -> None:
    weights = np.asarray(balanced_weights(heard))
    kinds = np.asarray([one.kind for one in heard])
    assert weights.sum() == pytest.approx(len(heard))
    assert weights[kinds == "commands"].sum() == pytest.approx(len(heard) / 2)
    of_kind = [weights[kinds == kind].sum() for kind in ("read speech", "single words")]
    assert of_kind[0] == pytest.approx(of_kind[1])


def test_too_little_is_refused_and_without_near_commands_their_weights_stay(
    heard: list[Heard],
) -> None:
    commands = [one for one in heard if one.is_command]
    with pytest.raises(ConfigError, match="other speech"):
        calibrated(CommandConfig(), commands, false_accepts=0.03)
    with pytest.raises(ConfigError, match="5 of"):
        right = [one for one in commands if one.right][:5]
        calibrated(
            CommandConfig(),
            [*right, *(one for one in heard if not one.is_command)],
            false_accepts=0.03,
        )
    plain = CommandConfig()
    alone = [replace(one, near=None) for one in heard]
    config = calibrated(plain, alone, false_accepts=0.03)
    assert (config.near_bias, config.near_weights) == (plain.near_bias, plain.near_weights)
    assert config.weights != plain.weights
    # Near commands that were always wrong where a path was in doubt are believed less.
    wrong = [replace(one, near_right=False) for one in heard if not one.is_command or one.right]
    assert calibrated(plain, wrong, false_accepts=0.03).near_bias < plain.near_bias


def carrying(path: Path, text: str | None) -> ModelFile:
    metadata = {} if text is None else {METADATA_KEY: text}
    write_model(path, **{**tiny_parts(), "metadata": metadata})
    return ModelFile(path)


def test_values_stay_with_a_model(tmp_path: Path) -> None:
    config = CommandConfig(threshold=0.25, bias=-1.5, weights=tuple(range(11)), grammar_paths=9)
    assert stored_config(carrying(tmp_path / "own.ear", as_metadata(config))) == config
    assert stored_config(carrying(tmp_path / "none.ear", None)) is None


def test_a_weight_that_counts_for_nothing_is_not_written() -> None:
    """Readers from before it know ten."""
    written = json.loads(as_metadata(CommandConfig(weights=(*range(10), 0.0))))["weights"]
    assert written == list(range(10))
    assert len(json.loads(as_metadata(CommandConfig(weights=tuple(range(11)))))["weights"]) == 11


def test_values_from_before_phones_are_read(tmp_path: Path) -> None:
    """Three weights less, and nothing of a search by phones."""
    values = json.loads(as_metadata(CommandConfig()))
    values = {name: value for name, value in values.items() if not name.startswith("phone_")}
    values["weights"] = list(range(8))
    config = stored_config(carrying(tmp_path / "old.ear", json.dumps(values)))
    assert config == CommandConfig(weights=(*range(8), 0.0, 0.0, 0.0))
    values["weights"] = list(range(10))  # from before what phones gain
    config = stored_config(carrying(tmp_path / "newer.ear", json.dumps(values)))
    assert config == CommandConfig(weights=(*range(10), 0.0))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bias": "high"}, "bias 'high', which must be a finite number"),
        ({"bias": True}, "bias True"),
        ({"bias": float("nan")}, "bias nan"),
        ({"weights": [1.0] * 7}, "11 finite numbers"),
        ({"near_weights": [1.0, 2.0, None]}, "3 finite numbers"),
        ({"grammar_paths": 8.5}, "whole number"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"colour": 1}, "unknown value 'colour'"),
    ],
)
def test_values_that_cannot_be_used_are_said(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    text = json.dumps({**json.loads(as_metadata(CommandConfig())), **change})
    with pytest.raises(ModelFileError, match=r"bad\.ear: metadata\.commands") as caught:
        stored_config(carrying(tmp_path / "bad.ear", text))
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"bias": 1}'])
def test_values_of_another_form_are_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelFileError, match=r"metadata\.commands (is no JSON|lacks)"):
        stored_config(carrying(tmp_path / "bad.ear", text))


def test_the_surest_look_counts_where_the_first_is_in_doubt() -> None:
    config = replace(CommandConfig(), threshold=0.5, sure=0.9)

    def look(gap: float, *, right: bool) -> Heard:
        return Heard("commands", "", True, evidence(gap, 6.0, 0.9), right, None, False)

    poor, good = look(30.0, right=False), look(1.0, right=True)
    alone = confidence_of(poor, config)
    assert alone[0] < config.sure < confidence_of(good, config)[0]
    assert confidence_of(replace(poor, looks=(good,)), config) == confidence_of(good, config)
    assert confidence_of(replace(good, looks=(poor,)), config) == confidence_of(good, config)
    certain = replace(config, sure=alone[0])
    assert confidence_of(replace(poor, looks=(good,)), certain) == alone


def test_a_file_that_says_nothing_of_looks_was_fitted_without(tmp_path: Path) -> None:
    values = json.loads(as_metadata(CommandConfig()))
    assert values.pop("looks") == [0.9, 1.1]
    config = stored_config(carrying(tmp_path / "old.ear", json.dumps(values)))
    assert config is not None
    assert config.looks == ()
    values["looks"] = [0.8, 0.9, 1.1]
    config = stored_config(carrying(tmp_path / "new.ear", json.dumps(values)))
    assert config is not None
    assert config.looks == (0.8, 0.9, 1.1)
    for looks in ([0.1], [1.0] * 9, [[1.0]], "1"):
        values["looks"] = looks
        with pytest.raises(ModelFileError, match="looks"):
            stored_config(carrying(tmp_path / "bad.ear", json.dumps(values)))
