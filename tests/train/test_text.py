"""The training text: its spelling, and that what is held out stays held out."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from earshot.data.spoken import number_words, spoken_form
from earshot.train import text

SMALL = text.TextConfig(sentences_per_template=4, generated=1500)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of the built-in material alone."""
    pytest.importorskip("hassil", reason="needs hassil; install earshot[train]")
    pytest.importorskip("home_assistant_intents", reason="needs home-assistant-intents")
    folder = tmp_path_factory.mktemp("text")
    text.prepare(folder, seed=3, config=SMALL, root=folder / "absent")
    return folder


def _both(folder: Path) -> tuple[list[text.TextItem], list[text.TextItem]]:
    read = text.load_texts
    return read(folder / "text" / "train.jsonl"), read(folder / "text" / "heldout.jsonl")


def test_no_template_and_no_sentence_is_on_both_sides(prepared: Path) -> None:
    train, held_out = _both(prepared)
    assert not {i.text for i in train} & {i.text for i in held_out}
    assert not {i.template for i in train} & {i.template for i in held_out}
    held_templates = {i.template for i in held_out if i.template.startswith("ha:")}
    train_templates = {i.template for i in train if i.template.startswith("ha:")}
    share = len(held_templates) / len(held_templates | train_templates)
    assert 0.05 < share < 0.12


def test_what_is_held_out_does_not_depend_on_the_seed(prepared: Path, tmp_path: Path) -> None:
    text.prepare(tmp_path, seed=4, config=SMALL, root=tmp_path / "absent")
    train, held_out = _both(prepared)
    other_train, other_held_out = _both(tmp_path)
    assert not {i.template for i in train} & {i.template for i in other_held_out}
    assert not {i.template for i in other_train} & {i.template for i in held_out}
    assert [i.text for i in train] != [i.text for i in other_train]


def test_built_in_material_covers_every_kind_in_the_recognisers_spelling(prepared: Path) -> None:
    train, _ = _both(prepared)
    kinds = {i.kind for i in train}
    assert {"command", "digits", "spelled", "mix", "phone", "number", "time", "timer"} <= kinds
    assert {"name", "wake", "word"} <= kinds
    assert all(i.text == spoken_form(i.text) and i.text for i in train)
    single = {i.text for i in train if i.kind == "digits" and " " not in i.text}
    assert {"zero", "one", "nine", "oh"} <= single
    assert any(re.fullmatch(r"(?:[a-z] ){3,}[a-z]", i.text) for i in train if i.kind == "spelled")


def test_an_optional_blank_never_glues_words_together(prepared: Path) -> None:
    train, _ = _both(prepared)
    assert not [i.text for i in train if re.search(r"(?:hundred|thousand|ty)kelvin", i.text)]


def test_prepare_makes_nothing_twice(prepared: Path) -> None:
    path = prepared / "text" / "train.jsonl"
    before = path.stat().st_mtime_ns
    counts = text.prepare(prepared, seed=3, config=SMALL, root=prepared / "absent")
    assert path.stat().st_mtime_ns == before
    assert counts["train/command"] > 1000


def test_the_coffee_grammar_is_not_read(tmp_path: Path) -> None:
    pytest.importorskip("hassil", reason="needs hassil; install earshot[train]")
    folder = tmp_path / "data" / "text"
    folder.mkdir(parents=True)
    grammar = "context:\n  expressions:\n    orderDrink:\n      - mochaccinissimo\n"
    (folder / "picovoice_coffee_maker_grammar.yaml").write_text(grammar)
    text.prepare(tmp_path, seed=3, config=SMALL, root=tmp_path / "data")
    train, held_out = _both(tmp_path)
    assert train
    assert not [i.text for i in (*train, *held_out) if "mochaccinissimo" in i.text]


def test_corpora_are_read_and_tests_are_not(real_data: Path, tmp_path: Path) -> None:
    if not (real_data / "text" / "slurp_lm.txt.gz").is_file():
        pytest.skip(f"{real_data}/text has no slurp_lm.txt.gz")
    text.prepare(tmp_path, seed=3, config=SMALL, root=real_data)
    train, held_out = _both(tmp_path)
    assert {"assistant", "question", "music"} <= {i.kind for i in train}
    assert not {i.text for i in train} & {i.text for i in held_out}
    tests = set()
    manifest = real_data / "librispeech_dev_clean_half" / "manifest.jsonl"
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] != "train":
            tests.add(spoken_form(row["text"]))
    assert not tests & {i.text for i in train}
    aside = set()
    for name in ("snips_nlu", "clinc_oos", "slurp_devel_test"):
        with gzip.open(real_data / "text" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        of = {"snips_nlu": "music", "clinc_oos": "question"}.get(name, "assistant")
        aside |= {
            (of, spoken_form(row["text"]))
            for row in rows
            if row["split"] not in ("train", "oos_train")
        }
    assert len(aside) > 5000
    assert not aside & {(i.kind, i.text) for i in (*train, *held_out)}


def _gzip_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.write("".join(line + "\n" for line in lines))


def test_rows_that_a_corpus_keeps_for_its_tests_are_on_neither_side(tmp_path: Path) -> None:
    pytest.importorskip("hassil", reason="needs hassil; install earshot[train]")
    splits = ("train", "val", "test", "oos_train", "oos_val", "oos_test")
    rows = [
        {"text": f"is {split} of interest {number_words(n)}", "split": split}
        for n in range(60)
        for split in splits
    ]
    rows.append(rows[0] | {"split": "test"})  # set aside wherever else it is
    folder = tmp_path / "data" / "text"
    _gzip_lines(folder / "clinc_oos.jsonl.gz", [json.dumps(row) for row in rows])
    _gzip_lines(folder / "slurp_lm.txt.gz", ["olly tell a joke", "olly stop this song"])
    _gzip_lines(
        folder / "slurp_devel_test.jsonl.gz",
        [json.dumps({"text": "Olly, stop this song", "split": "devel"})],
    )
    text.prepare(tmp_path, seed=3, config=SMALL, root=tmp_path / "data")
    train, held_out = _both(tmp_path)
    assert [i for i in held_out if i.template.startswith("clinc:")]
    said = {i.text for i in (*train, *held_out) if i.template.startswith("clinc:")}
    wanted = {
        spoken_form(row["text"]) for row in rows if row["split"] in ("train", "oos_train")
    } - {rows[0]["text"]}
    assert said == wanted
    said = {i.text for i in (*train, *held_out) if i.template.startswith("slurp:")}
    assert said == {"olly tell a joke"}


def test_setting_rows_aside_moves_no_sentence_between_the_sides() -> None:
    """A sentence that two corpora say on different sides stays out, whatever is set aside."""
    names = [f"sentence {number_words(n)}" for n in range(400)]
    items = [text.TextItem(t, "assistant", f"slurp:{t}") for t in names]
    items += [text.TextItem(t, "question", f"clinc:{t}") for t in names]
    before = text._split(items, SMALL)
    aside = frozenset(i.template for i in items if i.template.startswith("clinc:"))
    after = text._split(items, SMALL, set_aside=aside)
    for old, new in zip(before, after, strict=True):
        assert {i.text for i in new} <= {i.text for i in old}
        assert not {i.template for i in new} & aside


def test_held_out_text_is_halved_and_made_up_text_never_tests(prepared: Path) -> None:
    train, held_out = _both(prepared)
    tests = [i for i in held_out if text.is_test(i.template)]
    assert {i.kind for i in tests} == {"command"}
    validation = [i for i in held_out if not text.is_test(i.template)]
    assert not {i.template for i in tests} & {i.template for i in validation}
    commands = {i.template for i in held_out if i.kind == "command"}
    assert 0.3 < len({i.template for i in tests}) / len(commands) < 0.7
    assert not {i.template for i in tests} & {i.template for i in train}
