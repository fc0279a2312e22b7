"""The comparison with plain fine-tuning, its intervals, and the island, without any training."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed ([train])")
pytest.importorskip("lhotse", reason="lhotse is not installed ([train])")

import mitigation
import planted_voices
from hypothesis import given
from hypothesis import strategies as st

from earshot.train.synthesis import Voice
from tests.train.island import make_island

rates = st.floats(0.01, 1.0)


def test_the_others_are_compared_where_the_gain_is_the_same() -> None:
    target, rest = np.array([0.5, 0.4, 0.2]), np.array([0.10, 0.10, 0.20])
    assert mitigation.rest_at(target, rest, 0.4) == (pytest.approx(0.10), True)
    assert mitigation.rest_at(target, rest, 0.3) == (pytest.approx(0.15), True)
    assert mitigation.rest_at(target, rest, 0.1) == (pytest.approx(0.20), False)
    assert mitigation.rest_at(target, rest, 0.6) == (pytest.approx(0.10), True)  # no gain at all


def test_a_path_that_turns_back_is_left_at_its_first_crossing() -> None:
    target, rest = np.array([0.5, 0.3, 0.4, 0.2]), np.array([0.1, 0.2, 0.3, 0.4])
    assert mitigation.rest_at(target, rest, 0.4) == (pytest.approx(0.15), True)


@given(st.lists(st.tuples(rates, rates), min_size=2, max_size=6), rates)
def test_what_is_found_lies_between_the_ends(points: list[tuple[float, float]], at: float) -> None:
    target, rest = (np.array(values) for values in zip(*points, strict=True))
    found, _ = mitigation.rest_at(target, rest, at)
    assert rest.min() - 1e-9 <= found <= rest.max() + 1e-9


def sweep(start: list[int], after: list[int]) -> mitigation.Sweep:
    """Eight utterances of ten words by eight speakers, the first four in the bad cohort."""
    return mitigation.Sweep(
        errors={"start": np.array(start), "ewc 1": np.array(after), "plain 10": np.array(after)},
        words=np.full(8, 10),
        cohort=["bad"] * 4 + ["good"] * 2 + ["fine"] * 2,
        speaker=[f"s{n}" for n in range(8)],
        targets=frozenset({"bad"}),
        chosen="ewc 1",
        best={"ewc": "ewc 1"},
    )


def test_seeds_are_pooled_by_speaker() -> None:
    one = sweep([6, 6, 6, 6, 2, 2, 2, 2], [3, 3, 3, 3, 2, 2, 2, 2])
    two = sweep([4, 4, 4, 4, 2, 2, 2, 2], [3, 3, 3, 3, 2, 2, 2, 2])
    pool = mitigation.Pool([one, two])
    assert pool.rate(lambda _: "start", "target")[0] == pytest.approx(0.5)
    assert pool.rate(lambda _: "start", "overall")[0] == pytest.approx(0.35)
    change = pool.change(lambda _: "ewc 1", "target")
    # All speakers gain alike, so resampling them changes nothing: 10 errors a speaker become 6.
    assert change == pytest.approx({"value": -0.4, "ci95_low": -0.4, "ci95_high": -0.4})
    assert pool.change(lambda _: "ewc 1", "rest")["value"] == pytest.approx(0.0)
    against = pool.plain_at_equal_gain(lambda _: "ewc 1")
    assert against["rest"]["value"] == pytest.approx(0.0) and against["reached"] == 1.0


def test_claims_are_of_every_seed_where_they_say_so() -> None:
    better = sweep([6, 6, 6, 6, 2, 2, 1, 1], [3, 3, 3, 3, 2, 2, 1, 1])
    worse = sweep([6, 6, 6, 6, 2, 2, 1, 1], [7, 7, 7, 7, 2, 2, 1, 1])
    for sweeps, holds in (([better, better], True), ([better, worse], False)):
        pool = mitigation.Pool(sweeps)
        start = mitigation.row_of(pool, sweeps, "start", lambda _: "start")
        row = mitigation.row_of(pool, sweeps, "ewc 1", lambda _: "ewc 1")
        found = mitigation.claims(row, start)
        assert found["worst cohort at least 3 % better"]
        for name in ("mean", "highest", "variance"):
            assert found[f"{name} falls, every seed"] == holds


def test_regions_share_no_ground_and_two_are_rare() -> None:
    for a, b in itertools.combinations(planted_voices.REGIONS, 2):
        apart = (
            a.lat[1] <= b.lat[0] or b.lat[1] <= a.lat[0]
            or a.lon[1] <= b.lon[0] or b.lon[1] <= a.lon[0]
        )  # fmt: skip
        assert apart, (a.name, b.name)
    assert len(planted_voices.REGIONS) == 10
    names = {region.name for region in planted_voices.REGIONS}
    assert set(planted_voices.UNDER_REPRESENTED) < names


def test_people_live_in_their_region_and_are_the_same_again() -> None:
    region = planted_voices.REGIONS[0]
    voices = {name: Voice(name, "flite", name, 100.0) for name in region.voices}
    crowd = planted_voices.people(region, 5, group="a", seed=1, voices=voices)
    assert crowd == planted_voices.people(region, 5, group="a", seed=1, voices=voices)
    assert len({person.id for person in crowd}) == 5
    for person in crowd:
        assert region.lat[0] < person.lat < region.lat[1]
        assert region.lon[0] < person.lon < region.lon[1]
    other = planted_voices.people(region, 5, group="b", seed=1, voices=voices)
    assert {p.tract for p in crowd} != {p.tract for p in other}


def test_there_are_sentences_enough_for_two_parts() -> None:
    every = planted_voices.sentences()
    assert len(every) == len(set(every)) > 4000
    assert every == planted_voices.sentences()


def test_a_sweep_becomes_a_table(tmp_path: Path) -> None:
    island = make_island(tmp_path / "island", speakers=8)
    rows = [json.loads(line) for line in island.results.read_text().splitlines()]
    report = mitigation.audited(
        rows, island.model, tmp_path / "seed1", column="region", root=island.folder
    )
    settings = (
        'mitigate.methods=["plain", "ewc"]', "mitigate.plain_steps=[1, 3]",
        "mitigate.ewc_strengths=[1]", "mitigate.fisher_utterances=2", "train.max_steps=2",
        "train.batch_s=3", "train.peak_lr=0.02",
    )  # fmt: skip
    folder = tmp_path / "seed1" / "sweep"
    made = mitigation.swept(
        report, island.model, folder, seed=1, general=None, top=1, settings=settings
    )
    found = mitigation.read_sweep(made, folder)
    assert list(found.errors) == ["start", "plain 1", "plain 3", "ewc 1"]
    assert len(found.speaker) == made["utterances"]["evaluation"] == 24
    assert mitigation.by_cohort(found, "start") == pytest.approx(
        made["start"]["evaluation"]["cohorts"]
    )
    lines = mitigation.table([found])
    assert [row["model"] for row in lines] == [
        "start", "plain 1", "plain 3", "ewc 1", "best ewc", "best plain", "chosen"
    ]  # fmt: skip
    for row, candidate in zip(lines[1:4], made["candidates"], strict=True):
        for part in ("overall", "target", "rest"):
            assert row[part] == pytest.approx(candidate["evaluation"][part])
    mitigation.print_table(lines)

    # People whom nothing was learned from judge the same models.
    base = folder.parent / "base"
    base.mkdir()
    shutil.copyfile(island.model, base / "base.ear")
    strangers = [row | {"duration": None} for row in rows]
    (island.folder / "strangers.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in strangers), encoding="utf-8"
    )
    judged = mitigation.judged_by_strangers(found, folder, island.folder)
    assert {"start", "plain 1", "plain 3"} <= set(judged.errors)
    assert judged.words.sum() == sum(len(row["ref"].split()) for row in rows)
    first = json.loads(report.read_text())["discoveries"][0]["cohorts"]
    assert mitigation.by_cohort(judged, "start") == pytest.approx(
        {cohort["name"]: cohort["wer"] for cohort in first}
    )
    (base / "base.ear").unlink()  # what was heard once is not heard again
    again_judged = mitigation.judged_by_strangers(found, folder, island.folder)
    assert all((again_judged.errors[n] == judged.errors[n]).all() for n in judged.errors)
    mitigation.print_table(mitigation.table([judged]))

    again = mitigation.swept(
        report, island.model, folder, seed=1, general=None, top=1, settings=settings
    )
    assert again == made
