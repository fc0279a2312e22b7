"""What words mean: the best way through a network of words, exactly or nearly.

Both are one search over spans of the text: positions by nodes, each graph that is called solved
once for each position. Nearly means that a span of the text may stand for a word that looks and
sounds like it, that joined and split words are the same, and that words may be lost or added at a
price in letters. Numbers and negations stand for nothing but themselves and are never lost or
added: another number is another command, and so is the opposite of one. Knows nothing of audio or
of how the network was built.

Of several exact ways the one whose slots cover most of the words wins, then the one with fewest
slots, then the template that comes first in the files.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from earshot.core.understanding import SlotValue, Understanding
from earshot.data.spoken import number_value, spoken_form, spoken_readings
from earshot.understand.exactness import (
    EXACT_WORDS,
    STANDS_FOR,
    exact_words,
    within_numbers,
)
from earshot.understand.grammar import CALL, TAG, WORD
from earshot.understand.sounds import sound_key

if TYPE_CHECKING:
    from earshot.understand.grammar import WordNetwork

__all__ = ["MIN_LIKENESS", "Matcher"]

# Prices are in letters: a lost letter costs one.
MAX_SPAN = 3  # words of the text that may stand for one word
MAX_UNLIKE = 0.5  # share of a word that may differ
MAX_CANDIDATES = 30  # words that one span may stand for
FIRST_LOOK = 0.3  # share of the highest price that is tried first, as most texts are not far off
REGROUPED = 0.25  # for words that were joined or split
SMALL_WORDS = {"a", "an", "the", "my", "our", "your", "please", "some", "of", "to", "in", "on"}
SMALL_WORDS |= {"at", "for", "and", "is", "it", "uh", "um"}
SMALL_WORD_PRICE = 0.35  # of its letters
MAX_SKIPPABLE_ARCS = 16  # words of a longer choice are not passed over
MAX_UNLIKE_NUMBER = 0.2  # of a misspelt number, which is no word that is lightly lost
MIN_LIKENESS = 0.65  # share of a text's letters that agree with the nearest command
MAX_WORDS = 40  # a longer text is no command
MAX_LETTERS = 1000  # likewise; distances of words are counted in 16 bits

_Score = tuple[float, int, int]  # price, minus words covered by slots, slots


@dataclass
class _Step:
    """What may come after a node, silent arcs followed; with the meanings passed on the way."""

    words: dict[int, list[tuple[int, tuple[int, ...]]]] = field(default_factory=dict)
    calls: list[tuple[int, int, int, tuple[int, ...]]] = field(default_factory=list)
    final: tuple[int, ...] | None = None

    @property
    def num_words(self) -> int:
        """Arcs with words."""
        return len(self.words)


@dataclass
class _Spans:
    """A text as positions and what its spans may stand for.

    Args:
        words: Of the text.
        starts: The index of the word in which a position lies; the last is `len(words)`.
        edges: By position: word ids and where they end, with prices.
        dropped: By position: where the word that starts there ends, and what losing it costs.
        closed: By position: whether only small words may be added there.
        max_price: Ways that cost more are of no use.
    """

    words: Sequence[str]
    starts: list[int]
    edges: list[dict[int, list[tuple[int, float]]]]
    dropped: list[tuple[int, float] | None]
    closed: Sequence[bool] = ()
    max_price: float = 0.0

    @cached_property
    def ahead(self) -> list[float]:
        """By position: the least that the rest of the text costs, whatever the network allows."""
        least = [0.0] * len(self.starts)
        for at in range(len(least) - 2, -1, -1):
            least[at] = min((price + least[end] for end, price in self._ways_on(at)), default=1e9)
        return least

    @cached_property
    def behind(self) -> list[float]:
        """Likewise, for the text before a position."""
        least = [0.0] + [1e9] * (len(self.starts) - 1)
        for at in range(len(least) - 1):
            for end, price in self._ways_on(at):
                least[end] = min(least[end], least[at] + price)
        return least

    def _ways_on(self, at: int) -> Iterator[tuple[int, float]]:
        for ways in self.edges[at].values():
            yield from ways
        lost = self.dropped[at]
        if lost is not None:
            yield lost

    def heard(self, start: int, end: int) -> str:
        """The words of the text between two positions; a word that is split counts whole."""
        last = self.starts[end] + int(end > start and self.starts[end] == self.starts[end - 1])
        return " ".join(self.words[self.starts[start] : last])


class Matcher:
    """Finds what texts mean in one network.

    Args:
        network: The words of some commands.
    """

    def __init__(self, network: WordNetwork) -> None:
        self._network = network
        self._steps: dict[int, _Step] = {}
        self._firsts: dict[int, frozenset[int] | None] = {}
        self.start = network.start

    def price(self, ident: int, *, only_small: bool) -> float:
        """What it costs to pass over a word of the network; infinite where that may not be."""
        word = self._network.words[ident]
        if word in EXACT_WORDS or (only_small and word not in SMALL_WORDS):
            return math.inf
        return _price_of(word)

    # -- asking

    def exact(self, words: Sequence[str]) -> Understanding | None:
        """What exactly these words mean; None if the network does not say them."""
        ids = [self._network.word_ids.get(word) for word in words]
        if not words or None in ids:
            return None
        edges = [{ident: [(at + 1, 0.0)]} for at, ident in enumerate(ids) if ident is not None]
        count = len(words)
        spans = _Spans(words, list(range(count + 1)), [*edges, {}], [None] * (count + 1))
        return self._best(spans, letters=1)

    def exact_text(self, text: str) -> Understanding | None:
        """What a text in any writing exactly means, its numerals read in every way they can be."""
        readings = (self.exact(reading.split()) for reading in spoken_readings(text))
        return next(filter(None, readings), None)

    def closest(self, text: str, *, min_confidence: float = MIN_LIKENESS) -> Understanding | None:
        """What a text exactly means, else the command most like it; None if none is like enough.

        Args:
            text: In any writing, as of `exact_text`.
            min_confidence: Of the likeness.
        """
        if (found := self.exact_text(text)) is not None:
            return found
        near = [
            self.nearest(reading, min_confidence=min_confidence)
            for reading in spoken_readings(text)
        ]
        return max(filter(None, near), key=lambda found: found.confidence, default=None)

    def nearest(self, text: str, *, min_confidence: float = MIN_LIKENESS) -> Understanding | None:
        """The command most like a text; None if none is like enough."""
        words = spoken_form(text).split()
        letters = sum(map(len, words))
        if not 0 < len(words) <= MAX_WORDS or letters > MAX_LETTERS or not self._network.words:
            return None
        highest = letters * (1 - min_confidence)
        spans = self._spans(words)
        for spans.max_price in (FIRST_LOOK * highest, highest):
            if spans.ahead[0] > spans.max_price:
                continue  # whatever the network allows
            found = self._best(spans, letters=letters)
            if found is not None:
                return found
        return None

    def _best(self, spans: _Spans, *, letters: int) -> Understanding | None:
        solver = _Solver(self, spans)
        found = solver.solve(self._network.start, 0).get(len(spans.starts) - 1)
        if found is None:
            return None
        (price, _, _), trace = found
        return self._understanding(trace, spans, confidence=max(0.0, 1 - price / letters))

    # -- the network, looked at from one node

    def step(self, node: int) -> _Step:
        """What may come after a node."""
        if node not in self._steps:
            self._steps[node] = self._new_step(node)
        return self._steps[node]

    def _new_step(self, node: int) -> _Step:
        step = _Step()
        stack: list[tuple[int, tuple[int, ...]]] = [(node, ())]
        seen: set[tuple[int, tuple[int, ...]]] = {(node, ())}
        while stack:
            at, tags = stack.pop()
            if self._network.final[at] and step.final is None:
                step.final = tags
            silent = []
            for kind, label, dest, slot in self._network.arcs(at):
                if kind == WORD:
                    step.words.setdefault(label, []).append((dest, tags))
                elif kind == CALL:
                    step.calls.append((label, dest, slot, tags))
                else:
                    after = (dest, (*tags, label) if kind == TAG else tags)
                    if after not in seen:
                        seen.add(after)
                        silent.append(after)
            stack += reversed(silent)  # what comes first in the files is looked at first
        return step

    def firsts(self, start: int) -> frozenset[int] | None:
        """Words that a graph may start with; None if it may say nothing."""
        if start not in self._firsts:
            step = self.step(start)
            words = set(step.words)
            is_silent = step.final is not None
            for label, _, _, _ in step.calls:
                inner = self.firsts(label)
                # Where a called graph may be silent, what follows it would have to be known too.
                is_silent = is_silent or inner is None
                words |= inner or frozenset()
            self._firsts[start] = None if is_silent else frozenset(words)
        return self._firsts[start]

    # -- a text as spans

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return tuple(sound_key(word) for word in self._network.words)

    @cached_property
    def _lengths(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        words = np.array([len(word) for word in self._network.words], np.float32)
        keys = np.array([len(key) for key in self._keys], np.float32)
        return words, keys

    def _spans(self, words: Sequence[str]) -> _Spans:
        """Everything that spans of the text may stand for."""
        ids = self._network.word_ids
        # A position for every word, and one inside a word that two known words make.
        positions: list[tuple[int, int]] = []
        splits: list[tuple[int, int]] = []
        for index, word in enumerate(words):
            positions.append((index, 0))
            for cut in range(2, len(word) - 1):
                if word[:cut] in ids and word[cut:] in ids:
                    positions.append((index, cut))
                    splits.append((index, cut))
        positions.append((len(words), 0))
        number = {position: at for at, position in enumerate(positions)}
        exact = exact_words(words)
        edges: list[dict[int, list[tuple[int, float]]]] = [{} for _ in positions]

        def add(first: tuple[int, int], last: tuple[int, int], ident: int, price: float) -> None:
            edges[number[first]].setdefault(ident, []).append((number[last], price))

        for index, cut in splits:
            add((index, 0), (index, cut), ids[words[index][:cut]], REGROUPED)
            add((index, cut), (index + 1, 0), ids[words[index][cut:]], 0.0)
        bounds = [
            (first, last)
            for first in range(len(words))
            for last in range(first + 1, min(first + MAX_SPAN, len(words)) + 1)
        ]
        texts = ["".join(words[a:b]) for a, b in bounds]
        for (first, last), text, found in zip(bounds, texts, self._candidates(texts), strict=True):
            is_exact = any(exact[first:last])
            for ident, price in found:
                word = self._network.words[ident]
                if (is_exact or word in EXACT_WORDS) and not _is_same(text, word, price, is_exact):
                    continue
                joined = REGROUPED * (last - first - 1)
                add((first, 0), (last, 0), ident, price + joined)
        for index, word in enumerate(words[:-1]):
            other = STANDS_FOR.get(word)
            if other in ids and exact[index + 1]:
                add((index, 0), (index + 1, 0), ids[other], REGROUPED)
        dropped: list[tuple[int, float] | None] = [
            (number[index + 1, 0], _price_of(words[index]))
            if cut == 0 and index < len(words) and not exact[index]
            else None
            for index, cut in positions
        ]
        inside = within_numbers(words)
        closed = [cut > 0 or inside[index] for index, cut in positions]
        return _Spans(words, [index for index, _ in positions], edges, dropped, closed)

    def _candidates(self, texts: Sequence[str]) -> list[list[tuple[int, float]]]:
        """Words that are like each text, the most alike first, with prices."""
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist

        keys = [sound_key(text) for text in texts]
        word_lengths, key_lengths = self._lengths
        by_letters = self._distances(cdist, Levenshtein.distance, texts, self._network.words)
        by_sound = self._distances(cdist, Levenshtein.distance, keys, self._keys)
        found = []
        for row, (text, key) in enumerate(zip(texts, keys, strict=True)):
            longer = np.maximum(word_lengths, len(text))
            unlike = 0.5 * by_letters[row] / longer
            unlike += 0.5 * by_sound[row] / np.maximum(np.maximum(key_lengths, len(key)), 1)
            (near,) = (unlike <= MAX_UNLIKE).nonzero()
            order = near[np.argsort(unlike[near], kind="stable")][:MAX_CANDIDATES]
            found.append([(int(i), float(unlike[i] * longer[i])) for i in order])
        return found

    @staticmethod
    def _distances(
        cdist: Callable[..., npt.NDArray[np.uint16]],
        distance: Callable[..., int],
        texts: Sequence[str],
        words: Sequence[str],
    ) -> npt.NDArray[np.uint16]:
        return cdist(texts, words, scorer=distance, dtype=np.uint16)

    # -- the answer

    def _understanding(
        self, way: _Link | None, spans: _Spans, *, confidence: float
    ) -> Understanding | None:
        said: dict[str, SlotValue] = {}
        fixed: dict[str, SlotValue] = {}
        intent: str | None = None
        for link in self._flat(way):
            if link.kind == CALL:
                self._fill(link, spans, said)
            elif link.kind == TAG:
                meaning = self._network.meanings[link.label]
                intent = meaning.intent
                fixed = {name: SlotValue(value, "") for name, value in meaning.slots.items()}
        return None if intent is None else Understanding(intent, {**fixed, **said}, confidence)

    def _flat(self, way: _Link | None) -> list[_Link]:
        """The steps of a sentence; graphs that fill no slot are opened, such as rules."""
        steps = []
        for link in _from_the_start(way):
            if link.kind == CALL and link.label < 0:
                steps += self._flat(link.inner)
            else:
                steps.append(link)
        return steps

    def _fill(self, call: _Link, spans: _Spans, slots: dict[str, SlotValue]) -> list[str]:
        """Take the slots of a called graph; returns the words that were matched in it."""
        words: list[str] = []
        value: object = None
        before = after = ""
        for link in _from_the_start(call.inner):
            if link.kind == WORD:
                words.append(self._network.words[link.label])
            elif link.kind == CALL:
                words += self._fill(link, spans, slots)
            else:
                meaning = self._network.meanings[link.label]
                value, (before, after) = meaning.value, meaning.beside
        if call.label >= 0:
            slot = self._network.slots[call.label]
            if slot.numbers is not None:
                number = number_value(words)
                times = slot.numbers.multiplier
                value = number if number is None or times is None else number * times
            elif value is None:
                value = " ".join(words).removeprefix(before).removesuffix(after)
            slots[slot.name] = SlotValue(value, spans.heard(call.start, call.end))
        return words


@dataclass(frozen=True, slots=True)
class _Link:
    """One step of a way through the network, and the one before it.

    Args:
        before: None at the start of a graph.
        kind: WORD, TAG or CALL.
        label: Word id; index of the meaning; index of the slot or -1.
        inner: For a CALL: the last step in the graph that it called.
        start: Position where it starts.
        end: Position where it ends.
    """

    before: _Link | None
    kind: int
    label: int
    inner: _Link | None = None
    start: int = 0
    end: int = 0


def _from_the_start(link: _Link | None) -> list[_Link]:
    links = []
    while link is not None:
        links.append(link)
        link = link.before
    return links[::-1]


_Way = tuple[_Score, _Link | None]


class _Solver:
    """The best ways through the graphs of one network for one text."""

    def __init__(self, matcher: Matcher, spans: _Spans) -> None:
        self._matcher = matcher
        self._spans = spans
        self._solved: dict[tuple[int, int], dict[int, _Way]] = {}

    def solve(self, start: int, position: int) -> dict[int, _Way]:
        """The best way through a graph by the position where it ends."""
        key = (start, position)
        if key not in self._solved:
            self._solved[key] = self._search(start, position)
        return self._solved[key]

    def _search(self, start: int, position: int) -> dict[int, _Way]:
        spans = self._spans
        ways: dict[tuple[int, int], _Way] = {(position, start): ((0.0, 0, 0), None)}
        heap = [(position, start)]
        ends: dict[int, _Way] = {}
        budget = spans.max_price - spans.behind[position]

        def reach(where: tuple[int, int], score: _Score, link: _Link | None) -> None:
            if score[0] + spans.ahead[where[0]] > budget:
                return
            before = ways.get(where)
            if before is None:
                heapq.heappush(heap, where)
            elif before[0] <= score:  # the first of equals stays: it comes from earlier templates
                return
            ways[where] = (score, link)

        while heap:  # positions and nodes only grow, so each is final when its turn comes
            at, node = heapq.heappop(heap)
            score, link = ways[at, node]
            step = self._matcher.step(node)
            if step.final is not None:
                before = ends.get(at)
                if before is None or score < before[0]:
                    ends[at] = (score, _tagged(link, step.final))
            price, covered, slots = score
            edges = spans.edges[at]
            few, many = (edges, step.words) if len(edges) < len(step.words) else (step.words, edges)
            for ident in few:
                if ident not in many:
                    continue
                for dest, tags in step.words[ident]:
                    for end, cost in edges[ident]:
                        said = _Link(_tagged(link, tags), WORD, ident, None, at, end)
                        reach((end, dest), (price + cost, covered, slots), said)
            for label, dest, slot, tags in step.calls:
                firsts = self._matcher.firsts(label)
                if firsts is not None and firsts.isdisjoint(edges):
                    continue
                for end, ((cost, inner_covered, inner_slots), inner) in self.solve(
                    label, at
                ).items():
                    if slot >= 0:
                        inner_covered = spans.starts[at] - spans.starts[end]
                        inner_slots += 1
                    called = _Link(_tagged(link, tags), CALL, slot, inner, at, end)
                    total = (price + cost, covered + inner_covered, slots + inner_slots)
                    reach((end, dest), total, called)
            if spans.max_price == 0:
                continue
            lost = spans.dropped[at]
            if lost is not None and (node != start or node == self._matcher.start):
                reach((lost[0], node), (price + lost[1], covered, slots), link)
            if step.num_words <= MAX_SKIPPABLE_ARCS:
                for ident, dests in step.words.items():
                    cost = self._matcher.price(ident, only_small=spans.closed[at])
                    for dest, tags in dests:
                        missed = _Link(_tagged(link, tags), WORD, ident, None, at, at)
                        reach((at, dest), (price + cost, covered, slots), missed)
        return ends


def _tagged(link: _Link | None, tags: tuple[int, ...]) -> _Link | None:
    for tag in tags:
        link = _Link(link, TAG, tag)
    return link


def _is_same(text: str, word: str, price: float, is_exact: bool) -> bool:
    """Whether a text is a word that must be itself: as it stands, or a number misspelt."""
    if text.replace("'", "") == word.replace("'", ""):
        return True
    longer = max(len(text), len(word))
    return not is_exact and text not in SMALL_WORDS and price <= MAX_UNLIKE_NUMBER * longer


def _price_of(word: str) -> float:
    """What it costs to lose or to add a word."""
    return len(word) * (SMALL_WORD_PRICE if word in SMALL_WORDS else 1.0)
