"""Files of command templates read into `Commands`, and every problem of all of them found.

An intent may have sentences in many files; a list or rule is defined in one and used in all. What
only all files together can tell (missing lists, rules that use themselves) is checked at the end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earshot.core.errors import CommandsError, CommandsProblem
from earshot.data.spoken import spoken_form
from earshot.understand.documents import Document
from earshot.understand.references import Facts, ReferenceCheck
from earshot.understand.syntax import TemplateProblem, parse_template, shortened
from earshot.understand.templates import (
    MAX_RANGE,
    MAX_UNEVEN,
    NOTHING,
    Block,
    Commands,
    ListValue,
    RangeList,
    SlotList,
    Template,
    TextList,
    WildcardList,
)

if TYPE_CHECKING:
    from hassil.expression import Expression

__all__ = ["HOME_ASSISTANT", "Loader"]

HOME_ASSISTANT = "homeassistant:"  # followed by a language; stands for the sentences they ship
_SUFFIXES = (".yaml", ".yml")
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d{0,11})(\.\d+)?", re.ASCII)


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


@dataclass
class _Draft:
    """A block before its lists and rules are known."""

    document: Document
    intent: str
    templates: list[Template]
    slots: Mapping[str, object]
    requires: Mapping[str, object]
    excludes: Mapping[str, object]
    lists: dict[str, SlotList]
    rules: dict[str, Template]
    is_shipped: bool


class Loader:
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
        self._read: set[str] = set()

    # -- reading

    def read_path(self, path: str) -> None:
        """Take a file or the files of a folder in, or the sentences that Home Assistant ships."""
        if path.startswith(HOME_ASSISTANT):
            self._read_home_assistant(path)
            return
        files = [Path(path)]
        if files[0].is_dir():
            files = sorted(
                f
                for f in Path(path).rglob("*")
                if f.suffix in _SUFFIXES
                and f.is_file()
                and not any(part.startswith(".") for part in f.relative_to(path).parts)
            )
            if not files:
                self._complain(path, "the folder has no .yaml file", "name another one")
        for file in files:
            real = os.path.realpath(file)
            if real in self._read:
                continue  # named twice, or by itself and in its folder
            self._read.add(real)
            if not file.is_file():
                self._complain(str(file), "there is no such file", "check the path")
                continue
            try:
                text = file.read_text(encoding="utf-8")
            except UnicodeDecodeError as err:
                self.sources.append(str(file))
                line = err.object.count(b"\n", 0, err.start) + 1
                value = f"byte {err.object[err.start]:#04x}"
                self._complain(f"{file}:{line}", f"{value} is not UTF-8", "save it as UTF-8")
                continue
            self.read(str(file), text)

    def _complain(self, where: str, problem: str, remedy: str) -> None:
        self.problems.append(CommandsProblem(where, problem, remedy))

    def _read_home_assistant(self, name: str) -> None:
        try:
            import home_assistant_intents
        except ImportError:
            self._complain(
                name,
                "the package 'home-assistant-intents' is not installed",
                "install it with `pip install home-assistant-intents`",
            )
            return
        language = name.removeprefix(HOME_ASSISTANT)
        folder = Path(home_assistant_intents.__file__).parent / "data"
        file = folder / f"{language}.json"
        if not language.startswith("en") or not file.is_file():
            self._complain(
                name, f"there are no sentences for '{language}'", "write homeassistant:en"
            )
            return
        self.read(name, file.read_text(encoding="utf-8"), is_shipped=True)  # JSON is YAML, too

    def read(self, source: str, text: str, *, is_shipped: bool = False) -> None:
        """Take one document in."""
        self.sources.append(source)
        document = Document(source, text, self.problems)
        root = document.root()
        if root is None:
            if not any(p.where.startswith(f"{source}:") for p in self.problems):
                document.problem(source, "the file is empty", "write `intents:` and sentences")
            return
        fields = document.fields(root, "the file")
        for strange in document.known(fields, _FILE_FIELDS):
            self._warn(document, fields[strange][0], f"the field '{strange}' is ignored")
        if "language" in fields:
            language = document.text(fields["language"][1], "the language")
            if language is not None and not language.lower().startswith("en"):
                document.problem(
                    fields["language"][1],
                    f"the language is '{language}'",
                    "commands can be in English only: write `language: en`",
                )
        if "skip_words" in fields:
            for node in document.items(fields["skip_words"][1], "skip_words"):
                phrase = document.text(node, "a skip word")
                if phrase is not None and spoken_form(phrase):
                    self._skip_words[spoken_form(phrase)] = None
        for name, key, node in self._named(document, fields, "lists"):
            found = self._list(document, name, key, node)
            what = f"list '{name}'"
            self._keep(document, key, self._lists, name, found, what, is_shipped=is_shipped)
        for name, key, node in self._named(document, fields, "expansion_rules"):
            rule = self._rule(document, name, node)
            what = f"rule <{name}>"
            self._keep(document, key, self._rules, name, rule, what, is_shipped=is_shipped)
        for intent, key, node in self._named(document, fields, "intents"):
            self._intent(document, intent, key, node, is_shipped=is_shipped)

    def _named(
        self, document: Document, fields: Mapping[str, tuple[Any, Any]], field: str
    ) -> list[tuple[str, Any, Any]]:
        return document.pairs(fields[field][1], f"'{field}'") if field in fields else []

    def _keep(
        self,
        document: Document,
        key: Any,
        into: dict[str, Any],
        name: str,
        found: SlotList | Template,
        what: str,
        *,
        is_shipped: bool,
    ) -> None:
        """File a list or rule; what is shipped gives way to a user's of the same name."""
        before = into.get(name)
        if before is not None and before.where.startswith(f"{document.name}:"):
            return  # a name that is twice in one mapping is a problem already
        if is_shipped:
            if before is None:
                into[name] = found
                self._shipped.add(id(found))
            return
        if before is not None and id(before) not in self._shipped:
            document.problem(
                key, f"{what} is also defined at {before.where}", "join the two or rename one"
            )
            return
        into[name] = found

    def _template(self, document: Document, node: Any, what: str) -> Template | None:
        text = document.text(node, what)
        if text is None:
            return None
        expression = self._parsed(document, node, text, what)
        return None if expression is None else Template(document.where(node), text, expression)

    def _rule(self, document: Document, name: str, node: Any) -> Template:
        """A rule; a broken one is any word, so that nobody is told that it is missing."""
        from hassil.expression import TextChunk

        rule = self._template(document, node, f"rule <{name}>")
        return rule or Template(document.where(node), "", TextChunk("word"))

    @staticmethod
    def _parsed(document: Document, node: Any, text: str, what: str) -> Expression | None:
        """A template's expression; None, and a problem, if it is broken."""
        try:
            return parse_template(text)
        except TemplateProblem as err:
            quoted = f" '{shortened(text)}'" if text.strip() else ""
            document.problem(node, f"{what}{quoted}: {err.problem}", err.remedy)
            return None

    def _intent(
        self, document: Document, intent: str, key: Any, node: Any, *, is_shipped: bool
    ) -> None:
        fields = document.fields(node, f"intent '{intent}'")
        document.known(fields, frozenset({"data"}))
        blocks = []
        if "data" in fields:
            blocks = document.items(fields["data"][1], f"'data' of '{intent}'")
        if not blocks:
            document.problem(
                key,
                f"intent '{intent}' has no sentences",
                "write `data:` and under it `- sentences:`, or remove the intent",
            )
        for block in blocks:
            self._block(document, intent, block, is_shipped=is_shipped)

    def _block(self, document: Document, intent: str, node: Any, *, is_shipped: bool) -> None:
        fields = document.fields(node, f"a block of '{intent}'")
        for strange in document.known(fields, _BLOCK_FIELDS):
            self._warn(document, fields[strange][0], f"the field '{strange}' is ignored")
        nodes = (
            document.items(fields["sentences"][1], f"'sentences' of '{intent}'")
            if "sentences" in fields
            else []
        )
        if not nodes:
            document.problem(
                node, f"a block of intent '{intent}' has no sentences", "write `sentences:`"
            )
        templates = [self._template(document, n, "the sentence") for n in nodes]
        lists = {
            name: self._list(document, name, key, inner)
            for name, key, inner in self._named(document, fields, "lists")
        }
        rules = {
            name: self._rule(document, name, inner)
            for name, _, inner in self._named(document, fields, "expansion_rules")
        }

        def mapping(name: str) -> Mapping[str, object]:
            if name not in fields or document.is_empty(fields[name][1]):
                return {}
            found = document.value(fields[name][1])
            if isinstance(found, dict):
                return found
            if found is None:
                return {}  # complained of already
            document.problem(
                fields[name][1], f"'{name}' is no mapping", "write `name: value` lines"
            )
            return {}

        self._drafts.append(
            _Draft(
                document,
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

    def _list(self, document: Document, name: str, key: Any, node: Any) -> SlotList:
        """A list; a broken one is empty, so that nobody is told that it is missing."""
        fields = document.fields(node, f"list '{name}'")
        document.known(fields, _LIST_FIELDS)
        where = document.where(key)
        if "values" in fields:
            nodes = document.items(fields["values"][1], f"'values' of list '{name}'")
            values = [self._value(document, name, n) for n in nodes]
            if not nodes:
                document.problem(key, f"list '{name}' is empty", "give it values or remove it")
            return TextList(name, where, tuple(v for v in values if v is not None))
        if "range" in fields:
            found = self._range(document, name, where, fields["range"][1])
            return found or TextList(name, where, ())
        if "wildcard" in fields and document.value(fields["wildcard"][1]):
            return WildcardList(name, where)
        document.problem(
            key, f"list '{name}' has no values", "write `values:` or `range:` and fill it"
        )
        return TextList(name, where, ())

    def _value(self, document: Document, name: str, node: Any) -> ListValue | None:
        what = f"a value of list '{name}'"
        out: object = None
        context = NOTHING
        text_node = node
        is_text = type(node).__name__ == "ScalarNode"
        if not is_text:
            fields = document.fields(node, what)
            document.known(fields, _VALUE_FIELDS)
            if "in" not in fields:
                if fields:
                    document.problem(node, f"{what} has no 'in'", "write `in:` and its words")
                return None
            text_node = fields["in"][1]
            if "out" in fields:
                out = document.value(fields["out"][1])
            if "context" in fields:
                found = document.value(fields["context"][1])
                if not isinstance(found, dict):
                    document.problem(
                        fields["context"][1],
                        f"the context of {what} has no names",
                        "write `context:` and below it lines such as `domain: light`",
                    )
                    return None
                context = found
        text = document.text(text_node, what)
        if text is None:
            return None
        is_template = re.search(r"[(){}<>\[\]|]", text) is not None  # as hassil sees it
        expression = None
        if is_template or not text.strip() or not text.isascii():
            expression = self._parsed(document, text_node, text, what)
            if expression is None:
                return None
        if not is_template:
            expression = None
            if not spoken_form(text):
                document.problem(
                    text_node,
                    f"{what}, '{shortened(text)}', has no words",
                    "write it as it is said",
                )
                return None
            if is_text and out is None:
                # YAML sees numbers in 12:30 and 010, too.
                out = document.value(text_node) if _PLAIN_NUMBER.fullmatch(text) else text
            elif out is None:
                out = text
        return ListValue(document.where(text_node), text, expression, out, context)

    def _range(self, document: Document, name: str, where: str, node: Any) -> RangeList | None:
        fields = document.fields(node, f"the range of list '{name}'")
        document.known(fields, _RANGE_FIELDS)
        numbers: dict[str, int] = {"step": 1}
        for part in ("from", "to", "step"):
            if part not in fields:
                if part != "step":
                    document.problem(node, f"the range of list '{name}' has no '{part}'", "add it")
                continue
            value = document.value(fields[part][1])
            if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_RANGE:
                document.problem(
                    fields[part][1],
                    f"'{part}' of the range of list '{name}' is {value!r}",
                    f"it must be a whole number up to {MAX_RANGE}",
                )
            else:
                numbers[part] = value
        multiplier = None
        if "multiplier" in fields and not document.is_empty(fields["multiplier"][1]):
            multiplier = document.value(fields["multiplier"][1])
            if isinstance(multiplier, bool) or not isinstance(multiplier, int | float):
                document.problem(
                    fields["multiplier"][1],
                    f"'multiplier' of the range of list '{name}' is {multiplier!r}",
                    "it must be a number",
                )
                multiplier = None
        fractions: tuple[int, ...] = ()
        if "fractions" in fields and not document.is_empty(fields["fractions"][1]):
            known = {"halves": (5,), "tenths": tuple(range(1, 10))}
            kind = str(fields["fractions"][1].value)
            if kind not in known:
                document.problem(
                    fields["fractions"][1],
                    f"'fractions' of the range of list '{name}' is '{kind}'",
                    "write halves or tenths",
                )
            fractions = known.get(kind, ())
        if "from" not in numbers or "to" not in numbers:
            return None
        if numbers["step"] < 1 or numbers["from"] > numbers["to"]:
            document.problem(
                node,
                f"the range of list '{name}' goes from {numbers['from']} to {numbers['to']} "
                f"in steps of {numbers['step']}",
                "'from' must not be above 'to' and 'step' must be at least 1",
            )
            return None
        found = RangeList(
            name, where, numbers["from"], numbers["to"], numbers["step"], fractions, multiplier
        )
        if found.is_too_uneven:
            document.problem(
                node,
                f"the range of list '{name}' has over {MAX_UNEVEN} numbers in steps of "
                f"{found.step}",
                "make it smaller, or take a step that divides 1000",
            )
        return found

    def _warn(self, document: Document, node: Any, problem: str) -> None:
        self.warnings.append(
            CommandsProblem(document.where(node), problem, "nothing needs to be done")
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
        checked: dict[tuple[int, int], Facts] = {}
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
            check = ReferenceCheck(block, self.problems, checked if not block.is_local else {})
            for rule in draft.rules.values():
                check.facts(rule)
            for slot_list in draft.lists.values():
                check.values(slot_list)
            for template in draft.templates:
                self._check_template(template, check, is_shipped=draft.is_shipped)
        everywhere = Block("", (), {}, {}, {}, self._lists, self._rules, is_local=False)
        check = ReferenceCheck(everywhere, self.problems, checked)
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

    def _check_template(
        self, template: Template, check: ReferenceCheck, *, is_shipped: bool
    ) -> None:
        facts = check.facts(template, is_shipped=is_shipped)
        if facts.is_nullable:
            self.problems.append(
                CommandsProblem(
                    template.where,
                    f"the sentence '{shortened(template.text)}' can be said without a word",
                    "make one of its words obligatory",
                )
            )
        for name in sorted(facts.wildcards):
            self.warnings.append(
                CommandsProblem(
                    template.where,
                    f"'{shortened(template.text)}' uses the wildcard list {{{name}}}, whose words "
                    "nobody can foresee; sentences with it are left out",
                    "give the list values if these sentences are needed",
                )
            )
        for name in sorted(facts.missing):
            self.warnings.append(
                CommandsProblem(
                    template.where,
                    f"'{shortened(template.text)}' uses the list {{{name}}}, which the shipped "
                    "sentences leave to the house; sentences with it are left out",
                    f"add a file with `lists: {name}: values:`",
                )
            )
