"""The grammars are as big as their names say, the same every time, and load."""

from __future__ import annotations

from pathlib import Path

from grammar_size import NAMES, aims, big_grammars, made_up_names

from earshot.understand.templates import load_commands


def test_names_are_different_and_repeat_with_their_seed() -> None:
    names = made_up_names(500, seed=9)
    assert len(set(names)) == 500
    assert all(name.isascii() and name.isalpha() and name.islower() for name in names)
    assert names == made_up_names(500, seed=9)
    assert names != made_up_names(500, seed=8)


def test_grammars_are_as_big_as_they_are_called(tmp_path: Path) -> None:
    by_name = {grammar.name: grammar for grammar in big_grammars(tmp_path)}
    counts = {
        name: load_commands([grammar.path]).count_sentences()
        for name, grammar in by_name.items()
        if name != "coffee"
    }
    assert counts["one sentence"] == 1
    assert counts["1,000,000 sentences"] >= 1_000_000
    assert counts["20,000 values"] == 4 * NAMES


def test_aims_are_judged_one_by_one() -> None:
    report = {
        "compiling": [
            {
                "grammar": "g",
                "read_s": 2.0,
                "compile_s": 2.0,
                "load_s": 0.5,
                "first_clip_extra_s": 1.0,
                "added_mib": 49.0,
            }
        ],
        "slowdown": [{"grammar": "g", "audio": "read speech", "slowdown": 0.25}],
    }
    assert [aim["met"] for aim in aims(report)] == [False, True, False]
