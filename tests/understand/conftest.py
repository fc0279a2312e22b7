"""Commands from a few lines of YAML, and every sentence of a network, for tests."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from earshot.understand.grammar import CALL, WORD, WordNetwork
from earshot.understand.templates import Commands, load_commands

Write = Callable[[str], Path]
Load = Callable[[str], Commands]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of commands; its text may be indented."""

    def write(text: str, name: str = "commands.yaml") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(write: Write) -> Load:
    """Reads commands from YAML text."""
    return lambda text: load_commands(write(text))


@pytest.fixture(scope="session")
def sentences_of() -> Callable[[WordNetwork], list[str]]:
    """Every way through a small network as text, one after the other: an oracle for counting."""

    def ways(network: WordNetwork, node: int) -> Iterator[tuple[str, ...]]:
        if network.final[node]:
            yield ()
        for kind, label, dest, _ in network.arcs(node):
            heads: Iterator[tuple[str, ...]] | list[tuple[str, ...]] = [()]
            if kind == WORD:
                heads = [(network.words[label],)]
            elif kind == CALL:
                heads = ways(network, label)
            for head in heads:
                for tail in ways(network, dest):
                    yield (*head, *tail)

    return lambda network: [" ".join(words) for words in ways(network, network.core_start)]
