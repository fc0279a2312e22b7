"""Command templates: what a set of commands consists of, and the door to reading them.

The templates are Home Assistant's: intents with sentences of `(a|b)`, `[optional]`, `(a;b)`,
`{list}` and `<rule>`, lists of values with `in` and `out`, ranges of numbers. hassil parses the
sentences; `understand.loading` reads and checks the files. The network of words is built by
`understand.grammar`; nothing here knows a tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from earshot.core.errors import CommandsProblem
from earshot.data.spoken import spoken_form

if TYPE_CHECKING:
    from hassil.expression import Expression

    from earshot.understand.grammar import WordNetwork

__all__ = [
    "MAX_RANGE",
    "MAX_UNEVEN",
    "NOTHING",
    "Block",
    "Commands",
    "ListValue",
    "RangeList",
    "Sample",
    "SlotList",
    "Template",
    "TextList",
    "WildcardList",
    "load_commands",
]

MAX_RANGE = 10**9
MAX_UNEVEN = 20_000  # numbers of a range whose words have no regular network
NOTHING: Mapping[str, object] = MappingProxyType({})  # shared by all that have no fields


@dataclass(frozen=True, slots=True)
class ListValue:
    """One value of a list.

    Args:
        where: `file:line`.
        text: As written.
        expression: Its template; None for plain text.
        out: What a program gets; None where the words themselves are the value.
        context: What the value says about itself, such as `{"domain": "light"}`.
    """

    where: str
    text: str
    expression: Expression | None
    out: object
    context: Mapping[str, object] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class TextList:
    """A list whose values are written out."""

    name: str
    where: str
    values: tuple[ListValue, ...]


@dataclass(frozen=True, slots=True)
class RangeList:
    """A list of numbers.

    Args:
        name: Of the list.
        where: `file:line`.
        start: The first number.
        stop: The last number, if a step ends on it.
        step: >= 1.
        fractions: Tenths that may be added: `(5,)` for halves, `(1, ..., 9)` for tenths.
        multiplier: Of the value that a program gets; None leaves it as said.
    """

    name: str
    where: str
    start: int
    stop: int
    step: int = 1
    fractions: tuple[int, ...] = ()
    multiplier: float | None = None

    @property
    def is_too_uneven(self) -> bool:
        """Whether there are over `MAX_UNEVEN` numbers in a step that has no regular words."""
        count = (self.stop - self.start) // self.step
        return count > MAX_UNEVEN and 1000 % self.step != 0 and self.step % 1000 != 0


@dataclass(frozen=True, slots=True)
class WildcardList:
    """A list that stands for any words; a recogniser guided by a grammar cannot hear it."""

    name: str
    where: str


SlotList = TextList | RangeList | WildcardList


@dataclass(frozen=True, slots=True)
class Template:
    """One sentence template."""

    where: str
    text: str
    expression: Expression


@dataclass(frozen=True, slots=True)
class Block:
    """Sentences of one intent that share their fixed slots and their context.

    Args:
        intent: Its name.
        templates: Its sentences.
        slots: Slots that come with the intent and are not said.
        requires: Context that the values of lists must have.
        excludes: Context that they must not have.
        lists: By name: those of the file, and the block's own before them.
        rules: By name, likewise.
        is_local: Whether the block has lists or rules of its own.
    """

    intent: str
    templates: tuple[Template, ...]
    slots: Mapping[str, object]
    requires: Mapping[str, object]
    excludes: Mapping[str, object]
    lists: Mapping[str, SlotList]
    rules: Mapping[str, Template]
    is_local: bool

    def list_named(self, name: str) -> SlotList | None:
        """The list that a `{name}` of the block means; None if there is none.

        A range can stand in place of the name, as in `{0..100:brightness}` or `{0..100,5:level}`.
        """
        return self.lists.get(name) or _inline_range(name)


@lru_cache
def _inline_range(name: str) -> RangeList | None:
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)(?:,(\d+))?", name)
    if bounds is None:
        return None
    start, stop, step = (int(number or 1) for number in bounds.groups())
    return RangeList(name, "", start, stop, step)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sentence of the commands and what it means.

    Args:
        text: In the recogniser's spelling.
        intent: Its intent.
        slots: What a program gets for it.
    """

    text: str
    intent: str
    slots: Mapping[str, object]


@dataclass(frozen=True)
class Commands:
    """Everything that can be commanded; made by `load_commands`.

    Args:
        blocks: Sentences by intent, in the order of the files.
        skip_words: Phrases that may come before or after every sentence.
        warnings: What was left out or ignored, and why.
        sources: The files that were read.
    """

    blocks: tuple[Block, ...]
    skip_words: tuple[str, ...]
    warnings: tuple[CommandsProblem, ...]
    sources: tuple[str, ...]

    @property
    def intents(self) -> tuple[str, ...]:
        """Names of the intents, each once, in the order of the files."""
        return tuple(dict.fromkeys(block.intent for block in self.blocks))

    @cached_property
    def network(self) -> WordNetwork:
        """The network of words that says exactly these commands; built on first use."""
        from earshot.understand.grammar import build_network

        return build_network(self)

    def where(self, word: str) -> str:
        """The first `file:line` whose text says a word; the first file if none does."""
        place = self._places.get(word)
        if place is None:  # put together from parts, such as "light[s]"
            joined = ((p, re.sub(r"[^a-z']", "", text.lower())) for p, text in self._texts())
            place = next((p for p, letters in joined if word in letters), self.sources[0])
        return place

    @cached_property
    def _places(self) -> dict[str, str]:
        """By word: where it is written first."""
        places: dict[str, str] = {}
        for place, text in self._texts():
            for word in spoken_form(re.sub(r"[\[\](){}<>|;]", " ", text)).split():
                places.setdefault(word, place)
        return places

    def _texts(self) -> Iterator[tuple[str, str]]:
        seen: set[int] = set()
        for block in self.blocks:
            for template in (*block.templates, *block.rules.values()):
                if id(template) not in seen:
                    seen.add(id(template))
                    yield template.where, template.text
            for found in block.lists.values():
                if isinstance(found, TextList) and id(found) not in seen:
                    seen.add(id(found))
                    for value in found.values:
                        yield value.where, value.text

    def count_sentences(self) -> int:
        """How many sentences there are, by dynamic programming over the network of words.

        Returns:
            Exact, of any size. A sentence that two templates make, or that one makes in two
            ways, counts twice; skip words are not counted.
        """
        return sum(self.network.count_by_intent().values())

    def sample(self, count: int, *, seed: int) -> list[Sample]:
        """Sentences at random, balanced over intents, templates and the values of lists.

        Args:
            count: How many; they may repeat when there are few.
            seed: The same seed gives the same sentences.

        Returns:
            `count` sentences.
        """
        from earshot.understand.sampling import sample_commands

        return sample_commands(self, count, seed=seed)


def load_commands(paths: str | Path | Sequence[str | Path]) -> Commands:
    """Read command templates in the format of hassil and Home Assistant.

    Several files are one set of commands: an intent may have sentences in many, a list or rule
    is defined in one and used in all.

    Args:
        paths: Files, folders (all `.yaml` and `.yml` below them, by name), and
            `homeassistant:en` for the sentences that Home Assistant ships.

    Returns:
        The commands, checked.

    Raises:
        CommandsError: Something cannot be used; every problem is listed.
        OSError: A file cannot be read.
    """
    from earshot.understand.loading import Loader

    loader = Loader()
    for path in [paths] if isinstance(paths, str | Path) else paths:
        loader.read_path(str(path))
    return loader.finish()
