"""The network says what hassil says: held against its sampler, and numbers against counting."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hassil.intents import Intents
from hassil.sample import sample_intents
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from earshot.data.spoken import number_value, spoken_form
from earshot.understand.grammar import CALL, WordNetwork
from earshot.understand.templates import Commands, load_commands

Sentences = Callable[[WordNetwork], list[str]]
Load = Callable[[str], Commands]

LISTS = {"room": {"values": ["hall", "living room", {"in": "(den|t v room)", "out": "d"}]}}
RULES = {"the": "[the|my]", "light": "(light|lamp)[s]", "far": "(<light> in <the> {room}|{room}'s)"}


def commands_of(content: dict[str, object]) -> Commands:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "commands.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_commands(path)


def templates(depth: int) -> st.SearchStrategy[str]:
    words = st.sampled_from(["go", "on", "off", "lamp", "20%", "o'clock", "a", "be"])
    references = st.sampled_from(["{room}", "<the>", "<light>", "<far>", "{room:place}"])
    if depth == 0:
        return words | references
    inner = templates(depth - 1)
    groups = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        words,
        references,
        st.lists(inner, min_size=2, max_size=3).map(" ".join),
        groups.map(lambda parts: f"({'|'.join(parts)})"),
        groups.map(lambda parts: f"[{'|'.join(parts)}]"),
        st.lists(inner, min_size=2, max_size=2).map(lambda parts: f"({';'.join(parts)})"),
        words.filter(str.isalpha).map(lambda word: f"{word}[s|ing]"),
    )


def from_hassil(content: dict[str, object]) -> set[str]:
    """Oracle: hassil lists every sentence; its words are then spelled as they are said."""
    found = sample_intents(Intents.from_dict(content))
    return {" ".join(filter(None, map(spoken_form, text.split()))) for _, text in found}


@settings(max_examples=40)
@given(template=templates(2))
def test_the_network_says_what_hassil_lists(sentences_of: Sentences, template: str) -> None:
    content: dict[str, object] = {
        "language": "en",
        "intents": {"Go": {"data": [{"sentences": [f"start {template}"]}]}},
        "lists": LISTS,
        "expansion_rules": RULES,
    }
    commands = commands_of(content)
    assume(commands.count_sentences() < 50_000)  # a few templates have hundreds of millions
    said = sentences_of(commands.network)
    assert commands.count_sentences() == len(said)
    assume(len(said) < 5000)  # hassil's sampler takes seconds for more
    assert set(said) == from_hassil(content)


def test_an_order_of_silent_items_is_no_sentence_of_its_own(load: Load) -> None:
    commands = load("intents: {Go: {data: [{sentences: ['go ([a];[b];[c])']}]}}")
    orders = sum(math.perm(3, said) for said in range(4))
    assert commands.count_sentences() == orders == 16


@settings(max_examples=60)
@given(
    start=st.integers(-150, 2200),
    length=st.integers(0, 2500),
    step=st.sampled_from([1, 2, 3, 5, 7, 10, 50, 100, 200, 250, 1000]),
)
def test_a_range_says_each_of_its_numbers_and_no_other(
    sentences_of: Sentences, start: int, length: int, step: int
) -> None:
    bounds = {"from": start, "to": start + length, "step": step}
    commands = commands_of(
        {
            "intents": {"Set": {"data": [{"sentences": ["{level}"]}]}},
            "lists": {"level": {"range": bounds}},
        }
    )
    said = sentences_of(commands.network)
    assert {number_value(text.split()) for text in said} == set(
        range(start, start + length + 1, step)
    )
    assert len(said) == len(set(said)) == commands.count_sentences()


def test_a_million_numbers_are_a_small_network(load: Load) -> None:
    commands = load(
        "intents: {Set: {data: [{sentences: ['{level}']}]}}\n"
        "lists: {level: {range: {from: 0, to: 999999}}}\n"
    )
    assert commands.count_sentences() > 10**6
    assert len(commands.network.arc_kind) < 5000


def test_fractions_can_be_said(load: Load, sentences_of: Sentences) -> None:
    commands = load(
        "intents: {Set: {data: [{sentences: ['{t}']}]}}\n"
        "lists: {t: {range: {from: 20, to: 21, fractions: tenths}}}\n"
    )
    values = {number_value(text.split()) for text in sentences_of(commands.network)}
    assert values == {n / 10 for n in range(200, 220)}


def test_letters_are_glued_to_values_and_signs_are_words(
    load: Load, sentences_of: Sentences
) -> None:
    commands = load(
        """
        intents:
          Set: {data: [{sentences: ["{room}['s] lamp[s] to {level}%", "re{verb}"]}]}
        lists:
          room: {values: [living room]}
          level: {range: {from: 7, to: 7}}
          verb: {values: [start, (do|run)]}
        """
    )
    rooms = ("living room", "living room's")
    lamps = ("lamp", "lamps")
    expected = {f"{room} {lamp} to seven percent" for room in rooms for lamp in lamps}
    assert set(sentences_of(commands.network)) == expected | {"restart", "redo", "rerun"}


def test_context_chooses_among_the_values_of_a_list(load: Load, sentences_of: Sentences) -> None:
    commands = load(
        """
        intents:
          Dim: {data: [{sentences: ["dim {name}"], requires_context: {domain: [light, lamp]}}]}
          Run: {data: [{sentences: ["run {name}"], excludes_context: {domain: light}}]}
          Ask: {data: [{sentences: ["ask {name}"], requires_context: {area: {slot: true}}}]}
          See: {data: [{sentences: ["see {room}"], requires_context: {domain: fan}}]}
          Any: {data: [{sentences: ["find {name} in {room}"]}]}
        lists:
          room: {values: [hall]}
          name:
            values:
              - {in: ceiling, out: l1, context: {domain: light}}
              - {in: fan, out: f1, context: {domain: fan}}
        """
    )
    assert set(sentences_of(commands.network)) == {
        "dim ceiling", "run fan", "ask ceiling", "ask fan",
        "see hall", "find ceiling in hall", "find fan in hall",
    }  # fmt: skip


def test_skip_words_surround_a_sentence_and_are_not_counted(load: Load) -> None:
    commands = load("intents: {Go: {data: [{sentences: [go]}]}}\nskip_words: [please, could you]\n")
    assert commands.count_sentences() == 1
    assert commands.network.start != commands.network.core_start


def test_arcs_go_up_within_their_graph(load: Load) -> None:
    network = load(
        "intents: {Go: {data: [{sentences: ['go (to;from;[by]) {n} [and {n}]', '{n} a[s]']}]}}\n"
        "lists: {n: {range: {from: 1, to: 1200}}}\n"
    ).network
    source = np.repeat(np.arange(len(network.final)), np.diff(network.arc_begin))
    assert (network.arc_dest > source).all()
    assert (network.arc_kind == CALL).any()


def test_twenty_thousand_values_and_a_million_sentences_compile(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    letters = "bdfgklmnprstvz"
    names = [a + "a" + b + "o" + c + "i" for a in letters for b in letters for c in letters]
    values = [f"{x} {y}" for x in names[:100] for y in names[100:300]]
    path.write_text(
        yaml.safe_dump(
            {
                "intents": {"Call": {"data": [{"sentences": ["(call|ring) {who} [at {hour}]"]}]}},
                "lists": {
                    "who": {"values": values},
                    "hour": {"range": {"from": 1, "to": 24}},
                },
            }
        )
    )
    commands = load_commands(path)
    assert commands.count_sentences() == 2 * 20_000 * 25
    assert len(commands.network.arc_kind) < 3 * 20_000


@pytest.mark.parametrize("depth", [3, 12])
def test_a_rule_that_uses_another_twice_does_not_grow_without_bound(depth: int) -> None:
    rules = {f"r{i}": f"(<r{i + 1}> and <r{i + 1}>|no)" for i in range(depth)}
    rules[f"r{depth}"] = "(yes|no)"
    commands = commands_of(
        {"intents": {"Go": {"data": [{"sentences": ["<r0>"]}]}}, "expansion_rules": rules}
    )
    ways = 2
    for _ in range(depth):
        ways = ways * ways + 1
    assert commands.count_sentences() == ways
    assert len(commands.network.arc_kind) < 60 * depth
