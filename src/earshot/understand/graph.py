"""Commands compiled for a recogniser: the graph that guides its search, and what its words mean.

A word is spelled in the pieces of the recogniser's own tokenizer, each distinct word once; and for
a recogniser that hears phones, in all its pronunciations too. Knows no audio; see
`decode.word_graph` for the graph's form and `understand.matching` for meanings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from earshot.core.errors import CommandsError, CommandsProblem
from earshot.core.understanding import Understanding
from earshot.data.pronunciation import Lexicon
from earshot.data.tokenizer import UNK_ID, Tokenizer
from earshot.decode.word_graph import WordGraph
from earshot.understand.matching import MIN_LIKENESS, Matcher
from earshot.understand.templates import Commands

__all__ = ["CommandGraph", "compile_commands"]


MAX_DEPTH = 16  # of calls within calls, as the engine's search allows


class CommandGraph:
    """Commands as a recogniser needs them; made by `compile_commands`.

    Args:
        commands: What can be commanded.
        pieces: Word-piece ids of every word of `commands.network`.
        pronunciations: Phone ids of the same; None for a recogniser without phones.
    """

    def __init__(
        self,
        commands: Commands,
        pieces: tuple[tuple[int, ...], ...],
        pronunciations: tuple[tuple[tuple[int, ...], ...], ...] | None = None,
    ) -> None:
        self.commands = commands
        self._pieces = pieces
        self._pronunciations = pronunciations
        self._matcher = Matcher(commands.network)

    @cached_property
    def word_graph(self) -> WordGraph:
        """The graph that guides the search."""
        network = self.commands.network
        return WordGraph(
            words=network.words,
            pieces=self._pieces,
            arc_begin=network.arc_begin,
            arc_kind=network.arc_kind,
            arc_label=network.arc_label,
            arc_dest=network.arc_dest,
            arc_weight=np.zeros(len(network.arc_dest), np.float32),
            final=network.final,
            start=network.start,
            pronunciations=self._pronunciations,
        )

    def interpret(self, words: Sequence[str]) -> Understanding | None:
        """What exactly these words mean.

        Of several meanings the one whose slots cover most words is taken, then the one with
        fewest slots, then the one whose template comes first in the files.

        Args:
            words: As the recogniser spells them.

        Returns:
            With confidence 1; None if no template says them.
        """
        return self._matcher.exact(words)

    def nearest(self, text: str, *, min_confidence: float = MIN_LIKENESS) -> Understanding | None:
        """The command that a text is most like: "lights on in live in room".

        Words may differ in letters and sounds, may be joined or split, lost or added; each at a
        price. Nothing is listed: the network is searched.

        Args:
            text: What a recogniser understood; any English text.
            min_confidence: Of what is returned, in (0, 1).

        Returns:
            With the share of the text's letters that agree as its confidence, 1 for a text
            that is a command; None where no command is that like.
        """
        return self._matcher.closest(text, min_confidence=min_confidence)


def compile_commands(
    commands: Commands, tokenizer: Tokenizer, *, lexicon: Lexicon | None = None
) -> CommandGraph:
    """Get commands ready for a recogniser.

    Args:
        commands: From `load_commands`.
        tokenizer: The recogniser's own.
        lexicon: How words are pronounced, for a recogniser that hears phones.

    Returns:
        The graph.

    Raises:
        CommandsError: The pieces cannot spell a word, or there is no sentence at all.
    """
    network = commands.network
    pieces = tuple(tuple(tokenizer.encode(word)) for word in network.words)
    problems = [
        CommandsProblem(
            commands.where(word),
            f"the word '{word}' cannot be spelled in the recogniser's pieces",
            "write it in letters that the recogniser knows",
        )
        for word, ids in zip(network.words, pieces, strict=True)
        if UNK_ID in ids or not ids
    ]
    pronunciations = None
    if lexicon is not None:
        pronunciations = tuple(map(lexicon.pronounce, network.words))
    if network.depth > MAX_DEPTH:
        problems.append(
            CommandsProblem(
                commands.sources[0],
                f"rules use rules {network.depth} deep; {MAX_DEPTH} is the most",
                "write the innermost rules out where they are used",
            )
        )
    if network.is_empty:
        problems.append(
            CommandsProblem(
                commands.sources[0],
                "every sentence was left out; nothing can be said",
                "give the lists that the sentences need",
            )
        )
    if problems:
        raise CommandsError(problems)
    return CommandGraph(commands, pieces, pronunciations)
