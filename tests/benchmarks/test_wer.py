"""The benchmark's own arithmetic, with recognisers that say what they are told to."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sounds import UNSEEN, Sound
from speech_sets import Clip, Speech
from wer import (
    aims,
    arguments,
    compare_models,
    first,
    hourly_rate,
    insertions,
    main,
    measure,
    poisson_interval,
    table_row,
)

Samples = npt.NDArray[np.float32]


class Parrot:
    """Says the number that is written in the samples, or something else now and then."""

    def __init__(self, name: str, *, wrong_every: int = 0) -> None:
        self.name = name
        self.heard: list[int] = []
        self._wrong_every = wrong_every

    def transcribe(self, samples: Samples) -> str:
        number = int(samples[0])
        self.heard.append(number)
        wrong = self._wrong_every and number % self._wrong_every == 0
        return "no answer" if wrong else f"word {number}"


def speech(count: int, *, speakers: int) -> Speech:
    return Speech(
        "made-up",
        "made up",
        tuple(
            Clip(
                str(i),
                f"Word {i}.",
                f"s{i % speakers}",
                lambda i=i: np.full(1600, i, np.float32),
                "even" if i % 2 == 0 else "odd",
            )
            for i in range(count)
        ),
    )


def test_every_system_hears_every_clip_and_errors_are_counted() -> None:
    right, wrong = Parrot("right"), Parrot("wrong", wrong_every=4)
    lines = io.StringIO()
    measured = measure(speech(40, speakers=12), [right, wrong], transcripts=lines)
    assert right.heard == wrong.heard == list(range(40))
    rows = [table_row(measured, outcome) for outcome in measured.outcomes]
    assert rows[0]["wer"]["value"] == 0.0
    assert rows[1]["wer"]["value"] == pytest.approx(20 / 80)  # two substitutions a wrong one
    assert rows[1]["substitutions"] == 20
    assert rows[1]["wer"]["resampled"] == "speaker"
    assert rows[1]["wer"]["ci95_low"] < 0.25 < rows[1]["wer"]["ci95_high"]
    assert rows[1]["by_group"]["odd"]["value"] == 0.0
    assert rows[1]["by_group"]["even"]["value"] == pytest.approx(0.5)
    assert len(lines.getvalue().splitlines()) == 80


def test_few_speakers_mean_utterances_and_the_row_says_so() -> None:
    measured = measure(speech(40, speakers=2), [Parrot("wrong", wrong_every=4)])
    assert table_row(measured, measured.outcomes[0])["wer"]["resampled"] == "utterance"


def test_a_shortened_set_says_so() -> None:
    cut = first(speech(40, speakers=2), 3)
    assert len(cut.clips) == 3
    assert "FIRST 3 ONLY" in cut.title


class Chatter:
    """Hears one word where the sound is loud."""

    name = "chatter"

    def transcribe(self, samples: Samples) -> str:
        return "hello there" if samples[0] > 0.5 else ""


def test_insertions_are_counted_by_part_and_per_hour() -> None:
    def sound(name: str, part: str, level: float) -> Sound:
        return Sound(name, part, 36.0, lambda: np.full(16000 * 36, level, np.float32))

    rows = insertions(
        [
            sound("a", "unseen noise", 1.0),
            sound("b", "generated music", 0.0),
            sound("c", "training noise", 0.0),
        ],
        [Chatter()],
    )
    by_part = {row["part"]: row for row in rows}
    parts = ["unseen noise", "generated music", "training noise", UNSEEN, "all"]
    assert list(by_part) == parts
    assert by_part["unseen noise"]["insertions_per_hour"]["value"] == pytest.approx(2 / 0.01)
    assert by_part[UNSEEN]["insertions_per_hour"]["value"] == pytest.approx(2 / 0.02)
    assert by_part[UNSEEN]["where"] == {"a": 2}
    assert by_part["training noise"]["words_inserted"] == 0
    assert by_part["all"]["insertions_per_hour"]["value"] == pytest.approx(2 / 0.03)


def test_no_insertion_is_not_certainty() -> None:
    rate = hourly_rate([0] * 20, [0.01] * 20)
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(3.689 / 0.2, rel=1e-3)


def test_few_recordings_are_not_resampled() -> None:
    rate = hourly_rate([3], [0.05])
    assert rate.unit == "word (Poisson)"
    assert (rate.low, rate.high) == pytest.approx((0.6187 / 0.05, 8.7673 / 0.05), rel=1e-3)


def test_many_recordings_are_resampled() -> None:
    rate = hourly_rate([10, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0.01] * 10)
    assert rate.unit == "recording"
    assert rate.low == 0.0  # one recording has it all
    assert rate.high > 1.5 * rate.value


@pytest.mark.parametrize("count", [1, 7, 40])
def test_poisson_intervals_cover_what_they_should(count: int) -> None:
    """Oracle: at the ends, simulated counts reach the observed one 2.5 % of the time."""
    low, high = poisson_interval(count)
    rng = np.random.default_rng(count)
    assert (rng.poisson(low, 200_000) >= count).mean() == pytest.approx(0.025, abs=0.002)
    assert (rng.poisson(high, 200_000) <= count).mean() == pytest.approx(0.025, abs=0.002)


def test_models_are_compared_on_the_same_utterances(tmp_path: Path) -> None:
    from tests.tiny_model import write_tiny_model

    int8 = write_tiny_model(tmp_path / "int8.ear", codec="i8_r16x4")
    fp32 = write_tiny_model(tmp_path / "fp32.ear")
    rng = np.random.default_rng(2)
    noises = [(0.1 * rng.standard_normal(16000)).astype(np.float32) for _ in range(6)]
    clips = (Clip(str(i), "turn on", "s", lambda x=x: x) for i, x in enumerate(noises))
    rows = compare_models(
        int8,
        fp32,
        sets=[Speech("one", "one", tuple(clips))],
        methods=["greedy_search"],
        transcripts=None,
    )
    assert [row["set"] for row in rows] == ["one", "pooled"]
    assert rows[1]["words"] == 12
    assert rows[0]["relative_change"] == rows[1]["relative_change"]
    expected = rows[1]["int8_wer"]["value"] / rows[1]["fp32_wer"]["value"] - 1
    assert rows[1]["relative_change"]["value"] == pytest.approx(expected)
    (aim,) = aims({"rows": rows})
    assert aim["figure"] == rows[1]["relative_change"]["value"]
    assert aim["met"] == (expected <= 0.02)


def test_aims_are_read_from_the_rows_they_are_about() -> None:
    def row(name: str, system: str, value: float) -> dict[str, object]:
        return {"set": name, "system": system, "wer": {"value": value}}

    report = {
        "rows": [
            row("digits", "earshot greedy", 0.07),
            row("digits", "pocketsphinx default LM", 0.5),
            row("librispeech", "earshot greedy", 0.5),
            row("synthetic", "earshot greedy", 0.09),
        ],
        "wordless": [
            {"part": "all", "system": "earshot greedy", "insertions_per_hour": {"value": 5.0}},
            {"part": UNSEEN, "system": "earshot greedy", "insertions_per_hour": {"value": 50.0}},
            {"part": "music", "system": "earshot greedy", "insertions_per_hour": {"value": 90.0}},
        ],
    }
    assert [(a["figure"], a["met"]) for a in aims(report)] == [
        (0.07, True),
        (0.09, False),
        (5.0, True),
        (50.0, False),
    ]


def finished_report(path: Path, rows: list[dict[str, object]], *, model: str = "x") -> Path:
    report = {"benchmark": "wer", "complete": True, "command": path.name, "commit": "c"}
    report |= {"isa": "avx2", "python": "3.11", "cpus": 2, "models": [{"sha256": model}]}
    report |= {"rows": rows, "wordless": [], "skipped": {"digits": "absent"}, "wall_s": 1.0}
    path.write_text(json.dumps(report))
    return path


def finished_row(name: str, value: float) -> dict[str, object]:
    wer = {"value": value, "ci95_low": 0.0, "ci95_high": 1.0, "resampled": "speaker"}
    counts = dict.fromkeys(("utterances", "speakers", "words"), 1)
    counts |= dict.fromkeys(("substitutions", "deletions", "insertions"), 0)
    return {"set": name, "title": name, "system": "earshot greedy", "wer": wer, **counts}


def test_reports_of_other_sets_become_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = finished_report(tmp_path / "a.json", [finished_row("synthetic", 0.09)])
    b = finished_report(tmp_path / "b.json", [finished_row("digits", 0.07)])
    assert main(["--merge", str(a), str(b), "--json", str(tmp_path / "ab.json")]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == json.loads((tmp_path / "ab.json").read_text())
    assert [row["set"] for row in report["rows"]] == ["digits", "synthetic"]
    assert [aim["met"] for aim in report["aims"]] == [True, False]
    assert report["skipped"] == {}  # the other run measured it


@pytest.mark.parametrize("problem", ["same set", "other model", "unfinished"])
def test_reports_that_do_not_belong_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str
) -> None:
    a = finished_report(tmp_path / "a.json", [finished_row("digits", 0.09)])
    name = "digits" if problem == "same set" else "librispeech"
    model = "y" if problem == "other model" else "x"
    b = finished_report(tmp_path / "b.json", [finished_row(name, 0.07)], model=model)
    if problem == "unfinished":
        b.write_text(b.read_text().replace('"complete": true', '"complete": false'))
    assert main(["--merge", str(a), str(b)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_unknown_sets_are_refused() -> None:
    with pytest.raises(SystemExit):
        arguments(["--sets", "digits,speling"])


def test_runs_end_to_end_on_a_tiny_model_and_ends_with_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import soundfile

    from tests.tiny_model import write_tiny_model

    model = write_tiny_model(tmp_path / "tiny.ear")
    folder = tmp_path / "librispeech_dev_clean_half"
    folder.mkdir()
    rng = np.random.default_rng(5)
    rows = []
    for i in range(3):
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(8000), 16000)
        row = {"id": str(i), "audio": f"{i}.wav", "text": "turn on", "split": "test"}
        rows.append(row | {"lang": "en", "speaker": "x"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    chosen = ["--data", str(tmp_path), "--synthetic", str(tmp_path / "none")]
    status = main([*chosen, "--model", str(model), "--sets", "librispeech,digits"])
    assert status == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["system"] for row in report["rows"]] == ["earshot greedy", "earshot modified_beam"]
    assert all(row["words"] == 6 for row in report["rows"])
    assert "spoken_digits" in report["skipped"]["digits"]
