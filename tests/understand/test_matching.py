"""What words mean, exactly and nearly; and the examples against what they were made from."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.core.errors import CommandsError
from earshot.core.understanding import SlotValue
from earshot.data.tokenizer import Tokenizer
from earshot.session.recognizer import embedded_model_path, tokenizer_of
from earshot.understand import CommandGraph, compile_commands, load_commands
from earshot.understand.matching import Matcher
from earshot.understand.sounds import alike_pairs, sound_key
from earshot.understand.templates import Commands

Load = Callable[[str], Commands]

HOME = """
intents:
  TurnOn:
    data:
      - sentences: ["turn on [the] lights in [the] {area}", "lights on in [the] {area}"]
        slots: {domain: light}
  Dim: {data: [{sentences: ["dim [the] {lamp} to {level} percent"]}]}
  Warm: {data: [{sentences: ["make it {t} degrees"]}]}
  Louder: {data: [{sentences: ["turn it up [by {step}]"]}]}
lists:
  area: {values: [{in: living room, out: living}, kitchen, {in: "[guest] bedroom", out: bed}]}
  lamp: {values: ["(desk|table) lamp", ceiling light]}
  level: {range: {from: 0, to: 100}}
  t: {range: {from: 10, to: 30, fractions: halves}}
  step: {range: {from: 1, to: 9, multiplier: -1}}
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizer_of(embedded_model_path())


@pytest.fixture
def home(load: Load, tokenizer: Tokenizer) -> CommandGraph:
    return compile_commands(load(HOME), tokenizer)


@pytest.mark.parametrize(
    ("said", "intent", "slots"),
    [
        ("lights on in the living room", "TurnOn", {"domain": "light", "area": "living"}),
        ("turn on the lights in the kitchen", "TurnOn", {"domain": "light", "area": "kitchen"}),
        ("dim table lamp to twenty two percent", "Dim", {"lamp": "table lamp", "level": 22}),
        ("dim the ceiling light to zero percent", "Dim", {"lamp": "ceiling light", "level": 0}),
        ("make it twenty one and a half degrees", "Warm", {"t": 21.5}),
        ("make it nineteen point five degrees", "Warm", {"t": 19.5}),
        ("turn it up by two", "Louder", {"step": -2}),
        ("turn it up", "Louder", {}),
    ],
)
def test_exact_words_give_the_values_of_the_file(
    home: CommandGraph, said: str, intent: str, slots: dict[str, object]
) -> None:
    found = home.interpret(said.split())
    assert found is not None
    assert (found.intent, found.confidence) == (intent, 1.0)
    assert {name: slot.value for name, slot in found.slots.items()} == slots
    assert all(type(found.slots[name].value) is type(value) for name, value in slots.items())


def test_slots_carry_what_was_said(home: CommandGraph) -> None:
    found = home.interpret(["turn", "on", "lights", "in", "guest", "bedroom"])
    assert found is not None
    assert found.slots == {
        "domain": SlotValue("light", ""),
        "area": SlotValue("bed", "guest bedroom"),
    }
    assert found.as_dict()["slots"] == {
        "domain": {"value": "light", "spoken": ""},
        "area": {"value": "bed", "spoken": "guest bedroom"},
    }


@pytest.mark.parametrize(
    "said", ["", "lights", "lights on in the", "lights on in the attic", "dim"]
)
def test_other_words_mean_nothing(home: CommandGraph, said: str) -> None:
    assert home.interpret(said.split()) is None


@pytest.mark.parametrize(
    ("heard", "intent", "slots", "spoken"),
    [
        ("lights on in live in room", "TurnOn", {"area": "living"}, "live in room"),
        ("light on in the livingroom", "TurnOn", {"area": "living"}, "livingroom"),
        ("turn on the lights in the kitten", "TurnOn", {"area": "kitchen"}, "kitten"),
        ("uh turn on the lights in the kitchen", "TurnOn", {"area": "kitchen"}, "kitchen"),
        ("dim the sealing lite to 30%", "Dim", {"lamp": "ceiling light", "level": 30}, None),
        ("lights in the bed room", "TurnOn", {"area": "bed"}, "bed room"),
    ],
)
def test_near_misses_find_the_command(
    home: CommandGraph, heard: str, intent: str, slots: dict[str, object], spoken: str | None
) -> None:
    found = home.nearest(heard)
    assert found is not None
    assert found.intent == intent
    assert 0.6 < found.confidence < 1
    assert slots.items() <= {name: slot.value for name, slot in found.slots.items()}.items()
    if spoken is not None:
        assert found.slots["area"].spoken == spoken


@pytest.mark.parametrize(
    "heard",
    ["", "what is the capital of france", "the quick brown fox", "lights", "a b c d e f g", "1984"],
)
def test_other_speech_is_near_to_nothing(home: CommandGraph, heard: str) -> None:
    assert home.nearest(heard) is None


@pytest.mark.parametrize("letters", [250, 256, 260, 512, 70_000])
def test_words_without_end_are_near_to_nothing(home: CommandGraph, letters: int) -> None:
    """Distances of words are counted in few bits and must not start again from 0."""
    assert home.nearest("x" * letters) is None
    assert home.nearest("turn on the lights in the kitche" + "n" * letters) is None


@pytest.mark.parametrize(
    "heard",
    [
        "don't turn on the lights in the kitchen",
        "do not turn on the lights in the kitchen",
        "never turn on the kitchen lights",
        "dim the desk lamp to one hundred fifty percent",
        "dim the desk lamp to 2.5 percent",
        "dim the desk lamp to one twenty percent",
        "dim the desk lamp to percent",
        "dim the desk lamp to 10-20 percent",
        "dont turn on the lights in the kitchen",
        "i wouldn't turn on the lights in the kitchen",
        "make it two dozen degrees",
        "make it twenty first degrees",
        "make it seventy two degrees",
        "make it to hundred degrees",
        "make it degrees",
        "turn it up by half",
    ],
)
def test_another_number_and_the_opposite_are_near_to_nothing(
    home: CommandGraph, heard: str
) -> None:
    matcher = Matcher(home.commands.network)
    assert matcher.closest(heard) is None


@pytest.mark.parametrize(
    ("heard", "intent", "value"),
    [
        ("turn one the lights in the kitchen", "TurnOn", None),
        ("can't you turn on the lights in the kitchen", "TurnOn", None),
        ("no turn on the lights in the kitchen", "TurnOn", None),
        ("dim the desk lamp to fourty percent", "Dim", 40),
        ("dim the desk lamp two twenty percent", "Dim", 20),
        ("make it twenty five and a half degree", "Warm", 25.5),
    ],
)
def test_what_only_looks_like_a_number_or_a_negation_is_bent_as_before(
    home: CommandGraph, heard: str, intent: str, value: float | None
) -> None:
    found = Matcher(home.commands.network).closest(heard)
    assert found is not None and found.intent == intent
    assert value is None or value in [slot.value for slot in found.slots.values()]


def test_no_unit_is_added_between_two_numbers(load: Load) -> None:
    commands = load(
        "intents: {T: {data: [{sentences: ['timer for {h} hours and {m} minutes', "
        "'timer for {m} minutes']}]}}\n"
        "lists: {h: {range: {from: 1, to: 30}}, m: {range: {from: 1, to: 30}}}"
    )
    matcher = Matcher(commands.network)
    for heard in ("timer for ten twenty minutes", "timer for ten to twenty minutes"):
        assert matcher.closest(heard) is None
    said = matcher.closest("timer for ten hours twenty minutes")
    assert said is not None and said.slots["h"].value == 10


def test_apostrophes_are_not_listened_for(load: Load) -> None:
    matcher = Matcher(load('intents: {N: {data: [{sentences: ["don\'t stop"]}]}}').network)
    assert matcher.closest("dont stop") is not None
    assert matcher.closest("stop") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("timer for 1500 minutes", 1500), ("timer for 1,999 minutes", 1999),
     ("timer for 2000 minutes", 2000), ("timer for nineteen ninety nine minutes", None)],
)  # fmt: skip
def test_numerals_are_counts_where_years_cannot_be_said(
    load: Load, text: str, value: int | None
) -> None:
    commands = load(
        "intents: {T: {data: [{sentences: ['timer for {y} minutes']}]}}\n"
        "lists: {y: {range: {from: 1, to: 2100}}}"
    )
    found = Matcher(commands.network).closest(text)
    assert (None if found is None else found.slots["y"].value) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("minus zero point five", -0.5), ("-0.5", -0.5), ("minus one", -1), ("0.5", 0.5),
     ("one and a half", 1.5), ("minus zero", None)],
)  # fmt: skip
def test_a_fraction_may_lie_between_zero_and_minus_one(
    load: Load, text: str, value: float | None
) -> None:
    commands = load(
        "intents: {H: {data: [{sentences: ['offset {h}']}]}}\n"
        "lists: {h: {range: {from: -1, to: 1, fractions: halves}}}"
    )
    found = Matcher(commands.network).closest(f"offset {text}")
    assert (None if found is None else found.slots["h"].value) == value


def test_the_first_of_equal_values_is_taken_and_letters_beside_one_are_no_part_of_it(
    load: Load,
) -> None:
    commands = load(
        "intents: {C: {data: [{sentences: ['go {a}', 'un{v}ed it']}]}}\n"
        "lists:\n"
        "  a: {values: [{in: red, out: 1}, {in: red, out: 2}, {in: 'Red!', out: 3}]}\n"
        "  v: {values: ['(pack|load)', lock]}"
    )
    matcher = Matcher(commands.network)
    for text, slot, value in (
        ("go red", "a", 1), ("unpacked it", "v", "pack"), ("unlocked it", "v", "lock")
    ):  # fmt: skip
        found = matcher.exact(text.split())
        assert found is not None and found.slots[slot].value == value


def test_a_command_is_nearest_to_itself_whatever_is_asked(home: CommandGraph) -> None:
    found = home.nearest("make it twelve degrees", min_confidence=0.99)
    assert found is not None
    assert found.confidence == 1


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_what_is_sampled_is_understood(seed: int) -> None:
    sample = EXAMPLE.commands.sample(1, seed=seed)[0]
    found = EXAMPLE.matcher.exact(sample.text.split())
    assert found is not None
    assert found.intent == sample.intent
    assert {name: slot.value for name, slot in found.slots.items()} == sample.slots


class _Example:
    """The smart-home example, loaded once."""

    def __init__(self) -> None:
        folder = Path(__file__).parents[2] / "examples"
        self.commands = load_commands(folder / "smart-home.yaml")
        self.matcher = Matcher(self.commands.network)


EXAMPLE = _Example()


def test_of_two_meanings_the_one_with_more_of_the_words_in_slots_wins(load: Load) -> None:
    matcher = Matcher(
        load(
            """
            intents:
              First: {data: [{sentences: ["turn on the {area} light"]}]}
              Second: {data: [{sentences: ["turn on the {name}", "turn on the kitchen light"]}]}
              Third: {data: [{sentences: ["turn on the {name}"]}]}
            lists: {area: {values: [kitchen]}, name: {values: [kitchen light]}}
            """
        ).network
    )
    found = matcher.exact(["turn", "on", "the", "kitchen", "light"])
    assert found is not None
    assert found.intent == "Second"
    assert found.slots == {"name": SlotValue("kitchen light", "kitchen light")}


def test_ambiguity_does_not_explode(load: Load) -> None:
    rule = " ".join("[{w}]" for _ in range(20))
    matcher = Matcher(
        load(
            f"intents: {{Go: {{data: [{{sentences: ['go {rule}']}}]}}}}\n"
            "lists: {w: {values: [on, {in: '(on|on on)', out: two}]}}\n"
        ).network
    )
    started = time.process_time()
    assert matcher.exact(["go"] + ["on"] * 20) is not None
    assert matcher.exact(["go"] + ["on"] * 41) is None
    assert time.process_time() - started < 2


def test_twenty_thousand_values_are_searched_quickly(tmp_path: Path) -> None:
    rng = random.Random(1)
    syllables = [a + b for a in "bdfgklmnprstvw" for b in "aeiou"]
    names = {
        "".join(rng.choices(syllables, k=3)) + " " + rng.choice(syllables) for _ in range(25_000)
    }
    values = sorted(names)[:20_000]
    path = tmp_path / "names.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "intents": {"Call": {"data": [{"sentences": ["(call|ring) {who} [please]"]}]}},
                "lists": {"who": {"values": values}},
            }
        )
    )
    matcher = Matcher(load_commands(path).network)
    matcher.nearest("call nobody")  # the sounds of all words are found once
    spent, right = [], 0
    for value in rng.sample(values, 40):
        heard = value[:2] + value[1] + value[2:]  # a letter twice
        started = time.process_time()
        found = matcher.nearest(f"call {heard}")
        spent.append(time.process_time() - started)
        right += found is not None and found.slots["who"].value == value
    assert right >= 36
    assert sorted(spent)[20] < 0.05


def test_words_that_the_pieces_cannot_spell_are_said_with_their_line(
    load: Load, tokenizer: Tokenizer
) -> None:
    class NoApostrophe(Tokenizer):
        def encode(self, text: str) -> list[int]:
            return [2] if "'" in text else super().encode(text)

    with pytest.raises(
        CommandsError, match=r"commands.yaml:4: the word 'o'clock' cannot be spelled"
    ):
        compile_commands(
            load('intents:\n  Go:\n    data:\n      - sentences: ["at o\'clock"]\n'),
            NoApostrophe(tokenizer.model),
        )


def test_commands_without_a_sentence_are_refused(load: Load, tokenizer: Tokenizer) -> None:
    commands = load(
        "intents: {Say: {data: [{sentences: ['say {w}']}]}}\nlists: {w: {wildcard: true}}\n"
    )
    with pytest.raises(CommandsError, match="nothing can be said"):
        compile_commands(commands, tokenizer)


def test_the_word_graph_spells_every_word_and_the_engine_takes_it(
    home: CommandGraph, tokenizer: Tokenizer
) -> None:
    graph = home.word_graph
    for word, pieces in zip(graph.words, graph.pieces, strict=True):
        assert tokenizer.decode(pieces) == word
    graph.to_native(vocabulary=len(tokenizer.pieces))


@pytest.mark.parametrize(
    ("one", "other"),
    [("living", "livein"), ("ceiling", "sealing"), ("light", "lite"), ("knight", "night")],
)
def test_words_that_sound_alike_have_one_key(one: str, other: str) -> None:
    assert sound_key(one) == sound_key(other)


def test_alike_phrases_are_found_and_others_are_not() -> None:
    phrases = ["ceiling light", "sealing lite", "kitchen", "garden door"]
    assert alike_pairs(phrases) == [("ceiling light", "sealing lite")]


def test_the_coffee_example_says_what_the_published_grammar_says(
    repository: Path, real_data: Path
) -> None:
    """Oracle: the published file, whose syntax is another, counted and sampled by itself."""
    commands = load_commands(repository / "examples" / "coffee.yaml")
    matcher = Matcher(commands.network)
    published = yaml.safe_load(
        (real_data / "text" / "picovoice_coffee_maker_grammar.yaml").read_text()
    )["context"]
    values = published["slots"]
    rng = random.Random(0)
    total = 0
    for intent, expressions in published["expressions"].items():
        for expression in expressions:
            ways = 1
            for choice in re.findall(r"\[([^\]]*)\]", expression):
                ways *= len(choice.split(","))
            names = re.findall(r"\$(\w+):", expression)
            for name in names:
                ways *= len(values[name])
            total += ways
            for _ in range(3):
                slots = {name: rng.choice(values[name]) for name in names}
                text = re.sub(r"\$(\w+):\w+", lambda m, said=slots: said[m[1]], expression)
                text = re.sub(r"\[([^\]]*)\]", lambda m: rng.choice(m[1].split(",")).strip(), text)
                found = matcher.exact(text.lower().split())
                assert found is not None, text
                assert found.intent == intent
                assert {name: slot.value for name, slot in found.slots.items()} == slots
    assert commands.count_sentences() == total
