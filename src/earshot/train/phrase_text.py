"""Commands with rare names in them, as training text for biasing.

A recogniser that is to trust a list of phrases must meet words that it cannot spell without the
list. They are drawn from the pronouncing dictionary, less the words of the general text; which
of them are never trained on is decided by a stable hash, so that a test can draw from those.
Knows nothing of audio, nor of how phrases are attended to.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from earshot.core.errors import ConfigError
from earshot.data.pronunciation import LEXICON_PATH
from earshot.train.text import TextItem, is_held_out, load_texts, write_texts

__all__ = ["PhraseTextConfig", "phrase_in", "prepare", "random_name", "rare_words"]

# `{}` is where the phrase goes.
_CARRIERS = (
    "call {}", "please call {}", "ring {}", "dial {}", "phone {}", "call {} on speaker",
    "call {} at work", "call {} on the mobile", "make a call to {}", "start a video call with {}",
    "text {}", "send a message to {}", "send {} a message", "message {} that i am late",
    "text {} i am on my way", "tell {} dinner is ready", "write an email to {}", "email {}",
    "read the last message from {}", "did {} call", "has {} answered", "any news from {}",
    "remind me to call {}", "remind me to call {} tomorrow", "remind me to write to {}",
    "when is the birthday of {}", "how old is {}", "who is {}", "where is {}", "is {} at home",
    "what is the number of {}", "what is the address of {}", "add {} to my contacts",
    "delete {} from my contacts", "find {}", "show me {}", "search for {}", "look up {}",
    "take me to {}", "navigate to {}", "directions to {}", "how far is it to {}",
    "play {}", "play something by {}", "play the latest album by {}", "play songs by {} please",
    "turn on {}", "turn off {}", "switch {} on", "open {}", "close {}", "start {}", "stop {}",
    "what is the status of {}", "set {} to fifty percent", "dim {}", "meeting with {} at noon",
    "schedule lunch with {} on friday", "invite {} to the meeting", "cancel the call with {}",
    "hey computer call {}", "okay call {} now", "can you call {}", "could you text {} for me",
    "{}", "{} please", "it is {}", "my name is {}", "i said {}", "no i meant {}",
)  # fmt: skip
_GIVEN_NAMES = tuple(
    re.findall(
        "[a-z]+",
        "james mary john anna robert linda michael susan david karen paul lisa mark nancy daniel "
        "betty thomas helen peter sandra kevin donna george carol brian ruth edward sharon laura "
        "eric emma ryan julia jacob alice adam clara leo priya omar fatima wei carlos sofia pierre "
        "hans olga ivan",
    )
)
_WORD = re.compile("[a-z]{3,14}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseTextConfig:
    """Spoken commands with names, for `model.bias`. No hours: none are made."""

    hours: float = 0.0
    sentences: int = 6000
    dev_sentences: int = 300
    held_out_words: float = 0.25  # share of the dictionary's rare words that is never trained on

    def __post_init__(self) -> None:
        if self.hours < 0 or self.sentences < 1 or self.dev_sentences < 1:
            raise ConfigError(
                f"phrases: hours is {self.hours}, sentences {self.sentences} and dev_sentences "
                f"{self.dev_sentences}; hours must be at least 0, the others above 0. Change one."
            )
        if not 0 < self.held_out_words < 1:
            raise ConfigError(
                f"phrases.held_out_words is {self.held_out_words}; it must lie between 0 and 1. "
                "Change it."
            )


def prepare(out_dir: Path, *, seed: int, config: PhraseTextConfig) -> dict[str, int]:
    """Write `text/phrases_train.jsonl` and `text/phrases_heldout.jsonl` below a folder.

    Args:
        out_dir: Experiment folder; `text/train.jsonl` says which words are not rare.
        seed: Of the draws. Which words are held out does not depend on it.
        config: Amounts.

    Returns:
        Sentences by `train` and `heldout`.
    """
    known = {w for item in load_texts(out_dir / "text" / "train.jsonl") for w in item.text.split()}
    trained, held_out = rare_words(known, held_out=config.held_out_words)
    counts = {}
    for name, words, count in (
        ("train", trained, config.sentences),
        ("heldout", held_out, config.dev_sentences),
    ):
        rng = random.Random(f"{seed}:phrases:{name}")
        items = [_sentence(words, rng) for _ in range(count)]
        write_texts(items, out_dir / "text" / f"phrases_{name}.jsonl")
        counts[name] = len(items)
    return counts


def rare_words(known: Iterable[str], *, held_out: float) -> tuple[list[str], list[str]]:
    """The dictionary's words that are not known, sorted: those to train on, and the others.

    Args:
        known: Words that are not rare.
        held_out: Share of the others, in (0, 1), by a hash of the word.
    """
    known = {*known, *_GIVEN_NAMES}  # which every list has
    trained: list[str] = []
    kept: list[str] = []
    for line in LEXICON_PATH.read_bytes().splitlines():
        word = line.split(b"\t", 1)[0].decode()
        if word not in known and _WORD.fullmatch(word):
            (kept if is_held_out(f"phrase:{word}", held_out) else trained).append(word)
    return trained, kept


def phrase_in(text: str, template: str) -> str | None:
    """The phrase of a sentence that `prepare` wrote.

    Args:
        text: The sentence.
        template: Its template.

    Returns:
        The words that stand for `{}`; None for a sentence of another source.
    """
    if not template.startswith("phrase:"):
        return None
    before, after = template.removeprefix("phrase:").split("{}")
    return text[len(before) : len(text) - len(after)]


def random_name(words: Sequence[str], rng: random.Random) -> str:
    """One to three rare words, or a given name and one.

    Args:
        words: Those to draw from.
        rng: Source of randomness.
    """
    shape = rng.random()
    if shape < 0.4:
        name = [rng.choice(words)]
    elif shape < 0.65:
        name = [rng.choice(_GIVEN_NAMES), rng.choice(words)]
    elif shape < 0.95:
        name = [rng.choice(words), rng.choice(words)]
    else:
        name = [rng.choice(words) for _ in range(3)]
    return " ".join(name)


def _sentence(words: Sequence[str], rng: random.Random) -> TextItem:
    carrier = rng.choice(_CARRIERS)
    return TextItem(carrier.format(random_name(words, rng)), "name", f"phrase:{carrier}")
