"""Which command is believed: meanings add up, confidence follows the evidence, nearest helps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot import ConfigError
from earshot.core.understanding import SlotValue, Understanding
from earshot.understand.confidence import (
    EVIDENCE_SIGNS,
    NEAR_SIGNS,
    CommandConfig,
    Evidence,
    NearEvidence,
    command_confidence,
    near_confidence,
)
from earshot.understand.decision import decide, read_nearest, read_paths

# The margin alone decides, and the likeness of near commands.
MARGIN_ONLY = CommandConfig(
    threshold=0.5,
    bias=-math.log(2),  # so that a margin of 1 nat is worth one half
    weights=(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0),
    near_bias=-5.0,
    near_weights=(10, 0, 0),
)


def light(state: str, spoken: str = "") -> Understanding:
    return Understanding("light", {"state": SlotValue(state, spoken or state)}, 1.0)


class Book:
    """Commands as a list of sentences."""

    def __init__(
        self, meanings: Mapping[str, Understanding], nearest: Understanding | None = None
    ) -> None:
        self.meanings, self.near = meanings, nearest
        self.asked: list[str] = []

    def interpret(self, words: Sequence[str]) -> Understanding | None:
        return self.meanings.get(" ".join(words))

    def nearest(self, text: str) -> Understanding | None:
        self.asked.append(text)
        return self.near


BOOK = Book(
    {
        "light on": light("on"),
        "light up": light("on", "up"),
        "light off": light("off"),
    }
)


def words(text: str, confidence: float = 0.9) -> list[Any]:
    return [
        {"word": word, "start_frame": 3 * at, "end_frame": 3 * at + 2, "confidence": confidence}
        for at, word in enumerate(text.split())
    ]


def path(text: str, score: float, *, transducer: float = -3.0) -> Any:
    pieces = list(range(2 * len(text.split())))
    return {
        "words": words(text),
        "tokens": pieces,
        "frames": pieces,
        "score": score,
        "pieces": pieces,
        "transducer": transducer,
        "ctc": -5.0,
        "phones": 0.0,
        "prior": 0.0,
    }


def found(*paths: Any) -> Any:
    return {
        "paths": list(paths),
        "free_transducer": -1.0,
        "free_ctc": -2.0,
        "free_phones": 0.0,
        "silent_phones": 0.0,
        "rescored": True,
        "num_frames": 40,
        "alive": True,
        "can_continue": False,
    }


def free(text: str) -> Any:
    return {"words": words(text, 0.5), "text": text, "num_frames": 40}


def test_paths_of_one_meaning_add_up() -> None:
    """One way to say `off` beats each way to say `on`, but not both together."""
    paths = (path("light off", -4.0), path("light on", -4.2), path("light up", -4.3))
    reading = read_paths(found(*paths), free("light on"), BOOK)
    assert reading is not None
    assert reading.understanding == light("on")
    assert [word["word"] for word in reading.words] == ["light", "on"]
    both = math.log(math.exp(-4.2) + math.exp(-4.3))
    assert reading.evidence.margin == pytest.approx(both + 4.0)


def test_evidence_is_what_the_searches_say() -> None:
    reading = read_paths(found(path("light on", -4.0)), free("lights on"), BOOK)
    assert reading is not None
    evidence = reading.evidence
    assert (evidence.transducer_gap, evidence.ctc_gap) == (2.0, 3.0)
    assert (evidence.num_words, evidence.num_pieces) == (2, 4)
    assert evidence.margin == 10.0  # nothing else is possible
    assert evidence.likeness == pytest.approx(2 * 8 / 17)  # letters shared of both texts
    assert evidence.least_confidence == 0.9


def test_paths_without_a_meaning_or_without_words_count_for_nothing() -> None:
    assert read_paths(found(), free("x"), BOOK) is None
    assert read_paths(found(path("light maybe", -1.0)), free("x"), BOOK) is None
    empty = Book({"": light("on"), "light off": light("off")})
    reading = read_paths(found(path("", -1.0), path("light off", -4.0)), free("x"), empty)
    assert reading is not None
    assert reading.understanding == light("off")


def test_a_command_is_accepted_with_its_words() -> None:
    decision = decide(found(path("light on", -4.0)), free("light on"), BOOK, config=MARGIN_ONLY)
    assert decision.understanding.intent == "light"
    assert decision.understanding.slots == {"state": SlotValue("on", "on")}
    assert decision.understanding.confidence == pytest.approx(11 / 13)
    assert decision.words is not None
    assert [word["word"] for word in decision.words] == ["light", "on"]


@pytest.mark.parametrize("heard", ["don't light on", "please do not light on"])
def test_the_opposite_of_a_command_is_none(heard: str) -> None:
    positive = found(path("light on", -4.0))
    decision = decide(positive, free(heard), BOOK, config=MARGIN_ONLY)
    assert decision.understanding == Understanding(None, {}, 0.0)
    # Nor where a further look mishears the negation.
    near = Book(BOOK.meanings, replace(light("on"), confidence=0.8))
    again = [(positive, free("down light on"))]
    decision = decide(positive, free(heard), near, config=MARGIN_ONLY, again=lambda: again)
    assert decision.understanding.intent is None
    said = Book({"don't light on": light("off")})
    own = found(path("don't light on", -4.0))
    assert decide(own, free(heard), said, config=MARGIN_ONLY).understanding.intent == "light"


def test_a_negation_in_words_that_are_like_nothing_is_chance() -> None:
    heard = free("when don't should repulting")
    decision = decide(found(path("light on", -4.0)), heard, BOOK, config=MARGIN_ONLY)
    assert decision.understanding.intent == "light"


def test_a_polite_question_is_no_negation() -> None:
    heard = free("won't you light on")
    decision = decide(found(path("light on", -4.0)), heard, BOOK, config=MARGIN_ONLY)
    assert decision.understanding.intent == "light"


def test_a_doubtful_command_is_rejected_but_its_confidence_is_told() -> None:
    paths = (path("light on", -4.0), path("light off", -4.5))
    decision = decide(found(*paths), free("bright song"), BOOK, config=MARGIN_ONLY)
    assert decision.understanding == Understanding(None, {}, pytest.approx(1.5 / 3.5))
    assert decision.words is None


def test_nothing_found_has_no_confidence() -> None:
    decision = decide(found(), free(""), BOOK, config=MARGIN_ONLY)
    assert decision.understanding == Understanding(None, {}, 0.0)


def test_the_nearest_command_stands_in_where_no_path_is_believed() -> None:
    book = Book(BOOK.meanings, replace(light("on"), confidence=0.8))
    near = decide(found(), free("please light on"), book, config=MARGIN_ONLY)
    assert near.understanding.intent == "light"
    assert near.understanding.confidence == pytest.approx(1 / (1 + math.exp(-3.0)))
    assert near.words is None  # what was heard stands
    far = Book(BOOK.meanings, replace(light("on"), confidence=0.4))
    assert decide(found(), free("x"), far, config=MARGIN_ONLY).understanding.intent is None


def test_nearest_is_not_asked_when_free_speech_is_the_command() -> None:
    book = Book(BOOK.meanings, light("off"))
    decision = decide(found(path("light on", -4.0)), free("light on"), book, config=MARGIN_ONLY)
    assert decision.understanding.slots["state"].value == "on"
    assert book.asked == []
    assert read_nearest(free(""), book) is None
    assert book.asked == []


@given(
    scores=st.lists(st.floats(-50, -1), min_size=2, max_size=2),
    likeness=st.floats(0, 1),
    threshold=st.floats(0, 1),
)
def test_the_threshold_only_accepts_or_rejects(
    scores: list[float], likeness: float, threshold: float
) -> None:
    book = Book(BOOK.meanings, replace(light("off"), confidence=likeness))
    paths = sorted((path("light on", scores[0]), path("light off", scores[1])), key=_worst_last)
    at = [
        decide(
            found(*paths), free("right on"), book, config=replace(MARGIN_ONLY, threshold=value)
        ).understanding
        for value in (0.0, threshold)
    ]
    assert at[0].intent == "light"
    assert at[1].confidence == at[0].confidence
    assert at[1].intent == ("light" if at[0].confidence >= threshold else None)


def _worst_last(one: Any) -> float:
    return -float(one["score"])


def test_what_was_too_long_to_be_scored_is_no_command() -> None:
    long = {**found(path("light on", -1.0, transducer=0.0)), "rescored": False}
    assert read_paths(long, free("light on"), BOOK) is None
    assert read_paths({**long, "rescored": True}, free("light on"), BOOK) is not None


def test_phones_count_for_themselves() -> None:
    by_phones = {**path("light on", -1.0), "tokens": [1] * 7, "phones": -9.0}
    result: Any = {**found(by_phones), "free_phones": -3.0, "silent_phones": -16.0}
    reading = read_paths(result, free("light on"), BOOK)
    assert reading is not None
    assert (reading.evidence.phones_gap, reading.evidence.num_phones) == (6.0, 7)
    assert reading.evidence.num_pieces == 4
    assert reading.evidence.features()[8:] == pytest.approx((math.sqrt(6) / 4, 6 / 7 / 4, 1 / 2))


EVIDENCE = Evidence(
    transducer_gap=3.0,
    ctc_gap=5.0,
    margin=2.0,
    num_words=4,
    num_pieces=9,
    likeness=0.7,
    least_confidence=0.6,
)


@pytest.mark.parametrize(
    ("gain", "counts"), [(-50.0, -0.5), (-7.0, -0.5), (14.0, 1.0), (24.5, 1.75), (300.0, 1.75)]
)
def test_silence_is_outdone_clearly_or_not(gain: float, counts: float) -> None:
    evidence = replace(EVIDENCE, num_phones=7, phones_gain=gain)
    assert evidence.features()[-1] == pytest.approx(counts)


@given(
    gap=st.floats(-1e6, 1e6), margin=st.floats(0, 1e6), count=st.integers(1, 400), x=st.floats(0, 1)
)
def test_confidence_is_a_probability_whatever_comes(
    gap: float, margin: float, count: int, x: float
) -> None:
    evidence = Evidence(gap, -gap, margin, count, 2 * count, x, 1 - x)
    assert 0 <= command_confidence(evidence, CommandConfig()) <= 1
    assert 0 <= near_confidence(NearEvidence(x, count, 1 - x), CommandConfig()) <= 1


@pytest.mark.parametrize(
    "worse",
    [
        replace(EVIDENCE, transducer_gap=30.0),
        replace(EVIDENCE, ctc_gap=60.0),
        replace(EVIDENCE, margin=0.1),
        replace(EVIDENCE, phones_gap=30.0, num_phones=20),
    ],
)
def test_less_evidence_gives_less_confidence(worse: Evidence) -> None:
    """Holds for the calibrated weights: a sign that turned over would be a broken calibration."""
    config = CommandConfig()
    assert command_confidence(worse, config) < command_confidence(EVIDENCE, config)


def test_nothing_that_speaks_for_a_command_counts_against_it() -> None:
    config = CommandConfig()
    for signs, weights in (
        (EVIDENCE_SIGNS, config.weights),
        (NEAR_SIGNS, config.near_weights),
    ):
        assert all(sign * weight >= 0 for sign, weight in zip(signs, weights, strict=True))


def test_a_likelier_near_command_has_more_confidence() -> None:
    config = CommandConfig()
    low, high = (near_confidence(NearEvidence(s, 5, 0.8), config) for s in (0.5, 0.95))
    assert low < high


@pytest.mark.parametrize(
    ("name", "value"),
    [("ctc_weight", 1.5), ("threshold", -0.1), ("grammar_paths", 0), ("word_penalty", 1e9)],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        CommandConfig(**{name: value})
    assert str(caught.value).startswith(f"commands.{name} is {value}; it must lie in ")


def test_what_is_in_doubt_is_heard_again_and_the_surest_look_counts() -> None:
    config = replace(MARGIN_ONLY, sure=0.8)
    asked = []

    def again() -> list[tuple[Any, Any]]:
        asked.append(1)
        return [
            (found(path("light off", -4.0), path("light on", -9.0)), free("light off")),
            (found(path("light up", -4.0), path("light off", -7.0)), free("light up")),
        ]

    def heard(margin: float, **more: Any) -> Any:
        paths = found(path("light on", -4.0), path("light off", -4.0 - margin))
        return decide(paths, free("light on"), BOOK, config=config, **more)

    assert heard(1.0).understanding == replace(light("on"), confidence=0.5)
    doubted = heard(1.0, again=again)
    assert doubted.understanding.slots["state"].value == "off"
    assert doubted.understanding.confidence == pytest.approx(0.75)
    assert doubted.words is not None
    assert [word["word"] for word in doubted.words] == ["light", "off"]
    assert asked == [1]
    sure = heard(8.0, again=again)
    assert sure.understanding.slots["state"].value == "on"
    assert asked == [1]  # the first look was enough
