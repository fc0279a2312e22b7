"""The written form of spoken numbers, times, dates and money."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.data.spoken import clock_words, digit_words, number_words, ordinal_words, year_words
from earshot.understand.written import written, written_words

# Words that rules look at, and some that they do not.
VOCABULARY = (
    "zero one two five nine ten eleven twelve fifteen nineteen twenty thirty ninety hundred "
    "thousand million and a half quarter past to oh double triple point minus negative percent per "
    "cent cents degrees celsius dollars euros pounds pence am pm p m o'clock at in between from of "
    "the may march first second third fifth twentieth fifths or minutes lights them for"
)
SENTENCES = st.lists(st.sampled_from(VOCABULARY.split()), max_size=9)


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        ("twenty two", "22"),
        ("one hundred and five lights", "105 lights"),
        ("a hundred and five", "105"),
        ("zero", "0"),
        ("two million", "2000000"),
        ("point five", "0.5"),
        ("three point one four", "3.14"),
        ("three point one zero", "3.10"),
        ("two and a half hours", "2.5 hours"),
        ("minus five degrees", "-5 degrees"),
        ("ten minus five", "10 minus 5"),
        ("fifty percent", "50%"),
        ("one per cent", "1%"),
        ("a hundred percent", "100%"),
        ("twenty one degrees", "21 degrees"),
        ("twenty one degrees celsius", "21 °C"),
        ("seventy degrees fahrenheit", "70 °F"),
        ("five dollars", "$5"),
        ("five dollars and ten cents", "$5.10"),
        ("twenty euros", "€20"),
        ("five pounds of flour", "5 pounds of flour"),
        ("five pounds and twenty pence", "£5.20"),
        ("fifty cents", "50 cents"),
        ("half past three", "3:30"),
        ("a quarter past nine pm", "9:15 pm"),
        ("quarter to one", "12:45"),
        ("ten past three", "3:10"),
        ("twenty minutes to six p m", "5:40 pm"),
        ("at ten to four", "at 3:50"),
        ("from ten to four", "from 10 to 4"),
        ("seven thirty p m", "7:30 pm"),
        ("eight a m", "8 am"),
        ("seven oh five am", "7:05 am"),
        ("three o'clock", "3:00"),
        ("at six forty five", "at 6:45"),
        ("at nineteen thirty", "at 19:30"),
        ("nineteen eighty four", "1984"),
        ("twenty oh five", "2005"),
        ("in eighteen twelve", "in 1812"),
        ("march third twenty twenty five", "march 3rd 2025"),
        ("april twenty one to thirty", "april 21 to 30"),
        ("may four twenty twenty five", "may 4 2025"),
        ("the third of march", "the 3rd of march"),
        ("the twenty second of march", "the 22nd of march"),
        ("may the fourth", "may the 4th"),
        ("the twenty first floor", "the 21st floor"),
        ("five five five one two", "55512"),
        ("double seven oh four", "7704"),
        ("between one hundred and two hundred", "between 100 and 200"),
    ],
)
def test_what_is_clear_becomes_figures(spoken: str, expected: str) -> None:
    assert written(spoken) == expected


@pytest.mark.parametrize(
    "spoken",
    [
        "one of them",
        "two of them",
        "one or two",
        "no one",
        "to",
        "for",
        "a hundred times",
        "one fifth",
        "two thirds",
        "a second",
        "a thirty second timer",
        "five second delay",
        "the first light",
        "seven thirty",  # a time or two numbers
        "eighteen twelve",  # a year or two numbers
        "twenty four seven",
        "one two",
        "at that point one of us",
        "hundreds of them",
        "minus",
        "point",
        "oh",
        "",
    ],
)
def test_what_is_unclear_stays_in_words(spoken: str) -> None:
    assert written(spoken) == spoken


@given(st.integers(0, 10**6).filter(lambda n: n != 1), st.booleans())
def test_number_words_come_back_as_the_number(number: int, with_and: bool) -> None:
    assert written(number_words(number, with_and=with_and)) == str(number)
    assert written(f"{number_words(number, with_and=with_and)} lights") == f"{number} lights"


@given(st.integers(0, 99), st.text("0123456789", min_size=1, max_size=4))
def test_decimals_come_back(whole: int, digits: str) -> None:
    assert written(f"{number_words(whole)} point {digit_words(digits)}") == f"{whole}.{digits}"


@given(st.integers(1, 12), st.integers(1, 59))
def test_clock_times_come_back(hour: int, minute: int) -> None:
    assert written(f"at {clock_words(hour, minute)}") == f"at {hour}:{minute:02}"
    assert written(f"{clock_words(hour, minute)} p m") == f"{hour}:{minute:02} pm"


@given(st.integers(1900, 2099))
def test_years_come_back(year: int) -> None:
    assert written(f"in {year_words(year)}") == f"in {year}"


@given(st.integers(4, 100).filter(lambda value: value % 10 != 2 or value == 12))
def test_ordinals_come_back(value: int) -> None:
    assert written(f"the {ordinal_words(value)} one").split()[1][:-2] == str(value)


@given(st.integers(1, 31))
def test_days_of_a_month_come_back(day: int) -> None:
    assert written(f"may {ordinal_words(day)}").split()[1][:-2] == str(day)


@given(st.text("0123456789", min_size=3, max_size=12))
def test_digit_strings_come_back(digits: str) -> None:
    assert written(digit_words(digits)) == digits


@pytest.mark.parametrize(
    ("said", "figures"),
    [
        ("in twenty ten fifth three first", "in 2010 fifth three first"),
        ("zero euros minus nineteen fifteen", "€0 minus nineteen fifteen"),
        ("triple oh ninety", "triple oh 90"),
        ("twenty nineteen a hundred pounds", "twenty nineteen 100 pounds"),
        ("minus one to eleven", "-1 to 11"),
    ],
)
def test_figures_beside_numbers_leave_them_as_they_are(said: str, figures: str) -> None:
    assert written(said) == figures
    assert written(figures) == figures


@settings(max_examples=600)
@given(SENTENCES)
def test_writing_twice_changes_nothing(words: list[str]) -> None:
    once = written(" ".join(words))
    assert written(once) == once


@settings(max_examples=600)
@given(SENTENCES)
def test_written_words_cover_the_spoken_ones_in_order(words: list[str]) -> None:
    found = written_words(words)
    covered = [at for word in found for at in range(word.first, word.last + 1)]
    assert covered == list(range(len(words)))
    assert all(word.text and " " not in word.text for word in found)
    assert written(" ".join(words)) == " ".join(word.text for word in found)


@given(SENTENCES)
def test_a_word_that_stands_for_one_spoken_word_is_that_word_or_figures(words: list[str]) -> None:
    for word in written_words(words):
        if word.first == word.last:
            has_figure = any(char.isdigit() for char in word.text)
            assert word.text == words[word.first] or has_figure or word.text in ("°C", "°F")
