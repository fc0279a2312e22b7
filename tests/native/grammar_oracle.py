"""Word graphs for tests, and what they allow, found by unfolding every call.

An oracle written another way: the network is laid out flat, one state for each place and return
stack and one for each piece inside a word, and histories are followed state by state with plain
dictionaries. Only for small graphs. Knows no scores of sounds.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from earshot import _native
from earshot.decode.word_graph import ArcKind, WordGraph

WORD, EPSILON, CALL, TAG = ArcKind


@dataclass
class Network:
    """A word graph in the making: nodes are numbered as they are asked for."""

    words: list[tuple[int, ...]]
    arcs: list[list[tuple[ArcKind, int, int, float]]] = field(default_factory=list)
    final: set[int] = field(default_factory=set)
    start: int = 0
    sounds: list[tuple[tuple[int, ...], ...]] | None = None  # phones of each word, several ways

    def spellings(self, word: int) -> tuple[tuple[int, ...], ...]:
        return (self.words[word],) if self.sounds is None else self.sounds[word]

    def node(self, *, final: bool = False) -> int:
        self.arcs.append([])
        if final:
            self.final.add(len(self.arcs) - 1)
        return len(self.arcs) - 1

    def arc(self, node: int, kind: ArcKind, label: int, dest: int, *, weight: float = 0.0) -> None:
        self.arcs[node].append((kind, label, dest, weight))

    def sentence(self, node: int, words: list[int], *, weight: float = 0.0) -> int:
        """A chain of new nodes from `node`; the last is final."""
        for i, word in enumerate(words):
            to = self.node()
            self.arc(node, WORD, word, to, weight=weight if i == 0 else 0.0)
            node = to
        self.final.add(node)
        return node

    def graph(self) -> WordGraph:
        arcs = [arc for node in self.arcs for arc in node]
        return WordGraph(
            words=tuple(f"w{i}" for i in range(len(self.words))),
            pieces=tuple(self.words),
            arc_begin=np.cumsum([0, *map(len, self.arcs)]).astype(np.int32),
            arc_kind=np.array([a[0] for a in arcs], np.uint8),
            arc_label=np.array([a[1] for a in arcs], np.int32),
            arc_dest=np.array([a[2] for a in arcs], np.int32),
            arc_weight=np.array([a[3] for a in arcs], np.float32),
            final=np.array([n in self.final for n in range(len(self.arcs))], np.uint8),
            start=self.start,
            pronunciations=None if self.sounds is None else tuple(self.sounds),
        )

    def native(self, vocabulary: int, *, phones: int = 0) -> _native.WordGraph:
        return self.graph().to_native(vocabulary=vocabulary, phones=phones)


State = tuple[Any, ...]  # (node, stack) or (node, stack, arc, which spelling, symbols said)


class Flat:
    """The network without calls and words: states and symbols (pieces or phones) only."""

    def __init__(self, network: Network, *, word_penalty: float = 0.0) -> None:
        self.network = network
        self.word_penalty = word_penalty
        self.start: State = (network.start, ())
        # Of each state: (symbol or None, next state, weight).
        self.arcs: dict[State, list[tuple[int | None, State, float]]] = {}
        todo = [self.start]
        while todo:
            state = todo.pop()
            if state in self.arcs:
                continue
            self.arcs[state] = list(self._out(state))
            todo += [to for _, to, _ in self.arcs[state]]
        self.useful = {state for state in self.arcs if self.final(state)}
        grown = True
        while grown:
            more = {
                state
                for state, out in self.arcs.items()
                if state not in self.useful and any(to in self.useful for _, to, _ in out)
            }
            self.useful |= more
            grown = bool(more)

    def final(self, state: State) -> bool:
        return len(state) == 2 and state[1] == () and state[0] in self.network.final

    def _out(self, state: State) -> Any:
        node, stack, *inside = state
        if inside:
            arc, way, said = inside
            _, word, dest, _ = self.network.arcs[node][arc]
            symbols = self.network.spellings(word)[way]
            if said + 1 == len(symbols):
                yield symbols[said], (dest, stack), 0.0
            else:
                yield symbols[said], (node, stack, arc, way, said + 1), 0.0
            return
        if node in self.network.final and stack:
            yield None, (stack[-1], stack[:-1]), 0.0
        for i, (kind, label, dest, weight) in enumerate(self.network.arcs[node]):
            if kind == WORD:
                for way in range(len(self.network.spellings(label))):
                    yield None, (node, stack, i, way, 0), weight - self.word_penalty
            elif kind == CALL:
                yield None, (label, (*stack, dest)), weight
            else:
                yield None, (dest, stack), weight

    def closed(self, states: dict[State, float]) -> dict[State, float]:
        """All that is reached without a piece, with the best weight; what counts is kept."""
        best = dict(states)
        todo = list(states)
        while todo:
            state = todo.pop()
            for piece, to, weight in self.arcs[state]:
                value = best[state] + weight
                if piece is None and to in self.useful and value > best.get(to, -np.inf):
                    best[to] = value
                    todo.append(to)
        return {s: w for s, w in best.items() if len(s) > 2 or self.final(s)}

    def first(self) -> dict[State, float]:
        return self.closed({self.start: 0.0}) if self.start in self.useful else {}

    def after(self, states: dict[State, float], piece: int) -> dict[State, float]:
        reached: dict[State, float] = {}
        for state, weight in states.items():
            for label, to, extra in self.arcs[state]:
                if label == piece and to in self.useful:
                    reached[to] = max(reached.get(to, -np.inf), weight + extra)
        return self.closed(reached)

    def next_pieces(self, states: dict[State, float]) -> list[int]:
        return sorted(
            {
                piece
                for state in states
                for piece, to, _ in self.arcs[state]
                if piece is not None and to in self.useful
            }
        )

    def position(self, history: tuple[int, ...]) -> dict[str, Any] | None:
        """As the engine's `WordGraph.walk`."""
        states = self.first()
        for piece in history:
            states = self.after(states, piece)
        if not states:
            return None
        finals = [weight for state, weight in states.items() if self.final(state)]
        return {
            "next": self.next_pieces(states),
            "final": bool(finals),
            "weight": max(states.values()),
            "final_weight": max(finals, default=None),
        }


def sentences(flat: Flat, history: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """All word sequences that exactly these symbols spell, each with its best weight."""
    found: dict[tuple[int, ...], float] = {}

    def follow(state: State, said: int, words: tuple[int, ...], weight: float) -> None:
        if said == len(history) and flat.final(state):
            found[words] = max(weight, found.get(words, -np.inf))
        for symbol, to, extra in flat.arcs[state]:
            if symbol is None:
                begins = len(to) > 2 and len(state) == 2
                word = (flat.network.arcs[to[0]][to[2]][1],) if begins else ()
                follow(to, said, words + word, weight + extra)
            elif said < len(history) and symbol == history[said]:
                follow(to, said + 1, words, weight + extra)

    follow(flat.start, 0, (), 0.0)
    return found


def random_network(seed: int, *, words: list[tuple[int, ...]], loops: bool = True) -> Network:
    """A network of up to three levels of calls, with weights, tags, optional parts and dead ends.

    Arcs without a word go to higher nodes, calls to networks made before; arcs with a word may
    go back if there are `loops`.
    """
    rng = random.Random(seed)
    network = Network(words)
    starts: list[int] = []
    for _ in range(rng.randint(1, 4)):
        nodes = [network.node(final=rng.random() < 0.25) for _ in range(rng.randint(2, 6))]
        network.final.add(nodes[-1])
        for i, node in enumerate(nodes):
            later = nodes[i + 1 :]
            for _ in range(rng.randint(1, 4)):
                weight = -rng.choice([0, 0, 0.125, 0.5, 1.75])
                kind = rng.choices([WORD, EPSILON, CALL, TAG], [6, 1, 2, 1])[0]
                if kind == WORD:
                    dest = rng.choice(nodes if loops else [*later, nodes[-1]])
                    if not loops and node == nodes[-1]:
                        continue
                    network.arc(node, kind, rng.randrange(len(words)), dest, weight=weight)
                elif later and (kind != CALL or starts):
                    label = rng.choice(starts) if kind == CALL else rng.randrange(100)
                    network.arc(node, kind, label, rng.choice(later), weight=weight)
        starts.append(nodes[0])
    network.start = starts[-1]
    return network


def histories(flat: Flat, *, pieces: int, limit: int) -> list[tuple[int, ...]]:
    """All beginnings of sentences of up to so many pieces, or the first `limit`."""
    found: list[tuple[int, ...]] = [()]
    level = [((), flat.first())]
    for _ in range(pieces):
        level = [
            ((*history, piece), flat.after(states, piece))
            for history, states in level
            for piece in flat.next_pieces(states)
        ][:limit]
        found += [history for history, _ in level]
        if len(found) > limit:
            break
    return list(itertools.islice(found, limit))
