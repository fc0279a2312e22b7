"""Lattices as bytes: there and back, within a size, and whatever else somebody may send."""

from __future__ import annotations

import contextlib
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lattices import lattices, make, paths, said, score

from earshot.core.errors import LatticeError
from earshot.decode import lattice_wire
from earshot.decode.lattice import (
    NOTHING,
    Lattice,
    best_path,
    from_json,
    time_conditioned,
    to_json,
)
from earshot.decode.lattice_pb2 import Lattice as Message
from earshot.decode.lattice_wire import MAX_WIRE_BYTES, decode_lattice, encode_lattice


def plain(data: bytes) -> Message:
    """The message without its packing."""
    message = Message.FromString(data)
    if message.deflated:
        message = Message.FromString(zlib.decompress(message.deflated, -15))
        message.version = 1
    return message


def packed(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = packer.compress(data) + packer.flush()
    return bytes(Message(version=1, deflated=deflated).SerializeToString())


steps = st.sampled_from([0.25, 0.01, 1.0, 0.3])


@settings(max_examples=60)
@given(lattices(max_states=8), steps)
def test_there_and_back(lattice: Lattice, step: float) -> None:
    data = encode_lattice(lattice, step=step)
    got = decode_lattice(data)
    for name in ("src", "dst", "start_frame", "end_frame"):
        np.testing.assert_array_equal(getattr(got, name), getattr(lattice, name))
    assert [got.word_at(a) for a in range(got.num_arcs)] == [
        lattice.word_at(a) for a in range(lattice.num_arcs)
    ]
    assert best_path(got).arcs == best_path(lattice).arcs
    assert best_path(got).score == pytest.approx(best_path(lattice).score, abs=1e-4)
    for path in paths(lattice):
        # Half a step a word; a whole one where an arc ties with the best and must not.
        room = step * len(path) + 1e-4
        assert score(got, path) == pytest.approx(score(lattice, path), abs=room)
        prior = [float(x.prior[list(path)].sum(dtype=np.float64)) for x in (got, lattice)]
        assert prior[0] == pytest.approx(prior[1], abs=step * len(path) / 2 + 1e-4)
    sent, again = (plain(x) for x in (data, encode_lattice(got, step=step)))
    assert again.score == pytest.approx(sent.score, abs=1e-4)
    again.score = sent.score
    assert again == sent


@settings(max_examples=60)
@given(lattices(max_states=8, ties=True), st.integers(1, 300))
def test_a_budget_is_kept_and_the_best_path_always_sent(lattice: Lattice, most: int) -> None:
    data = encode_lattice(lattice, max_bytes=most)
    got = decode_lattice(data)
    best = best_path(lattice)
    assert best_path(got).words == best.words
    joined = time_conditioned(lattice)
    assert {said(got, path) for path in paths(got)} <= {said(joined, p) for p in paths(joined)}
    if len(data) > most:
        assert got.num_arcs == len(best.arcs)


def test_a_larger_budget_sends_more() -> None:
    arcs: list[Any] = []
    for state in range(12):
        for i, word in enumerate(("turn", "burn", "learn", "return")):
            arcs.append((state, state + 1, word, 3 * state, 3 * state + 2, -float(i), 0.0))
    lattice = make(arcs)
    sizes = [decode_lattice(encode_lattice(lattice, max_bytes=b)).num_arcs for b in (60, 75, 9999)]
    assert 12 <= sizes[0] < sizes[1] <= sizes[2] == 48
    assert len(encode_lattice(lattice)) < 3 * 48
    beams = [decode_lattice(encode_lattice(lattice, beam=b)).num_arcs for b in (0.0, 1.0, 9.0)]
    assert beams == [12, 24, 48]


@settings(max_examples=60)
@given(st.lists(st.text(min_size=1), unique=True, max_size=20))
def test_any_words(words: list[str]) -> None:
    words = [" ".join(word.split()) for word in words]
    words = [w for w in dict.fromkeys(words) if w and all(c >= " " for c in w)]
    words = [w for w in words if w.encode("utf-8", "ignore").decode() == w] or ["a"]
    lattice = make([(i, i + 1, word, i, i + 1, 0.0, 0.0) for i, word in enumerate(words)])
    assert best_path(decode_lattice(encode_lattice(lattice))).words == tuple(words)


def test_words_that_cannot_travel() -> None:
    with pytest.raises(LatticeError, match="control character"):
        encode_lattice(make([(0, 1, "a\x02b", 0, 1, 0.0, 0.0)]))
    for step in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="step"):
            encode_lattice(make([(0, 1, "a", 0, 1, 0.0, 0.0)]), step=step)


def test_nothing_was_said() -> None:
    lattice = make([(0, 1, NOTHING, 0, 0, -3.0, 0.0)])
    got = decode_lattice(encode_lattice(lattice))
    assert best_path(got).words == () and best_path(got).score == -3.0


EXAMPLE = make(
    [
        (0, 1, "turn", 0, 2, -1.0, 0.0),
        (0, 2, "burn", 0, 3, -2.0, 0.0),
        (1, 2, "on", 2, 3, -1.0, 0.5),
        (2, 3, "it", 4, 5, -1.0, 0.0),
    ]
)


def message(**changes: Any) -> bytes:
    read = plain(encode_lattice(EXAMPLE))
    for name, value in changes.items():
        read.ClearField(name)
        if isinstance(value, list):
            getattr(read, name).extend(value)
        else:
            setattr(read, name, value)
    return bytes(read.SerializeToString())


HUGE = 2**32 - 1
NO_ARCS: dict[str, Any] = {
    name: [] for name in ("leaving", "ahead", "word", "start", "length", "loss", "prior")
}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "version 0"),
        (b"\x08\x01", "step is 0"),
        (message(**NO_ARCS), "1 states have 0 of 0"),
        (b"\xff" * 50, "no protobuf"),
        (b"RIFF$\x00\x00\x00WAVEfmt ", "version|no protobuf"),
        (encode_lattice(EXAMPLE)[:-1], "no protobuf"),
        (b"\0" * (MAX_WIRE_BYTES + 1), "at most 1048576"),
        (message(version=2), "version 2; this reader knows version 1. Update"),
        (message(words="abc"), "begins within a word"),
        (message(words="\x01b\x05c"), "shares 4 letters"),
        (message(words="\x01b\x00c"), "shares -1 letters"),
        (message(words="\x01b\x01a\x01c"), "out of order"),
        (message(words="\x01on\x03\x01z"), "out of order"),
        (message(words="\x01 a\x01b\x01c\x01d"), "spaces"),
        (message(leaving=[HUGE, 1, 1]), "of 4 arcs"),
        (message(leaving=[2, 0, 2]), "of 4 arcs"),
        (message(leaving=[2, 1]), "3 states have 3 of 4"),
        (message(ahead=[HUGE, 0, 0, 0]), "state 4294967296; the last is 3"),
        (message(ahead=[0, 1, 0, 1]), "state 4; the last is 3"),
        (message(ahead=[1, 1, 0, 0]), "frame 268435456"),
        (message(ahead=[]), "entries of 'word'"),
        (message(word=[HUGE, 1, 2, 3]), "word 4294967295"),
        (message(word=[0, 1, 2, 3]), "says nothing"),
        (message(start=[-1, 0, 0, 0]), "frame -1"),
        (message(start=[2**31 - 1, 0, 0, 0]), "frame 2147483647"),
        (message(length=[HUGE, 0, 0, 0]), "frame 0 to 4294967295"),
        (message(loss=[0, 0, 0]), "entries of 'loss'"),
        (message(loss=[1, 2, 0, 0]), "state 0 has no arc"),
        (message(loss=[0, HUGE, 0, 0]), "1e9 nats"),
        (message(prior=[1]), "entries of 'prior'"),
        (message(prior=[2**31 - 1] * 4, step=1e5), "below 1e9"),
        (message(step=0.0), "step is 0"),
        (message(step=float("nan")), "step is nan"),
        (message(score=float("inf")), "score inf"),
        (message(score=float("nan")), "score nan"),
        (packed(b"\xff\xff"), "2 bytes are no protobuf"),
        (packed(message()), "within what is packed"),
        (packed(packed(b"")), "within what is packed"),
        (packed(b"")[:-1], "no protobuf"),
        (bytes(Message(version=1, deflated=b"\xff\xff").SerializeToString()), "is damaged"),
        (bytes(Message(version=1, deflated=b"\x4b\x04").SerializeToString()), "does not end"),
        (packed(bytes(1 << 25)), "does not end within 1048576"),
    ],
)
def test_what_is_no_lattice(data: bytes, problem: str) -> None:
    with pytest.raises(LatticeError, match=problem) as caught:
        decode_lattice(data, where="from 10.0.0.7")
    assert str(caught.value).count("\n") == 0


def test_a_table_of_words_does_not_swell() -> None:
    """Each word shares 30 letters with the one before: bytes become at most 31 times as many."""
    words = ["a" * 30 + chr(0x4E00 + i // 200) + chr(0x4E00 + i % 200) for i in range(40_000)]
    coded = lattice_wire._front_coded(words)
    with pytest.raises(LatticeError, match="huge"):
        decode_lattice(message(words=coded))


@settings(max_examples=200)
@given(st.data(), lattices(max_states=8))
def test_damaged_bytes_are_refused_or_a_sound_lattice(
    data: st.DataObject, lattice: Lattice
) -> None:
    """Bytes changed, cut out, doubled and inserted; what comes through keeps every rule."""
    raw = bytearray(encode_lattice(lattice))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(at, min(len(raw), at + 9)))
        kind = data.draw(st.integers(0, 3))
        if kind == 0 and at < len(raw):
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == 1:
            del raw[at:end]
        elif kind == 2:
            raw[at:at] = raw[at:end]
        else:
            raw[at:at] = data.draw(st.binary(max_size=6))
    try:
        got = decode_lattice(bytes(raw))
    except LatticeError:
        return
    from_json(to_json(got))  # checks everything again
    best_path(got)
    encode_lattice(got)


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(LatticeError):
        best_path(decode_lattice(data))
