"""The rules of each set, and that references pass through them unharmed."""

from __future__ import annotations

import pytest
from scored_text import scored_text
from speech_sets import DIGITS, LETTERS


@pytest.mark.parametrize(
    ("said", "rules", "group", "scored"),
    [
        ("Mr. Quilter's, well-known", "", "", "mister quilter's well known"),
        ("oh eight o", "digits", "", "zero eight zero"),
        ("oh my", "", "", "oh my"),
        (
            "double eight triple oh one",
            "alphanumeric",
            "phone_number",
            "eight eight zero zero zero one",
        ),
        ("double you oh zed", "alphanumeric", "spelled_name", "w o z"),
        ("double l i", "alphanumeric", "spelled_name", "l l i"),
        ("a double", "alphanumeric", "spelled_name", "a"),
    ],
)
def test_what_was_heard_becomes_what_is_scored(
    said: str, rules: str, group: str, scored: str
) -> None:
    assert scored_text(said, rules=rules, group=group) == scored


@pytest.mark.parametrize("group", ["phone_number", "spelled_name"])
def test_letters_and_digits_of_references_stay_as_they_are(group: str) -> None:
    words = DIGITS if group == "phone_number" else LETTERS
    reference = " ".join(words)
    assert scored_text(reference, rules="alphanumeric", group=group) == reference
