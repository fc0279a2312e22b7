"""Reports, rows and the dealing of speakers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed ([train])")
pytest.importorskip("lhotse", reason="lhotse is not installed ([train])")

import numpy as np
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.core.errors import ConfigError, EarshotError, ManifestError
from earshot.core.utterance import Utterance
from earshot.train.mitigate_config import MitigateConfig
from earshot.train.mitigate_data import (
    Cohort,
    Discovery,
    Row,
    assigned,
    deal_speakers,
    general_rows,
    read_discovery,
    read_rows,
    target_cohorts,
    trainable,
    training_cut,
)

pytestmark = pytest.mark.train


def row(speaker: str, **values: object) -> Row:
    utterance = Utterance(id=speaker, audio=Path("a.wav"), text="a", speaker=speaker)
    return Row(1, utterance, None, values)


def discovery(*rules: str) -> Discovery:
    cohorts = [Cohort(f"c{n}", rule, 1.0 - n / 10) for n, rule in enumerate(rules)]
    return Discovery("regions", tuple(cohorts), Path("results.jsonl"))


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("lat < 43.5 and lon >= 7", {"lat": 43.4, "lon": 7}, {"lat": 43.5, "lon": 9}),
        ("lat ≥ 43.5° & lon < −7", {"lat": 43.5, "lon": "-7.5"}, {"lat": 44, "lon": -7}),
        ("-2 <= lat < 3", {"lat": -2.0}, {"lat": 3.0}),
        ("gender = female, accent = Indian / L1 Marathi",
         {"gender": "female", "accent": "Indian / L1 Marathi"},
         {"gender": "female", "accent": "Indian"}),
        ("zip = '02139'", {"zip": "02139"}, {"zip": "02138"}),
        ("age != 30", {"age": "31"}, {"age": 30.0}),
    ],
)  # fmt: skip
def test_rules_are_read(rule: str, inside: dict[str, object], outside: dict[str, object]) -> None:
    rows = [row("a", **inside), row("b", **outside), row("c")]
    assert assigned(discovery(rule), rows) == [0, -1, -1]


def test_speakers_that_a_report_lists_go_before_its_rule() -> None:
    listed = Discovery(
        "clusters", (Cohort("3", "nearest to centre 3", 0.5, frozenset({"b"})),), Path("r")
    )
    assert assigned(listed, [row("a"), row("b")]) == [-1, 0]


def test_rules_that_cannot_be_read_or_hold_for_nobody_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'nearest to centre 3' cannot be read"):
        assigned(discovery("nearest to centre 3"), [row("a")])
    with pytest.raises(ConfigError, match=r"holds for none of 2 rows.*--results"):
        assigned(discovery("lat < 1"), [row("a", lat=2), row("b")])


def test_targets_are_the_worst_or_those_above() -> None:
    found = discovery("a = 1", "a = 2", "a = 3")  # 1.0, 0.9, 0.8
    assert target_cohorts(found, MitigateConfig(top=2)) == [0, 1]
    assert target_cohorts(found, MitigateConfig(above=0.95)) == [0]
    with pytest.raises(ConfigError, match=r"the worst has 1\.000"):
        target_cohorts(found, MitigateConfig(above=1.5))
    with pytest.raises(ConfigError, match="all 3 cohorts"):
        target_cohorts(found, MitigateConfig(top=3))


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(6, 15), min_size=2, max_size=5),
    folds=st.integers(2, 4),
    seed=st.integers(0, 5),
)
def test_speakers_are_whole_and_dealt_evenly(sizes: list[int], folds: int, seed: int) -> None:
    rows, cohorts = [], []
    for cohort, size in enumerate(sizes):
        for speaker in range(size):
            rows += [row(f"{cohort}-{speaker}")] * 2
            cohorts += [cohort] * 2
    seen: list[int] = []
    for fold in range(folds):
        config = MitigateConfig(folds=folds, fold=fold, least_speakers=4)
        parts = deal_speakers(rows, cohorts, [0], config, seed=seed)
        every = [*parts.adapt, *parts.dev, *parts.evaluation]
        assert sorted(every) == list(range(len(rows)))
        names = [{rows[n].utterance.speaker for n in part}
                 for part in (parts.adapt, parts.dev, parts.evaluation)]  # fmt: skip
        assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
        for cohort, size in enumerate(sizes):
            held = {rows[n].utterance.speaker for n in parts.evaluation if cohorts[n] == cohort}
            assert size // folds <= len(held) <= -(-size // folds)
        assert parts.counts["target"]["dev"] >= 1
        seen += parts.evaluation
    assert sorted(seen) == list(range(len(rows)))  # each speaker evaluates in one fold


def test_too_few_speakers_are_refused_with_numbers() -> None:
    rows = [row(f"s{n}") for n in range(12)]
    cohorts = [0] * 3 + [1] * 9
    with pytest.raises(ConfigError, match=r"mended have 3 speakers \(.*\); .* at least 6"):
        deal_speakers(rows, cohorts, [0], MitigateConfig(), seed=1)
    with pytest.raises(ConfigError, match="the others have 3 speakers"):
        deal_speakers(rows, cohorts, [1], MitigateConfig(), seed=1)


def results(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    soundfile.write(tmp_path / "a.wav", np.zeros(8000, np.float32), 16000)
    return path


GOOD = {"id": "1", "ref": "A b.", "hyp": "a", "speaker": "s", "audio": "a.wav", "lat": 3}


def test_rows_are_read(tmp_path: Path) -> None:
    found = read_rows(results(tmp_path, GOOD, {**GOOD, "id": "2", "offset": 0.1}))
    assert [r.number for r in found] == [1, 2]
    assert found[0].utterance.text == "a b"
    assert found[0].utterance.audio == tmp_path / "a.wav"
    assert found[1].utterance.offset_s == 0.1
    assert found[0].values["lat"] == 3


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (({**GOOD, "audio": "b.wav"}, {**GOOD, "id": "2"}, {**GOOD, "id": "3", "audio": "c.wav"}),
         r"sound of 2 of 3 rows is not there: line 1 \(b.wav\), line 3 \(c.wav\)"),
        (({**GOOD, "audio": ""},), r"1 of 1 rows is not there: line 1 \(no path\)"),
        (({k: v for k, v in GOOD.items() if k != "speaker"},), "has no speakers.*--map"),
        (({"id": "1", "speaker": "s", "errors": 1, "words": 2, "audio": "a.wav"},),
         "has no transcripts"),
        ((GOOD, GOOD), "results.jsonl:2: the id '1' stands on line 1 already"),
        ((GOOD, "{"), "results.jsonl:2: it is not JSON"),
        ((), "it is empty"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_named(
    tmp_path: Path, lines: tuple[object, ...], said: str
) -> None:
    with pytest.raises(EarshotError, match=said):
        read_rows(results(tmp_path, *lines))


def test_rows_that_the_audit_left_out_are_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = results(tmp_path, {**GOOD, "id": "0", "speaker": None}, GOOD)
    assert [r.number for r in read_rows(path)] == [2]
    assert "1 rows are left out, as by the audit" in caplog.text and "(lines 1)" in caplog.text


def test_columns_have_other_names_and_other_forms(tmp_path: Path) -> None:
    results(tmp_path)
    path = tmp_path / "results.csv"
    path.write_text("id,said,hyp,who,audio,lat\n1,a b,a,s,a.wav,3.5\n")
    found = read_rows(path, columns={"ref": "said", "speaker": "who"})
    assert (found[0].utterance.text, found[0].utterance.speaker) == ("a b", "s")
    assert found[0].values == {"lat": 3.5}


def test_members_that_the_audit_wrote_down_decide(tmp_path: Path) -> None:
    results(tmp_path, GOOD, {**GOOD, "id": "2"}, {**GOOD, "id": "3"})
    cohorts = [{"name": "far", "rule": "no rule at all", "wer": 0.5}, {"name": "near", "wer": 0.1}]
    report = tmp_path / "report.json"
    tree = {
        "source": str(tmp_path / "results.jsonl"),
        "members": "report.members.jsonl",
        "discoveries": [{"method": "clusters", "cohorts": cohorts}],
    }
    report.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"report.members.jsonl: is not there"):
        read_discovery(report)
    members = tmp_path / "report.members.jsonl"
    lines = [
        {"id": "1", "cohorts": {"clusters": ["near", "far"], "groups": ["x"]}},
        {"id": "2", "cohorts": {"groups": ["far"]}},
    ]
    members.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_rows(tmp_path / "results.jsonl")
    with pytest.raises(ConfigError, match=r"lacks 1 of 3 rows.*: line 3\..*audit again"):
        assigned(read_discovery(report), rows)
    with members.open("a") as file:
        file.write(json.dumps({"id": "3", "cohorts": {"clusters": ["near"]}}) + "\n")
    assert assigned(read_discovery(report), rows) == [0, -1, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "no 'discoveries'"),
        ('{"discoveries": []}', "no discovery with cohorts; it has none"),
        ('{"discoveries": [{"method": "groups", "cohorts": [{"name": "a"}]}]}', "lacks 'wer'"),
        ('{"discoveries": [{"method": "groups", "cohorts": [{"name": "a", "wer": 1}]}]}',
         "does not say which results"),
        ('{"results": "gone.jsonl", "discoveries": [{"cohorts": [{"name": "a", "wer": 1}]}]}',
         "gone.jsonl, which are not there"),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_discovery(path)
    assert "\n" not in str(caught.value)


def test_the_wanted_discovery_is_taken_worst_first(tmp_path: Path) -> None:
    results(tmp_path, GOOD)
    path = tmp_path / "report.json"
    cohorts = [{"name": "a", "wer": 0.1}, {"name": "b", "rule": "lat < 3", "wer": 0.2}]
    tree = {
        "results": "results.jsonl",
        "discoveries": [{"method": "groups", "cohorts": cohorts[:1]},
                        {"method": "regions", "cohorts": cohorts}],
    }  # fmt: skip
    path.write_text(json.dumps(tree))
    found = read_discovery(path, method="regions")
    assert [(c.name, c.rule) for c in found.cohorts] == [("b", "lat < 3"), ("a", "a")]
    assert found.results == tmp_path / "results.jsonl"
    assert read_discovery(path).method == "groups"
    with pytest.raises(ConfigError, match="of method 'clusters'; it has groups, regions"):
        read_discovery(path, method="clusters")


def test_general_speech_is_not_of_those_who_evaluate(tmp_path: Path) -> None:
    path = results(tmp_path, *(
        {"id": str(n), "audio": "a.wav", "text": "a", "speaker": f"s{n}"} for n in range(3)
    ))  # fmt: skip
    assert [r.utterance.speaker for r in general_rows(path, heard=["s1"])] == ["s0", "s2"]
    with pytest.raises(ManifestError, match="none of 3 utterances"):
        general_rows(path, heard=["s0", "s1", "s2"])


def test_cuts_are_of_the_stretch_and_at_16_khz(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16000, np.float32), 16000)
    soundfile.write(tmp_path / "b.wav", np.zeros((8000, 2), np.float32), 8000)
    stretch = Utterance(
        id="1", audio=tmp_path / "a.wav", text="x", speaker="s", offset_s=0.25, duration_s=0.5
    )
    cut = training_cut(Row(1, stretch, None, {}), 1, tmp_path / "kept")
    assert (cut["start"], cut["duration"]) == (0.25, 0.5)
    assert cut["supervisions"][0]["custom"]["kind"] == "1"
    assert not (tmp_path / "kept").exists()
    other = Utterance(id="2", audio=tmp_path / "b.wav", text="x", speaker="s")
    cut = training_cut(Row(1, other, None, {}), -1, tmp_path / "kept")
    source = Path(cut["recording"]["sources"][0]["source"])
    assert source.parent == tmp_path / "kept"
    assert soundfile.info(str(source)).samplerate == 16000
    assert cut["duration"] == pytest.approx(1.0, abs=0.01)


def test_what_is_too_short_or_too_fast_is_not_trained_on() -> None:
    def lasting(seconds: float) -> Row:
        utterance = Utterance(id="1", audio=Path("a"), text="x", speaker="s", duration_s=seconds)
        return Row(1, utterance, None, {})

    assert trainable(lasting(1.0), 15)
    assert not trainable(lasting(1.0), 16)
    assert not trainable(lasting(0.1), 0)
    assert not trainable(lasting(18.0), 5)
