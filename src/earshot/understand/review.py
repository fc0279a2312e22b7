"""What may go wrong with commands that are correct: the doubts of `earshot understand check`.

Words whose sounds are guessed or that the recogniser must spell letter by letter, values of one
list that sound alike or are the same, intents that say nothing, and sentences that another intent
says too. Knows no audio: what it says is a suspicion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earshot.core.errors import CommandsProblem
from earshot.data.phones import phone_names
from earshot.data.tokenizer import WORD_START
from earshot.understand.sampling import sample_phrases
from earshot.understand.sounds import alike_pairs
from earshot.understand.templates import Commands, ListValue, Sample, TextList

if TYPE_CHECKING:
    from earshot.data.pronunciation import Lexicon
    from earshot.data.tokenizer import Tokenizer
    from earshot.understand.graph import CommandGraph

__all__ = ["Review", "review_commands"]

MIN_SPELLED_LETTERS = 5  # shorter words are often spelled, and still heard
SPELLED_SHARE = 0.9  # of a word's letters that are pieces of one letter
AMBIGUITY_SAMPLES = 1000  # sentences looked at for a second intent


@dataclass(frozen=True, slots=True)
class Review:
    """What commands say and what is doubtful about them.

    Args:
        by_intent: Number of sentences by intent.
        num_words: Distinct words.
        samples: Some sentences.
        warnings: Doubts, those of reading the files first.
    """

    by_intent: dict[str, int]
    num_words: int
    samples: list[Sample]
    warnings: list[CommandsProblem]

    @property
    def num_sentences(self) -> int:
        """Sentences of all intents."""
        return sum(self.by_intent.values())


def review_commands(
    graph: CommandGraph, tokenizer: Tokenizer, lexicon: Lexicon, *, num_samples: int, seed: int
) -> Review:
    """Look for what may go wrong.

    Args:
        graph: The compiled commands.
        tokenizer: The one that they were compiled for.
        lexicon: How words are pronounced.
        num_samples: Sentences to show, >= 0.
        seed: Of the samples.

    Returns:
        The review.
    """
    commands = graph.commands
    counts = commands.network.count_by_intent()
    return Review(
        {intent: counts.get(intent, 0) for intent in commands.intents},
        len(commands.network.words),
        commands.sample(num_samples, seed=seed),
        [
            *commands.warnings,
            *_guessed_words(commands, lexicon),
            *_spelled_words(commands, tokenizer),
            *_silent_intents(commands, counts),
            *_alike_values(commands),
            *_shared_sentences(graph),
        ],
    )


def _guessed_words(commands: Commands, lexicon: Lexicon) -> list[CommandsProblem]:
    """Words of which only the spelling says how they sound."""
    return [
        CommandsProblem(
            commands.where(word),
            f"'{word}' is not in the pronunciation dictionary; it will be heard as "
            + " or ".join(map(phone_names, lexicon.pronounce(word))),
            "if that is wrong, give its line in a file for `--pronunciations`",
        )
        for word in commands.network.words
        if lexicon.is_guess(word)
    ]


def _spelled_words(commands: Commands, tokenizer: Tokenizer) -> list[CommandsProblem]:
    """Words made of pieces of one letter: the recogniser has hardly heard their like."""
    doubts = []
    for word in commands.network.words:
        if len(word) < MIN_SPELLED_LETTERS:
            continue
        pieces = [tokenizer.pieces[i].lstrip(WORD_START) for i in tokenizer.encode(word)]
        if sum(len(piece) == 1 for piece in pieces) >= SPELLED_SHARE * len(word):
            doubts.append(
                CommandsProblem(
                    commands.where(word),
                    f"the recogniser spells '{word}' letter by letter and may not hear it well",
                    "write a more common word beside it, or adapt the model to these commands",
                )
            )
    return doubts


def _silent_intents(commands: Commands, counts: Mapping[str, int]) -> list[CommandsProblem]:
    """Intents without a sentence: a list is empty, or no value has the context that is required."""
    return [
        CommandsProblem(
            _place_of(commands, intent),
            f"intent '{intent}' has no sentence that can be said",
            "look whether its lists have values, and those the context that it requires",
        )
        for intent in commands.intents
        if not counts.get(intent)
    ]


def _place_of(commands: Commands, intent: str) -> str:
    """Where the first template of an intent stands; the first file if all were left out."""
    places = (b.templates[0].where for b in commands.blocks if b.intent == intent and b.templates)
    return next(places, commands.sources[0])


def _alike_values(commands: Commands) -> list[CommandsProblem]:
    """Values of one list with different meanings whose words sound alike."""
    doubts = []
    seen: set[int] = set()
    for block in commands.blocks:
        for found in block.lists.values():
            if id(found) in seen or not isinstance(found, TextList):
                continue
            seen.add(id(found))
            said: dict[str, ListValue] = {}
            for value in found.values:
                for phrase in sample_phrases(value, block):
                    before = said.setdefault(phrase, value)
                    if before is not value and before.out != value.out:
                        doubts.append(
                            CommandsProblem(
                                value.where,
                                f"'{phrase}' stands twice in list '{found.name}', with other "
                                "values; the first is taken",
                                "take one of them out",
                            )
                        )
            for first, second in alike_pairs(list(said)):
                one, other = said[first], said[second]
                if one is other or (one.out == other.out and one.out is not None):
                    continue
                doubts.append(
                    CommandsProblem(
                        one.where,
                        f"'{first}' and '{second}' of list '{found.name}' sound alike",
                        "say one of them in another way if they are confused",
                    )
                )
    return doubts


def _shared_sentences(graph: CommandGraph) -> list[CommandsProblem]:
    """Pairs of intents of which one says a sentence of the other, by samples."""
    doubts: dict[tuple[str, str], CommandsProblem] = {}
    for sample in graph.commands.sample(AMBIGUITY_SAMPLES, seed=0):
        found = graph.interpret(sample.text.split())
        if found is None or found.intent is None or found.intent == sample.intent:
            continue
        doubts.setdefault(
            (sample.intent, found.intent),
            CommandsProblem(
                _place_of(graph.commands, sample.intent),
                f"'{sample.text}' of intent '{sample.intent}' is also said by '{found.intent}', "
                "which is taken",
                "change one of the two if that is wrong",
            ),
        )
    return list(doubts.values())
