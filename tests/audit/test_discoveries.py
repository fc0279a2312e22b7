"""Discoveries on planted speech, and their figures against jiwer, fairlearn and scikit-learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy", reason="scipy is not installed ([audit])")
pytest.importorskip("sklearn", reason="scikit-learn is not installed ([audit])")

import audit_calibration as calibration

from earshot.audit.clusters import choose_number, speaker_vectors
from earshot.audit.cohorts import Partition, measure, relative_gap
from earshot.audit.compare import compare
from earshot.audit.config import AuditConfig
from earshot.audit.discovery import adjusted_rand
from earshot.audit.geodemographic import read_census
from earshot.audit.intervals import bootstrap_intervals, holm, intervals, rates
from earshot.audit.reading import read_results
from earshot.audit.results import Labels, cells
from earshot.audit.run import run_audit, write_members
from earshot.audit.simulate import World, as_results, plant, write_planted
from earshot.audit.thresholds import parse_threshold
from earshot.core.errors import ConfigError, EarshotError, ResultsError

CONFIG = AuditConfig(num_seeds=2)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory):
    truth = plant(World(speakers=500, seed=2))
    folder = tmp_path_factory.mktemp("planted")
    paths = write_planted(truth, folder)
    results = read_results(paths["results"], embeddings=paths["embeddings"])
    return truth, results, run_audit(results, config=CONFIG, census=read_census(paths["census"]))


def found(audit, method):
    return next(d for d in audit.discoveries if d.method == method)


def test_what_was_planted_is_what_was_counted(planted) -> None:
    truth, results, _ = planted
    np.testing.assert_array_equal(results.errors, truth.errors)
    np.testing.assert_array_equal(results.words, truth.words)
    assert as_results(truth).errors.tolist() == results.errors.tolist()


def test_planted_cohorts_lead_their_lists(planted) -> None:
    truth, _, audit = planted
    assert found(audit, "groups").bottom_names() == ["accent=planted"]
    assert found(audit, "geodemographic").bottom_names() == ["background: a"]
    clusters = found(audit, "clusters")
    assert clusters.extra["k"] == 5
    partition = clusters.partitions["cluster"]
    assert adjusted_rand(partition.codes, truth.cluster[partition.cells.unit]) > 0.95
    assert len(clusters.bottom_names()) == 1
    worst = clusters.cohorts[0]
    assert worst.is_worse and worst.name == clusters.bottom_names()[0]
    rows = audit.members(clusters, worst)
    assert (truth.cluster[truth.speaker[rows]] == 0).mean() > 0.95


def test_the_table_of_the_article_and_the_form_of_the_json(planted) -> None:
    _, _, audit = planted
    report = json.loads(json.dumps(audit.as_dict(), allow_nan=False))
    assert {"wer", "ci_low", "ci_high", "n_speakers", "n_words"} <= set(report["overall"])
    assert [d["method"] for d in report["discoveries"]] == [
        "groups",
        "regions",
        "geodemographic",
        "clusters",
    ]
    for discovery in report["discoveries"]:
        assert discovery["wer_gap"] > 0 and 0 < discovery["bottom_share"] < 1
        wers = [cohort["wer"] for cohort in discovery["cohorts"]]
        assert wers == sorted(wers, reverse=True)
        for cohort in discovery["cohorts"]:
            wanted = {
                "name",
                "rule",
                "n_speakers",
                "n_words",
                "wer",
                "ci_low",
                "ci_high",
                "p_value",
            }
            assert wanted <= set(cohort)
            assert cohort["ci_low"] <= cohort["wer"] <= cohort["ci_high"]
    table = {row["method"]: row for row in report["table"]}
    # Where voices are planted worse than ZIP codes, voices have the larger gap and share.
    assert table["clusters"]["wer_gap"] > table["geodemographic"]["wer_gap"]


def test_the_same_seed_gives_the_same_report_and_another_one_other_halves(planted) -> None:
    _, results, _ = planted
    config = AuditConfig(num_seeds=1, methods=("groups", "regions"))
    first = run_audit(results, config=config).as_dict()
    assert run_audit(results, config=config).as_dict() == first
    assert run_audit(results, config=replace(config, seed=9)).as_dict() != first


def test_honest_regions_measure_only_the_other_half(planted) -> None:
    _, results, audit = planted
    regions = found(audit, "regions")
    assert sum(c.n_speakers for c in regions.cohorts) <= results.num_units - results.num_units // 2
    assert regions.gap is not None and regions.gap.held_out


def test_members_say_what_each_utterance_is_in(planted, tmp_path: Path) -> None:
    _, results, audit = planted
    path = tmp_path / "m.jsonl"
    with open(path, "wb") as file:
        write_members(audit, file)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(results.ids)
    for discovery in audit.discoveries:
        for cohort in discovery.cohorts:
            named = [cohort.name in row["cohorts"].get(discovery.method, []) for row in rows]
            assert named == audit.members(discovery, cohort).tolist()
        inside = [discovery.method in row["bottom"] for row in rows]
        assert sum(inside) > 0


def test_group_rates_equal_jiwer_and_fairlearn(planted) -> None:
    jiwer = pytest.importorskip("jiwer")
    metrics = pytest.importorskip("fairlearn.metrics", reason="fairlearn is not installed")
    _, results, audit = planted
    texts = results.texts
    refs = [" ".join(texts.reference(row)) for row in range(len(results))]
    hyps = [" ".join(texts.hypothesis(row)) for row in range(len(results))]
    assert audit.overall.wer == pytest.approx(jiwer.wer(refs, hyps))
    accent = [results.groups["accent"].names[code] for code in results.groups["accent"].codes]
    frame = metrics.MetricFrame(
        metrics=lambda y_true, y_pred: jiwer.wer(list(y_true), list(y_pred)),
        y_true=np.array(refs, object),
        y_pred=np.array(hyps, object),
        sensitive_features=np.array(accent, object),
    )
    rates_of = {c.name: c.wer for c in found(audit, "groups").cohorts}
    for value, rate in frame.by_group.items():
        assert rates_of[f"accent={value}"] == pytest.approx(rate)
    output = jiwer.process_words(refs, hyps)
    assert results.counts.sum(axis=0)[1:].sum() == (
        output.substitutions + output.deletions + output.insertions
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30))
def test_adjusted_rand_equals_scikit_learn(pairs) -> None:
    from sklearn.metrics import adjusted_rand_score

    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    assert adjusted_rand(first, second) == pytest.approx(adjusted_rand_score(first, second))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(values) -> None:
    """Oracle: a hypothesis falls at a level if it and all smaller ones do, one by one."""
    adjusted = holm(np.array(values))
    order = np.argsort(values, kind="stable")
    for level in (0.01, 0.05, 0.3, 1.0):
        fallen = set()
        for step, at in enumerate(order):
            if values[at] * (len(values) - step) > level:
                break
            fallen.add(int(at))
        assert fallen == set(np.flatnonzero(adjusted <= level).tolist()) or level == 1.0


def test_many_cohorts_at_once_equal_one_by_one() -> None:
    """Oracle: the matrices of the definition, one cohort at a time."""
    rng = np.random.default_rng(0)
    sizes = [5, 9, 30]
    cohort = np.repeat(np.arange(3), sizes)
    words = rng.integers(20, 300, len(cohort)).astype(float)
    errors = rng.poisson(0.2 * words).astype(float)
    together = rates(errors, words, cohort, 3)
    for at in range(3):
        e, w = errors[cohort == at], words[cohort == at]
        rate, h = e.sum() / w.sum(), w / w.sum()
        residual = e - rate * w
        assert together.variance[at] == pytest.approx((residual**2 / (1 - h)).sum() / w.sum() ** 2)
        spread = max(0.0, ((residual**2).sum() - e.sum()) / (w**2).sum())
        maker = np.eye(len(w)) - np.outer(h, np.ones(len(w)))
        covariance = maker @ np.diag(spread * w**2 + rate * w) @ maker.T
        product = np.diag(1 / (1 - h)) @ covariance
        expected = np.trace(product) ** 2 / np.trace(product @ product)
        assert together.freedom[at] == pytest.approx(expected)


def test_bootstrap_and_t_agree_where_speakers_are_many() -> None:
    errors, words = calibration.few_speakers(np.random.default_rng(1), 1, 600, "alike")
    cohort = np.zeros(600, np.int64)
    t = intervals(rates(errors[0], words[0], cohort, 1))
    b = bootstrap_intervals(errors[0], words[0], cohort, 1, resamples=2000)
    assert np.allclose(np.array(t), np.array(b), rtol=0.02)


def test_no_errors_and_one_speaker() -> None:
    found = rates(np.array([0.0, 0.0, 3.0]), np.array([10.0, 10.0, 10.0]), np.array([0, 0, 1]), 2)
    low, high = intervals(found)
    assert low[0] == 0 and high[0] == pytest.approx(1 - 0.025**0.5)
    assert np.isnan(low[1]) and np.isnan(high[1])


def test_small_cohorts_are_named_and_not_measured() -> None:
    results = as_results(plant(World(speakers=60, seed=1)))
    base = cells(results, [])
    codes = np.where(base.unit < 3, 0, 1)
    partition = Partition(base, codes, ["few", "many"], ["", ""], "x")
    cohorts, small = measure(partition, AuditConfig())
    assert [c.name for c in cohorts] == ["many"] and [s.name for s in small] == ["few"]
    assert cohorts[0].p_value is None  # the rest is too small to compare with


def test_gaps_under_every_normaliser() -> None:
    double = float(np.log(2.0))
    assert relative_gap(double, "top") == pytest.approx(1.0)
    assert relative_gap(double, "bottom") == pytest.approx(0.5)
    assert relative_gap(double, "mean") == pytest.approx(2 / 3)


def test_the_number_of_clusters_is_the_most_that_halves_agree_on() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 16)) * 3
    vectors = centres[rng.integers(0, 4, 240)] + rng.normal(size=(240, 16)) * 0.3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    k, tried = choose_number(vectors.astype(np.float32), largest=8, seed=0)
    assert k == 4 and tried[4] > 0.99


def test_speaker_vectors_are_means_of_directions() -> None:
    results = as_results(plant(World(speakers=20, seed=1)))
    voices = results.embeddings
    assert voices is not None
    vectors, has = speaker_vectors(results, voices)
    rows = np.flatnonzero(results.unit_codes == 7)
    block = np.asarray(voices.vectors[rows], np.float64)
    mean = (block / np.linalg.norm(block, axis=1, keepdims=True)).sum(axis=0)
    assert has.all()
    np.testing.assert_allclose(vectors[7], mean / np.linalg.norm(mean), atol=1e-3)


# ---------------------------------------------------------------- census


def test_census_attributes_are_majorities_texts_and_bands(tmp_path: Path) -> None:
    path = tmp_path / "census.csv"
    lines = ["ZIP,white,black,asian,area,median_income"]
    lines += [
        f"{at:05d},{50 - at},{at},1,{'urban' if at % 2 else 'rural'},{at}000" for at in range(40)
    ]
    path.write_text("\n".join(lines) + "\n")
    census = read_census(path)
    assert set(census.attributes) == {"majority", "area", "median_income"}
    assert census.attributes["majority"].names == ["white", "black", "asian"]
    assert census.attributes["majority"].codes.tolist() == [0] * 26 + [1] * 14
    assert len(census.attributes["median_income"].names) == 4
    path.write_text("zip,race:a,race:b\n601,.2,.8\n00601,.5,.5\n")
    with pytest.raises(ResultsError, match="comes twice"):
        read_census(path)
    path.write_text("code,a\n1,x\n")
    with pytest.raises(ResultsError, match="no column of ZIP codes"):
        read_census(path)


def test_zip_codes_that_the_census_lacks_are_counted(planted, tmp_path: Path) -> None:
    _, results, _ = planted
    path = tmp_path / "census.csv"
    path.write_text("zip,kind\n10000,x\n10001,y\n")
    config = AuditConfig(methods=("geodemographic",), num_seeds=1)
    audit = run_audit(results, config=config, census=read_census(path))
    missing = next(e for e in audit.results.exclusions if "census" in e.reason)
    known = np.isin(results.zips.codes, [results.zips.names.index(z) for z in ("10000", "10001")])
    assert missing.count == (~known).sum()


# ---------------------------------------------------------------- limits and comparison


def test_limits(planted) -> None:
    _, results, audit = planted
    assert parse_threshold("max_gap>0.2").is_crossed(audit)
    assert parse_threshold("regions.max_gap_low > 0.1").is_crossed(audit)
    assert not parse_threshold("wer<0.01").is_crossed(audit)
    assert parse_threshold("num_worse>=1").is_crossed(audit)
    for text in ("gap>0.2", "max_gap=0.2", "max_gap>x", "moods.max_gap>1", "regions.wer>1"):
        with pytest.raises(ConfigError, match="--fail-if"):
            parse_threshold(text)
    alone = run_audit(results, config=AuditConfig(methods=("clusters",), min_speakers=2000))
    with pytest.raises(EarshotError, match="was not measured"):
        parse_threshold("max_gap>0.2").is_crossed(alone)


def test_a_comparison_is_paired_and_zero_with_oneself(planted) -> None:
    _, results, _ = planted
    config = AuditConfig(methods=("groups",), num_seeds=1)
    same = compare(results, results, config=config)
    assert same.overall.change == 0 and same.overall.p_value == 1.0
    rng = np.random.default_rng(0)
    better = results.counts.copy()
    mended = (better[:, 1] > 0) & (rng.random(len(better)) < 0.3)
    better[mended, 1] -= 1
    better[mended, 0] += 1
    shuffled = rng.permutation(len(results))
    other = replace(
        results,
        counts=better[shuffled],
        ids=[results.ids[at] for at in shuffled],
        speakers=Labels(results.speakers.codes[shuffled], results.speakers.names),
    )
    change = compare(results, other, config=config).overall
    assert change.change == pytest.approx(-mended.sum() / results.words.sum())
    assert change.ci_high is not None and change.ci_high < 0
    unpaired = 2 * (same.first.overall.ci_high - same.first.overall.wer)
    assert change.ci_high - change.ci_low < unpaired
    with pytest.raises(ResultsError, match="none of its"):
        compare(results, replace(other, ids=[f"z{at}" for at in range(len(results))]))
    wrong = better.copy()
    wrong[:, 0] += 1
    with pytest.raises(ResultsError, match="reference words here"):
        compare(results, replace(results, counts=wrong))


def test_one_speaker_and_none(tmp_path: Path) -> None:
    rows = [
        {"id": str(at), "ref": "one two", "hyp": "one" if at % 3 else "one two", "speaker": "s"}
        for at in range(60)
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    audit = run_audit(read_results(path))
    assert audit.interval_over == "utterance" and audit.overall.ci_low is not None
    assert any("There is one speaker" in text for text in audit.warnings)
    path.write_text(path.read_text().replace('"speaker": "s"', '"room": "x"'))
    audit = run_audit(read_results(path))
    assert audit.results.unit == "utterance"
    assert any("does not say who speaks" in text for text in audit.warnings)


def test_a_top_cohort_without_errors_leaves_valid_json() -> None:
    results = as_results(plant(World(speakers=80, seed=1)))
    clean = results.groups["accent"].codes == 1
    counts = results.counts.copy()
    counts[clean, 0] += counts[clean, 1]
    counts[clean, 1:] = 0
    audit = run_audit(replace(results, counts=counts), config=AuditConfig(methods=("groups",)))
    report = json.loads(json.dumps(audit.as_dict(), allow_nan=False))
    assert report["discoveries"][0]["wer_gap"] is None  # nothing can be divided by its rate
    best = next(c for c in report["discoveries"][0]["cohorts"] if c["name"] == "accent=planted")
    assert best["wer"] == 0 and best["ci_low"] == 0 and best["p_value"] < 0.05


def test_settings_out_of_range_say_so() -> None:
    for wrong in ({"level": 2.0}, {"min_speakers": 1}, {"methods": ("x",)}, {"criterion": "y"}):
        with pytest.raises(ConfigError):
            AuditConfig(**wrong)
    results = as_results(plant(World(speakers=30, seed=1)))
    with pytest.raises(ConfigError, match="'nose' cannot be used"):
        run_audit(results, config=AuditConfig(groups=("nose",)))
