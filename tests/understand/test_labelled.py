"""Labelled sentences: forms of rows, where slots stand, and all bad rows at once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from earshot.core.errors import LabelledTextError
from earshot.understand.labelled import LabelledSentence, read_labelled, slot_spans


def rows_of(tmp_path: Path, *rows: object) -> list[LabelledSentence]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_labelled(path)


@pytest.mark.parametrize(
    "slots",
    [
        {"city": "New York", "day": "May"},
        [["day", "May"], ["city", "New York"]],
        [{"name": "city", "start": 21, "end": 29}, {"name": "day", "start": 14, "end": 17}],
    ],
)
def test_three_forms_of_slots_mean_the_same(tmp_path: Path, slots: object) -> None:
    text = "Maybe rain in May in New York?"
    slots = json.loads(json.dumps(slots))
    (row,) = rows_of(tmp_path, {"text": text, "intent": "weather", "slots": slots})
    assert row.words == ("maybe", "rain", "in", "may", "in", "new", "york")
    assert row.labels == ("O", "O", "O", "B-day", "O", "B-city", "I-city")


def test_figures_become_the_words_that_are_heard(tmp_path: Path) -> None:
    row = {"text": "dim to 22% please", "intent": "dim", "slots": {"level": 22}}
    (found,) = rows_of(tmp_path, row)
    assert found.words == ("dim", "to", "twenty", "two", "percent", "please")
    assert slot_spans(found.labels) == [(2, 4, "level")]


def test_the_longest_value_takes_its_words_first(tmp_path: Path) -> None:
    row = {
        "text": "the first of may in may",
        "intent": "x",
        "slots": {"a": "may", "b": "may in may"},
    }
    with pytest.raises(LabelledTextError, match="'may' of slot 'a'"):
        rows_of(tmp_path, row)
    row["slots"] = {"a": "may", "b": "first of may"}
    (found,) = rows_of(tmp_path, row)
    assert slot_spans(found.labels) == [(1, 4, "b"), (5, 6, "a")]


@pytest.mark.parametrize("intent", [None, "oos", "out_of_scope"])
def test_out_of_scope_has_three_names(tmp_path: Path, intent: str | None) -> None:
    (row,) = rows_of(tmp_path, {"text": "who won", "intent": intent, "split": "oos_train"})
    assert row.intent is None and row.split == "oos_train"


def test_two_slots_side_by_side_stay_two(tmp_path: Path) -> None:
    row = {"text": "play jazz blues", "intent": "p", "slots": [["g", "jazz"], ["g", "blues"]]}
    (found,) = rows_of(tmp_path, row)
    assert slot_spans(found.labels) == [(1, 2, "g"), (2, 3, "g")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("nope", "not JSON"),
        ("[1]", "this is a list"),
        ("\udcff", "not JSON"),
        ({"text": "??", "intent": "a"}, "holds no word"),
        ({"intent": "a"}, "'text' is None"),
        ({"text": "go"}, "no 'intent'"),
        ({"text": "go", "intent": ""}, "'intent' is ''"),
        ({"text": "go", "intent": 3}, "'intent' is 3"),
        ({"text": "go", "intent": "a", "split": 1}, "'split' is 1"),
        ({"text": "go", "intent": "a", "slots": "x"}, "'slots' is 'x'"),
        ({"text": "go", "intent": "a", "slots": [["x"]]}, "'slots' is"),
        ({"text": "go", "intent": "a", "slots": {"x": "far"}}, "is not in the text"),
        ({"text": "go", "intent": "a", "slots": {"x": ""}}, "is not in the text"),
        ({"text": "go", "intent": "a", "slots": {"": "go"}}, "slot ''"),
        ({"text": "go ?", "intent": "a", "slots": {"x": "?"}}, "holds no word"),
        ({"text": "go", "intent": "a", "slots": [{"name": "x", "start": 0, "end": 9}]}, "0 to 9"),
        (
            {"text": "go", "intent": "a", "slots": [{"name": "x", "start": True, "end": 2}]},
            "a slot",
        ),
        (
            {
                "text": "go on",
                "intent": "a",
                "slots": [{"name": n, "start": 0, "end": 5} for n in "xy"],
            },
            "overlap",
        ),
    ],
)
def test_every_kind_of_bad_row_says_what_it_is(tmp_path: Path, row: object, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    line = row if isinstance(row, str) else json.dumps(row)
    good = '{"text": "go", "intent": "a"}\n'
    path.write_bytes(good.encode() + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(LabelledTextError) as caught:
        read_labelled(path)
    (found,) = caught.value.problems
    assert found.where == f"{path}:2"
    assert problem in found.problem
    assert found.remedy


def test_all_bad_rows_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('x\n\n{"text": "go", "intent": "a"}\n{"text": "go"}\n')
    with pytest.raises(LabelledTextError) as caught:
        read_labelled(path)
    assert [p.where for p in caught.value.problems] == [f"{path}:1", f"{path}:4"]
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b'{"text": "go", "intent": "a"}\n' * 99)[:40])
    for name, problem in (("no", "no such file"), ("empty", "no rows"), ("cut", "cannot be read")):
        path = tmp_path / (f"{name}.gz" if name == "cut" else f"{name}.jsonl")
        with pytest.raises(LabelledTextError, match=problem):
            read_labelled(path)


def test_gzipped_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "go", "intent": "a"}\n'))
    assert read_labelled(path)[0].words == ("go",)


def test_public_corpora_are_read_as_they_are(real_data: Path) -> None:
    snips = real_data / "text" / "snips_nlu.jsonl.gz"
    if not snips.is_file():
        pytest.skip(f"no {snips}")
    with gzip.open(snips, "rt", encoding="utf-8") as file:
        some = [line for _, line in zip(range(300), file, strict=False)]
    short = [json.loads(line) for line in some]
    for row, raw in zip(read_labelled_lines(some), short, strict=True):
        assert [slot for _, _, slot in slot_spans(row.labels)] == [name for name, _ in raw["slots"]]


def read_labelled_lines(lines: list[str]) -> list[LabelledSentence]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.jsonl"
        path.write_text("".join(lines), encoding="utf-8")
        return read_labelled(path)
