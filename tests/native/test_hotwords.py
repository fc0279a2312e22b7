"""Hotwords against a reading of texts that knows no trie; spelling against SentencePiece."""

from __future__ import annotations

import itertools
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot import _native

# Pieces 3..5 begin words, 6..8 go on.
STARTS = [0, 0, 0, 1, 1, 1, 0, 0, 0]
UNIT = 1 / 4096

Phrase = tuple[int, ...]

piece = st.integers(3, 8)
phrases = st.lists(
    st.tuples(
        st.tuples(st.integers(3, 5), st.lists(piece, max_size=5)).map(lambda p: (p[0], *p[1])),
        st.integers(0, 40).map(lambda n: n / 4),
    ),
    max_size=12,
)
texts = st.lists(piece, max_size=30)


def trie(listed: list[tuple[Phrase, float]]) -> _native.Hotwords:
    return _native.Hotwords.of_pieces([list(p) for p, _ in listed], [b for _, b in listed], STARTS)


def worth(text: list[int], listed: list[tuple[Phrase, float]]) -> float:
    """Oracle: at each word the longest phrase that begins there and ends with a word."""
    boosts: dict[Phrase, float] = {}
    for phrase, boost in listed:
        if boost > 0:
            boosts[phrase] = max(boosts.get(phrase, 0.0), boost)
    total, at = 0.0, 0
    while at < len(text):
        best = 0
        for end in range(at + 1, len(text) + 1):
            closed = end == len(text) or STARTS[text[end]]
            if closed and tuple(text[at:end]) in boosts:
                best = end
        if best:
            total += boosts[tuple(text[at:best])]
            at = best
        else:
            at += 1
            while at < len(text) and not STARTS[text[at]]:
                at += 1
    return total


@settings(max_examples=400)
@given(listed=phrases, text=texts)
def test_a_text_is_worth_the_phrases_in_it(
    listed: list[tuple[Phrase, float]], text: list[int]
) -> None:
    """After every piece: were it the end, exactly the phrases so far count."""
    hotwords = trie(listed)
    for end in range(len(text) + 1):
        scores = hotwords.walk(np.array(text[:end], np.int32))
        assert scores[-1] == worth(text[:end], listed)


@settings(max_examples=200)
@given(listed=phrases, extra=st.lists(piece, max_size=6))
def test_a_phrase_gets_its_boost_and_a_begun_one_nothing(
    listed: list[tuple[Phrase, float]], extra: list[int]
) -> None:
    listed = [(phrase, boost) for phrase, boost in listed if boost > 0][:1]
    if not listed:
        return
    (phrase, boost), *_ = listed
    hotwords = trie(listed)
    assert hotwords.walk(np.array(phrase, np.int32))[-1] == boost
    for length in range(len(phrase)):
        scores = hotwords.walk(np.array(phrase[:length], np.int32))
        assert scores[-1] == 0
        # What is lent in advance grows with every piece.
        assert scores[:-1] == sorted(scores[:-1]) and all(0 < s < boost for s in scores[:-1])
    # A longer word is not the phrase.
    tail = [p for p in extra if not STARTS[p]]
    if tail:
        assert hotwords.walk(np.array([*phrase, *tail], np.int32))[-1] == 0


@settings(max_examples=100)
@given(listed=phrases, text=texts)
def test_what_is_lent_lies_between_what_is_earned_and_all_there_is(
    listed: list[tuple[Phrase, float]], text: list[int]
) -> None:
    most = max((boost for _, boost in listed), default=0.0)
    scores = trie(listed).walk(np.array(text, np.int32))
    for end, score in enumerate(scores[:-1], start=1):
        earned = worth(text[:end], listed)
        assert score % UNIT == 0
        assert score >= 0
        assert score <= earned + most * sum(STARTS[p] for p in text[:end])


def test_one_phrase_inside_another() -> None:
    new, york, city, university = [3], [4, 6], [5], [5, 7]
    listed = [
        ((*new, *york), 4.0),
        ((*new, *york, *city), 9.0),
        ((*york, *university), 5.0),
    ]
    hotwords = trie([(tuple(p), b) for p, b in listed])

    def score(*words: list[int]) -> float:
        return hotwords.walk(np.array(list(itertools.chain(*words)), np.int32))[-1]

    assert score(new, york) == 4
    assert score(new, york, city) == 9
    assert score(york, university) == 5
    assert score(new, york, university) == 4  # the first phrase has taken "york"
    assert score(new, new, york) == 4
    assert score(york, york, university, new, york, new) == 9


def test_what_cannot_be_a_phrase() -> None:
    for pieces, boost, message in (
        ([[]], 1.0, "phrase 0 has no pieces"),
        ([[6]], 1.0, "begins no word"),
        ([[3, 9]], 1.0, "piece 9; the model has 0..8"),
        ([[-1]], 1.0, "piece -1"),
        ([[3]], -1.0, "0..1000"),
        ([[3]], 1001.0, "0..1000"),
        ([[3]], float("nan"), "0..1000"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.Hotwords.of_pieces(pieces, [boost], STARTS)
    with pytest.raises(ValueError, match="belong together"):
        _native.Hotwords.of_pieces([[3]], [1.0, 2.0], STARTS)


# --- spelling -------------------------------------------------------------------------------

PIECES = ["<b>", "<s>", "<u>", "▁", "▁a", "▁ab", "a", "b", "ab", "abc", "c", "é", "▁c"]
SCORES = [0, 0, 0, -4.0, -1.5, -2.5, -2.0, -2.25, -2.75, -3.5, -3.0, -5.0, -2.5]


@lru_cache(maxsize=1)
def speller() -> _native.Speller:
    return _native.Speller(PIECES, SCORES)


def all_spellings(text: str) -> list[tuple[float, list[int]]]:
    """Oracle: every way to cut the text."""
    if not text:
        return [(0.0, [])]
    found = []
    for i, name in enumerate(PIECES[3:], start=3):
        if text.startswith(name):
            found += [(SCORES[i] + s, [i, *rest]) for s, rest in all_spellings(text[len(name) :])]
    return found


@settings(max_examples=200)
@given(
    words=st.lists(st.text("abcé", min_size=1, max_size=5), min_size=1, max_size=3),
    ways=st.integers(1, 16),
)
def test_spellings_are_the_best_of_all_ways_to_cut(words: list[str], ways: int) -> None:
    every = all_spellings("".join("▁" + word for word in words))
    got = speller().spell(" ".join(words), ways)
    assert [score for _, score in got] == pytest.approx(
        sorted((score for score, _ in every), reverse=True)[:ways]
    )
    for pieces, score in got:
        assert any(p == pieces and s == pytest.approx(score) for s, p in every)
    assert len({tuple(p) for p, _ in got}) == len(got)


def test_what_cannot_be_spelled() -> None:
    assert speller().spell("abd") == []
    assert speller().spell("") == []
    assert speller().spell("a" * 1025) == []
    with pytest.raises(ValueError, match="13 pieces and 1 scores"):
        _native.Speller(PIECES, [0.0])
    with pytest.raises(ValueError, match="not finite"):
        _native.Speller(PIECES, [float("nan"), *SCORES[1:]])


def test_spelling_is_that_of_sentencepiece() -> None:
    from earshot.session.recognizer import embedded_model_path, tokenizer_of

    tokenizer = tokenizer_of(Path(embedded_model_path()))
    native = _native.Speller(list(tokenizer.pieces), list(tokenizer.scores))
    rng = np.random.default_rng(5)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz'"))
    made_up = ["".join(rng.choice(letters, rng.integers(1, 12))) for _ in range(300)]
    said = [
        "turn",
        "the",
        "kitchen",
        "lights",
        "off",
        "and",
        "call",
        "siobhan",
        "washington",
        "at",
        "five",
        "thirty",
    ]
    for text in [*made_up, *said, " ".join(said)]:
        [(pieces, _)] = native.spell(text)
        if pieces != tokenizer.encode(text):  # equally good
            scores = [sum(tokenizer.scores[i] for i in p) for p in (pieces, tokenizer.encode(text))]
            assert scores[0] == pytest.approx(scores[1])


def test_five_thousand_phrases_are_ready_in_no_time() -> None:
    """Ten milliseconds is the aim; the test leaves room for a busy machine."""
    from earshot.session.recognizer import embedded_model_path, tokenizer_of

    tokenizer = tokenizer_of(Path(embedded_model_path()))
    native = _native.Speller(list(tokenizer.pieces), list(tokenizer.scores))
    rng = np.random.default_rng(3)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    names = [
        " ".join("".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(2))
        for _ in range(5000)
    ]
    took = []
    compiler = _native.PhraseCompiler(native, 0)
    for _ in range(5):
        started = time.perf_counter()
        hotwords, unspelled, unknown = compiler.compile(names, [1.5] * 5000)
        took.append(time.perf_counter() - started)
    assert hotwords is not None and not unspelled and not unknown
    assert hotwords.num_nodes > 20_000
    assert min(took) < 0.1
    print(f"{min(took) * 1e3:.1f} ms")
