"""Command templates: hassil's YAML read, checked, and every problem said with its file and line.

The templates are Home Assistant's: intents with sentences of `(a|b)`, `[optional]`, `(a;b)`,
`{list}` and `<rule>`, lists of values with `in` and `out`, ranges of numbers. hassil parses the
sentences; this file finds lines, checks references and keeps what recognition needs. It does not
build the network of words (`understand.grammar`) and knows no tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from earshot.core.errors import CommandsError, CommandsProblem
from earshot.data.spoken import spoken_form

if TYPE_CHECKING:
    from hassil.expression import Expression

    from earshot.understand.grammar import WordNetwork

__all__ = [
    "HOME_ASSISTANT",
    "Block",
    "Commands",
    "ListValue",
    "RangeList",
    "Sample",
    "Template",
    "TextList",
    "WildcardList",
    "load_commands",
]

HOME_ASSISTANT = "homeassistant:"  # followed by a language; stands for the sentences they ship
_SUFFIXES = (".yaml", ".yml")
_NOTHING: Mapping[str, object] = MappingProxyType({})  # shared by all that have no fields
MAX_PERMUTED = 8  # items of one (a;b;...): their network has 2**items nodes
MAX_RANGE = 10**9
MAX_UNEVEN = 20_000  # numbers of a range whose words have no regular network


# Fields that hassil or Home Assistant know. Those that do not change what can be said are ignored.
def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILE_FIELDS = _names("language intents lists expansion_rules skip_words settings responses")
_BLOCK_FIELDS = _names(
    "sentences slots response requires_context excludes_context expansion_rules lists metadata "
    "required_keywords inferred_domain name_domains settings"
)
_LIST_FIELDS = _names("values range wildcard metadata")
_VALUE_FIELDS = _names("in out context metadata requires_context excludes_context")
_RANGE_FIELDS = _names("from to step type fractions multiplier digits words words_language")


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
    context: Mapping[str, object] = field(default_factory=lambda: _NOTHING)


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
        for place, text in self._texts():
            if word in spoken_form(re.sub(r"[\[\](){}<>|;]", " ", text)).split():
                return place
        for place, text in self._texts():  # put together from parts, such as "light[s]"
            if word in re.sub(r"[^a-z']", "", text.lower()):
                return place
        return self.sources[0]

    def _texts(self) -> Iterator[tuple[str, str]]:
        for block in self.blocks:
            for template in (*block.templates, *block.rules.values()):
                yield template.where, template.text
            for found in block.lists.values():
                for value in found.values if isinstance(found, TextList) else ():
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


# ---------------------------------------------------------------- YAML with lines


class _Reader:
    """One document: its nodes as values, its problems with their lines."""

    def __init__(self, name: str, text: str, problems: list[CommandsProblem]) -> None:
        import yaml

        self.name = name
        self._problems = problems
        self._yaml = yaml
        # libyaml reads 20,000 values in a fifth of the time, where the package has it.
        self._loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)

    def root(self) -> Any | None:
        """The node of the document; None if it is no YAML or empty."""
        try:
            return self._loader.get_single_node()
        except self._yaml.YAMLError as err:
            mark = getattr(err, "problem_mark", None)
            where = f"{self.name}:{mark.line + 1}" if mark else self.name
            what = getattr(err, "problem", None) or str(err)
            text = " ".join(str(what).split())
            self.problem(where, f"this is not YAML: {text}", "correct the line or the one before")
            return None

    def where(self, node: Any) -> str:
        """`file:line` of a node."""
        return f"{self.name}:{node.start_mark.line + 1}"

    def problem(self, where: Any, problem: str, remedy: str) -> None:
        """Note a problem at a node or at a `file:line`."""
        place = where if isinstance(where, str) else self.where(where)
        self._problems.append(CommandsProblem(place, problem, remedy))

    def is_empty(self, node: Any) -> bool:
        """Whether the node is YAML's null."""
        return bool(node.tag == "tag:yaml.org,2002:null")

    def value(self, node: Any) -> Any:
        """The Python value of a node; None, and a problem, if it has none."""
        try:
            return self._loader.construct_object(node, deep=True)
        except (self._yaml.YAMLError, ValueError, TypeError) as err:
            text = " ".join(str(getattr(err, "problem", None) or err).split())
            self.problem(node, f"the value cannot be read: {text}", "write it in quotes")
            return None

    def text(self, node: Any, what: str) -> str | None:
        """A text as it stands, so that `on` is a word and not a truth value."""
        if isinstance(node, self._yaml.ScalarNode) and not (self.is_empty(node) and not node.value):
            return str(node.value)
        self.problem(node, f"{what} is {_kind(node)}", "write a text")
        return None

    def items(self, node: Any, what: str) -> list[Any]:
        """The nodes of a list; a single text is a list of one."""
        if isinstance(node, self._yaml.SequenceNode):
            return list(node.value)
        if isinstance(node, self._yaml.ScalarNode) and not self.is_empty(node):
            return [node]
        if not self.is_empty(node):
            self.problem(node, f"{what} is {_kind(node)}", "write a list, a dash before each item")
        return []

    def fields(self, node: Any, what: str) -> dict[str, tuple[Any, Any]]:
        """Key and value nodes of a mapping by key; a key that is there twice is a problem."""
        if not isinstance(node, self._yaml.MappingNode):
            if not self.is_empty(node):
                self.problem(node, f"{what} is {_kind(node)}", "write `name: value` lines")
            return {}
        self._complain_of_twins(node, what)
        self._loader.flatten_mapping(node)  # << of other mappings
        return {str(key.value): (key, value) for key, value in node.value}

    def _complain_of_twins(self, node: Any, what: str) -> None:
        first: dict[str, Any] = {}
        for key, _ in node.value:
            if not isinstance(key, self._yaml.ScalarNode):
                self.problem(key, f"a name in {what} is {_kind(key)}", "write a text")
            elif key.value in first:
                line = first[key.value].start_mark.line + 1
                self.problem(
                    key,
                    f"'{key.value}' is in {what} twice, first in line {line}",
                    "join the two or rename one",
                )
            else:
                first[key.value] = key

    def known(self, fields: Mapping[str, tuple[Any, Any]], names: frozenset[str]) -> list[str]:
        """Complain of misspelt fields; returns fields that nobody knows."""
        strange = []
        for name, (key, _) in fields.items():
            if name in names:
                continue
            close = get_close_matches(name, names, 1, 0.7)
            if close:
                self.problem(key, f"there is no field '{name}'", f"write '{close[0]}'")
            else:
                strange.append(name)
        return strange


def _kind(node: Any) -> str:
    names = {"MappingNode": "a mapping", "SequenceNode": "a list", "ScalarNode": "empty"}
    return names.get(type(node).__name__, "something else")


# ---------------------------------------------------------------- one template


_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def _bracket_problem(text: str) -> tuple[str, str] | None:
    """What is wrong with the brackets of a template, and what to do; None if they are sound."""
    # One entry an open group: its bracket, its column, separators seen in it.
    stack: list[tuple[str, int, set[str]]] = [("", 0, set())]
    skip = False
    for at, char in enumerate(text):
        column = at + 1
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char in _PAIRS:
            if stack[-1][0] in ("{", "<"):
                return f"'{char}' in a name (column {column})", "close the name before it"
            stack.append((char, column, set()))
        elif char in _PAIRS.values():
            bracket, opened, _ = stack.pop()
            if not bracket:
                return f"'{char}' at column {column} closes nothing", "remove it or open it before"
            if _PAIRS[bracket] != char:
                return (
                    f"'{bracket}' of column {opened} is closed by '{char}' at column {column}",
                    f"write '{_PAIRS[bracket]}'",
                )
            inside = text[opened : column - 1]
            if not (inside.strip() if bracket in "{<(" else inside):
                return f"'{bracket}{char}' at column {opened} is empty", "remove it or fill it"
        elif char in "|;":
            stack[-1][2].add(char)
            if len(stack[-1][2]) == 2:
                return (
                    f"'|' and ';' are in one group (column {column})",
                    "put one of them in brackets of its own",
                )
    if len(stack) > 1:
        bracket, opened, _ = stack[-1]
        return f"'{bracket}' at column {opened} is never closed", f"add '{_PAIRS[bracket]}'"
    return None


def _unspeakable(text: str) -> str | None:
    """The first letter that has no spelling in a-z, as in another alphabet."""
    if text.isascii():
        return None
    for char in text:
        if char.isascii() or not unicodedata.category(char).startswith(("L", "N")):
            continue
        if not spoken_form(char):
            return char
    return None


def _parse(reader: _Reader, node: Any, text: str, what: str) -> Expression | None:
    """A template's expression; None, and a problem, if it is broken."""
    from hassil.parse_expression import parse_sentence

    if not text.strip():
        reader.problem(node, f"{what} is empty", "write its words or remove it")
        return None
    found = _bracket_problem(text)
    if found is None and (char := _unspeakable(text)):
        name = unicodedata.name(char, "unknown")
        found = (
            f"'{char}' ({name.lower()}) has no spelling in the letters a to z",
            "write it as it is said",
        )
    if found is not None:
        reader.problem(node, f"{what} '{_short(text)}': {found[0]}", found[1])
        return None
    try:
        return parse_sentence(text).expression
    except Exception as err:  # hassil raises what its parser meets, assertions among them
        reason = " ".join(str(err).split()) or type(err).__name__
        reader.problem(node, f"{what} '{_short(text)}': {reason}", "correct its brackets")
        return None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


# ---------------------------------------------------------------- one file


@dataclass
class _Draft:
    """A block before its lists and rules are known."""

    reader: _Reader
    intent: str
    templates: list[Template]
    slots: Mapping[str, object]
    requires: Mapping[str, object]
    excludes: Mapping[str, object]
    lists: dict[str, SlotList]
    rules: dict[str, Template]
    is_shipped: bool


class _Loader:
    """Collects the files one by one; `finish` checks what only all of them can tell."""

    def __init__(self) -> None:
        self.problems: list[CommandsProblem] = []
        self.warnings: list[CommandsProblem] = []
        self._drafts: list[_Draft] = []
        self._lists: dict[str, SlotList] = {}
        self._rules: dict[str, Template] = {}
        self._shipped: set[int] = set()  # ids of lists and rules that a user's may replace
        self._skip_words: dict[str, None] = {}
        self.sources: list[str] = []

    # -- reading

    def read(self, name: str, text: str, *, is_shipped: bool = False) -> None:
        """Take one document in."""
        self.sources.append(name)
        reader = _Reader(name, text, self.problems)
        root = reader.root()
        if root is None:
            if not any(p.where.startswith(f"{name}:") for p in self.problems):
                reader.problem(name, "the file is empty", "write `intents:` and sentences")
            return
        fields = reader.fields(root, "the file")
        for strange in reader.known(fields, _FILE_FIELDS):
            self._warn(reader, fields[strange][0], f"the field '{strange}' is ignored")
        if "language" in fields:
            language = str(fields["language"][1].value)
            if not language.lower().startswith("en"):
                reader.problem(
                    fields["language"][1],
                    f"the language is '{language}'",
                    "commands can be in English only: write `language: en`",
                )
        if "skip_words" in fields:
            for node in reader.items(fields["skip_words"][1], "skip_words"):
                phrase = reader.text(node, "a skip word")
                if phrase is not None and spoken_form(phrase):
                    self._skip_words[spoken_form(phrase)] = None
        for name_, (key, node) in self._mapping(reader, fields, "lists"):
            found = self._list(reader, name_, key, node)
            if found is not None:
                self._keep(reader, key, self._lists, found, f"list '{name_}'", is_shipped)
        for name_, (key, node) in self._mapping(reader, fields, "expansion_rules"):
            rule = self._template(reader, node, f"rule <{name_}>")
            if rule is not None:
                self._keep(reader, key, self._rules, rule, f"rule <{name_}>", is_shipped, name_)
        for intent, (key, node) in self._mapping(reader, fields, "intents"):
            self._intent(reader, intent, key, node, is_shipped=is_shipped)

    def _mapping(
        self, reader: _Reader, fields: Mapping[str, tuple[Any, Any]], name: str
    ) -> Iterator[tuple[str, tuple[Any, Any]]]:
        if name in fields:
            yield from reader.fields(fields[name][1], f"'{name}'").items()

    def _keep(
        self,
        reader: _Reader,
        key: Any,
        into: dict[str, Any],
        found: Any,
        what: str,
        is_shipped: bool,
        name: str | None = None,
    ) -> None:
        """File a list or rule; what is shipped gives way to a user's of the same name."""
        name = name or found.name
        before = into.get(name)
        if is_shipped:
            if before is None:
                into[name] = found
                self._shipped.add(id(found))
            return
        if before is not None and id(before) not in self._shipped:
            reader.problem(
                key, f"{what} is also defined at {before.where}", "join the two or rename one"
            )
            return
        into[name] = found

    def _template(self, reader: _Reader, node: Any, what: str) -> Template | None:
        text = reader.text(node, what)
        if text is None:
            return None
        expression = _parse(reader, node, text, what)
        return None if expression is None else Template(reader.where(node), text, expression)

    def _intent(
        self, reader: _Reader, intent: str, key: Any, node: Any, *, is_shipped: bool
    ) -> None:
        fields = reader.fields(node, f"intent '{intent}'")
        reader.known(fields, frozenset({"data"}))
        blocks = []
        if "data" in fields:
            blocks = reader.items(fields["data"][1], f"'data' of '{intent}'")
        if not blocks:
            reader.problem(
                key,
                f"intent '{intent}' has no sentences",
                "write `data:` and under it `- sentences:`, or remove the intent",
            )
        for block in blocks:
            self._block(reader, intent, block, is_shipped=is_shipped)

    def _block(self, reader: _Reader, intent: str, node: Any, *, is_shipped: bool) -> None:
        fields = reader.fields(node, f"a block of '{intent}'")
        for strange in reader.known(fields, _BLOCK_FIELDS):
            self._warn(reader, fields[strange][0], f"the field '{strange}' is ignored")
        nodes = (
            reader.items(fields["sentences"][1], f"'sentences' of '{intent}'")
            if "sentences" in fields
            else []
        )
        if not nodes:
            reader.problem(
                node, f"a block of intent '{intent}' has no sentences", "write `sentences:`"
            )
        templates = [self._template(reader, n, "the sentence") for n in nodes]
        lists: dict[str, SlotList] = {}
        rules: dict[str, Template] = {}
        for name, (key, inner) in self._mapping(reader, fields, "lists"):
            found = self._list(reader, name, key, inner)
            if found is not None:
                lists[name] = found
        for name, (_, inner) in self._mapping(reader, fields, "expansion_rules"):
            rule = self._template(reader, inner, f"rule <{name}>")
            if rule is not None:
                rules[name] = rule

        def mapping(name: str) -> Mapping[str, object]:
            if name not in fields or reader.is_empty(fields[name][1]):
                return {}
            found = reader.value(fields[name][1])
            if isinstance(found, dict):
                return found
            reader.problem(fields[name][1], f"'{name}' is no mapping", "write `name: value` lines")
            return {}

        self._drafts.append(
            _Draft(
                reader,
                intent,
                [t for t in templates if t is not None],
                mapping("slots"),
                mapping("requires_context"),
                mapping("excludes_context"),
                lists,
                rules,
                is_shipped,
            )
        )

    def _list(self, reader: _Reader, name: str, key: Any, node: Any) -> SlotList | None:
        fields = reader.fields(node, f"list '{name}'")
        reader.known(fields, _LIST_FIELDS)
        where = reader.where(key)
        if "values" in fields:
            nodes = reader.items(fields["values"][1], f"'values' of list '{name}'")
            values = [self._value(reader, name, n) for n in nodes]
            if not nodes:
                reader.problem(key, f"list '{name}' is empty", "give it values or remove it")
            return TextList(name, where, tuple(v for v in values if v is not None))
        if "range" in fields:
            return self._range(reader, name, where, fields["range"][1])
        if "wildcard" in fields and reader.value(fields["wildcard"][1]):
            return WildcardList(name, where)
        reader.problem(
            key, f"list '{name}' has no values", "write `values:` or `range:` and fill it"
        )
        return None

    def _value(self, reader: _Reader, name: str, node: Any) -> ListValue | None:
        what = f"a value of list '{name}'"
        out: object = None
        context = _NOTHING
        text_node = node
        is_text = type(node).__name__ == "ScalarNode"
        if not is_text:
            fields = reader.fields(node, what)
            reader.known(fields, _VALUE_FIELDS)
            if "in" not in fields:
                if fields:
                    reader.problem(node, f"{what} has no 'in'", "write `in:` and its words")
                return None
            text_node = fields["in"][1]
            if "out" in fields:
                out = reader.value(fields["out"][1])
            if "context" in fields:
                found = reader.value(fields["context"][1])
                context = found if isinstance(found, dict) else _NOTHING
        text = reader.text(text_node, what)
        if text is None:
            return None
        is_template = re.search(r"[(){}<>\[\]|;\\]", text) is not None
        expression = None
        if is_template or not text.strip() or not text.isascii():
            expression = _parse(reader, text_node, text, what)
            if expression is None:
                return None
        if not is_template:
            expression = None
            if not spoken_form(text):
                reader.problem(
                    text_node, f"{what}, '{_short(text)}', has no words", "write it as it is said"
                )
                return None
            if is_text and out is None:
                number = reader.value(text_node)
                is_number = isinstance(number, int | float) and not isinstance(number, bool)
                out = number if is_number else text
            elif out is None:
                out = text
        return ListValue(reader.where(text_node), text, expression, out, context)

    def _range(self, reader: _Reader, name: str, where: str, node: Any) -> RangeList | None:
        fields = reader.fields(node, f"the range of list '{name}'")
        reader.known(fields, _RANGE_FIELDS)
        numbers: dict[str, int] = {"step": 1}
        for part in ("from", "to", "step"):
            if part not in fields:
                if part != "step":
                    reader.problem(node, f"the range of list '{name}' has no '{part}'", "add it")
                continue
            value = reader.value(fields[part][1])
            if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_RANGE:
                reader.problem(
                    fields[part][1],
                    f"'{part}' of the range of list '{name}' is {value!r}",
                    f"it must be a whole number up to {MAX_RANGE}",
                )
            else:
                numbers[part] = value
        multiplier = None
        if "multiplier" in fields and not reader.is_empty(fields["multiplier"][1]):
            multiplier = reader.value(fields["multiplier"][1])
            if isinstance(multiplier, bool) or not isinstance(multiplier, int | float):
                reader.problem(
                    fields["multiplier"][1],
                    f"'multiplier' of the range of list '{name}' is {multiplier!r}",
                    "it must be a number",
                )
                multiplier = None
        fractions: tuple[int, ...] = ()
        if "fractions" in fields and not reader.is_empty(fields["fractions"][1]):
            known = {"halves": (5,), "tenths": tuple(range(1, 10))}
            kind = str(fields["fractions"][1].value)
            if kind not in known:
                reader.problem(
                    fields["fractions"][1],
                    f"'fractions' of the range of list '{name}' is '{kind}'",
                    "write halves or tenths",
                )
            fractions = known.get(kind, ())
        if "from" not in numbers or "to" not in numbers:
            return None
        if numbers["step"] < 1 or numbers["from"] > numbers["to"]:
            reader.problem(
                node,
                f"the range of list '{name}' goes from {numbers['from']} to {numbers['to']} "
                f"in steps of {numbers['step']}",
                "'from' must not be above 'to' and 'step' must be at least 1",
            )
            return None
        spoken = (numbers["to"] - numbers["from"]) // numbers["step"]
        if spoken > MAX_UNEVEN and 1000 % numbers["step"] and numbers["step"] % 1000:
            reader.problem(
                node,
                f"the range of list '{name}' has {spoken} numbers in steps of {numbers['step']}",
                f"a range of more than {MAX_UNEVEN} needs a step that divides 1000",
            )
        return RangeList(
            name, where, numbers["from"], numbers["to"], numbers["step"], fractions, multiplier
        )

    def _warn(self, reader: _Reader, node: Any, problem: str) -> None:
        self.warnings.append(
            CommandsProblem(reader.where(node), problem, "nothing needs to be done")
        )

    # -- what only all files together can tell

    def finish(self) -> Commands:
        """Resolve references and check them.

        Raises:
            CommandsError: There is at least one problem.
        """
        if not self._drafts and not self.problems:
            self.problems.append(
                CommandsProblem(
                    self.sources[0] if self.sources else "commands",
                    "there are no intents",
                    "write `intents:` and sentences for each",
                )
            )
        checked: dict[tuple[int, int], _Facts] = {}
        blocks = []
        for draft in self._drafts:
            block = Block(
                draft.intent,
                tuple(draft.templates),
                draft.slots,
                draft.requires,
                draft.excludes,
                {**self._lists, **draft.lists} if draft.lists else self._lists,
                {**self._rules, **draft.rules} if draft.rules else self._rules,
                bool(draft.lists or draft.rules),
            )
            blocks.append(block)
            check = _Checker(block, self.problems, checked if not block.is_local else {})
            for rule in draft.rules.values():
                check.facts(rule)
            for slot_list in draft.lists.values():
                check.values(slot_list)
            for template in draft.templates:
                self._check_template(template, check, is_shipped=draft.is_shipped)
        everywhere = Block("", (), {}, {}, {}, self._lists, self._rules, is_local=False)
        check = _Checker(everywhere, self.problems, checked)
        for rule in self._rules.values():
            if id(rule) not in self._shipped:
                check.facts(rule)
        for slot_list in self._lists.values():
            check.values(slot_list)
        if self.problems:
            unique = dict.fromkeys(self.problems)
            raise CommandsError(sorted(unique, key=self._order))
        return Commands(
            tuple(blocks),
            tuple(self._skip_words),
            tuple(dict.fromkeys(self.warnings)),
            tuple(self.sources),
        )

    def _order(self, problem: CommandsProblem) -> tuple[int, int]:
        name, _, line = problem.where.rpartition(":")
        if name in self.sources and line.isdigit():
            return self.sources.index(name), int(line)
        return -1, 0

    def _check_template(self, template: Template, check: _Checker, *, is_shipped: bool) -> None:
        facts = check.facts(template, is_shipped=is_shipped)
        if facts.is_nullable:
            self.problems.append(
                CommandsProblem(
                    template.where,
                    f"the sentence '{_short(template.text)}' can be said without a word",
                    "make one of its words obligatory",
                )
            )
        for name in sorted(facts.wildcards):
            self.warnings.append(
                CommandsProblem(
                    template.where,
                    f"'{_short(template.text)}' uses the wildcard list {{{name}}}, whose words "
                    "nobody can foresee; sentences with it are left out",
                    "give the list values if these sentences are needed",
                )
            )
        for name in sorted(facts.missing):
            self.warnings.append(
                CommandsProblem(
                    template.where,
                    f"'{_short(template.text)}' uses the list {{{name}}}, which the shipped "
                    "sentences leave to the house; sentences with it are left out",
                    f"add a file with `lists: {name}: values:`",
                )
            )


@dataclass
class _Facts:
    """What is known of an expression without building it."""

    is_nullable: bool
    wildcards: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()


class _Checker:
    """Checks the references of expressions within one block's lists and rules."""

    def __init__(
        self,
        block: Block,
        problems: list[CommandsProblem],
        known: dict[tuple[int, int], _Facts],
    ) -> None:
        self._block = block
        self._problems = problems
        self._known = known
        self._open: list[int] = []  # ids of the templates being looked into, outermost first
        self._trail: list[str] = []

    def values(self, slot_list: SlotList) -> None:
        """Check the values of a list that are templates."""
        for value in slot_list.values if isinstance(slot_list, TextList) else ():
            if value.expression is None:
                continue
            facts = self.facts(Template(value.where, value.text, value.expression))
            if facts.is_nullable:
                self._problems.append(
                    CommandsProblem(
                        value.where,
                        f"the value '{_short(value.text)}' of list '{slot_list.name}' can be "
                        "said without a word",
                        "make one of its words obligatory",
                    )
                )

    def facts(self, template: Template, *, is_shipped: bool = False) -> _Facts:
        """What a template does; its problems are noted once."""
        key = (id(template.expression), int(is_shipped))
        if key not in self._known:
            self._open.append(id(template.expression))
            self._known[key] = self._walk(template.expression, template, is_shipped)
            self._open.pop()
        return self._known[key]

    def _walk(self, node: Expression, of: Template, is_shipped: bool) -> _Facts:
        from hassil import expression as ex

        if isinstance(node, ex.TextChunk):
            return _Facts(not spoken_form(node.original_text))
        if isinstance(node, ex.Group):
            if isinstance(node, ex.Permutation) and len(node.items) > MAX_PERMUTED:
                self._complain(
                    of,
                    f"(a;b;...) has {len(node.items)} items",
                    f"at most {MAX_PERMUTED} can come in any order; split the sentence",
                )
            parts = [self._walk(item, of, is_shipped) for item in node.items]
            join: Callable[[Iterator[bool]], bool] = (
                any if isinstance(node, ex.Alternative) else all
            )
            return _Facts(
                join(part.is_nullable for part in parts),
                frozenset().union(*(part.wildcards for part in parts)),
                frozenset().union(*(part.missing for part in parts)),
            )
        if isinstance(node, ex.RuleReference):
            return self._rule(node.rule_name, of, is_shipped)
        if isinstance(node, ex.ListReference):
            return self._list(node.list_name, of, is_shipped)
        raise TypeError(f"templates: hassil has an expression {type(node).__name__}")

    def _rule(self, name: str, of: Template, is_shipped: bool) -> _Facts:
        rule = self._block.rules.get(name)
        if rule is None:
            self._complain(
                of,
                f"there is no rule <{name}>",
                _remedy(name, self._block.rules, "define it in `expansion_rules:`"),
            )
            return _Facts(False)
        if id(rule.expression) in self._open:
            at = self._open.index(id(rule.expression))
            names = [n for n in self._trail[at:] if n] + [name]
            chain = " -> ".join(f"<{n}>" for n in names)
            self._complain(
                rule, f"rule <{name}> uses itself: {chain}", "take one of these references out"
            )
            return _Facts(False)
        self._trail.append(name)
        facts = self.facts(rule, is_shipped=is_shipped)
        self._trail.pop()
        return facts

    def _list(self, name: str, of: Template, is_shipped: bool) -> _Facts:
        found = self._block.list_named(name)
        if found is None and is_shipped:
            return _Facts(False, missing=frozenset({name}))
        if found is None:
            self._complain(
                of,
                f"there is no list {{{name}}}",
                _remedy(name, self._block.lists, "define it in `lists:`"),
            )
        elif isinstance(found, WildcardList):
            return _Facts(False, wildcards=frozenset({name}))
        elif isinstance(found, RangeList) and (found.start > found.stop or found.step < 1):
            self._complain(
                of,
                f"{{{name}}} holds no number",
                "write the smaller one first and a step of at least 1",
            )
        return _Facts(False)

    def _complain(self, of: Template, problem: str, remedy: str) -> None:
        self._problems.append(CommandsProblem(of.where, problem, remedy))


def _remedy(name: str, known: Mapping[str, object], otherwise: str) -> str:
    close = get_close_matches(name, known, 1, 0.7)
    return f"did you mean '{close[0]}'" if close else otherwise


# ---------------------------------------------------------------- the door


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
    loader = _Loader()
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if str(path).startswith(HOME_ASSISTANT):
            _read_home_assistant(loader, str(path))
            continue
        path = Path(path)
        files = [path]
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES and f.is_file())
            if not files:
                loader.problems.append(
                    CommandsProblem(str(path), "the folder has no .yaml file", "name another one")
                )
        for file in files:
            if not file.is_file():
                loader.problems.append(
                    CommandsProblem(str(file), "there is no such file", "check the path")
                )
                continue
            try:
                text = file.read_text(encoding="utf-8")
            except UnicodeDecodeError as err:
                loader.problems.append(
                    CommandsProblem(
                        str(file), f"byte {err.start} is not UTF-8", "save the file as UTF-8"
                    )
                )
                continue
            loader.read(str(file), text)
    return loader.finish()


def _read_home_assistant(loader: _Loader, name: str) -> None:
    try:
        import home_assistant_intents
    except ImportError:
        loader.problems.append(
            CommandsProblem(
                name,
                "the package 'home-assistant-intents' is not installed",
                "install it with `pip install home-assistant-intents`",
            )
        )
        return
    language = name.removeprefix(HOME_ASSISTANT)
    folder = Path(home_assistant_intents.__file__).parent / "data"
    file = folder / f"{language}.json"
    if not language.startswith("en") or not file.is_file():
        loader.problems.append(
            CommandsProblem(
                name, f"there are no sentences for '{language}'", "write homeassistant:en"
            )
        )
        return
    loader.read(name, file.read_text(encoding="utf-8"), is_shipped=True)  # JSON is YAML, too
