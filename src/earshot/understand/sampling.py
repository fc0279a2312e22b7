"""Sentences of commands at random, spread evenly: for training, for tests, for a first look.

Intents take turns, then the templates of an intent, then the values of a list, so that a list of
thousands does not drown the others and no value is forgotten for long. Knows no network: it
walks the templates, and so can be held against it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from earshot.data.spoken import number_words, spoken_form
from earshot.understand.grammar import carried_context, fits_context
from earshot.understand.templates import (
    Block,
    Commands,
    ListValue,
    RangeList,
    Sample,
    Template,
    TextList,
)

if TYPE_CHECKING:
    from hassil.expression import Alternative, Expression

__all__ = ["sample_commands", "sample_phrases"]

_Item = TypeVar("_Item")


class _Unspeakable(Exception):
    """A part of a template whose words nobody knows, such as a wildcard."""


def _is_nothing(node: Expression) -> bool:
    """Whether it is the empty way through an optional part, which hassil lists among the others."""
    return getattr(node, "original_text", None) == ""


class _Deck(Iterable[_Item]):
    """Items in an order that is shuffled anew each time they have all come."""

    def __init__(self, items: Sequence[_Item], rng: random.Random) -> None:
        self._items = list(items)
        self._rng = rng
        self._left: list[_Item] = []

    def __iter__(self) -> Iterator[_Item]:
        return self

    def __next__(self) -> _Item:
        if not self._items:
            raise StopIteration
        if not self._left:
            self._left = list(self._items)
            self._rng.shuffle(self._left)
        return self._left.pop()

    def remove(self, item: _Item) -> None:
        """Take an item out for good."""
        self._items.remove(item)
        if item in self._left:
            self._left.remove(item)


class _Sampler:
    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"commands:{seed}")
        self._values: dict[tuple[int, str], _Deck[ListValue]] = {}

    def deck(self, items: Sequence[_Item]) -> _Deck[_Item]:
        return _Deck(items, self._rng)

    def sample(self, block: Block, template: Template) -> Sample:
        slots: dict[str, object] = dict(block.slots)
        text = self._speak(template.expression, block, slots)
        words = (spoken_form(token) for token in text.split())
        return Sample(" ".join(word for word in words if word), block.intent, slots)

    def phrase(self, value: ListValue, block: Block) -> str:
        """One way to say a value of a list."""
        if value.expression is None:
            return spoken_form(value.text)
        return spoken_form(self._speak(value.expression, block, {}))

    def _speak(self, node: Expression, block: Block, slots: dict[str, object]) -> str:
        from hassil import expression as ex

        if isinstance(node, ex.TextChunk):
            return str(node.original_text)
        if isinstance(node, ex.Alternative):
            return self._either(node, block, slots)
        if isinstance(node, ex.Group):
            items = list(node.items)
            if isinstance(node, ex.Permutation):
                self._rng.shuffle(items)
            return "".join(self._speak(item, block, slots) for item in items)
        if isinstance(node, ex.RuleReference):
            return self._speak(block.rules[node.rule_name].expression, block, slots)
        if isinstance(node, ex.ListReference):
            return self._value(node.list_name, node.slot_name, block, slots)
        raise TypeError(f"sampling: hassil has an expression {type(node).__name__}")

    def _either(self, node: Alternative, block: Block, slots: dict[str, object]) -> str:
        items = list(node.items)
        if node.is_optional:
            if self._rng.random() < 0.5:
                return ""
            items = [item for item in items if not _is_nothing(item)] or items
        self._rng.shuffle(items)
        for item in items:
            inner = dict(slots)
            try:
                text = self._speak(item, block, inner)
            except _Unspeakable:
                continue
            slots.update(inner)
            return text
        raise _Unspeakable

    def _value(self, name: str, slot: str, block: Block, slots: dict[str, object]) -> str:
        found = block.list_named(name)
        if isinstance(found, RangeList):
            return self._number(found, slot, slots)
        if not isinstance(found, TextList):
            raise _Unspeakable
        key = (id(block), name)
        if key not in self._values:
            carried = carried_context(found)
            fitting = [v for v in found.values if fits_context(v, carried, block)]
            self._values[key] = self.deck(fitting)
        value = next(self._values[key], None)
        if value is None:
            raise _Unspeakable
        if value.expression is None:
            text = value.text
        else:
            text = self._speak(value.expression, block, slots)
        slots[slot] = spoken_form(text) if value.out is None else value.out
        return text

    def _number(self, found: RangeList, slot: str, slots: dict[str, object]) -> str:
        numbers = range(found.start, found.stop + 1, found.step)
        number: int | float = numbers[self._rng.randrange(len(numbers))]
        words = number_words(int(number), with_and=self._rng.random() < 0.3)
        if found.fractions and self._rng.random() < 0.2:
            tenth = self._rng.choice(found.fractions)
            sign = -1 if number < 0 else 1
            number = round(number + sign * tenth / 10, 1)
            if tenth == 5 and self._rng.random() < 0.5:
                words += " and a half"
            else:
                words += f" point {number_words(tenth)}"
        slots[slot] = number if found.multiplier is None else number * found.multiplier
        return f" {words} "  # letters beside a number are words of their own


def sample_commands(commands: Commands, count: int, *, seed: int) -> list[Sample]:
    """See `Commands.sample`.

    Args:
        commands: The commands.
        count: Number of sentences, >= 0.
        seed: Of the choices.

    Returns:
        `count` sentences; none where every template needs a list that has no values.
    """
    sampler = _Sampler(seed)
    decks = {
        intent: sampler.deck(
            [(b, t) for b in commands.blocks if b.intent == intent for t in b.templates]
        )
        for intent in commands.intents
    }
    intents = sampler.deck(commands.intents)
    samples: list[Sample] = []
    while len(samples) < count:
        intent = next(intents, None)
        if intent is None:
            break
        choice = next(decks[intent], None)
        if choice is None:
            intents.remove(intent)
            continue
        try:
            samples.append(sampler.sample(*choice))
        except _Unspeakable:
            decks[intent].remove(choice)
    return samples


def sample_phrases(value: ListValue, block: Block, *, tries: int = 8) -> tuple[str, ...]:
    """Ways to say a value of a list: its words, or some of what its template makes.

    Args:
        value: The value.
        block: Whose lists and rules its template means.
        tries: How often the template is spoken.

    Returns:
        Different phrases; none where nobody knows the words.
    """
    sampler = _Sampler(0)
    try:
        return tuple(dict.fromkeys(sampler.phrase(value, block) for _ in range(tries)))
    except _Unspeakable:
        return ()
