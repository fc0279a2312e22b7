"""Files of commands: what is read, and that every mistake is said with its file and line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from earshot.core.errors import CommandsError
from earshot.understand.templates import Commands, RangeList, TextList, load_commands

Write = Callable[..., Path]
Load = Callable[[str], Commands]

SOUND = """\
    intents:
      TurnOn:
        data:
          - sentences:
              - "turn on [the] {area} lights"
    lists:
      area:
        values: [kitchen, hall]
"""


def problems(path: Path | list[Path]) -> list[tuple[int, str]]:
    """Line and text of every problem; the file must be named in each."""
    with pytest.raises(CommandsError) as caught:
        load_commands(path)
    found = []
    for problem in caught.value.problems:
        name, _, line = problem.where.rpartition(":")
        assert name == str(path) or isinstance(path, list)
        assert str(problem) in str(caught.value).splitlines()
        assert problem.remedy
        found.append((int(line), problem.problem))
    return found


@pytest.mark.parametrize(
    ("sentence", "complaint"),
    [
        ("turn on [the lights", "'[' at column 9 is never closed"),
        ("turn on the) lights", "')' at column 12 closes nothing"),
        ("turn (on] the lights", "'(' of column 6 is closed by ']'"),
        ("turn () on", "'()' at column 6 is empty"),
        ("turn {} on", "'{}' at column 6 is empty"),
        ("turn (on|off;up)", "'|' and ';' are in one group"),
        ("turn {a(b)}", "'(' in a name"),
        ("[please] [now]", "can be said without a word"),
        ("", "it is empty"),
        ("turn свет on", "cyrillic small letter es"),
        ("turn on {aria}", "there is no list {aria}"),
        ("<turn> on", "there is no rule <turn>"),
        ("go (a;b;c;d;e;f;g;h;i)", "(a;b;...) has 9 items"),
        ("(" * 90 + "go" + ")" * 90, "over 40 brackets within each other"),
        ("set {9..3:level}", "{9..3} holds no number"),
        ("set {0..1000000000001}", "{0..1000000000001} holds too many numbers"),
        ("set {0..90000,3}", "{0..90000,3} holds too many numbers"),
    ],
)
def test_a_broken_sentence_is_said_with_its_line(
    write: Write, sentence: str, complaint: str
) -> None:
    path = write(SOUND.replace("turn on [the] {area} lights", sentence))
    assert [line for line, _ in problems(path)] == [5]
    assert complaint in problems(path)[0][1]


@pytest.mark.parametrize(
    ("old", "new", "line", "complaint"),
    [
        ("values: [kitchen, hall]", "values: []", 7, "list 'area' is empty"),
        ("values: [kitchen, hall]", "value: [kitchen]", 8, "there is no field 'value'"),
        ("values: [kitchen, hall]", "values: [{out: k}]", 8, "has no 'in'"),
        ("values: [kitchen, hall]", "values: ['?!']", 8, "has no words"),
        ("values: [kitchen, hall]", "values: [{in: a, out: 2026-01-02}]", 8, "no form in JSON"),
        ("values: [kitchen, hall]", "values: [{in: a, out: .nan}]", 8, "no form in JSON"),
        ("values: [kitchen, hall]", "values: [{in: a, out: {1: x, y: z}}]", 8, "no form in JSON"),
        ('lights"', f'lights"\n            slots: {{a: {"[" * 900}{"]" * 900}}}', 6, "recursion"),
        ("values: [kitchen, hall]", "values: ['[hall]']", 8, "can be said without a word"),
        ("values: [kitchen, hall]", "values: ['(hall']", 8, "is never closed"),
        ("values: [kitchen, hall]", "range: {from: 9, to: 1}", 8, "goes from 9 to 1"),
        ("values: [kitchen, hall]", "range: {from: 1}", 8, "has no 'to'"),
        ("values: [kitchen, hall]", "range: {from: 1, to: x}", 8, "'to' of the range"),
        ("values: [kitchen, hall]", "range: {from: 0, to: 90000, step: 3}", 8, "over 20000"),
        ("values: [kitchen, hall]", "range: {from: 0, to: 9, fractions: thirds}", 8, "'thirds'"),
        ("values: [kitchen, hall]", "values: ['hall', 'in [the] {area}']", 8, "uses its own list"),
        ("values: [kitchen, hall]", "<<: kitchen", 8, "'<<' in list 'area'"),
        ("- sentences:", "- sentenses:", 4, "there is no field 'sentenses'"),
        ("intents:", "intents: {Stop: {data: []}}\n    intents:", 2, "'intents' is in the file"),
        ("lists:", "language: de\n    lists:", 6, "the language is 'de'"),
        ("lists:", "language: [en]\n    lists:", 6, "the language is a list"),
        ("values: [kitchen, hall]", "values: [{in: a, context: light}]", 8, "has no names"),
        ("lists:", "expansion_rules: {a: 'x <b>', b: '<a>'}\n    lists:", 6, "uses itself"),
        ("  TurnOn:", "  TurnOn: {}\n      TurnOff:", 2, "intent 'TurnOn' has no sentences"),
        ("intents:", "intents: [", 3, "this is not YAML"),
    ],
)
def test_a_broken_field_is_said_with_its_line(
    write: Write, old: str, new: str, line: int, complaint: str
) -> None:
    path = write(SOUND.replace(old, new, 1))
    assert any(at == line and complaint in text for at, text in problems(path)), problems(path)


def test_all_problems_of_all_files_come_at_once_in_order(write: Write) -> None:
    one = write(SOUND.replace("[the]", "[the").replace("[kitchen, hall]", "[]"), "one.yaml")
    other = write("intents:\n  Stop:\n    data:\n      - sentences: '<halt>'\n", "other.yaml")
    with pytest.raises(CommandsError) as caught:
        load_commands([one, other, one.parent / "third.yaml"])
    places = [problem.where for problem in caught.value.problems]
    assert places == [f"{one.parent / 'third.yaml'}", f"{one}:5", f"{one}:7", f"{other}:4"]
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_an_intent_twice_in_a_file_is_a_problem_and_both_are_checked(write: Write) -> None:
    path = write(
        """\
        intents:
          Stop: {data: [{sentences: ["stop (it"]}]}
          Go: {data: [{sentences: [go]}]}
          Stop: {data: [{sentences: ["halt <it>"]}]}
        """
    )
    found = problems(path)
    assert [line for line, _ in found] == [2, 4, 4]
    assert "'Stop' is in 'intents' twice, first in line 2" in {text for _, text in found}


def test_a_misspelt_name_is_answered_with_the_right_one(write: Write) -> None:
    with pytest.raises(CommandsError, match="did you mean 'area'"):
        load_commands(write(SOUND.replace("{area}", "{aera}")))


def test_rules_that_use_rules_without_end_are_refused(write: Write) -> None:
    rules = "".join(f"  r{i}: 'a <r{i + 1}>'\n" for i in range(300))
    path = write(
        f"intents: {{Go: {{data: [{{sentences: ['<r0>']}}]}}}}\n"
        f"expansion_rules:\n{rules}  r300: b\n"
    )
    assert any("rules use rules over 30 deep" in text for _, text in problems(path))


def test_several_files_are_one_set_of_commands(write: Write, tmp_path: Path) -> None:
    write("lists: {area: {values: [kitchen]}}", "a_lists.yaml")
    write("intents: {TurnOn: {data: [{sentences: ['{area} on']}]}}", "b.yml")
    write("intents: {TurnOn: {data: [{sentences: ['{area} lit']}]}}", "c.yaml")
    write("not: read", "notes.txt")
    commands = load_commands(tmp_path)
    assert commands.intents == ("TurnOn",)
    assert commands.count_sentences() == 2


def test_a_list_of_two_files_is_a_problem(write: Write) -> None:
    one = write(SOUND, "one.yaml")
    two = write("lists: {area: {values: [garage]}}", "two.yaml")
    with pytest.raises(CommandsError, match=r"list 'area' is also defined at .*one\.yaml:7"):
        load_commands([one, two])


def test_bytes_and_folders_without_commands_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"language: en\nintents: \xff")
    with pytest.raises(CommandsError) as caught:
        load_commands([tmp_path / "empty", tmp_path / "latin.yaml"])
    assert "no .yaml file" in str(caught.value)
    assert f"{tmp_path / 'latin.yaml'}:2: byte 0xff is not UTF-8" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("intents:\n  A: 'go \x07'\n", 2, "YAML has no control character U+0007"),
        ("intents: {Go: go home}", 1, "intent 'Go' is 'go home'"),
        ("intents: {Go: [}", 1, "this is not YAML: while parsing a flow"),
        ("go home", 1, "the file is 'go home'"),
        ("intents:\n  [a, b]: {}\n", 2, "a name in 'intents' is a list"),
    ],
)
def test_what_is_there_instead_of_commands_is_called_by_its_name(
    write: Write, text: str, line: int, complaint: str
) -> None:
    found = problems(write(text))
    assert found[0][0] == line
    assert found[0][1].startswith(complaint)
    assert not any("is empty" in said or "Node" in said for _, said in found)


def test_a_list_twice_in_a_file_is_said_once(write: Write) -> None:
    path = write(SOUND + "      area:\n        values: [attic]\n")
    assert problems(path) == [(9, "'area' is in 'lists' twice, first in line 7")]


def test_a_file_that_is_named_twice_is_read_once(write: Write, tmp_path: Path) -> None:
    path = write(SOUND, "one.yaml")
    (tmp_path / "._one.yaml").write_bytes(b"\x00\x05\xa3")  # what macOS leaves beside it
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "old.yaml").write_text(path.read_text())
    folder = tmp_path / "other" / ".."
    (tmp_path / "other").mkdir()
    assert load_commands([path, tmp_path, folder]).count_sentences() == 4


def test_words_that_yaml_takes_for_truth_values_stay_words(load: Load) -> None:
    commands = load(
        """
        intents: {Set: {data: [{sentences: ["turn it {state}", on]}]}}
        lists: {state: {values: [on, off, {in: yes, out: on}, 5]}}
        """
    )
    values = commands.blocks[0].lists["state"]
    assert isinstance(values, TextList)
    assert [(v.text, v.out) for v in values.values] == [
        ("on", "on"), ("off", "off"), ("yes", True), ("5", 5),
    ]  # fmt: skip


def test_values_of_lists_are_numbers_only_where_they_are_written_as_such(load: Load) -> None:
    commands = load(
        """
        intents: {A: {data: [{sentences: ["at {t}"]}]}}
        lists: {t: {values: [5, 2.5, "7", 12:30, 010, 1_000, 2026-01-02]}}
        """
    )
    (found,) = commands.blocks[0].lists.values()
    assert isinstance(found, TextList)
    outs = [value.out for value in found.values]
    assert outs == [5, 2.5, "7", "12:30", "010", "1_000", "2026-01-02"]


def test_ranges_and_ranges_in_place(load: Load) -> None:
    commands = load(
        """
        intents: {Set: {data: [{sentences: ["to {level}", "to {10..20,5:level}"]}]}}
        lists: {level: {range: {from: -5, to: 5, fractions: halves, multiplier: 2}}}
        """
    )
    block = commands.blocks[0]
    level = block.list_named("level")
    assert isinstance(level, RangeList)
    assert (level.start, level.stop, level.fractions, level.multiplier) == (-5, 5, (5,), 2)
    assert block.list_named("10..20,5") == RangeList("10..20,5", "", 10, 20, 5)


def test_wildcards_are_left_out_with_a_warning_that_names_the_sentence(load: Load) -> None:
    commands = load(
        """
        intents:
          Say: {data: [{sentences: ["say {words}", "say hello [to {words}]"]}]}
        lists: {words: {wildcard: true}}
        """
    )
    assert commands.count_sentences() == 1
    first, second = commands.warnings
    assert "'say {words}' uses the wildcard list {words}" in first.problem
    assert "'say hello [to {words}]'" in second.problem


def test_home_assistants_own_sentences_load_and_wait_for_the_house(write: Write) -> None:
    pytest.importorskip("home_assistant_intents", reason="home-assistant-intents is missing")
    alone = load_commands("homeassistant:en")
    house = write("lists: {area: {values: [kitchen]}, name: {values: [lamp]}}", "house.yaml")
    at_home = load_commands(["homeassistant:en", house])
    assert len(at_home.intents) > 30
    assert at_home.count_sentences() > alone.count_sentences() > 10**6
    assert any("uses the list {area}" in w.problem for w in alone.warnings)
    assert not any("uses the list {area}" in w.problem for w in at_home.warnings)


def test_samples_are_even_and_repeatable(load: Load) -> None:
    commands = load(
        """
        intents:
          Big: {data: [{sentences: ["play {song}"], slots: {kind: music}}]}
          Small: {data: [{sentences: [stop]}]}
        lists: {song: {range: {from: 1, to: 999}}}
        """
    )
    samples = commands.sample(40, seed=3)
    assert samples == commands.sample(40, seed=3) != commands.sample(40, seed=4)
    assert sum(s.intent == "Small" for s in samples) == 20
    assert all(s.slots["kind"] == "music" for s in samples if s.intent == "Big")


def test_every_value_of_a_list_is_sampled_before_one_comes_again(load: Load) -> None:
    values = [f"{a}{b}" for a in "abcd" for b in "xyz"]
    commands = load(
        f"intents: {{Go: {{data: [{{sentences: ['go {{x}}']}}]}}}}\n"
        f"lists: {{x: {{values: {values}}}}}\n"
    )
    samples = commands.sample(12, seed=0)
    assert sorted(s.slots["x"] for s in samples) == sorted(values)


def test_optional_parts_are_said_half_of_the_time(load: Load) -> None:
    commands = load("intents: {Go: {data: [{sentences: ['go [now|at once] [please]']}]}}\n")
    texts = [s.text for s in commands.sample(400, seed=0)]
    for found in (("now" in t or "once" in t for t in texts), ("please" in t for t in texts)):
        assert 160 <= sum(found) <= 240
