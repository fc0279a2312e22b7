import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.data.text import normalise


@pytest.mark.parametrize(
    ("written", "scored"),
    [
        ("Turn ON the light.", "turn on the light"),
        ("Don\u2019t STOP!", "don't stop"),
        ("'quoted' words' end", "quoted words end"),
        ("twenty-one and/or 22", "twenty one and or 22"),
        ("co\u2010op \u2014 yes", "co op yes"),
        ("  a\tb\n c ", "a b c"),
        ("50%", "50"),
        ("e\u0301tude", "\u00e9tude"),
        ("...", ""),
        ("", ""),
    ],
)
def test_rule_by_example(written, scored):
    assert normalise(written) == scored


@given(st.text())
def test_twice_is_once(text):
    once = normalise(text)
    assert normalise(once) == once
    assert once == " ".join(once.split())
