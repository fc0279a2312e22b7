"""The network of words that says exactly the sentences of some commands.

Built by walking hassil's expressions, never by listing sentences. Lists, and rules that are long,
become graphs of their own that many places call, so that 20,000 values are there once. Templates
put words together from letters ("light[s]"), so each is first a small network of fragments and
blanks; its words are what fragments between two blanks spell.

Every graph ends in a node of its own kind and its arcs go to higher nodes, which rules out loops.
Knows no tokenizer; see `understand.graph` for what the search is given.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from earshot.core.errors import CommandsError, CommandsProblem
from earshot.data.spoken import DIGIT_WORDS, number_words, spoken_form
from earshot.understand.templates import NOTHING, Block, ListValue, RangeList, TextList

if TYPE_CHECKING:
    from hassil.expression import Expression, ListReference, Permutation

    from earshot.understand.templates import Commands, Template

__all__ = [
    "CALL",
    "EPSILON",
    "TAG",
    "WORD",
    "Arc",
    "Meaning",
    "Slot",
    "WordNetwork",
    "build_network",
    "carried_context",
    "fits_context",
]

WORD, EPSILON, CALL, TAG = range(4)  # kinds of arcs, numbered as `decode.word_graph` does

INLINE_RULE_ARCS = 24  # a shorter rule is copied to where it is used, a longer one is called
MAX_SPELLINGS = 10_000  # of one word of a template
_LETTER_OR_DIGIT = re.compile(r"[\w']")


# Kind; label: word id, 0, first node of the called graph, or index into `meanings`; the node after
# it; for a CALL the index into `slots`, or -1 where it fills none.
Arc = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a TAG says: an intent with its fixed slots, or the value of a list.

    Args:
        intent: Name of the intent; None for a value.
        slots: Fixed slots of the intent.
        value: What the list's value gives; None where its words are the value.
        beside: Letters before and after those words that belong to the sentence.
    """

    intent: str | None = None
    slots: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    value: object = None
    beside: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Slot:
    """What a CALL fills.

    Args:
        name: Of the slot.
        numbers: The list, where the value is the number that the words say.
    """

    name: str
    numbers: RangeList | None = None


@dataclass(frozen=True)
class WordNetwork:
    """Nodes and arcs; see the module.

    Args:
        arc_begin: Shape (N + 1,): where the arcs of each node begin; they end where the next
            ones begin.
        arc_kind: Shape (A,): WORD, EPSILON, CALL or TAG.
        arc_label: Shape (A,): word id; 0; the first node of the called graph; index into
            `meanings`.
        arc_dest: Shape (A,): the node after it, higher than the one before it.
        arc_slot: Shape (A,): for a CALL the index into `slots`, -1 where it fills none.
        final: Shape (N,): whether a node ends its graph.
        start: Where sentences start.
        core_start: Likewise, without the skip words around sentences.
        words: Word table.
        meanings: What TAGs say.
        slots: What CALLs fill.
    """

    arc_begin: npt.NDArray[np.int32]
    arc_kind: npt.NDArray[np.uint8]
    arc_label: npt.NDArray[np.int32]
    arc_dest: npt.NDArray[np.int32]
    arc_slot: npt.NDArray[np.int32]
    final: npt.NDArray[np.uint8]
    start: int
    core_start: int
    words: tuple[str, ...]
    meanings: tuple[Meaning, ...]
    slots: tuple[Slot, ...]

    def arcs(self, node: int) -> Iterator[Arc]:
        """The arcs that leave a node, those of earlier templates first."""
        part = slice(self.arc_begin[node], self.arc_begin[node + 1])
        return zip(
            self.arc_kind[part].tolist(),
            self.arc_label[part].tolist(),
            self.arc_dest[part].tolist(),
            self.arc_slot[part].tolist(),
            strict=True,
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is no sentence."""
        return bool(self.arc_begin[self.core_start] == self.arc_begin[self.core_start + 1])

    @cached_property
    def word_ids(self) -> dict[str, int]:
        """The id of every word."""
        return {word: index for index, word in enumerate(self.words)}

    @property
    def depth(self) -> int:
        """How many calls lie within each other at most."""
        depths: dict[int, int] = {}
        for start in (*self._graphs_inner_first(), self.start):
            inner = (
                depths[label]
                for node in self._nodes_of(start)
                for kind, label, _, _ in self.arcs(node)
                if kind == CALL and label in depths
            )
            depths[start] = 1 + max(inner, default=-1)
        return depths[self.start]

    def count_by_intent(self) -> dict[str, int]:
        """Number of ways through the network by intent, without skip words."""
        ways = self._ways()
        reached = {self.core_start: 1}  # ways from the start to a node
        counts: dict[str, int] = {}
        for node in self._nodes_of(self.core_start):
            for kind, label, dest, _ in self.arcs(node):
                through = reached[node] * (ways[label] if kind == CALL else 1)
                reached[dest] = reached.get(dest, 0) + through
                intent = self.meanings[label].intent if kind == TAG else None
                if intent is not None:  # its tag is the last arc of a sentence
                    counts[intent] = counts.get(intent, 0) + through
        return counts

    def _ways(self) -> dict[int, int]:
        """Ways from each node to the end of its graph."""
        ways: dict[int, int] = {}
        for start in self._graphs_inner_first():
            for node in reversed(self._nodes_of(start)):
                ways[node] = int(self.final[node]) + sum(
                    (ways[label] if kind == CALL else 1) * ways[dest]
                    for kind, label, dest, _ in self.arcs(node)
                )
        return ways

    def _nodes_of(self, start: int) -> list[int]:
        """Nodes of one graph, ascending, without those of graphs that it calls."""
        seen = {start}
        stack = [start]
        while stack:
            for _, _, dest, _ in self.arcs(stack.pop()):
                if dest not in seen:
                    seen.add(dest)
                    stack.append(dest)
        return sorted(seen)

    def _graphs_inner_first(self) -> list[int]:
        """Starts of graphs below the sentences; a graph comes after all that it calls."""
        order: dict[int, None] = {}

        def visit(start: int) -> None:
            called = {
                label
                for node in self._nodes_of(start)
                for kind, label, _, _ in self.arcs(node)
                if kind == CALL
            }
            for inner in sorted(called - order.keys()):
                if inner not in order:
                    visit(inner)
            order[start] = None

        visit(self.core_start)
        return list(order)


def build_network(commands: Commands) -> WordNetwork:
    """Build the network of some commands.

    Args:
        commands: Checked, from `load_commands`.

    Returns:
        The network. It may have no sentence at all when everything uses wildcard lists.

    Raises:
        CommandsError: A word is put together in more ways than can be told apart.
    """
    return _Builder().build(commands)


# ---------------------------------------------------------------- fragments of one template

_LETTERS, _BLANK, _NOTHING, _CALLED = range(4)


@dataclass(frozen=True, slots=True)
class _Called:
    """A graph to be called: a list or a rule under the context of a block, or part of a template.

    `prefix` and `suffix` are letters that a template glues to it, as in "{area}'s".
    """

    kind: str  # "list", "rule" or "part"
    name: str
    scope: tuple[object, ...]
    slot: str | None = None
    part: int = 0
    prefix: str = ""
    suffix: str = ""

    def glued(self, prefix: str, suffix: str) -> _Called:
        return _Called(
            self.kind, self.name, self.scope, self.slot, self.part,
            prefix + self.prefix, self.suffix + suffix,
        )  # fmt: skip


@dataclass
class _Fragments:
    """A network whose arcs carry letters, a blank, nothing, or a call."""

    arcs: list[list[tuple[int, str | _Called, int]]] = field(default_factory=list)

    def node(self) -> int:
        self.arcs.append([])
        return len(self.arcs) - 1

    def add(self, source: int, kind: int, label: str | _Called, dest: int | None = None) -> int:
        dest = self.node() if dest is None else dest
        self.arcs[source].append((kind, label, dest))
        return dest

    def text(self, source: int, text: str) -> int:
        """Letters and blanks of a text; returns the node after it."""
        for part in re.findall(r"\s+|\S+", text):
            if part.isspace():
                source = self.add(source, _BLANK, "")
            else:
                source = self.add(source, _LETTERS, part)
        return source


@dataclass(frozen=True, slots=True)
class _Scope:
    """Whose lists and rules a template means, and which values of lists its context allows."""

    block: Block
    key: tuple[object, ...]


# ---------------------------------------------------------------- building


class _Builder:
    """Nodes and arcs under construction, and the graphs that were built for calls."""

    def __init__(self) -> None:
        self._arcs: list[list[Arc]] = []
        self._final: list[bool] = []
        self._words: dict[str, int] = {}
        self._meanings: list[Meaning] = []
        self._slots: dict[tuple[str, int], int] = {}
        self._slot_table: list[Slot] = []
        self._graphs: dict[_Called, int | None] = {}
        self._parts: dict[int, Expression] = {}
        self._scopes: dict[tuple[object, ...], _Scope] = {}
        self._rule_sizes: dict[int, int] = {}
        self._has_context = False

    def build(self, commands: Commands) -> WordNetwork:
        self._has_context = any(
            value.context
            for block in commands.blocks
            for found in block.lists.values()
            if isinstance(found, TextList)
            for value in found.values
        )
        core = self.node()
        end = self.node(final=True)
        for block in commands.blocks:
            scope = self._scope(block)
            tag = self._tag(Meaning(block.intent, block.slots))
            for template in block.templates:
                self._sentence(template, scope, tag, core, end)
        start = core
        if commands.skip_words:
            start = self._with_skip_words(commands.skip_words, core)
        return self._finished(start, core)

    # -- nodes and arcs

    def node(self, *, final: bool = False) -> int:
        """A new node."""
        self._arcs.append([])
        self._final.append(final)
        return len(self._arcs) - 1

    def _arc(self, source: int, kind: int, label: int, dest: int, slot: int = -1) -> None:
        arc = (kind, label, dest, slot)
        if arc not in self._arcs[source]:
            self._arcs[source].append(arc)

    def _word(self, word: str) -> int:
        return self._words.setdefault(word, len(self._words))

    def _tag(self, meaning: Meaning) -> int:
        self._meanings.append(meaning)
        return len(self._meanings) - 1

    def _slot(self, name: str, numbers: RangeList | None) -> int:
        key = (name, id(numbers) if numbers else 0)
        if key not in self._slots:
            self._slots[key] = len(self._slot_table)
            self._slot_table.append(Slot(name, numbers))
        return self._slots[key]

    def say(self, source: int, words: Sequence[str], dest: int) -> None:
        """A chain of words; no words are an epsilon arc."""
        if not words:
            self._arc(source, EPSILON, 0, dest)
            return
        for word in words[:-1]:
            after = self.node()
            self._arc(source, WORD, self._word(word), after)
            source = after
        self._arc(source, WORD, self._word(words[-1]), dest)

    # -- sentences

    def _scope(self, block: Block) -> _Scope:
        own = id(block) if block.is_local else 0
        context: tuple[object, ...] = ()
        if self._has_context and (block.requires or block.excludes):
            context = (repr(block.requires), repr(block.excludes))
        key = (own, *context)
        return self._scopes.setdefault(key, _Scope(block, key))

    def _sentence(self, template: Template, scope: _Scope, tag: int, start: int, end: int) -> None:
        first = self.node()
        last = self.node()
        try:
            self._spell(template.expression, scope, first, last)
        except _TooManySpellings as err:
            problem = f"one word can be spelled in over {MAX_SPELLINGS} ways, such as '{err}'"
            remedy = "write blanks between its parts"
            raise CommandsError([CommandsProblem(template.where, problem, remedy)]) from None
        self._arc(start, EPSILON, 0, first)
        self._arc(last, TAG, tag, end)

    def _with_skip_words(self, phrases: Sequence[str], core: int) -> int:
        skipped, skipped_end = self.node(), self.node(final=True)
        for phrase in phrases:
            self.say(skipped, phrase.split(), skipped_end)
        start, before, after = self.node(), self.node(), self.node()
        end = self.node(final=True)
        for source, label, dest in ((start, skipped, before), (before, core, after)):
            self._arc(source, CALL, label, dest)
        self._arc(start, EPSILON, 0, before)
        self._arc(after, CALL, skipped, end)
        self._arc(after, EPSILON, 0, end)
        return start

    def _spell(
        self,
        expression: Expression,
        scope: _Scope,
        first: int,
        last: int,
        prefix: str = "",
        suffix: str = "",
    ) -> None:
        """Words of a template from node `first` to node `last`."""
        net = _Fragments()
        start = net.text(net.node(), prefix)
        end = net.text(self._fragments(net, expression, scope, start), suffix)
        if end == 0:  # nothing at all
            self._arc(first, EPSILON, 0, last)
            return
        _Assembly(self, net, end, first, last).run()

    # -- expressions to fragments

    def _fragments(self, net: _Fragments, node: Expression, scope: _Scope, source: int) -> int:
        """Add an expression to a network; returns the node after it."""
        from hassil import expression as ex

        if isinstance(node, ex.TextChunk):
            return net.text(source, node.original_text)
        if isinstance(node, ex.Alternative):
            dest = net.node()
            for item in node.items:
                net.add(self._fragments(net, item, scope, source), _NOTHING, "", dest)
            return dest
        if isinstance(node, ex.Permutation):
            return self._permutation(net, node, scope, source)
        if isinstance(node, ex.Group):
            for item in node.items:
                source = self._fragments(net, item, scope, source)
            return source
        if isinstance(node, ex.RuleReference):
            rule = scope.block.rules[node.rule_name]
            if self._rule_size(rule, scope) <= INLINE_RULE_ARCS:
                return self._fragments(net, rule.expression, scope, source)
            return net.add(source, _CALLED, _Called("rule", node.rule_name, scope.key))
        if isinstance(node, ex.ListReference):
            called = _Called("list", node.list_name, self._list_scope(node, scope), node.slot_name)
            return net.add(source, _CALLED, called)
        raise TypeError(f"grammar: hassil has an expression {type(node).__name__}")

    def _list_scope(self, node: ListReference, scope: _Scope) -> tuple[object, ...]:
        """The scope's key, without the context where that does not choose among the values."""
        found = scope.block.list_named(node.list_name)
        if len(scope.key) > 1 and not (isinstance(found, TextList) and carried_context(found)):
            own = scope.key[:1]
            free = replace(scope.block, requires=NOTHING, excludes=NOTHING)
            self._scopes.setdefault(own, _Scope(free, own))
            return own
        return scope.key

    def _rule_size(self, rule: Template, scope: _Scope) -> int:
        """Arcs that a copy of a rule would have."""
        key = id(rule.expression)
        if key not in self._rule_sizes:
            net = _Fragments()
            self._fragments(net, rule.expression, scope, net.node())
            self._rule_sizes[key] = sum(map(len, net.arcs))
        return self._rule_sizes[key]

    def _permutation(self, net: _Fragments, node: Permutation, scope: _Scope, source: int) -> int:
        """All orders of some items, as a network over the sets of items that have been said.

        Items that may be left out are said at least by a word where they are said, and may be
        missing at the end: else each order of silent items would be another way to say the same.
        """
        items = [self._part(item, scope) for item in node.items]
        full = (1 << len(items)) - 1
        silent = sum(1 << i for i, (_, is_optional) in enumerate(items) if is_optional)
        nodes = {0: net.add(source, _BLANK, "")}
        dest = net.node()
        for said in range(full + 1):
            if said not in nodes:
                continue
            for i, (called, _) in enumerate(items):
                if said & 1 << i:
                    continue
                after = net.add(nodes[said], _CALLED, called)
                target = said | 1 << i
                nodes[target] = net.add(after, _BLANK, "", nodes.get(target))
            if said | silent == full:
                net.add(nodes[said], _NOTHING, "", dest)
        return dest

    def _part(self, item: Expression, scope: _Scope) -> tuple[_Called, bool]:
        """An item of a permutation as a graph of its own, and whether it may be left out."""
        from hassil import expression as ex

        is_optional = False
        inner = item
        while isinstance(inner, ex.Group):
            full = [i for i in inner.items if not _is_blank(i)]
            if len(full) == 1 and not (isinstance(inner, ex.Alternative) and not inner.is_optional):
                is_optional = is_optional or isinstance(inner, ex.Alternative)
                inner = full[0]
            elif isinstance(inner, ex.Alternative) and inner.is_optional:
                is_optional = True
                inner = ex.Alternative(items=full)
                break
            else:
                break
        chosen = inner if is_optional else item
        self._parts[id(chosen)] = chosen
        return _Called("part", "", scope.key, part=id(chosen)), is_optional

    # -- graphs that are called

    def call(self, source: int, called: _Called, dest: int) -> None:
        """An arc to a graph, which is built the first time; none where it says nothing."""
        start = self._graph(called)
        if start is None:
            return
        slot = -1
        if called.kind == "list" and called.slot is not None:
            found = self._scopes[called.scope].block.list_named(called.name)
            slot = self._slot(called.slot, found if isinstance(found, RangeList) else None)
        self._arc(source, CALL, start, dest, slot)

    def is_range(self, called: _Called) -> bool:
        """Whether a call says a number."""
        if called.kind != "list":
            return False
        return isinstance(self._scopes[called.scope].block.list_named(called.name), RangeList)

    def _graph(self, called: _Called) -> int | None:
        key = _Called(
            called.kind, called.name, called.scope, None, called.part, called.prefix, called.suffix
        )
        if key not in self._graphs:
            self._graphs[key] = self._new_graph(key)
        return self._graphs[key]

    def _new_graph(self, called: _Called) -> int | None:
        scope = self._scopes[called.scope]
        if called.kind == "list":
            found = scope.block.list_named(called.name)
            if isinstance(found, TextList):
                return self._text_list(found, scope, called.prefix, called.suffix)
            if isinstance(found, RangeList):
                return self._range(found)
            return None  # a wildcard, or a list that the house did not give
        start, end = self.node(), self.node(final=True)
        expression = (
            scope.block.rules[called.name].expression
            if called.kind == "rule"
            else self._parts[called.part]
        )
        self._spell(expression, scope, start, end, called.prefix, called.suffix)
        return start

    def _text_list(self, found: TextList, scope: _Scope, prefix: str, suffix: str) -> int | None:
        """Values that share their first words share nodes."""
        start, end = self.node(), self.node(final=True)
        known: dict[tuple[int, int], int] = {}
        carried = carried_context(found)
        for value in found.values:
            if not fits_context(value, carried, scope.block):
                continue
            tag = self._tag(Meaning(value=value.out, beside=(prefix, suffix)))
            if value.expression is not None:
                first, last = self.node(), self.node()
                self._spell(value.expression, scope, first, last, prefix, suffix)
                self._arc(start, EPSILON, 0, first)
                self._arc(last, TAG, tag, end)
                continue
            node = start
            for word in spoken_form(f"{prefix}{value.text}{suffix}").split():
                step = (node, self._word(word))
                if step not in known:
                    known[step] = self.node()
                    # Not `_arc`: looking for a twin among 20,000 arcs is slow, and `known` tells.
                    self._arcs[node].append((WORD, step[1], known[step], -1))
                node = known[step]
            self._arc(node, TAG, tag, end)
        return start if self._arcs[start] else None

    # -- numbers

    def _range(self, found: RangeList) -> int:
        start, end = self.node(), self.node(final=True)
        whole = fraction = end
        if found.fractions:
            whole, fraction, point = self.node(), self.node(), self.node()
            self._arc(whole, EPSILON, 0, end)
            self._arc(whole, EPSILON, 0, fraction)
            self._arc(fraction, WORD, self._word("point"), point)
            for tenth in found.fractions:
                self._arc(point, WORD, self._word(DIGIT_WORDS[tenth]), end)
            if 5 in found.fractions:
                self.say(fraction, ("and", "a", "half"), end)
        if found.start < 0:
            minus = self.node()
            for word in ("minus", "negative"):
                self._arc(start, WORD, self._word(word), minus)
            if found.fractions and found.stop >= 0:  # minus a half lies between
                self._arc(minus, WORD, self._word("zero"), fraction)
            low = max(1, -found.stop)
            self._numbers(minus, whole, low, -found.start, found.step, -found.start % found.step)
        if found.stop >= 0:
            low = max(0, found.start)
            self._numbers(start, whole, low, found.stop, found.step, found.start % found.step)
        return start

    def _numbers(self, source: int, dest: int, low: int, high: int, step: int, phase: int) -> None:
        """Words of the numbers of `low`..`high` that are `phase` modulo `step`."""
        if low == 0:
            if phase == 0:
                self._arc(source, WORD, self._word("zero"), dest)
            low = 1
        self._positive(source, dest, low, high, step, phase, is_first=True)

    def _listed(self, source: int, dest: int, low: int, high: int, step: int, phase: int) -> None:
        first = low + (phase - low) % step
        known: dict[tuple[int, str], int] = {}
        for number in range(first, high + 1, step):
            spellings = {number_words(number), number_words(number, with_and=True)}
            for words in sorted(spellings):
                *head, tail = words.split()
                node = source
                for word in head:
                    if (node, word) not in known:
                        known[node, word] = self.node()
                        self._arc(node, WORD, self._word(word), known[node, word])
                    node = known[node, word]
                self._arc(node, WORD, self._word(tail), dest)

    def _positive(
        self,
        source: int,
        dest: int,
        low: int,
        high: int,
        step: int,
        phase: int,
        *,
        is_first: bool = False,
    ) -> None:
        """As `_numbers`, from 1: the largest size that there is, how often, and the rest."""
        if low > high:
            return
        for size, name in ((10**9, "billion"), (10**6, "million"), (1000, "thousand"),
                           (100, "hundred")):  # fmt: skip
            if high < size:
                continue
            if size % step and step % size:
                self._listed(source, dest, low, high, step, phase)
                return
            self._sized(source, dest, (low, high), (step, phase), (size, name), is_first=is_first)
            high = size - 1
        self._listed(source, dest, low, min(high, 99), step, phase)

    def _sized(
        self,
        source: int,
        dest: int,
        bounds: tuple[int, int],
        stride: tuple[int, int],
        unit: tuple[int, str],
        *,
        is_first: bool,
    ) -> None:
        """Numbers of `bounds` from one size on: heads with a full rest share what follows."""
        (size, name), (step, phase) = unit, stride
        low, high = max(bounds[0], size), bounds[1]
        if low > high:
            return
        first, last = low // size, high // size
        groups: list[tuple[int, int, int, int]] = []  # heads from, to; rest from, to
        if first == last:
            groups.append((first, first, low % size, high % size))
        else:
            groups.append((first, first, low % size, size - 1))
            if first + 1 < last:
                groups.append((first + 1, last - 1, 0, size - 1))
            groups.append((last, last, 0, high % size))
        head_step, head_phase = (1, 0) if size % step == 0 else (step // size, phase // size)
        for head_from, head_to, rest_from, rest_to in groups:
            said = self.node()
            before = self.node()
            self._positive(before, said, head_from, head_to, head_step, head_phase % head_step)
            if is_first and head_from == 1 and (1 - head_phase) % head_step == 0:
                self._arc(before, WORD, self._word("a"), said)
            if not self._arcs[before]:
                continue
            self._arc(source, EPSILON, 0, before)
            after = self.node()
            self._arc(said, WORD, self._word(name), after)
            rest_step = step if size % step == 0 else size
            rest_phase = phase % rest_step
            if rest_from == 0 and rest_phase == 0:
                self._arc(after, EPSILON, 0, dest)
            self._positive(after, dest, max(rest_from, 1), rest_to, rest_step, rest_phase)
            if rest_from < 100 and rest_to > 0:
                joined = self.node()
                self._positive(
                    joined, dest, max(rest_from, 1), min(rest_to, 99), rest_step, rest_phase
                )
                if self._arcs[joined]:
                    self._arc(after, WORD, self._word("and"), joined)

    # -- the end

    def _finished(self, start: int, core: int) -> WordNetwork:
        """Drop what leads nowhere or is never reached; number nodes so that arcs ascend."""
        self._shorten()
        self._drop_dead_ends()
        order = self._ascending(start, core)
        number = np.full(len(self._arcs), -1, np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        flat = np.array([arc for node in order for arc in self._arcs[node]], np.int32)
        kind, label, dest, slot = flat.reshape(-1, 4).T
        return WordNetwork(
            np.concatenate([[0], np.cumsum([len(self._arcs[node]) for node in order])]).astype(
                np.int32
            ),
            kind.astype(np.uint8),
            np.where(kind == CALL, number[np.where(kind == CALL, label, 0)], label),
            number[dest],
            slot.copy(),
            np.array([self._final[node] for node in order], np.uint8),
            int(number[start]),
            int(number[core]),
            tuple(self._words),
            tuple(self._meanings),
            tuple(self._slot_table),
        )

    def _shorten(self) -> None:
        """Lead arcs past nodes from which there is one step only, and that a silent one."""
        beyond: dict[int, int] = {}
        for node, arcs in enumerate(self._arcs):
            if len(arcs) == 1 and arcs[0][0] == EPSILON and not self._final[node]:
                beyond[node] = arcs[0][2]
        for arcs in self._arcs:
            for at, (kind, label, dest, slot) in enumerate(arcs):
                if dest in beyond:
                    while dest in beyond:
                        dest = beyond[dest]
                    arcs[at] = (kind, label, dest, slot)

    def _drop_dead_ends(self) -> None:
        """Take out arcs from which the end of their graph cannot be reached."""
        alive = list(self._final)
        # Node, and what else must be alive for its arc: -1 is nothing.
        waiting: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for node, arcs in enumerate(self._arcs):
            for kind, label, dest, _ in arcs:
                if kind == CALL:
                    waiting[dest].append((node, label))
                    waiting[label].append((node, dest))
                else:
                    waiting[dest].append((node, -1))
        stack = [node for node, is_final in enumerate(alive) if is_final]
        while stack:
            for node, other in waiting[stack.pop()]:
                if not alive[node] and (other < 0 or alive[other]):
                    alive[node] = True
                    stack.append(node)
        if all(alive):
            return
        for arcs in self._arcs:
            arcs[:] = [arc for arc in arcs if alive[arc[2]] and (arc[0] != CALL or alive[arc[1]])]

    def _ascending(self, *starts: int) -> list[int]:
        """Nodes that can be reached, in an order in which every arc goes up in its graph."""
        order: list[int] = []
        seen: set[int] = set()
        roots = list(starts)
        while roots:
            root = roots.pop()
            if root in seen:
                continue
            # Depth first without recursion, last arcs first: a node is placed after all that
            # follow it, so that in the reverse nodes ascend, those of earlier templates first.
            part: list[int] = []
            seen.add(root)
            stack: list[tuple[int, Iterator[Arc]]] = [(root, reversed(self._arcs[root]))]
            while stack:
                node, rest = stack[-1]
                for kind, label, dest, _ in rest:
                    if kind == CALL:
                        roots.append(label)
                    if dest not in seen:
                        seen.add(dest)
                        stack.append((dest, reversed(self._arcs[dest])))
                        break
                else:
                    part.append(node)
                    stack.pop()
            order.extend(reversed(part))
        return order


class _TooManySpellings(Exception):
    """One word of a template can be spelled in more ways than `MAX_SPELLINGS`."""


class _Assembly:
    """Puts the words of one template together from its fragments."""

    def __init__(self, builder: _Builder, net: _Fragments, end: int, first: int, last: int) -> None:
        self._builder = builder
        self._net = net
        self._end = end
        self._nodes = {0: first}  # nodes between words, by fragment node
        self._last = last
        self._todo = [0]
        self._spellings = 0
        self._singles: dict[tuple[int, str | _Called, int], int] = {}

    def run(self) -> None:
        while self._todo:
            self._spellings = 0
            source = self._todo.pop()
            self._walk(source, self._nodes[source], "")

    def _at(self, fragment: int) -> int:
        """The node between words that stands for a fragment node."""
        if fragment not in self._nodes:
            self._nodes[fragment] = self._builder.node()
            self._todo.append(fragment)
        return self._nodes[fragment]

    def _walk(self, at: int, source: int, letters: str) -> None:
        """Follow everything that can come after some letters of a word."""
        self._spellings += 1
        if self._spellings > MAX_SPELLINGS:
            raise _TooManySpellings(letters)
        if at == self._end:
            self._builder.say(source, _spoken_words(letters), self._last)
        for kind, label, dest in self._net.arcs[at]:
            if kind == _NOTHING:
                self._walk(dest, source, letters)
            elif kind == _LETTERS:
                self._walk(dest, source, letters + str(label))
            elif kind == _BLANK:
                self._builder.say(source, _spoken_words(letters), self._at(dest))
            elif isinstance(label, _Called):
                self._call(source, letters, label, dest)

    def _call(self, source: int, letters: str, called: _Called, dest: int) -> None:
        is_number = self._builder.is_range(called)
        if letters and (is_number or not _LETTER_OR_DIGIT.match(letters[-1])):
            # A sign is no part of a word, as in "({name}"; nor are letters beside a number.
            before = self._builder.node()
            self._builder.say(source, _spoken_words(letters), before)
            source, letters = before, ""
        if is_number:
            self._builder.call(source, called, self._at(dest))
            return
        for suffix, after in dict.fromkeys(self._suffixes(dest, "")):
            self._builder.call(source, called.glued(letters, suffix), after)

    def _suffixes(self, at: int, letters: str) -> Iterator[tuple[str, int]]:
        """Letters that are glued to the end of a call, and the node between words after them."""
        if at == self._end:
            yield letters, self._last
        for kind, label, dest in self._net.arcs[at]:
            if kind == _NOTHING:
                yield from self._suffixes(dest, letters)
            elif kind == _LETTERS and _LETTER_OR_DIGIT.match(str(label)):
                yield from self._suffixes(dest, letters + str(label))
            elif kind == _BLANK:
                yield letters, self._at(dest)
            else:  # a sign or another call starts a new word
                yield letters, self._only(kind, label, dest)

    def _only(self, kind: int, label: str | _Called, dest: int) -> int:
        """A node between words that goes on with one arc only."""
        key = (kind, label, dest)
        if key not in self._singles:
            fragment = self._net.node()
            self._net.arcs[fragment].append(key)
            self._singles[key] = self._at(fragment)
        return self._singles[key]


# ---------------------------------------------------------------- words and values


@lru_cache(maxsize=1 << 16)
def _spoken_words(letters: str) -> tuple[str, ...]:
    """The words that a run of letters and signs is said as: "20%" is "twenty percent"."""
    return tuple(spoken_form(letters).split())


def _is_blank(node: Expression) -> bool:
    from hassil import expression as ex

    return isinstance(node, ex.TextChunk) and not node.original_text.strip()


def carried_context(found: TextList) -> frozenset[str]:
    """Fields of context that some value of a list has."""
    return frozenset(name for value in found.values for name in value.context)


def fits_context(value: ListValue, carried: frozenset[str], block: Block) -> bool:
    """Whether a value's context is what the block wants, in the fields that its list carries.

    Fields that no value of the list carries come from the world, such as the room of the
    microphone; they are not known here and hold back nothing.
    """
    for name, wanted in block.requires.items():
        if name in carried and not _agrees(value.context.get(name), wanted):
            return False
    return not any(
        name in value.context and _agrees(value.context[name], unwanted)
        for name, unwanted in block.excludes.items()
    )


def _agrees(found: object, wanted: object) -> bool:
    if isinstance(wanted, Mapping):
        wanted = wanted.get("value")
    if found is None or wanted is None:
        return found is not None
    return found in wanted if isinstance(wanted, list | tuple) else found == wanted
