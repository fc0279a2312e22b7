"""Lattice files: there and back, and as other tools write them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lattices import lattices, make, paths, said, score

from earshot.core.errors import ConfigError, LatticeError
from earshot.decode.lattice import NOTHING, Lattice, best_path
from earshot.decode.lattice_formats import (
    LatticeFormat,
    format_of,
    parse_lattice,
    read_lattice,
    render_lattice,
    state_frames,
)


def rows(lattice: Lattice) -> list[tuple[Any, ...]]:
    columns = (lattice.src, lattice.dst, lattice.start_frame, lattice.end_frame)
    scores = (lattice.acoustic, lattice.prior)
    words = [lattice.word_at(arc) for arc in range(lattice.num_arcs)]
    return list(zip(*(c.tolist() for c in (*columns, *scores)), words, strict=True))


@settings(max_examples=60)
@given(lattices(max_states=8), st.sampled_from(list(LatticeFormat)))
def test_there_and_back(lattice: Lattice, form: LatticeFormat) -> None:
    if form is LatticeFormat.KALDI and any(row[-1] == "two words" for row in rows(lattice)):
        with pytest.raises(LatticeError, match="two words"):
            render_lattice(lattice, form, utterance="u 1")
        return
    got = parse_lattice(render_lattice(lattice, form, utterance="u 1"), form)
    if form is LatticeFormat.PROTOBUF:
        assert [row[:4] for row in rows(got)] == [row[:4] for row in rows(lattice)]
        assert best_path(got).words == best_path(lattice).words
    else:
        assert rows(got) == rows(lattice)


@settings(max_examples=60)
@given(lattices(max_states=8))
def test_states_have_times_that_do_not_fall(lattice: Lattice) -> None:
    frames = state_frames(lattice)
    assert frames[0] == 0
    for src, dst, start, end, *_ in rows(lattice):
        assert frames[src] <= frames[dst]
        assert frames[src] <= start and end <= frames[dst]


EXAMPLE = make(
    [
        (0, 1, "turn", 0, 2, -1.5, 0.0),
        (0, 2, "don't", 1, 3, -2.0, 0.0),
        (1, 2, "on", 2, 3, -1.0, 0.5),
    ]
)


def test_how_slf_looks() -> None:
    text = render_lattice(EXAMPLE, LatticeFormat.SLF, utterance="kitchen 1").decode()
    assert text.splitlines() == [
        "VERSION=1.0",
        "UTTERANCE=kitchen_1",
        "acscale=1.0",
        "lmscale=1.0",
        "wdpenalty=0.0",
        "start=0 end=2",
        "N=3 L=3",
        "I=0 t=0.00",
        "I=1 t=0.08",
        "I=2 t=0.12",
        "J=0 S=0 E=1 W=turn a=-1.5 l=0 d=:sil,0.00:word,0.08:",
        'J=1 S=0 E=2 W="don\'t" a=-2 l=0 d=:sil,0.04:word,0.08:',
        "J=2 S=1 E=2 W=on a=-1 l=0.5 d=:sil,0.00:word,0.04:",
    ]


def test_how_kaldi_looks() -> None:
    text = render_lattice(EXAMPLE, LatticeFormat.KALDI, utterance="kitchen 1").decode()
    assert text == ("kitchen_1\n0 1 turn -0,1.5,2_2\n0 2 don't -0,2,1_2_2\n1 2 on -0.5,1,2\n2\n\n")


def test_slf_as_htk_writes_it() -> None:
    """Words on nodes, a base, scales, a word penalty, empty words, states in any order."""
    text = """VERSION=1.1
UTTERANCE=testf1.mfc
base=10 lmscale=2.0 wdpenalty=-0.5
N=5 L=5
I=0 t=0.00 W=!NULL
I=4 t=1.00 W=!NULL
I=1 t=0.24 W=BOOK
I=2 t=0.26 W=look v=1
I=3 t=0.80 W=it
J=0 S=0 E=1 a=-1 l=-0.5
J=1 S=0 E=2 a=-2 l=-0.25
J=2 S=1 E=3 a=-1
J=3 S=2 E=3 a=-0.5
J=4 S=3 E=4 a=-3 l=-1
"""
    lattice = parse_lattice(text.encode(), LatticeFormat.SLF)
    got = {said(lattice, path): score(lattice, path) for path in paths(lattice)}
    ten = math.log(10)
    want = {
        ("BOOK", "it"): ten * (-1 - 1 - 3 + 2 * (-0.5 - 1) - 2 * 0.5),
        ("look", "it"): ten * (-2 - 0.5 - 3 + 2 * (-0.25 - 1) - 2 * 0.5),
    }
    assert got == pytest.approx(want, abs=1e-4)
    assert lattice.end_frame.tolist() == [6, 6, 20, 20] or sorted(lattice.end_frame) == [
        6,
        6,
        20,
        20,
    ]


def test_slf_of_one_node_says_nothing() -> None:
    lattice = parse_lattice(b"N=1 L=0\nI=0\n", LatticeFormat.SLF)
    assert rows(lattice) == [(0, 1, 0, 0, 0.0, 0.0, NOTHING)]


def test_kaldi_as_lattice_copy_writes_it() -> None:
    """Transition ids of its own, two final states with weights, an arc without weight."""
    text = (
        "utt-1\n0\t1\tturn\t1.5,2.5,3_8_8\n1 2 on 0.5,1,9_9\n0 2 burn\n1 0.25,0.25,\n2\n\nutt-2\n"
    )
    lattice = parse_lattice(text.encode(), LatticeFormat.KALDI)
    got = {said(lattice, path): score(lattice, path) for path in paths(lattice)}
    assert got == pytest.approx({("turn", "on"): -5.5, ("turn",): -4.5, ("burn",): 0.0})
    by_word = {row[-1]: row[2:4] for row in rows(lattice)}
    assert by_word["on"] == (3, 5) and by_word["turn"] == (0, 3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "says N=None and has 0"),
        ("hello", "is no field"),
        ("N=2 L=2\nI=0\nI=1\nJ=0 S=0 E=1 W=a\n", "says L=2 and has 1"),
        ("N=2 L=1\nI=0\nI=1\nJ=0 S=0 E=7 W=a\n", ":4: there is no node 7"),
        ("N=2 L=1\nI=0\nI=1\nJ=0 S=0 W=a\n", "no number of a node"),
        ("N=2 L=1\nI=0\nI=1\nJ=0 S=0 E=1 W=a a=x\n", "'x' is no number"),
        ("N=2 L=1\nI=0\nI=1\nJ=0 S=0 E=1 W=a a=nan\n", "'nan' is no number"),
        ("N=2 L=1\nI=0 t=1e300\nI=1\nJ=0 S=0 E=1 W=a\n", "is at 1e"),
        ("N=2 L=1\nI=0\nI=0\nJ=0 S=0 E=1 W=a\n", "there twice"),
        ("N=2 L=1\nI=0\nI=1 L=sub\nJ=0 S=0 E=1 W=a\n", "lattice within"),
        ("N=2 L=2\nI=0\nI=1\nJ=0 S=0 E=1 W=a\nJ=1 S=1 E=0 W=a\n", "could be its start"),
        ("N=2 L=2\nstart=0 end=1\nI=0\nI=1\nJ=0 S=0 E=1 W=a\nJ=1 S=1 E=0 W=a\n", "no cycles"),
        ("base=0.5\nN=2 L=1\nI=0\nI=1\nJ=0 S=0 E=1 W=a\n", "base 0.5"),
        ("N=99999999999 L=1\n", "is no number"),
        ("N=2 L=1\nI=0\nI=1\nJ=0 S=0 E=1 W=a d=:sil,1e99:word,1:\n", "no time"),
    ],
)
def test_slf_that_is_none(text: str, problem: str) -> None:
    with pytest.raises(LatticeError, match=problem):
        parse_lattice(text.encode(), LatticeFormat.SLF, where="x.slf")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no arc"),
        ("utt\n\n", "no arc"),
        ("utt\n0 1 a 1,2,3,4\n1\n", ":2: '1,2,3,4' is no pair of costs"),
        ("utt\n0 1 a 1\n1\n", "no pair"),
        ("utt\n0 1 a inf,0,\n1\n", "no pair"),
        ("utt\n0 -1 a 0,0,\n1\n", "'-1' is no state"),
        ("utt\n0 1 2 3 4\n", "5 fields"),
        ("utt\n0 1 a 0,0,\n", "no path"),
        ("utt\n0 1 a 0,0,\n1 0 a 0,0,\n1\n", "no cycles"),
    ],
)
def test_kaldi_that_is_none(text: str, problem: str) -> None:
    with pytest.raises(LatticeError, match=problem):
        parse_lattice(text.encode(), LatticeFormat.KALDI, where="x.txt")


def test_other_files(tmp_path: Path) -> None:
    for form in (LatticeFormat.SLF, LatticeFormat.KALDI, LatticeFormat.JSON):
        with pytest.raises(LatticeError, match="byte 1 is no UTF-8"):
            parse_lattice(b"a\xff", form)
    with pytest.raises(LatticeError, match="no JSON in line 1"):
        parse_lattice(b"{", LatticeFormat.JSON)
    with pytest.raises(LatticeError, match="no JSON"):
        parse_lattice(b"[" * 100_000, LatticeFormat.JSON)
    with pytest.raises(LatticeError, match="cannot be read"):
        read_lattice(tmp_path / "absent.slf")
    with pytest.raises(ConfigError, match=r"'\.xyz' names no lattice format"):
        format_of("a.xyz")
    path = tmp_path / "a.json"
    path.write_bytes(render_lattice(EXAMPLE, LatticeFormat.JSON, utterance="a"))
    assert json.loads(path.read_text())["utterance"] == "a"
    assert rows(read_lattice(path)) == rows(EXAMPLE)
    assert rows(read_lattice(path, LatticeFormat.JSON)) == rows(EXAMPLE)


@pytest.mark.parametrize("word", ["!NULL", "<eps>"])
def test_words_that_mean_something_else(word: str) -> None:
    lattice = make([(0, 1, word, 0, 1, 0.0, 0.0)])
    for form in (LatticeFormat.SLF, LatticeFormat.KALDI):
        with pytest.raises(LatticeError, match="means something else"):
            render_lattice(lattice, form, utterance="u")


@settings(max_examples=60)
@given(st.text(alphabet="ab\"'\\=: é0!", min_size=1, max_size=6))
def test_words_with_marks(word: str) -> None:
    word = " ".join(word.split())
    if word in ("", NOTHING):
        return
    lattice = make([(0, 1, word, 0, 1, 0.0, 0.0)])
    got = parse_lattice(
        render_lattice(lattice, LatticeFormat.SLF, utterance="u"), LatticeFormat.SLF
    )
    assert best_path(got).words == (word,)


@settings(max_examples=60)
@given(st.text(max_size=200), st.sampled_from([LatticeFormat.SLF, LatticeFormat.KALDI]))
def test_any_text(text: str, form: LatticeFormat) -> None:
    try:
        lattice = parse_lattice(text.encode("utf-8", "replace"), form)
    except LatticeError:
        return
    best_path(lattice)
