"""YAML that remembers its lines: nodes as values, and every problem with its file and line.

Knows YAML; knows nothing of what the fields mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from earshot.core.errors import CommandsProblem
from earshot.understand.syntax import shortened

__all__ = ["Document"]


class Document:
    """One document.

    Args:
        name: How problems call it: the path of the file.
        text: Its content.
        problems: Gets the problems that are found.
    """

    def __init__(self, name: str, text: str, problems: list[CommandsProblem]) -> None:
        import yaml

        self.name = name
        self._problems = problems
        self._yaml = yaml
        unreadable = yaml.reader.Reader.NON_PRINTABLE.search(text)
        if unreadable:
            line = text.count("\n", 0, unreadable.start()) + 1
            code = f"U+{ord(unreadable.group()):04X}"
            self.problem(f"{name}:{line}", f"YAML has no control character {code}", "remove it")
            text = ""
        # libyaml reads 20,000 values in a fifth of the time, where the package has it.
        self._loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)

    def root(self) -> Any | None:
        """The node of the document; None if it is no YAML or empty."""
        try:
            return self._loader.get_single_node()
        except self._yaml.YAMLError as err:
            mark = getattr(err, "problem_mark", None)
            where = f"{self.name}:{mark.line + 1}" if mark else self.name
            parts = [getattr(err, name, None) for name in ("context", "problem")]
            text = " ".join(", ".join(part for part in parts if part).split()) or str(err)
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
        """The value of a node as JSON has it; None, and a problem, if it has none."""
        try:
            found = self._loader.construct_object(node, deep=True)
        except (self._yaml.YAMLError, ValueError, TypeError, RecursionError) as err:
            text = " ".join(str(getattr(err, "problem", None) or err).split())
            self.problem(node, f"the value cannot be read: {text}", "write it in quotes")
            return None
        try:
            json.dumps(found, allow_nan=False, sort_keys=True)
        except (ValueError, TypeError, RecursionError) as err:
            self.problem(node, f"the value has no form in JSON: {err}", "write it in quotes")
            return None
        return found

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

    def pairs(self, node: Any, what: str) -> list[tuple[str, Any, Any]]:
        """Name, key node and value node of a mapping; a name that is there twice is a problem."""
        if not isinstance(node, self._yaml.MappingNode):
            if not self.is_empty(node):
                self.problem(node, f"{what} is {_kind(node)}", "write `name: value` lines")
            return []
        self._complain_of_twins(node, what)
        try:
            self._loader.flatten_mapping(node)  # << of other mappings
        except self._yaml.YAMLError:
            self.problem(node, f"'<<' in {what} is followed by no mapping", "remove it")
            return []
        is_name = self._yaml.ScalarNode  # others have been complained of
        return [(str(k.value), k, value) for k, value in node.value if isinstance(k, is_name)]

    def fields(self, node: Any, what: str) -> dict[str, tuple[Any, Any]]:
        """Key and value nodes of a mapping by name."""
        return {name: (key, value) for name, key, value in self.pairs(node, what)}

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
    names = {"MappingNode": "a mapping", "SequenceNode": "a list"}
    if type(node).__name__ in names:
        return names[type(node).__name__]
    return f"'{shortened(node.value)}'" if node.value else "empty"
