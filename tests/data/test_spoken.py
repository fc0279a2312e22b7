"""Text as it is said, and number words read back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.data.spoken import number_value, number_words, spoken_form, spoken_readings


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Set an alarm for 7:30", "set an alarm for seven thirty"),
        ("wake me at 7:05 a.m.", "wake me at seven oh five am"),
        ("meeting at 10pm", "meeting at ten pm"),
        ("dim to 20%", "dim to twenty percent"),
        ("heat to 22°", "heat to twenty two degrees"),
        ("it is -3 outside", "it is minus three outside"),
        ("it is -2.5 or \u221221.5", "it is minus two point five or minus twenty one point five"),
        ("1/2 cup, \u00bd cup, \u00be cup", "half cup half cup three quarters cup"),
        ("2 1/2 or 2\u00bd hours", "two and a half or two and a half hours"),
        ("1.5-2 or 5 1/2-6", "one point five two or five and a half six"),
        ("What's the 13th president?", "what's the thirteenth president"),
        ("the 21st of May", "the twenty first of may"),
        ("songs from 1963", "songs from nineteen sixty three"),
        ("90's hits", "nineties hits"),
        ("book for 6/14/2035", "book for june fourteenth twenty thirty five"),
        ("pay $25.50", "pay twenty five dollars and fifty cents"),
        ("2,500 dollars", "two thousand five hundred dollars"),
        ("3.5 stars", "three point five stars"),
        ("call 8885112931", "call eight eight eight five one one two nine three one"),
        ("zip 02134", "zip zero two one three four"),
        ("Cita Romántica", "cita romantica"),
        ("pg&e bill", "pg and e bill"),
        ("girls’ night 'quoted' o'clock", "girls night quoted o'clock"),
        ("Mr. Smith", "mister smith"),
        ("1/2 hour", "half hour"),
        (f"1{'0' * 12}.5 stars", f"one {'zero ' * 12}point five stars"),
        (f"pay ${'7' * 13}", f"pay {'seven ' * 13}dollars"),
        (f"the {'3' * 13}rd", f"the {'three ' * 13}rd"),
        ("   ", ""),
    ],
)
def test_normalise_writes_what_is_said(written: str, said: str) -> None:
    assert spoken_form(written) == said


@given(st.text(max_size=60))
def test_normalised_text_has_only_the_alphabet_and_stays_as_it_is(written: str) -> None:
    said = spoken_form(written)
    assert re.fullmatch(r"(?:[a-z']+(?: [a-z']+)*)?", said)
    assert spoken_form(said) == said


@given(st.integers(0, 10**9))
def test_number_words_can_be_read_back(value: int) -> None:
    """Oracle: a reader of number words that knows nothing of the writer."""
    small = {w: i for i, w in enumerate(number_words(i) for i in range(20))}
    small |= {number_words(10 * i): 10 * i for i in range(2, 10)}
    scales = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
    total = group = 0
    for word in number_words(value, with_and=value % 2 == 0).split():
        if word in scales:
            total, group = total + group * scales[word], 0
        elif word == "hundred":
            group *= 100
        elif word != "and":
            group += small[word]
    assert total + group == value


def test_number_words_refuses_what_it_cannot_say() -> None:
    with pytest.raises(ValueError, match="must be below"):
        number_words(10**12)


@given(st.integers(-(10**12) + 1, 10**12 - 1), st.booleans())
def test_number_value_reads_what_number_words_writes(value: int, with_and: bool) -> None:
    assert number_value(number_words(value, with_and=with_and).split()) == value


def test_numerals_that_may_be_years_have_two_readings() -> None:
    assert spoken_readings("1,500 minutes at 7:30") == (
        "fifteen hundred minutes at seven thirty",
        "one thousand five hundred minutes at seven thirty",
    )
    assert spoken_readings("from \u22121500 to 1600") == (
        "from minus fifteen hundred to sixteen hundred",
        "from minus one thousand five hundred to one thousand six hundred",
    )
    assert spoken_readings("book for 6/14/2035") == (spoken_form("book for 6/14/2035"),)
    assert spoken_readings("150 minutes") == ("one hundred fifty minutes",)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("a hundred and five", 105),
        ("negative four", -4),
        ("twenty two point five", 22.5),
        ("nineteen and a half", 19.5),
        ("minus zero point one two", -0.12),
        ("one thousand and five hundred", 1500),
    ],
)
def test_number_value_reads_what_people_say(words: str, value: float) -> None:
    assert number_value(words.split()) == value


@pytest.mark.parametrize(
    "words",
    ["", "five five", "twenty thirty", "twenty eleven", "hundred", "and five", "one hundred and",
     "ten hundred", "one hundred one hundred", "one thousand two million", "zero five", "minus",
     "one point", "one point ten", "lamp", "one and a half half"],
)  # fmt: skip
def test_number_value_refuses_what_is_no_number(words: str) -> None:
    assert number_value(words.split()) is None
