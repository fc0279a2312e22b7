"""Noise at the published level, acceptance as published, JSGF that says what the graph says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import numpy as np
import pytest
from command_scoring import (
    PUBLISHED,
    PUBLISHED_SNRS_DB,
    Record,
    acceptance_rows,
    confusions,
    difference_rows,
    false_accept_rows,
    slot_rows,
)
from command_sets import CommandClip, no_commands
from commands import Answer, Journal, JournalError, conditions, measure, merged, open_journal
from det_plot import curves, shares, svg
from jsgf import JsgfError, jsgf, pronounced
from noisy_speech import FRAME_SAMPLES, Noise, load_noise, loudest_frame, mixed
from speech_sets import SetMissing
from systems import default_model

from earshot.session.recognizer import tokenizer_of
from earshot.understand.graph import compile_commands
from earshot.understand.templates import load_commands

# ---------------------------------------------------------------- noise


def tone(samples: int, level: float, *, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def test_the_loudest_frame_is_found_and_the_rest_behind_the_last_ignored() -> None:
    samples = np.zeros(3 * FRAME_SAMPLES + 100, np.float32)
    samples[FRAME_SAMPLES : 2 * FRAME_SAMPLES] = 0.5
    samples[3 * FRAME_SAMPLES :] = 1.0  # no whole frame
    samples[10] = 0.25
    assert loudest_frame(samples) == pytest.approx(0.25 * FRAME_SAMPLES)
    with pytest.raises(ValueError, match="2047 samples"):
        loudest_frame(samples[: FRAME_SAMPLES - 1])


@pytest.mark.parametrize("snr_db", [0.0, 6.0, 24.0])
def test_noise_stands_so_far_below_the_speech(snr_db: float) -> None:
    speech, noise = tone(9000, 0.1), tone(9000, 0.7, seed=1)
    mix = mixed(speech, noise, snr_db=snr_db)
    assert np.abs(mix).max() == pytest.approx(0.5, abs=1e-6)
    # What was added, taken apart again: mix = (speech + scale * noise) * gain.
    parts, *_ = np.linalg.lstsq(np.stack([speech, noise], axis=1), mix, rcond=None)
    gain, noise_gain = parts
    ratio = loudest_frame(speech * gain) / loudest_frame(noise * noise_gain)
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=1e-3)


def test_a_level_needs_sound_of_one_length() -> None:
    with pytest.raises(ValueError, match="4096 samples of speech and 4000"):
        mixed(tone(4096, 0.1), tone(4000, 0.1), snr_db=6.0)
    with pytest.raises(ValueError, match="silent"):
        mixed(tone(4096, 0.1), np.zeros(4096, np.float32), snr_db=6.0)


def test_stretches_depend_on_clip_level_and_draw_alone() -> None:
    recording = np.arange(100_000, dtype=np.float32)
    noise = Noise("n", "", (lambda: recording,))

    def start(clip_id: str = "a", snr_db: float = 6.0, draw: int = 0) -> float:
        stretch = noise.stretch(5000, clip_id=clip_id, snr_db=snr_db, draw=draw)
        np.testing.assert_array_equal(np.diff(stretch), 1.0)
        return float(stretch[0])

    assert start() == start()
    starts = [start(), start(clip_id="b"), start(snr_db=9.0), start(draw=1)]
    assert len(set(starts)) == len(starts)
    with pytest.raises(SetMissing, match="none of 100001"):
        noise.stretch(100_001, clip_id="a", snr_db=6.0, draw=0)


def test_recordings_too_short_are_passed_over() -> None:
    short, long = np.zeros(10, np.float32), np.ones(50, np.float32)
    noise = Noise("n", "", (lambda: short, lambda: long))
    for draw in range(8):
        assert noise.stretch(20, clip_id="a", snr_db=6.0, draw=draw).min() == 1.0


def test_an_unknown_noise_is_told_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    row = {"label": "kitchen", "split": "test", "audio": "k.ogg"}
    (tmp_path / "noise" / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    assert load_noise("kitchen", data=tmp_path).remark == "never in training"
    with pytest.raises(SetMissing, match="'kitschen'; it has kitchen"):
        load_noise("kitschen", data=tmp_path)


# ---------------------------------------------------------------- JSGF


def graph(arcs: dict[int, list[tuple[Any, ...]]], final: Sequence[int], start: int = 0) -> Any:
    """A word graph from {node: [("word", dest) | (None, dest) | (("call", node), dest)]}."""
    nodes = 1 + max([*arcs, *final, *(arc[1] for out in arcs.values() for arc in out)])
    words: dict[str, int] = {}
    rows = []
    for node in range(nodes):
        for label, dest in arcs.get(node, []):
            if label is None:
                rows.append((node, 1, 0, dest))
            elif isinstance(label, str):
                rows.append((node, 0, words.setdefault(label, len(words)), dest))
            else:
                rows.append((node, 2, label[1], dest))
    counts = [sum(row[0] == node for row in rows) for node in range(nodes)]
    columns = np.array(rows, np.int32).T
    return SimpleNamespace(
        words=tuple(words),
        arc_begin=np.cumsum([0, *counts]).astype(np.int32),
        arc_kind=columns[1].astype(np.uint8),
        arc_label=columns[2],
        arc_dest=columns[3],
        final=np.array([node in final for node in range(nodes)], np.uint8),
        start=start,
    )


def graph_sentences(given: Any, node: int | None = None) -> set[str]:
    """Oracle: every path, walked one by one."""
    node = given.start if node is None else node
    found = {""} if given.final[node] else set()
    for arc in range(given.arc_begin[node], given.arc_begin[node + 1]):
        kind, label, dest = given.arc_kind[arc], given.arc_label[arc], given.arc_dest[arc]
        heads = {given.words[label]} if kind == 0 else {""}
        if kind == 2:
            heads = graph_sentences(given, label)
        for head, rest in itertools.product(heads, graph_sentences(given, dest)):
            found.add(" ".join(filter(None, (head, rest))))
    return found


def jsgf_sentences(text: str) -> set[str]:
    """All sentences of a JSGF text, by a reader of its own."""
    rules = {}
    public = ""
    for line in text.splitlines():
        if " = " in line:
            name, body = line.rstrip(";").removeprefix("public ").split(" = ", 1)
            rules[name] = body.replace("(", " ( ").replace(")", " ) ").replace("[", " [ ")
            rules[name] = rules[name].replace("]", " ] ")
            public = name if line.startswith("public") else public

    def choice(tokens: list[str]) -> set[str]:
        found: set[str] = set()
        sequence = {""}
        while tokens and tokens[0] not in (")", "]"):
            token = tokens.pop(0)
            if token == "|":
                found |= sequence
                sequence = {""}
                continue
            if token in ("(", "["):
                item = choice(tokens)
                if tokens.pop(0) == "]":
                    item = item | {""}
            elif token == "<NULL>":
                item = {""}
            else:
                item = choice(rules[token].split()) if token in rules else {token}
            sequence = {" ".join(filter(None, p)) for p in itertools.product(sequence, item)}
        return found | sequence

    return choice(rules[public].split())


GRAPHS = {
    "a word": graph({0: [("go", 1)]}, [1]),
    "an optional end": graph({0: [("go", 1)], 1: [("on", 2)]}, [1, 2]),
    "choices that meet": graph({0: [("a", 1), ("b", 1)], 1: [("c", 2)]}, [2]),
    "a way around": graph({0: [("a", 1), (None, 2)], 1: [("b", 2)], 2: [("c", 3)]}, [3]),
    "a bridge": graph(
        {0: [("a", 1), ("b", 2)], 1: [("c", 2), ("d", 3)], 2: [("e", 3)], 3: [("f", 4)]}, [4]
    ),
    "several ends": graph({0: [("a", 1), ("b", 2)], 1: [("c", 3)], 2: [("d", 3)]}, [1, 3]),
    "a shared list": graph(
        {
            0: [(("call", 5), 1)],
            1: [("and", 2), (None, 3)],
            2: [(("call", 5), 3)],
            5: [("x", 6), ("y", 6), ("x", 7)],
            7: [("z", 6)],
        },
        [3, 6],
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_jsgf_says_exactly_what_the_graph_says(name: str) -> None:
    assert jsgf_sentences(jsgf(GRAPHS[name])) == graph_sentences(GRAPHS[name])


def test_a_cycle_and_a_dead_end_are_refused() -> None:
    with pytest.raises(JsgfError, match="cycle"):
        jsgf(graph({0: [("a", 1)], 1: [("b", 0), ("c", 2)]}, [2]))
    with pytest.raises(JsgfError, match="node 1 leads nowhere"):
        jsgf(graph({0: [("a", 1), ("b", 2)]}, [2]))


def test_pronunciations_fall_back_and_say_so(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "own.dict").write_text("go G OW\ngo(2) G UW\nstop S T AA P\n")
    (tmp_path / "cmu.gz").write_bytes(gzip.compress(b"hive HH AY1 V # a note\nhives HH AY1 V Z\n"))
    said = pronounced(
        ["go", "hive", "go"], dictionary=tmp_path / "own.dict", cmudict=tmp_path / "cmu.gz"
    )
    assert said.lines == ("go G OW", "go(2) G UW", "hive HH AY V")
    assert said.remark == "1 words as its own dictionary has them; from CMUdict: hive"


# ---------------------------------------------------------------- scoring


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "system": "s", "member": "m", "condition": "clean", "draw": 0, "set": "x", "id": "1",
        "speaker": None, "expected_intent": "order", "expected_slots": {"size": "large"},
        "accepted": True, "intent": "order", "slots": {"size": "large"}, "confidence": 0.9,
        "text": "",
    }  # fmt: skip
    return Record(**{**fields, **changes})


def test_only_intent_and_every_slot_together_are_right() -> None:
    assert record().right
    assert not record(accepted=False).right
    assert not record(intent="cancel").right
    assert not record(slots={}).right
    assert not record(slots={"size": "small"}).right
    assert not record(slots={"size": "large", "milk": "soy"}).right
    assert record(expected_slots={"hive": 22}, slots={"hive": 22.0}).right


def test_acceptance_its_mean_over_noise_and_seeds() -> None:
    records = [
        record(id=str(clip), condition=condition, member=member, accepted=accepted)
        for member in ("a", "b")
        for condition, share in (("clean", 1.0), ("6 dB", 0.25), ("24 dB", 0.75))
        for clip in range(8)
        for accepted in [clip < 8 * share - (member == "b")]
    ]
    rows = {row["condition"]: row for row in acceptance_rows(records)}
    assert list(rows) == ["clean", "6 dB", "24 dB", "mean of noise"]
    assert rows["clean"]["members"] == {"a": 1.0, "b": 7 / 8}
    assert rows["clean"]["acceptance"]["value"] == 15 / 16
    assert rows["mean of noise"]["acceptance"]["value"] == pytest.approx(
        (rows["6 dB"]["acceptance"]["value"] + rows["24 dB"]["acceptance"]["value"]) / 2
    )
    assert rows["clean"]["acceptance"]["units"] == 8  # clips, not clips times seeds
    assert rows["clean"]["rejected"] == 1 / 16


def test_systems_are_compared_on_the_clips_that_both_heard() -> None:
    records = [
        record(system=system, id=str(n), draw=draw, accepted=n % 4 != 0 or system == "better")
        for system, draws in (("base", 2), ("better", 1))
        for draw in range(draws)
        for n in range(40 if system == "base" else 36)
    ]
    (row,) = difference_rows(records)
    assert (row["system"], row["less"], row["condition"]) == ("better", "base", "clean")
    assert row["difference"]["value"] == pytest.approx(9 / 36)
    assert row["difference"]["units"] == 36
    assert 0.0 < row["difference"]["ci95_low"] < 9 / 36 < row["difference"]["ci95_high"]


def test_slots_and_confusions_count_accepted_commands() -> None:
    records = [
        record(id="1", slots={"size": "small"}),
        record(id="2", slots={}),
        record(id="3", slots={"size": "large", "milk": "soy"}),
        record(id="4", accepted=False, intent=None, slots={}),
    ]
    rows = {row["slot"]: row for row in slot_rows(records)}
    assert (rows["size"]["said"], rows["size"]["otherwise"], rows["size"]["missed"]) == (3, 1, 1)
    assert (rows["milk"]["said"], rows["milk"]["only heard"]) == (0, 1)
    assert rows["intent"]["otherwise"] == 0
    assert confusions(records)[0] == {
        "system": "s", "slot": "milk", "expected": "(none)", "heard": "soy", "count": 1,
    }  # fmt: skip


def test_false_accepts_are_counted_by_set_and_over_speakers_where_there_are_enough() -> None:
    def other(number: int, name: str, accepted: bool) -> Record:
        return record(
            id=str(number), set=name, speaker=f"{number % 9}", accepted=accepted,
            expected_intent=None, expected_slots={},
        )  # fmt: skip

    records = [other(n, "read", n < 3) for n in range(30)] + [
        other(n, "said", False) for n in range(10)
    ]
    rows = {row["set"]: row for row in false_accept_rows(records)}
    assert rows["read"]["accepted"]["value"] == 0.1
    assert rows["read"]["accepted"]["resampled"] == "speaker"
    assert rows["all sets"]["accepted"]["value"] == 3 / 40
    assert rows["said"]["accepted"]["ci95_high"] > 0.0  # none of ten is not never


def test_the_cited_means_are_those_of_the_source() -> None:
    means = {engine: round(float(np.mean(row)), 3) for engine, row in PUBLISHED.items()}
    assert list(means.values()) == [0.789, 0.854, 0.891, 0.906, 0.981]
    assert {len(row) for row in PUBLISHED.values()} == {len(PUBLISHED_SNRS_DB)}


# ---------------------------------------------------------------- runs


class FakeSystem:
    """Hears "large" in clean clips, and something else in others."""

    def __init__(self, name: str = "fake") -> None:
        self.name = self.member = name
        self.calls: list[int] = []

    def hear(self, clips: Sequence[np.ndarray]) -> list[Answer]:
        self.calls.append(len(clips))
        return [
            Answer(True, "order", {"size": "large" if np.abs(c).max() > 0.6 else "small"}, 0.7, "")
            for c in clips
        ]


CLIPS = [
    CommandClip(f"c{n}", "orders", None, lambda: tone(5000, 0.5), "order", {"size": "large"})
    for n in range(4)
]
NOISE = Noise("hiss", "", (lambda: tone(40_000, 0.1, seed=2),))
HEADER: dict[str, Any] = {
    "benchmark": "commands", "command": "", "commit": "", "models": [], "part": [1, 1],
    "num_clips": 4, "question": {"kind": "coffee orders", "noise": "hiss"}, "remarks": [],
}  # fmt: skip


def run(clips: Sequence[CommandClip], journal: Journal, *systems: FakeSystem) -> None:
    measure(
        clips,
        list(systems),
        noise=NOISE,
        asked=lambda system: conditions([6.0, 12.0], 2),
        journal=journal,
    )


def test_a_stopped_run_goes_on_and_parts_make_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    with ExitStack() as stack:
        run(CLIPS[:2], open_journal(path, HEADER, stack=stack), FakeSystem())
    whole = path.read_text()
    path.write_text(whole[:-20])  # killed while writing
    again = FakeSystem()
    with ExitStack() as stack:
        run(CLIPS[:2], open_journal(path, HEADER, stack=stack), again)
    assert again.calls == [1]
    assert path.read_text() == whole
    other = tmp_path / "two.jsonl"
    with ExitStack() as stack:
        run(CLIPS[2:], open_journal(other, HEADER, stack=stack), FakeSystem())
    straight = Journal()
    run(CLIPS, straight, FakeSystem())
    report = merged([path, other])
    assert report["rows"] == acceptance_rows(straight.records)
    assert {row["condition"]: row["acceptance"]["value"] for row in report["rows"]} == {
        "clean": 1.0, "6 dB": 0.0, "12 dB": 0.0, "mean of noise": 0.0,
    }  # fmt: skip
    with pytest.raises(JournalError, match="two of the files"):
        merged([path, path])


def test_answers_to_other_questions_are_not_mixed(tmp_path: Path) -> None:
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    another = {**HEADER, "question": {**HEADER["question"], "noise": "kitchen"}}
    with ExitStack() as stack:
        open_journal(path, HEADER, stack=stack)
        open_journal(other, another, stack=stack)
    with pytest.raises(JournalError, match="differs in: noise"):
        merged([path, other])
    with ExitStack() as stack, pytest.raises(JournalError, match="Name another file"):
        open_journal(path, another, stack=stack)
    other.write_text("no such thing\n")
    with pytest.raises(JournalError, match="is no file of answers"):
        merged([other])


def test_an_unfinished_table_says_so() -> None:
    whole = Journal()
    run(CLIPS, whole, FakeSystem())
    cut = [r for r in whole.records if r.id != "c3" or r.condition == "clean"]
    assert commands.reported(HEADER, whole.records)["remarks"] == []
    assert "INCOMPLETE" in commands.reported(HEADER, cut)["remarks"][0]
    half = [r for r in whole.records if r.id in ("c0", "c1")]
    assert "all 4 clips" in commands.reported(HEADER, half)["remarks"][0]


def test_the_command_line_knows_the_protocol() -> None:
    plain = commands.arguments([])
    assert (plain.snrs, plain.draws, plain.noise) == ([6, 9, 12, 15, 18, 21, 24], 3, "kitchen")
    quick = commands.arguments(["--quick"])
    assert (quick.snrs, quick.draws) == ([12], 1)
    made = commands.arguments(["--synthetic-grammar", "g.yaml", "--part", "2/3"])
    assert (made.commands, made.noise, made.part) == (Path("g.yaml"), "train", (2, 3))
    assert commands.named_model("adapted=a/b.ear") == ("adapted", Path("a/b.ear"))
    seeds = commands.arguments(["--model", "adapted=a/m.ear", "--model", "adapted=b/m.ear"])
    assert seeds.model == [("adapted", Path("a/m.ear")), ("adapted", Path("b/m.ear"))]
    for bad in (
        ["--part", "3/2"],
        ["--snrs", "6;9"],
        ["--model", "a/m.ear", "--model", "b/m.ear"],
        ["--model", "x=m.ear", "--model", "x=m.ear"],
    ):
        with pytest.raises(SystemExit):
            commands.arguments(bad)


# ---------------------------------------------------------------- false accepts against rejects


def test_shares_against_counting_at_every_threshold() -> None:
    rng = np.random.default_rng(5)
    inside, outside = rng.integers(3, 10, 30) / 10, rng.integers(0, 8, 40) / 10
    accepts, rejects = shares(inside, outside)
    thresholds = [*np.unique(np.concatenate([inside, outside])), np.inf]
    assert accepts.tolist() == [sum(c >= t for c in outside) / 40 for t in thresholds]
    assert rejects.tolist() == [sum(c < t for c in inside) / 30 for t in thresholds]
    assert (accepts[-1], rejects[-1]) == (0.0, 1.0)


def test_the_plot_marks_where_each_system_ran() -> None:
    inside = [record(id=str(n), confidence=n / 10, accepted=n >= 5) for n in range(2, 10)]
    outside = [record(id=str(n), confidence=n / 10, accepted=n >= 5) for n in range(8)]
    silent = [record(system="<peer>", confidence=None)]
    found = curves(inside + silent, outside + silent)
    by_system = {curve.system: curve for curve in found}
    assert by_system["s"].at == (3 / 8, 3 / 8)
    assert by_system["s"].equal_error_rate == pytest.approx(3 / 8)
    assert by_system["<peer>"].equal_error_rate is None
    drawing = svg(found)
    assert drawing.count("<polyline") == 1
    assert drawing.count("<circle") == 2 * len(found)  # in the plot and in its legend
    assert "&lt;peer&gt;" in drawing
    with pytest.raises(JournalError, match="in common"):
        curves([record(condition="6 dB")], outside)


# ---------------------------------------------------------------- the files in the repository


HIVE_LOG = Path(commands.__file__).parent / "grammars" / "hive_log.yaml"


def test_the_second_grammar_has_sixty_templates_and_one_reading_of_each_sentence() -> None:
    grammar = load_commands([HIVE_LOG])
    assert sum(len(block.templates) for block in grammar.blocks) == 60
    compiled = compile_commands(grammar, tokenizer_of(default_model()))
    for sample in grammar.sample(150, seed=3):
        meaning = compiled.interpret(sample.text.split())
        assert meaning is not None
        values = {name: slot.value for name, slot in meaning.slots.items()}
        assert (meaning.intent, values) == (sample.intent, dict(sample.slots))


def test_jsgf_of_a_compiled_grammar_takes_its_own_samples() -> None:
    grammar = load_commands([HIVE_LOG])
    compiled = compile_commands(grammar, tokenizer_of(default_model()))
    text = jsgf(compiled.word_graph)
    assert len(text) < 200_000
    for word in {w for s in grammar.sample(50, seed=4) for w in s.text.split()}:
        assert word in text


def test_speech_without_commands_is_what_was_agreed(real_data: Path) -> None:
    synthetic = Path(commands.__file__).parents[1] / "exp" / "assistant-en" / "synthetic_test"
    if not (synthetic / "manifest.jsonl").is_file():
        pytest.skip(f"{synthetic} is not made yet: run benchmarks/commands.py --out-of-grammar")
    clips = no_commands(real_data, synthetic)
    sizes = {
        name: sum(c.set == name for c in clips) for name in dict.fromkeys(c.set for c in clips)
    }
    assert list(sizes.values()) == [152, 115, 100, 300]
    assert all(clip.intent is None for clip in clips)
