"""What templates refer to: lists and rules that exist, rules that do not use themselves.

Looks into expressions without building anything, each once. Knows no files but in the places
that problems name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from earshot.core.errors import CommandsProblem
from earshot.data.spoken import spoken_form
from earshot.understand.syntax import shortened
from earshot.understand.templates import (
    MAX_RANGE,
    MAX_UNEVEN,
    Block,
    SlotList,
    Template,
    TextList,
    WildcardList,
)

if TYPE_CHECKING:
    from hassil.expression import Expression

__all__ = ["Facts", "ReferenceCheck"]

MAX_NESTED_RULES = 30  # a rule that uses a rule that uses a rule ...
MAX_PERMUTED = 8  # items of one (a;b;...): their network has 2**items nodes


@dataclass
class Facts:
    """What is known of an expression without building it."""

    is_nullable: bool
    wildcards: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()


class ReferenceCheck:
    """Checks the references of expressions within one block's lists and rules."""

    def __init__(
        self,
        block: Block,
        problems: list[CommandsProblem],
        known: dict[tuple[int, int], Facts],
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
                        f"the value '{shortened(value.text)}' of list '{slot_list.name}' can be "
                        "said without a word",
                        "make one of its words obligatory",
                    )
                )

    def facts(self, template: Template, *, is_shipped: bool = False) -> Facts:
        """What a template does; its problems are noted once."""
        key = (id(template.expression), int(is_shipped))
        if key not in self._known:
            self._open.append(id(template.expression))
            self._known[key] = self._walk(template.expression, template, is_shipped)
            self._open.pop()
        return self._known[key]

    def _walk(self, node: Expression, of: Template, is_shipped: bool) -> Facts:
        from hassil import expression as ex

        if isinstance(node, ex.TextChunk):
            return Facts(not spoken_form(node.original_text))
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
            return Facts(
                join(part.is_nullable for part in parts),
                frozenset().union(*(part.wildcards for part in parts)),
                frozenset().union(*(part.missing for part in parts)),
            )
        if isinstance(node, ex.RuleReference):
            return self._rule(node.rule_name, of, is_shipped)
        if isinstance(node, ex.ListReference):
            return self._list(node.list_name, of, is_shipped)
        raise TypeError(f"templates: hassil has an expression {type(node).__name__}")

    def _rule(self, name: str, of: Template, is_shipped: bool) -> Facts:
        rule = self._block.rules.get(name)
        if rule is None:
            self._complain(
                of,
                f"there is no rule <{name}>",
                _remedy(name, self._block.rules, "define it in `expansion_rules:`"),
            )
            return Facts(False)
        if id(rule.expression) in self._open:
            at = self._open.index(id(rule.expression))
            chain = " -> ".join([*self._trail[at:], f"<{name}>"])
            self._complain(
                rule, f"rule <{name}> uses itself: {chain}", "take one of these references out"
            )
            return Facts(False)
        if len(self._open) > MAX_NESTED_RULES:
            self._complain(
                of,
                f"rules use rules over {MAX_NESTED_RULES} deep",
                "write the innermost ones out where they are used",
            )
            return Facts(False)
        self._trail.append(f"<{name}>")
        facts = self.facts(rule, is_shipped=is_shipped)
        self._trail.pop()
        return facts

    def _list(self, name: str, of: Template, is_shipped: bool) -> Facts:
        found = self._block.list_named(name)
        if found is None and is_shipped:
            return Facts(False, missing=frozenset({name}))
        if found is None:
            self._complain(
                of,
                f"there is no list {{{name}}}",
                _remedy(name, self._block.lists, "define it in `lists:`"),
            )
        elif isinstance(found, WildcardList):
            return Facts(False, wildcards=frozenset({name}))
        elif isinstance(found, TextList):
            self._list_values(found)
        elif found.start > found.stop or found.step < 1:
            self._complain(
                of,
                f"{{{name}}} holds no number",
                "write the smaller one first and a step of at least 1",
            )
        elif not found.where and (found.stop > MAX_RANGE or found.is_too_uneven):
            self._complain(
                of,
                f"{{{name}}} holds too many numbers",
                f"end it at {MAX_RANGE} at most; over {MAX_UNEVEN} need a step that divides 1000",
            )
        return Facts(False)

    def _list_values(self, found: TextList) -> None:
        """Look into the values of a list that something refers to; they may lead back to it."""
        for value in found.values:
            if value.expression is None:
                continue
            template = Template(value.where, value.text, value.expression)
            if id(value.expression) in self._open:
                at = self._open.index(id(value.expression))
                chain = " -> ".join([*self._trail[at:], f"{{{found.name}}}"])
                self._complain(
                    template,
                    f"a value of list '{found.name}' uses its own list: {chain}",
                    "take one of these references out",
                )
                continue
            self._trail.append(f"{{{found.name}}}")
            self.facts(template)
            self._trail.pop()

    def _complain(self, of: Template, problem: str, remedy: str) -> None:
        self._problems.append(CommandsProblem(of.where, problem, remedy))


def _remedy(name: str, known: Mapping[str, object], otherwise: str) -> str:
    close = get_close_matches(name, known, 1, 0.7)
    return f"did you mean '{close[0]}'" if close else otherwise
