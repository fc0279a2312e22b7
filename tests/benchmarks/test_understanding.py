"""The arithmetic of the benchmark of statistical understanding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from understanding import (
    FIGURES,
    Measured,
    crf_features,
    differences,
    figures,
    float_bytes,
    load_corpus,
    resampled,
)

from earshot.understand.evaluation import Outcome, summary
from earshot.understand.labelled import LabelledSentence
from earshot.understand.training import TrainingConfig, train_model


def outcomes(seed: int, count: int = 200) -> list[Outcome]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        in_scope, rejected, right = rng.random() < 0.8, rng.random() < 0.2, rng.random() < 0.9
        hits = int(rng.integers(3))
        found.append(
            Outcome(
                in_scope=bool(in_scope),
                rejected=bool(rejected),
                right=bool(right and not rejected) if in_scope else bool(rejected),
                best_right=bool(right and in_scope),
                slot_hits=hits,
                slots_found=hits + int(rng.integers(2)),
                slots_expected=hits + int(rng.integers(2)),
            )
        )
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_those_of_the_package(name: str) -> None:
    """Oracle: `evaluation.summary` counts the same another way."""
    some = outcomes(1)
    value, draws = resampled([some], FIGURES[name])
    assert value == pytest.approx(getattr(summary(some), name))
    assert np.percentile(draws, 2.5) < value < np.percentile(draws, 97.5)
    assert abs(draws.mean() - value) < 0.02


def test_seeds_are_averaged_and_systems_paired() -> None:
    left = Measured("a", [10], [outcomes(1), outcomes(2)], [outcomes(3), outcomes(4)], [1.0], [2.0])
    row = figures(left)
    each = row["test"]["accuracy"]["seeds"]
    assert row["test"]["accuracy"]["value"] == pytest.approx(np.mean(each))
    same = differences(left, left)
    assert all(one == {"value": 0.0, "ci95_low": 0.0, "ci95_high": 0.0} for one in same.values())


def test_a_figure_without_anything_to_count_is_left_out() -> None:
    alone = [Outcome(True, False, True, True, 0, 0, 0)]
    assert resampled([alone], FIGURES["slot_f1"]) is None
    assert resampled([alone], FIGURES["out_of_scope_recall"]) is None
    rejected = [*alone, Outcome(True, True, False, True, 0, 0, 0)]
    assert resampled([rejected], FIGURES["out_of_scope_precision"]) is None
    assert summary(rejected).out_of_scope_precision is None


def test_float_bytes_count_every_feature_that_has_a_row() -> None:
    rows = [LabelledSentence(("go", "on"), "a", ("O", "O")), LabelledSentence(("no",), "b", ("O",))]
    config = TrainingConfig(width=2, hidden=2, epochs=1, min_steps=0, min_count=1, compressed=False)
    model = train_model(rows, held_out=rows, config=config)
    numbers = sum(getattr(model.weights, name).size for name in model.weights.names())
    # w:go w:on w:no, c:<go c:go> and so on for three words, p:< go, p:go on, p:on >, p:< no, p:no >
    texts = 3 * len("w:go ") + 6 * len("c:<go ") + len("p:< go p:go on p:on > p:< no p:no > ")
    assert float_bytes(model, rows) == 4 * numbers + texts


def test_features_of_the_peer_see_two_words_to_each_side() -> None:
    rows = crf_features(["play", "some", "jazz"])
    assert len(rows) == 3
    assert {"-2:play", "-1:some", "0:jazz", "1:>", "2:>>", "end:zz", "start:j"} <= set(rows[2])


def test_no_test_sentence_is_learned_or_chosen_by(real_data: Path) -> None:
    if not (real_data / "text").is_dir():
        pytest.skip(f"no texts at {real_data}")
    corpus = load_corpus("clinc", real_data)
    assert (len(corpus.learned), len(corpus.validation), len(corpus.test)) == (15100, 3100, 5500)
    assert {row.split for row in corpus.test} == {"test", "oos_test"}
    assert {row.split for row in corpus.learned} == {"train", "oos_train"}
