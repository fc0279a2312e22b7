"""Rivals: commands that differ in one place from what was said, and mean something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lhotse")

from earshot.data.pronunciation import Lexicon
from earshot.train.rivals import Rivals
from earshot.understand.decision import meaning_key
from earshot.understand.matching import Matcher
from earshot.understand.templates import Commands, load_commands

pytestmark = pytest.mark.train

COFFEE = Path(__file__).parents[2] / "examples" / "coffee.yaml"


@pytest.fixture(scope="module")
def commands() -> Commands:
    return load_commands([str(COFFEE)])


@pytest.fixture(scope="module")
def rivals(commands: Commands) -> Rivals:
    lexicon = Lexicon.load()
    return Rivals(
        (sentence.text for sentence in commands.sample(2000, seed=1)),
        Matcher(commands.network).exact,
        lambda word: lexicon.pronounce(word)[0],
    )


def test_each_is_a_command_that_means_something_else(commands: Commands, rivals: Rivals) -> None:
    matcher = Matcher(commands.network)
    rng = np.random.default_rng(1)
    for sentence in commands.sample(40, seed=2):
        meant = matcher.exact(sentence.text.split())
        assert meant is not None
        drawn = rivals.draw(sentence.text, rng, count=6)
        assert len(drawn) == len(set(drawn)) == 6
        for text in drawn:
            other = matcher.exact(text.split())
            assert other is not None and meaning_key(other) != meaning_key(meant)


def test_they_are_what_is_mistaken_for_it(rivals: Rivals) -> None:
    rng = np.random.default_rng(1)
    drawn = set(rivals.draw("make me a large triple shot latte", rng, count=20))
    assert "make me a large double shot latte" in drawn
    assert any(text.endswith((" milk", " sugar", " cream")) for text in drawn)


def test_what_is_no_command_has_none(rivals: Rivals) -> None:
    assert rivals.draw("what is the weather like", np.random.default_rng(1), count=6) == []
