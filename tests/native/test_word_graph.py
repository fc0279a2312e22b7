"""Word graphs: what they allow against an unfolding oracle, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from grammar_oracle import CALL, EPSILON, TAG, WORD, Flat, Network, histories, random_network
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot import _native
from tests.child_memory import child_figures

PIECES = 9
# Prefixes of each other, equal to each other, and words that can be cut in two ways.
WORDS = [(3,), (3, 4), (3, 4, 5), (4,), (5,), (4, 5), (3, 4), (1, 8, 8), (6, 7, 6, 7)]


def walk(graph: _native.WordGraph, history: tuple[int, ...] | list[int]) -> Any:
    return graph.walk(np.array(history, np.int32))


def same(got: Any, want: Any) -> bool:
    if got is None or want is None:
        return got is None and want is None
    if not want["final"]:
        return bool((got["next"], got["final"], got["weight"]) == tuple(want.values())[:3])
    return bool(got == want)


@settings(max_examples=100)
@given(seed=st.integers(0, 1_000_000))
def test_states_equal_those_of_the_unfolded_network(seed: int) -> None:
    network = random_network(seed, words=WORDS)
    flat = Flat(network)
    if not flat.first():
        with pytest.raises(ValueError, match="must be a sentence"):
            network.native(PIECES)
        return
    graph = network.native(PIECES)
    for history in histories(flat, pieces=7, limit=150):
        want = flat.position(history)
        assert want is not None and (want["next"] or want["final"])  # no dead ends
        assert same(walk(graph, history), want), history
        for piece in set(range(PIECES)) - set(want["next"]):
            assert walk(graph, (*history, piece)) is None


def test_a_history_that_no_piece_can_follow() -> None:
    network = Network([(3,)])
    network.sentence(network.node(), [0])
    graph = network.native(PIECES)
    assert walk(graph, [3]) == {"next": [], "final": True, "weight": 0, "final_weight": 0}
    for history in ([3, 3], [4], [-1], [PIECES], [2**31 - 1]):
        assert walk(graph, history) is None


def test_weights_come_when_they_become_certain() -> None:
    """Two ways to say the same, and two words that part after their first piece.

    The best word still possible pays from its first piece on.
    """
    network = Network([(3, 4), (3, 5)])
    start, middle, end = network.node(), network.node(), network.node(final=True)
    network.arc(start, EPSILON, 0, middle, weight=-0.25)
    network.arc(middle, WORD, 0, end, weight=-1)
    network.arc(middle, WORD, 0, end, weight=-3)
    network.arc(middle, WORD, 1, end, weight=-2)
    graph = network.native(PIECES)
    assert walk(graph, [])["weight"] == -1.25
    assert walk(graph, [3])["weight"] == -1.25
    assert walk(graph, [3, 4])["final_weight"] == -1.25
    assert walk(graph, [3, 5])["final_weight"] == -2.25


def test_a_list_is_shared_by_all_who_call_it() -> None:
    """Each caller goes on in its own way; a list that may be empty can be passed over."""
    network = Network([(3,), (4,), (5,), (6,)])
    start, a, b, end = network.node(), network.node(), network.node(), network.node(final=True)
    values = network.node(final=True)
    network.sentence(values, [0])
    network.arc(start, CALL, values, a)
    network.arc(start, CALL, values, b)
    network.arc(a, WORD, 1, end)
    network.arc(b, WORD, 2, end)
    graph = network.native(PIECES)
    assert walk(graph, [])["next"] == [3, 4, 5]
    assert walk(graph, [3])["next"] == [4, 5]
    assert walk(graph, [3, 4])["final"] and walk(graph, [5])["final"]
    assert not walk(graph, [3])["final"]


# --- what is refused ------------------------------------------------------------------------


def nested(depth: int) -> Network:
    """A word inside so many calls."""
    network = Network([(3,)])
    inner = network.node()
    network.sentence(inner, [0])
    for _ in range(depth):
        outer = network.node()
        network.arc(outer, CALL, inner, network.node(final=True))
        inner = outer
    network.start = inner
    return network


def test_calls_may_be_nested_16_deep() -> None:
    assert walk(nested(16).native(PIECES), [3])["final"]
    with pytest.raises(ValueError, match="nested 17 deep; at most 16"):
        nested(17).native(PIECES)


def recursion(*, through: int) -> Network:
    """Networks that call one another in a ring; each could also say a word."""
    network = Network([(3,)])
    ring = [network.node() for _ in range(through)]
    for i, node in enumerate(ring):
        end = network.sentence(node, [0])
        network.arc(end, CALL, ring[(i + 1) % through], network.node(final=True))
    return network


@pytest.mark.parametrize("through", [1, 2, 5])
def test_recursion(through: int) -> None:
    with pytest.raises(ValueError, match="must not call itself"):
        recursion(through=through).native(PIECES)


def test_a_call_of_the_network_around_it() -> None:
    network = Network([(3,)])
    start, middle, end = network.node(), network.node(), network.node(final=True)
    network.arc(start, WORD, 0, middle)
    network.arc(middle, CALL, start, end)
    network.arc(middle, WORD, 0, end)
    with pytest.raises(ValueError, match="must not call itself"):
        network.native(PIECES)


def test_loops_must_say_something() -> None:
    def loop(kind: Any, label: int, *, through: int = 1) -> Network:
        network = Network([(3,)])
        ring = [network.node(final=True) for _ in range(through)]
        silent = network.node(final=True)  # a network of nothing
        network.sentence(silent, [0])
        spoken = network.node()
        network.sentence(spoken, [0])
        for i, node in enumerate(ring):
            target = {"silent": silent, "spoken": spoken}.get(str(label), label)
            network.arc(node, kind, target, ring[(i + 1) % through])  # type: ignore[arg-type]
        return network

    for through in (1, 3):
        assert walk(loop(WORD, 0, through=through).native(PIECES), [3] * 50)["final"]
        assert walk(loop(CALL, "spoken", through=through).native(PIECES), [3] * 50)["final"]  # type: ignore[arg-type]
        for kind, label in ((EPSILON, 0), (TAG, 7), (CALL, "silent")):
            with pytest.raises(ValueError, match="loop without words"):
                loop(kind, label, through=through).native(PIECES)  # type: ignore[arg-type]


def arrays() -> dict[str, Any]:
    """A sound graph of two words; node 2 is a list."""
    return {
        "arc_begin": np.array([0, 1, 1, 2], np.int32),
        "arc_kind": np.array([2, 0], np.uint8),
        "arc_label": np.array([2, 1], np.int32),
        "arc_dest": np.array([1, 1], np.int32),
        "arc_weight": np.array([0, -1], np.float32),
        "final": np.array([0, 1, 0], np.uint8),
        "start": 0,
        "piece_begin": np.array([0, 1, 3], np.int32),
        "piece_ids": np.array([3, 4, 5], np.int32),
        "vocabulary": PIECES,
    }


BAD: list[tuple[str, Any, str]] = [
    ("arc_begin", [0, 1, 1, 3], "arc_begin does not go from 0 to 2"),
    ("arc_begin", [1, 1, 1, 2], "arc_begin does not go from 0 to 2"),
    ("arc_begin", [0, 2, 1, 2], "arc_begin falls from 2 to 1 at 2"),
    ("arc_begin", [0, -5, 1, 2], "arc_begin falls from 0 to -5"),
    ("arc_begin", [0, 1, 2], "final has 3 entries and arc_begin 3"),
    ("arc_begin", [], "arc_begin 0"),
    ("arc_kind", [2, 4], "arc 1 is of kind 4"),
    ("arc_kind", [2], "1, 2, 2 and 2 entries"),
    ("arc_label", [3, 1], "arc 0 calls node 3; there are 3 nodes"),
    ("arc_label", [-1, 1], "arc 0 calls node -1"),
    ("arc_label", [2, 2], "arc 1 says word 2; there are 2 words"),
    ("arc_label", [2, -1], "arc 1 says word -1"),
    ("arc_dest", [1, 3], "arc 1 goes to node 3"),
    ("arc_dest", [-(2**31), 1], "arc 0 goes to node -2147483648"),
    ("arc_weight", [0, np.nan], "arc 1 has the weight -?nan"),
    ("arc_weight", [-np.inf, 0], "arc 0 has the weight -inf"),
    ("arc_weight", [0.5, 0], "arc 0 has the weight 0.5"),
    ("arc_weight", [-1001, 0], "arc 0 has the weight -1001"),
    ("final", [0, 0, 0], "no final node can be reached"),
    ("final", [], "final has 0 entries"),
    ("start", 3, "start is node 3"),
    ("start", -1, "start is node -1"),
    ("start", 2**31 - 1, "start is node 2147483647"),
    ("piece_begin", [0, 0, 3], "word 0 has 0 pieces"),
    ("piece_begin", [0, 3, 1], "piece_begin does not go from 0 to 3"),
    ("piece_begin", [], "piece_begin does not go from 0 to 3"),
    ("piece_ids", [3, 4, 0], "piece_ids has 0 at 2"),
    ("piece_ids", [3, 2, 5], "piece_ids has 2 at 1"),
    ("piece_ids", [3, 4, PIECES], "piece_ids has 9 at 2; ids must be in 1..8"),
    ("piece_ids", [3, 4, -7], "piece_ids has -7"),
    ("vocabulary", 2, "vocabulary has 2"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_bad_arrays(name: str, value: Any, message: str) -> None:
    good = arrays()
    assert walk(_native.WordGraph(**good), [4, 5])["final_weight"] == -1
    good[name] = np.array(value, good[name].dtype) if isinstance(value, list) else value
    with pytest.raises(ValueError, match=f"word graph: .*{message}"):
        _native.WordGraph(**good)


def spoken_arrays() -> dict[str, Any]:
    """The same in phones: the first word has two pronunciations."""
    return arrays() | {
        "spelling_begin": np.array([0, 2, 3], np.int32),
        "phone_begin": np.array([0, 1, 3, 5], np.int32),
        "phone_ids": np.array([1, 2, 1, 2, 3], np.int32),
        "phones": 3,
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("phones", 0, "there are none; say how many"),
        ("phones", 2, "phone_ids has 3 at 4; ids must be in 1..2"),
        ("phones", 2**40, "1099511627776 phones; there must be fewer"),
        ("phone_ids", [1, 2, 1, 2, 0], "phone_ids has 0 at 4"),
        ("phone_ids", [1, 2], "phone_begin does not go from 0 to 2"),
        ("phone_begin", [0, 0, 3, 5], "pronunciation 0 has 0 phones"),
        ("phone_begin", [], "phone_begin does not go from 0 to 5"),
        ("spelling_begin", [0, 3, 3], "word 1 has no pronunciation"),
        ("spelling_begin", [0, 3], "spelling_begin has 2 entries for 2 words"),
        ("spelling_begin", [0, 4, 3], "spelling_begin falls from 4 to 3"),
        ("spelling_begin", [], "spelling_begin does not go from 0 to 3"),
        ("piece_ids", [3, 2, 5], "piece_ids has 2 at 1"),
    ],
)
def test_bad_arrays_of_phones(name: str, value: Any, message: str) -> None:
    good = spoken_arrays()
    graph = _native.WordGraph(**good)
    assert walk(graph, [])["next"] == [2]
    assert walk(graph, [2, 3])["final_weight"] == -1
    good[name] = np.array(value, good[name].dtype) if isinstance(value, list) else value
    with pytest.raises(ValueError, match=f"word graph: .*{message}"):
        _native.WordGraph(**good)


def test_words_may_be_long_but_not_without_end() -> None:
    for length, good in ((1000, True), (1001, False)):
        network = Network([(3,) * length])
        network.sentence(network.node(), [0])
        if good:
            assert walk(network.native(PIECES), [3] * length)["final"]
        else:
            with pytest.raises(ValueError, match="1001 pieces"):
                network.native(PIECES)


# --- large and hostile graphs ---------------------------------------------------------------

SONGS = """
import time
import numpy as np
from earshot import _native

# play <song> in <room>: 20,000 songs of 1..4 words, from 200 templates.
rng = np.random.default_rng(1)
words = np.unique(rng.integers(3, 384, (6000, 3)), axis=0)
lengths = rng.integers(1, 4, 20000)
chains = [rng.integers(0, len(words), n) for n in lengths]
begin, label, dest = [0], [], []
nodes = 1 + 200 + 1 + 1
kind = []
def close(): begin.append(len(label))
# node 0 calls the templates' first words; node 1..200: one template each
for t in range(200):
    kind.append(0); label.append(t); dest.append(1 + t)
close()
songs = 202
for t in range(200):
    kind.append(2); label.append(songs); dest.append(201)
    close()
close()  # 201: the end
free = 203
for chain in chains:
    kind.append(3); label.append(5); dest.append(free); free += len(chain)
close()
final = [0] * 201 + [1, 0]
for chain in chains:
    for i, word in enumerate(chain):
        last = i + 1 == len(chain)
        kind.append(0); label.append(int(word)); dest.append(free if last else len(begin))
        final.append(0)
        close()
final.append(1); close()
i32 = lambda a: np.array(a, np.int32)
arguments = (i32(begin), np.array(kind, np.uint8), i32(label), i32(dest),
             np.zeros(len(label), np.float32), np.array(final, np.uint8), 0,
             i32(np.arange(len(words) + 1) * 3), i32(words.ravel()))
print(peak_kib())
began = time.perf_counter()
graph = _native.WordGraph(*arguments, vocabulary=384)
seen = 0
for t in range(200):
    history = list(words[t])
    for _ in range(8):
        position = graph.walk(i32(history))
        seen += len(position["next"])
        if not position["next"]:
            break
        history.append(position["next"][t % len(position["next"])])
print(int(1000 * (time.perf_counter() - began)))
print(peak_kib())
print(seen)
"""


def test_twenty_thousand_values_in_two_hundred_templates() -> None:
    """Four million sentences: made and walked in little time and memory."""
    before, took_ms, after, seen = child_figures(SONGS)
    assert seen > 10_000
    assert took_ms < 5000
    assert after - before < 50_000


def chain(nodes: int, link: Callable[[Network, int, int], None]) -> Network:
    network = Network([(3,), (4,)])
    for _ in range(nodes):
        network.node()
    network.final.add(nodes - 1)
    for node in range(nodes - 1):
        link(network, node, node + 1)
    return network


def test_a_long_chain_of_optional_words() -> None:
    """30,000 nodes, all reached from the first without a word."""

    def link(network: Network, node: int, to: int) -> None:
        network.arc(node, WORD, node % 2, to)
        network.arc(node, EPSILON, 0, to)

    network = chain(30_000, link)
    began = time.perf_counter()
    graph = network.native(PIECES)
    assert walk(graph, [3, 4, 4, 3, 4])["final"]
    assert time.perf_counter() - began < 5


def test_a_long_chain_of_words_and_of_calls() -> None:
    graph = chain(30_000, lambda n, a, b: n.arc(a, WORD, 0, b)).native(PIECES)
    assert walk(graph, [3] * 29_999)["final"]
    assert walk(graph, [3] * 30_000) is None
    network = Network([(3,)])
    said = network.node()
    network.sentence(said, [0])
    first = network.node()
    network.start = first
    for _ in range(30_000):
        to = network.node()
        network.arc(first, CALL, said, to)
        first = to
    network.final.add(first)
    assert walk(network.native(PIECES), [3] * 30_000)["final"]


def test_what_multiplies_without_end_is_refused() -> None:
    """Ten calls of each level from the level above: 10^16 ways to the one word."""
    network = Network([(3,)])
    inner = network.node()
    network.sentence(inner, [0])
    for _ in range(16):
        outer, end = network.node(), network.node(final=True)
        for _ in range(10):
            back = network.node()
            network.arc(back, WORD, 0, end)
            network.arc(outer, CALL, inner, back)
        inner = outer
    network.start = inner
    with pytest.raises(ValueError, match="more than 1048576 ways to go on"):
        network.native(PIECES)


CALLS = """
from grammar_oracle import CALL, Network
network = Network([(3,)])
inner = network.node()
network.sentence(inner, [0])
for weight in (-1, 0, 0):
    outer = network.node()
    for _ in range(1000):
        network.arc(outer, CALL, inner, network.node(final=True), weight=weight)
    inner = outer
network.start = inner
graph = network.graph()
before = peak_kib()
try:
    graph.to_native(vocabulary=9)
except ValueError as error:
    print(int("ways to go on" in str(error)), before, peak_kib())
"""


def test_calls_that_multiply_fast_are_refused_before_memory_runs_out() -> None:
    """Three levels of 1000 calls each: best first, all of two levels come before the third."""
    refused, before, after = child_figures(CALLS)
    assert refused == 1
    assert after - before < 400_000


def ambiguous() -> Network:
    """Any of 20,000 words may be left out: states of many places, one after the other."""

    def link(network: Network, node: int, to: int) -> None:
        network.arc(node, WORD, 0, to)
        network.arc(node, WORD, 1, to, weight=-0.5)
        network.arc(node, EPSILON, 0, to)

    return chain(20_000, link)


def test_what_is_remembered_has_a_bound() -> None:
    """States are forgotten when they have become many, and made again alike."""
    graph = ambiguous().native(PIECES)
    first = [walk(graph, [3] * length) for length in range(4)]
    small = graph.size_bytes
    walk(graph, [3] * 40)  # more than it keeps
    assert graph.size_bytes < small  # so it forgot
    assert [walk(graph, [3] * length) for length in range(4)] == first
    assert graph.size_bytes == small


def test_threads_walk_one_graph() -> None:
    network = random_network(0, words=WORDS)
    flat = Flat(network)
    all_histories = histories(flat, pieces=8, limit=300)
    assert len(all_histories) == 300
    want = {history: flat.position(history) for history in all_histories}
    for _ in range(10):
        graph = network.native(PIECES)

        def work(start: int, graph: _native.WordGraph = graph) -> bool:
            order = all_histories[start:] + all_histories[:start]
            return all(same(walk(graph, history), want[history]) for history in order)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, [0, 100, 150, 299]))
