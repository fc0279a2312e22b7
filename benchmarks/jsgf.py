"""A compiled grammar as JSGF, for recognisers that want that, and pronunciations of its words.

The text is made from the `WordGraph` that Earshot's own search walks, so that both search the
very same sentences. A sub-graph becomes a rule; inside one, the graph is taken apart at the nodes
that every path crosses: what lies between two of them is a choice, and choices follow each other.
Weights of arcs have no place here: JSGF normalises them per choice, which is another model.
"""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from earshot.decode.word_graph import ArcKind, WordGraph

__all__ = ["JsgfError", "Pronunciations", "jsgf", "pronounced"]

MAX_CHARACTERS = 20_000_000


class JsgfError(Exception):
    """The graph cannot be written, or a word cannot be said; the message says why."""


def jsgf(graph: WordGraph, *, name: str = "commands") -> str:
    """The grammar as a JSGF file's text.

    Args:
        graph: Without cycles; every node that is walked from the start leads to a final one.
        name: Of the grammar.

    Raises:
        JsgfError: The graph is cyclic, or branches so that the text would be over 20 MB.
    """
    rules: dict[int, str] = {}
    waiting = [graph.start]
    while waiting:
        entry = waiting.pop()
        if entry in rules:
            continue
        part = _Part.read(graph, entry)
        rules[entry] = part.text(graph)
        waiting += part.calls
        if sum(map(len, rules.values())) > MAX_CHARACTERS:
            raise JsgfError(f"the grammar takes over {MAX_CHARACTERS} characters of JSGF")
    lines = ["#JSGF V1.0 UTF-8 en;", f"grammar {name};", ""]
    for entry, text in rules.items():
        public = "public " if entry == graph.start else ""
        lines.append(f"{public}<n{entry}> = {text};")
    return "\n".join(lines) + "\n"


@dataclass(slots=True)
class _Part:
    """The nodes of one sub-graph, and the next node that all paths from each must cross."""

    order: list[int]  # every arc goes forward
    next_cut: dict[int, int]
    calls: list[int]

    END = -1  # stands behind all final nodes

    @classmethod
    def read(cls, graph: WordGraph, entry: int) -> _Part:
        order = _sorted_nodes(graph, entry)
        rank = {node: at for at, node in enumerate(order)}
        rank[cls.END] = len(order)
        cut: dict[int, int] = {}
        calls: list[int] = []

        def common(a: int, b: int) -> int:
            while a != b:  # walk the earlier one up the tree of cuts
                if rank[a] < rank[b]:
                    a = cut[a]
                else:
                    b = cut[b]
            return a

        for node in reversed(order):
            after = [int(graph.arc_dest[arc]) for arc in _arcs(graph, node)]
            calls += [
                int(graph.arc_label[arc])
                for arc in _arcs(graph, node)
                if graph.arc_kind[arc] == ArcKind.CALL
            ]
            if graph.final[node]:
                after.append(cls.END)
            if not after:
                raise JsgfError(f"node {node} leads nowhere; it must be final or have an arc")
            meeting = after[0]
            for other in after[1:]:
                meeting = common(meeting, other)
            cut[node] = meeting
        return cls(order, cut, calls)

    def text(self, graph: WordGraph) -> str:
        return self._between(graph, self.order[0], self.END) or "<NULL>"

    def _between(self, graph: WordGraph, node: int, end: int) -> str:
        """The sentences between two nodes, as one sequence."""
        parts = []
        while node != end:
            meeting = self.next_cut[node]
            choices: dict[str, None] = {}  # an ordered set: twins add nothing
            for arc in _arcs(graph, node):
                rest = self._between(graph, int(graph.arc_dest[arc]), meeting)
                choices[" ".join(filter(None, (_label(graph, arc), rest)))] = None
            if graph.final[node]:
                choices[""] = None  # then the meeting place is the end
            parts.append(_choice(list(choices)))
            if len(parts[-1]) > MAX_CHARACTERS:
                raise JsgfError(f"a choice takes over {MAX_CHARACTERS} characters of JSGF")
            node = meeting
        return " ".join(filter(None, parts))


def _choice(choices: list[str]) -> str:
    if len(choices) == 1:
        return choices[0]
    spoken = " | ".join(filter(None, choices))
    return f"[{spoken}]" if "" in choices else f"({spoken})"


def _label(graph: WordGraph, arc: int) -> str:
    kind, label = graph.arc_kind[arc], int(graph.arc_label[arc])
    if kind == ArcKind.WORD:
        return graph.words[label]
    return f"<n{label}>" if kind == ArcKind.CALL else ""


def _arcs(graph: WordGraph, node: int) -> range:
    return range(int(graph.arc_begin[node]), int(graph.arc_begin[node + 1]))


def _sorted_nodes(graph: WordGraph, entry: int) -> list[int]:
    """Nodes that are reached without entering a sub-graph, each before those behind it."""
    done: dict[int, bool] = {}  # False while its successors are being walked
    order: list[int] = []
    stack: list[tuple[int, Iterator[int]]] = []

    def enter(node: int) -> None:
        done[node] = False
        stack.append((node, iter([int(graph.arc_dest[arc]) for arc in _arcs(graph, node)])))

    enter(entry)
    while stack:
        node, following = stack[-1]
        for after in following:
            if after not in done:
                enter(after)
                break
            if not done[after]:
                raise JsgfError(f"node {after} lies on a cycle; sentences must end")
        else:
            done[node] = True
            order.append(node)
            stack.pop()
    return order[::-1]


@dataclass(frozen=True, slots=True)
class Pronunciations:
    """Where the words of a grammar got their sounds from; `lines` is a dictionary's text."""

    lines: tuple[str, ...]
    own: int  # words of the recogniser's own dictionary
    cmudict: tuple[str, ...]
    by_rule: tuple[str, ...]

    @property
    def remark(self) -> str:
        """One sentence about the fallbacks."""
        told = [f"{self.own} words as its own dictionary has them"]
        if self.cmudict:
            told.append(f"from CMUdict: {', '.join(self.cmudict)}")
        if self.by_rule:
            told.append(f"by flite's letter-to-sound rules: {', '.join(self.by_rule)}")
        return "; ".join(told)


def pronounced(words: Iterable[str], *, dictionary: Path, cmudict: Path | None) -> Pronunciations:
    """Dictionary lines for words: the recogniser's own, else CMUdict's, else by flite's rules.

    Args:
        words: As the grammar spells them.
        dictionary: The recogniser's own, one `word phones` a line, variants as `word(2)`.
        cmudict: CMUdict, gzipped; None skips it.

    Raises:
        JsgfError: A word is in neither and flite is not there to say it.
    """
    wanted = sorted(set(words))
    known = _entries(dictionary.read_text(encoding="utf-8").splitlines(), wanted)
    more: Mapping[str, list[str]] = {}
    missing = [word for word in wanted if word not in known]
    if missing and cmudict is not None and cmudict.is_file():
        more = _entries(gzip.decompress(cmudict.read_bytes()).decode().splitlines(), missing)
    ruled = [word for word in missing if word not in more]
    lines: list[str] = []
    for word in wanted:
        variants = known.get(word) or more.get(word) or [_by_rule(word)]
        for number, phones in enumerate(variants, start=1):
            lines.append(f"{word}({number}) {phones}" if number > 1 else f"{word} {phones}")
    return Pronunciations(
        tuple(lines),
        len(wanted) - len(missing),
        tuple(word for word in missing if word in more),
        tuple(ruled),
    )


def _entries(lines: Iterable[str], words: Iterable[str]) -> dict[str, list[str]]:
    wanted = set(words)
    found: dict[str, list[str]] = {}
    for line in lines:
        entry, _, phones = line.partition("#")[0].strip().partition(" ")
        word = re.sub(r"\(\d+\)$", "", entry)
        if word in wanted:
            found.setdefault(word, []).append(re.sub(r"\d", "", phones).strip())
    return {word: list(dict.fromkeys(variants)) for word, variants in found.items()}


# flite writes CMU's phones in lower case, with two of its own.
_FLITE_PHONES = {"AX": "AH", "PAU": ""}


def _by_rule(word: str) -> str:
    try:
        done = subprocess.run(
            ["flite", "-voice", "kal", "-ps", "-o", "none", "-t", word],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as err:
        raise JsgfError(
            f"{word!r} is in no dictionary and flite cannot say it ({err}). "
            "Run: apt-get install flite"
        ) from None
    phones = [phone.upper() for phone in done.stdout.split()]
    return " ".join(filter(None, (_FLITE_PHONES.get(phone, phone) for phone in phones)))
