"""A sweep from a report to a model: what is made, kept, chosen, refused and taken up again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed ([train])")
pytest.importorskip("lhotse", reason="lhotse is not installed ([train])")

from earshot.compress.config import QuantiseConfig
from earshot.compress.export import (
    export_transducer,
    file_grids,
    read_transducer,
    transducer_config,
)
from earshot.compress.quantisation import fit_grids
from earshot.compress.weights import list_weights
from earshot.core.errors import ConfigError, ManifestError
from earshot.data.scoring import WordCounts
from earshot.decode import language_model
from earshot.modelfile.patch import patch_model
from earshot.modelfile.reader import ModelFile
from earshot.runtime.session import open_model
from earshot.train import mitigate as module
from earshot.train.mitigate import Mitigation, mitigate
from earshot.train.mitigate_curve import curve_page
from earshot.train.mitigate_data import read_rows
from earshot.train.mitigate_figures import (
    Candidate,
    Development,
    Rates,
    changes,
    choose,
    hear,
    on_front,
    rates,
)
from tests.train.island import TEXTS, Island, make_island, read_lines, write_model, write_rows

pytestmark = pytest.mark.train

SMALL = (
    "train.max_steps=4",
    "train.peak_lr=0.02",
    "train.warmup_steps=1",
    "train.batch_s=4",
    "mitigate.check_steps=2",
    "mitigate.plain_steps=[2, 4]",
    "mitigate.average_shares=[0.5]",
    "mitigate.ewc_strengths=[1.0]",
    "mitigate.l2_strengths=[1.0, 1e25]",
    "mitigate.mixed_shares=[0.5]",
    "mitigate.oversample_ratios=[3.0]",
    "mitigate.cohort_steps=[2]",
    "mitigate.fisher_utterances=3",
)


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> Island:
    return make_island(tmp_path_factory.mktemp("island"))


def request_of(island: Island, folder: Path, **changed: Any) -> Mitigation:
    request = Mitigation(
        report=island.report,
        output=folder / "mended.ear",
        work_dir=folder / "work",
        model=island.model,
        overrides=SMALL,
    )
    return replace(request, **changed)


@pytest.fixture(scope="module")
def swept(island: Island, tmp_path_factory: pytest.TempPathFactory) -> tuple[Mitigation, Any]:
    request = request_of(island, tmp_path_factory.mktemp("sweep"))
    return request, mitigate(request)


def test_every_model_is_there_and_is_a_model(swept: tuple[Mitigation, Any]) -> None:
    request, mended = swept
    names = [c["name"] for c in mended.report["candidates"]]
    assert names == [
        "plain 2", "plain 4", "average 0.5", "ewc 1", "l2 1", "l2 1e+25", "mixed 0.5",
        "oversample 3", "cohort 2",
    ]  # fmt: skip
    rows = read_rows(Path(mended.report["results"]))
    clip = [rows[0].utterance]
    for candidate in mended.report["candidates"]:
        assert len(hear(Path(candidate["model"]), clip)) == 1
    assert hear(mended.output, clip) and mended.curve.is_file()
    assert json.loads(request.output.with_suffix(".json").read_text()) == mended.report
    assert ModelFile(mended.output).header["search"] == ModelFile(request.model).header["search"]  # type: ignore[arg-type]


def test_a_small_model_keeps_its_zeros_and_what_lies_beside_its_network(
    island: Island, tmp_path: Path
) -> None:
    dense, small = ModelFile(island.model), tmp_path / "small.ear"
    model = read_transducer(dense.path, transducer_config(dense)).eval()
    with torch.no_grad():
        for weight in list_weights(model):
            if weight.role == "matrix":
                weight.of(model)[:, ::2] = 0
    pieces = list(dense.header["pieces"])  # type: ignore[call-overload]
    export_transducer(
        model,
        small,
        name="tiny",
        pieces=pieces,
        tokenizer=dense.tensor_bytes("tokenizer"),
        grids=fit_grids(model, QuantiseConfig(bits=4)),
    )
    words, _ = language_model.from_text(TEXTS, open_model(small))
    config = language_model.LanguageModelConfig(weight=0.2)
    language_model.save(words, tmp_path / "lm.ear", pieces=len(pieces), config=config)
    language_model.embed(small, tmp_path / "lm.ear", small)

    methods = 'mitigate.methods=["plain", "cohort"]'
    request = request_of(island, tmp_path, model=small, overrides=(*SMALL, methods))
    mended = mitigate(replace(request, other_model=True))
    start = ModelFile(small)
    plain = ModelFile(Path(mended.report["candidates"][1]["model"]))
    assert mended.report["candidates"][1]["name"] == "plain 4"
    assert plain.header["lm"] == start.header["lm"]
    for tensor in start.tensors:
        if tensor.name.startswith("lm."):
            assert plain.tensor_bytes(tensor.name) == start.tensor_bytes(tensor.name)
        elif tensor.codec.startswith("i4_b16"):
            before, after = start.dequantise(tensor.name), plain.dequantise(tensor.name)
            assert not after[:, ::2].any() and (before != after).any()
    codecs = {tensor.name: tensor.codec for tensor in plain.tensors}
    assert codecs["encoder.lstm3.weight_x"] == "i8_b16x1"
    cohort = Path(mended.report["candidates"][-1]["model"])
    own = ModelFile(cohort.with_name("cohort-0.ear"))
    changed = [
        tensor.name
        for tensor in start.tensors
        if own.tensor_bytes(tensor.name) != start.tensor_bytes(tensor.name)
    ]
    assert len(changed) == 1  # a vector of the cohort's; all else is the same bytes


def test_an_endless_pull_gives_the_start_back(swept: tuple[Mitigation, Any]) -> None:
    request, mended = swept
    kept = ModelFile(Path(mended.report["candidates"][5]["model"]))
    start = ModelFile(request.model)  # type: ignore[arg-type]
    moved = ModelFile(Path(mended.report["candidates"][1]["model"]))
    for tensor in start.tensors:
        if tensor.name != "tokenizer":
            old = start.dequantise(tensor.name)
            assert abs(kept.dequantise(tensor.name) - old).max() <= 0.005 * abs(old).max() + 1e-6
    name = "joiner.logits.weight"
    assert abs(moved.dequantise(name) - start.dequantise(name)).max() > 0.01


def test_the_same_command_trains_nothing_again(
    swept: tuple[Mitigation, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    request, mended = swept
    before = request.output.read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "tune", never)
    monkeypatch.setattr(module, "fisher_information", never)
    said: list[str] = []
    assert mitigate(request, tell=said.append).report == mended.report
    assert request.output.read_bytes() == before
    assert said == [f"9 of 9 models are in {request.work_dir}; going on with the others"]
    more = replace(request, overrides=(*SMALL, "train.peak_lr=0.01"))
    with pytest.raises(AssertionError, match="trained again"):
        mitigate(more)


def test_a_stopped_sweep_goes_on_and_ends_the_same(
    island: Island, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = 'mitigate.methods=["average", "l2", "ewc"]'
    one = request_of(island, tmp_path / "one", overrides=(*SMALL, methods))
    two = request_of(island, tmp_path / "two", overrides=(*SMALL, methods))
    for request in (one, two):
        request.work_dir.mkdir(parents=True)
    whole = mitigate(one)
    tune, made = module.tune, 0

    def stopping(*arguments: Any, **options: Any) -> int:
        nonlocal made
        made += 1
        if made == 3:
            raise KeyboardInterrupt
        return tune(*arguments, **options)

    monkeypatch.setattr(module, "tune", stopping)
    with pytest.raises(KeyboardInterrupt):
        mitigate(two)
    assert not two.output.exists()
    monkeypatch.setattr(module, "tune", tune)
    said: list[str] = []
    resumed = mitigate(two, tell=said.append)
    assert said == [f"2 of 4 models are in {two.work_dir}; going on with the others"]
    assert [c["evaluation"] for c in resumed.report["candidates"]] == [
        c["evaluation"] for c in whole.report["candidates"]
    ]
    for a, b in zip(whole.report["candidates"], resumed.report["candidates"], strict=True):
        assert Path(a["model"]).read_bytes() == Path(b["model"]).read_bytes(), a["name"]


def test_strength_0_is_plain_fine_tuning(island: Island, tmp_path: Path) -> None:
    overrides = (*SMALL, 'mitigate.methods=["ewc", "l2", "plain"]', "mitigate.check_steps=4",
                 "mitigate.ewc_strengths=[0]", "mitigate.l2_strengths=[0]",
                 "mitigate.plain_steps=[4]")  # fmt: skip
    (tmp_path / "work").mkdir()
    found = mitigate(request_of(island, tmp_path, overrides=overrides)).report["candidates"]
    for candidate in found[:2]:
        assert candidate["steps"] == 4
        for tensor in ModelFile(Path(candidate["model"])).tensors:
            bytes_of = [ModelFile(Path(c["model"])).tensor_bytes(tensor.name)
                        for c in (candidate, found[2])]  # fmt: skip
            assert bytes_of[0] == bytes_of[1], (candidate["name"], tensor.name)


def test_a_cohorts_vector_is_a_file_of_its_own_and_a_small_change(
    island: Island, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_first(_: Rates, candidates: list[Candidate], **__: object) -> tuple[Candidate, str]:
        return candidates[0], "the test wants it"

    monkeypatch.setattr(module, "choose", take_first)
    overrides = (*SMALL, 'mitigate.methods=["cohort"]', "mitigate.top=2")
    request = request_of(
        island, tmp_path, overrides=overrides, discovery="regions", update=tmp_path / "u.eard"
    )
    mended = mitigate(request)
    assert request.output.read_bytes() == island.model.read_bytes()  # for everybody else
    assert {n: p.name for n, p in mended.cohort_models.items()} == {
        "A": "mended-a.ear", "B": "mended-b.ear"
    }  # fmt: skip
    start = ModelFile(island.model)
    for path in mended.cohort_models.values():
        own = ModelFile(path)
        changed = [
            t.name for t in own.tensors if own.tensor_bytes(t.name) != start.tensor_bytes(t.name)
        ]
        assert len(changed) == 1 and changed[0].endswith(".bias")
        patched = tmp_path / "patched.ear"
        patch_model(island.model, tmp_path / f"u-{path.stem}.eard", output=patched)
        assert patched.read_bytes() == path.read_bytes()


def test_a_limited_change_is_limited_and_patches(island: Island, tmp_path: Path) -> None:
    overrides = (*SMALL, 'mitigate.methods=["plain"]', "compress.changed_blocks=0.1",
                 "mitigate.rest_tolerance=100.0")  # fmt: skip
    (tmp_path / "work").mkdir()
    request = request_of(island, tmp_path, overrides=overrides, update=tmp_path / "u.eard")
    mended = mitigate(request)
    made, start = ModelFile(Path(mended.report["candidates"][1]["model"])), ModelFile(island.model)
    blocks, changed = 0, 0
    for tensor in start.tensors:
        old, new = start.tensor_bytes(tensor.name), made.tensor_bytes(tensor.name)
        assert len(old) == len(new)
        parts = range(0, len(old), 64)
        blocks += len(parts)
        changed += sum(old[n : n + 64] != new[n : n + 64] for n in parts)
    assert 0 < changed < 0.2 * blocks
    patch_model(island.model, tmp_path / "u.eard", output=tmp_path / "patched.ear")
    assert (tmp_path / "patched.ear").read_bytes() == mended.output.read_bytes()


@pytest.mark.parametrize("limit", ["compress.keep_mask=true", "compress.changed_blocks=0.5"])
def test_a_mend_within_the_levels_of_the_file_computes_with_them(
    island: Island, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    start = read_transducer(island.model, transducer_config(ModelFile(island.model)))
    grids = file_grids(ModelFile(island.model), start)
    off: list[float] = []
    ordinary = module.tune

    def far(model: Any) -> float:
        values = {w.name: w.of(model).detach() for w in list_weights(model) if w.name in grids}
        return max(float((v - grids[name].nearest(v)).abs().max()) for name, v in values.items())

    def watched(model: Any, *arguments: Any, **options: Any) -> int:
        handle = model.register_forward_pre_hook(lambda m, _: off.append(far(m)))
        steps = ordinary(model, *arguments, **options)
        handle.remove()
        off.append(far(model))
        return steps

    monkeypatch.setattr(module, "tune", watched)
    overrides = (*SMALL, 'mitigate.methods=["plain"]', limit)
    mitigate(request_of(island, tmp_path, overrides=overrides))
    *steps, end = off
    assert len(steps) == 4 and max(steps) < 1e-5 < 1e-4 < end


def test_evaluation_speakers_are_in_no_training_batch(
    island: Island, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    cut = module.data.training_cut

    def watched(row: Any, *arguments: Any) -> Any:
        seen.add(row.utterance.speaker)
        return cut(row, *arguments)

    monkeypatch.setattr(module.data, "training_cut", watched)
    general = tmp_path / "general.jsonl"
    rows = read_lines(island.results)
    write_rows(general, [
        {"id": r["id"], "audio": str(island.folder / str(r["audio"])), "text": r["ref"],
         "speaker": r["speaker"]} for r in rows
    ])  # fmt: skip
    overrides = (*SMALL, 'mitigate.methods=["mixed"]')
    mended = mitigate(request_of(island, tmp_path, overrides=overrides, general=general))
    by_id = {r["id"]: r["speaker"] for r in rows}
    held = {by_id[name] for name in mended.report["evaluation_ids"]}
    assert len(held) == 9 and len(seen) == 6 and not held & seen
    assert mended.report["speakers"] == {
        "target": {"adapt": 2, "dev": 1, "evaluation": 3},
        "rest": {"adapt": 4, "dev": 2, "evaluation": 6},
    }


def test_results_of_another_model_are_refused(island: Island, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.ear", seed=7)
    request = request_of(island, tmp_path, model=other)
    with pytest.raises(ConfigError, match=r"is of another model than .*other.ear: of 36 rows"):
        mitigate(request)


def test_sound_that_is_gone_is_named(island: Island, tmp_path: Path) -> None:
    rows = read_lines(island.results)
    for row in rows:
        row["audio"] = str(island.folder / str(row["audio"]))
    rows[4]["audio"] = "gone.wav"
    write_rows(tmp_path / "results.jsonl", rows)
    request = request_of(island, tmp_path, results=tmp_path / "results.jsonl")
    with pytest.raises(ManifestError, match=r"1 of 36 rows is not there: line 5 \(gone.wav\)"):
        mitigate(request)


# ---------------------------------------------------------------- figures


def counts(errors: int, words: int = 10) -> WordCounts:
    return WordCounts(hits=words - errors, substitutions=errors)


def test_rates_are_pooled_and_cohorts_count_once() -> None:
    found = rates(
        [counts(1), counts(3), counts(5, 20), counts(2)], [0, 0, 1, -1], [0], ["a", "b", "c"]
    )
    assert found.overall == pytest.approx(11 / 50)
    assert found.target == pytest.approx(4 / 20)
    assert found.rest == pytest.approx(7 / 30)
    assert found.cohorts == pytest.approx({"a": 0.2, "b": 0.25})
    assert found.mean == pytest.approx(0.225)
    assert found.worst == 0.25
    assert found.variance == pytest.approx(0.000625)


# Ten speakers who choose of the mended cohorts and ten of the others, each with 100 words.
MENDED = [True] * 10 + [False] * 10
CHOOSERS = [f"s{n}" for n in range(20)]


def measured(errors: list[int]) -> tuple[Rates, tuple[WordCounts, ...]]:
    found = tuple(counts(e, words=100) for e in errors)
    return rates(found, [0 if inside else 1 for inside in MENDED], [0], ["bad", "rest"]), found


def candidate(method: str, target: list[int], rest: list[int]) -> Candidate:
    of_dev, found = measured(target + rest)
    worthless = Rates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, {})  # must not be looked at
    return Candidate(method=method, strength=1.0, steps=1, dev=of_dev, evaluation=worthless,
                     dev_counts=found, evaluation_counts=(), folder=Path("x"))  # fmt: skip


_RATES, _COUNTS = measured([50] * 10 + [10] * 10)
START = Development(rates=_RATES, counts=_COUNTS, mended=tuple(MENDED), speakers=tuple(CHOOSERS))


def test_the_best_fair_model_is_chosen_by_development_speakers() -> None:
    hurts_others = candidate("plain", [30] * 10, [12] * 10)  # every single one of them
    hurts_all = candidate("l2", [61] * 10, [0] * 10)
    good = candidate("ewc", [40] * 10, [10] * 10)
    better_for_others = candidate("mixed", [40] * 10, [9] * 10)
    worse = candidate("cohort", [51] * 10, [5] * 10)
    chosen, why = choose(START, [hurts_others, hurts_all, good, worse], tolerance=0.01)
    assert chosen is good
    assert "of 4 models 2 are" in why and "'ewc 1'" in why
    assert "40.00 % errors instead of 50.00 %" in why and why.endswith("the fewest of them")
    assert choose(START, [good, better_for_others], tolerance=0.01)[0] is better_for_others
    nothing, why = choose(START, [hurts_others, worse], tolerance=0.01)
    assert nothing is None and "none of them has fewer errors" in why
    nothing, why = choose(START, [hurts_others, hurts_all], tolerance=0.01)
    assert nothing is None and why.endswith("(10.00 %): the start is kept")


def test_one_error_more_among_the_others_does_not_decide() -> None:
    # 102 errors instead of 100: more than 1 %, and all of it from one person.
    unlucky = candidate("ewc", [25] * 10, [22, *[8] * 5, *[10] * 4])
    weak = candidate("l2", [45] * 10, [10] * 10)
    chosen, why = choose(START, [unlucky, weak], tolerance=0.01)
    assert chosen is unlucky and "of 2 models 2 are" in why
    # Two errors more of each of the ten: that is beyond what people differ by.
    certain = candidate("ewc", [25] * 10, [12] * 10)
    assert choose(START, [certain, weak], tolerance=0.01)[0] is weak
    # A limit that is the user's own is not stretched beyond that error.
    assert choose(START, [certain, weak], tolerance=0.25)[0] is certain


def test_of_equally_good_models_the_one_that_spares_the_others_is_taken() -> None:
    # 240 and 246 errors, in which people differ by twenty: nobody can tell which is better.
    fewest = candidate("ewc", [14, 34] * 5, [10] * 10)
    gentle = candidate("l2", [35, 13, 34, 14, 35, 14, 34, 14, 39, 14], [9] * 10)
    chosen, why = choose(START, [fewest, gentle], tolerance=0.01)
    assert chosen is gentle
    assert "2 are within one standard error of the fewest of them (24.00 %)" in why
    # The same number of errors more, from everybody alike, is a difference.
    behind = candidate("l2", [n + 1 for n in [14, 34] * 5], [9] * 10)
    assert choose(START, [fewest, behind], tolerance=0.01)[0] is fewest


def test_development_speakers_without_a_word_choose_nothing() -> None:
    silent = Development(
        rates=Rates(0.5, 0.5, float("nan"), 0.5, 0.5, 0.0, {}),
        counts=(counts(5), WordCounts()),
        mended=(True, False),
        speakers=("a", "b"),
    )
    heard = Candidate(
        method="ewc", strength=1.0, steps=1, dev=Rates(0.1, 0.1, float("nan"), 0.1, 0.1, 0.0, {}),
        evaluation=silent.rates, dev_counts=(counts(1), WordCounts()), evaluation_counts=(),
        folder=Path("x"),
    )  # fmt: skip
    assert choose(silent, [heard], tolerance=0.01)[0] is None


def test_the_front_is_what_nothing_beats() -> None:
    assert on_front([(1, 3), (2, 2), (3, 1), (3, 3), (2, 2)]) == [True, True, True, False, True]


def test_changes_are_paired() -> None:
    before, after = [counts(4), counts(6)] * 8, [counts(2), counts(3)] * 8
    speakers = [f"s{n // 2}" for n in range(16)]
    found = changes(before, after, [0, 1] * 8, [0], speakers)
    for change in (found.overall, found.target, found.rest):
        assert change is not None
        assert (change.value, change.low, change.high) == pytest.approx((-0.5, -0.5, -0.5))
        assert change.unit == "speaker"
    assert changes([counts(0)], [counts(1)], [0], [0], ["a"]).target is None


def test_the_page_needs_nothing_else(swept: tuple[Mitigation, Any]) -> None:
    _, mended = swept
    report = json.loads(json.dumps(mended.report))
    report["cohorts"][0]["name"] = report["cohorts"][0]["name"] + "<script>"
    page = curve_page(report)
    assert "<script>" not in page and "http" not in page
    assert page.count("<svg") == page.count("</svg>") == 2
    for candidate in report["candidates"]:
        assert page.count(f"<title>{candidate['name']}: ") == 2
    assert mended.why[1:] in page.replace("&#x27;", "'")
