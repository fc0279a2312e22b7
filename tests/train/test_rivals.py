"""Rivals: commands that differ in one place from what was said, and mean something else."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lhotse")

from earshot.core.errors import ConfigError
from earshot.data.pronunciation import Lexicon
from earshot.train.rivals import Rivals, RivalsOf
from earshot.train.text import TextItem, write_texts
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
    assert len({len(text.split()) for text in drawn}) >= 3  # words are left out or put in, too


def test_those_of_an_experiment_are_read_when_they_are_asked_for(
    commands: Commands, tmp_path: Path
) -> None:
    items = [TextItem(s.text, "command", s.intent) for s in commands.sample(300, seed=3)]
    texts = tmp_path / "commands_train.jsonl"
    write_texts(items, texts)
    rivals = RivalsOf([str(COFFEE)], texts, Lexicon.load(), count=3)
    drawn = rivals(items[0].text, np.random.default_rng(1))
    assert len(drawn) == 3
    # As the processes of a loader get it where they are not forked.
    again = pickle.loads(pickle.dumps(rivals))
    assert again(items[0].text, np.random.default_rng(1)) == drawn
    with pytest.raises(ConfigError, match=r"absent\.jsonl is not there"):
        RivalsOf([str(COFFEE)], tmp_path / "absent.jsonl", Lexicon.load(), count=3)


def test_what_is_no_command_has_none(rivals: Rivals) -> None:
    assert rivals.draw("what is the weather like", np.random.default_rng(1), count=6) == []
