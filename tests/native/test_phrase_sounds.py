"""Phrases found by their sounds, against every alignment of every phrase from every frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ear_builder as eb
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_oracle import noise

from earshot import _native
from earshot.decode.lattice import arc_posteriors, best_path, nbest
from earshot.decode.result import to_lattice

F32 = npt.NDArray[np.float32]
PHONES = 4
PIECES = ["<blk>", "<sos/eos>", "<unk>", *(f"▁{c}" for c in "abcd"), *"abcd"]
WORTH = 5.0  # of a phrase of three phones, in nats; a phone more is worth 20


def hotwords(words: dict[str, list[bytes]], phrases: list[str]) -> _native.Hotwords:
    """Phrases; those of three phones may lose WORTH, and no beginning is given up before."""
    speller = _native.Speller(PIECES, [0.0] * 3 + [-1.0] * (len(PIECES) - 3))
    compiler = _native.PhraseCompiler(speller, PHONES)
    for word, ways in words.items():
        compiler.add(word, ways)
    found, unspelled, unknown = compiler.compile(
        phrases, [1.0] * len(phrases), sound_share=20.0, sound_cost=60.0 - WORTH
    )
    assert found is not None and not unspelled and not unknown
    return found


def lost(rows: F32, phones: bytes, start: int, end: int) -> float:
    """The least that an alignment loses whose first phone is in `start` and last one in `end`."""
    behind = rows - rows.max(axis=1, keepdims=True)
    states = [column for phone in phones for column in (phone, 0)][:-1]
    scores = {0: float(behind[start, states[0]])}
    for t in range(start + 1, end + 1):
        after: dict[int, float] = {}
        for s, score in scores.items():
            for to in (s, s + 1, s + 2):
                skips = to == s + 2 and (
                    s % 2 == 1 or states[s] == states[min(to, len(states) - 1)]
                )
                if to < len(states) and not skips:
                    value = score + float(behind[t, states[to]])
                    after[to] = max(after.get(to, -np.inf), value)
        scores = after
    return scores.get(len(states) - 1, -np.inf)


def oracle(rows: F32, ways: list[tuple[bytes, list[int]]]) -> list[tuple[int, int, float, int]]:
    """Frame, start, gain and way of all that is to be found."""
    found = []
    said: dict[int, tuple[int, float]] = {}  # way: frame, gain
    for end in range(len(rows)):
        for number, (phones, _) in enumerate(ways):
            options = [(lost(rows, phones, start, end), start) for start in range(end + 1)]
            best, start = max(options, key=lambda option: (round(option[0], 4), option[1]))
            gain = best + WORTH
            if gain <= 0:
                continue
            if number in said and start <= said[number][0] and gain < said[number][1] + 0.5:
                continue
            said[number] = (end, gain)
            found.append((end, start, gain, number))
    return found


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(3, 14), st.floats(0.3, 3.0))
def test_what_is_found_is_what_every_alignment_says(seed: int, frames: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    words = {
        "a": [bytes([1, 2, 3])], "b": [bytes([1, 1, 2])], "cd": [bytes([2, 3]), bytes([4, 3])],
        "d": [bytes([1])],
    }  # fmt: skip
    phrases = ["a", "b", "cd d"]
    spelled = {"a": [3], "b": [4], "cd d": [5, 10, 6]}
    ways = [
        (bytes([1, 2, 3]), spelled["a"]), (bytes([1, 1, 2]), spelled["b"]),
        (bytes([2, 3, 1]), spelled["cd d"]), (bytes([4, 3, 1]), spelled["cd d"]),
    ]  # fmt: skip
    logits = spread * rng.standard_normal((frames, PHONES + 1))
    rows = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
    expected = oracle(rows, ways)
    found = hotwords(words, phrases).spot(rows)
    key = [(end, start, tuple(ways[number][1])) for end, start, _, number in expected]
    assert sorted((end, start, tuple(pieces)) for end, start, _, pieces, _ in found) == sorted(key)
    gains = sorted((end, gain) for end, _, gain, _ in expected)
    for (end, gain), (frame, given_gain) in zip(
        gains, sorted((f[0], f[2]) for f in found), strict=True
    ):
        assert end == frame and gain == pytest.approx(given_gain, abs=1e-4)
    for end, start, _, pieces, when in found:
        assert len(when) == len(pieces) and when == sorted(when)
        assert start <= when[0] and when[-1] <= end


def sharp(columns: list[int]) -> F32:
    rows = np.full((len(columns), PHONES + 1), -9.0, np.float32)
    rows[np.arange(len(columns)), columns] = -0.001
    return rows


def test_pieces_lie_between_the_phones_of_their_word() -> None:
    found = hotwords({"ab": [bytes([1, 2])], "cd": [bytes([3, 4])]}, ["ab cd"])
    rows = sharp([0, 1, 0, 0, 2, 0, 3, 3, 0, 4, 0])
    frame, start, gain, pieces, when = found.spot(rows)[-1]  # before, parts of it for all of it
    assert (frame, start) == (9, 1) and gain == pytest.approx(WORTH + 20.0)
    assert pieces == [3, 8, 5, 10] and when == [1, 4, 6, 9]


def test_a_frame_that_is_not_known_ends_what_has_begun() -> None:
    found = hotwords({"a": [bytes([1, 2, 3])]}, ["a"])
    rows = sharp([1, 2, 0, 3])
    assert len(found.spot(rows)) == 1
    rows[2, :] = np.nan
    assert found.spot(rows) == []
    assert [f[0] for f in found.spot(np.concatenate([rows, sharp([1, 2, 3])]))] == [6]


def test_what_has_no_sound_is_spelled_only() -> None:
    words = {"a": [bytes([1, 2, 3])], "b": [], "c": [bytes([1, 2])]}
    assert hotwords(words, ["a", "b", "c", "a b"]).num_sounds == 1  # "c" is too short
    assert hotwords({"b": []}, ["b"]).spot(sharp([1, 2, 3])) == []
    assert hotwords(words, ["c"]).spot(sharp([1, 2])) == []


def test_words_that_nobody_told_are_asked_for() -> None:
    speller = _native.Speller(PIECES, [0.0] * 3 + [-1.0] * (len(PIECES) - 3))
    compiler = _native.PhraseCompiler(speller, PHONES)
    assert compiler.compile(["a b", "b a", "é"], [1.0] * 3) == (None, [], ["a", "b"])
    compiler.add("a", [bytes([1, 2, 3])])
    with pytest.raises(ValueError, match="phone that there is not"):
        compiler.add("b", [bytes([PHONES + 1, 1, 1])])
        compiler.compile(["b"], [1.0], sound_share=1.0)


def test_more_words_than_are_remembered() -> None:
    speller = _native.Speller(PIECES, [0.0] * 3 + [-1.0] * (len(PIECES) - 3))
    compiler = _native.PhraseCompiler(speller, PHONES)
    words = ["".join("abcd"[n >> 2 * k & 3] for k in range(10)) for n in range((1 << 19) + 9)]
    scores = [1.0] * len(words)
    _, _, unknown = compiler.compile(words, scores)
    assert unknown == words
    for word in unknown:
        compiler.add(word, [])
    found, unspelled, unknown = compiler.compile(words, scores)
    assert found is not None and not unspelled and not unknown


def test_words_too_long_for_a_sound_are_spelled() -> None:
    found = hotwords({"a" * 400: [bytes([1, 2]) * 200], "b": [bytes([1, 2, 3])]}, ["a" * 400, "b"])
    assert found.num_sounds == 1 and found.num_nodes > 400


def test_plain_words_in_one_case() -> None:
    phrases = ["anna Lee", "ANNA", "anna  lee", " anna", "anna ", "o'neil", "", "é", 3]
    plain = _native.PhraseCompiler.plain(phrases)
    assert plain == ["anna lee", "anna", *[None] * 7]
    assert _native.PhraseCompiler.plain(phrases, True)[:2] == ["ANNA LEE", "ANNA"]


def easily_found(model: _native.Model, share: float) -> _native.Hotwords:
    """Phrases that noise is full of."""
    pieces = list(model.pieces)
    speller = _native.Speller(pieces, [-1.0] * len(pieces))
    compiler = _native.PhraseCompiler(speller, len(model.phones))
    ways = {"abc": bytes([1, 2]), "d": bytes([3, 1]), "ghi": bytes([4, 2, 3]), "j": bytes([2])}
    for word, phones in ways.items():
        compiler.add(word, [phones])
    phrases = ["abc d", "d ghi", "ghi", "j abc", "abc d j"]
    found, _, _ = compiler.compile(phrases, [1.0] * 5, piece_share=0.5, sound_share=share)
    assert found is not None and found.num_sounds == 5
    return found


def heard(
    recogniser: _native.Recognizer, samples: F32, cuts: list[int], *, lattice: bool
) -> tuple[Any, Any, Any]:
    stream = recogniser.create_stream(lattice=lattice)
    for part in np.split(samples, cuts):
        stream.accept_waveform(part)
        recogniser.decode_streams([stream])
    stream.input_finished()
    recogniser.decode_streams([stream])
    return stream.result(), stream.candidates(), stream.lattice()


VARIANTS: list[dict[str, Any]] = [
    {},
    {"stateful": True},
    {"max_symbols_per_frame": 3, "blank_bias": -1.0},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=["stateless", "stateful", "three a frame"])
@pytest.mark.parametrize("share", [1.0, 3.0, 8.0])
def test_searches_with_phrases_put_in_stay_sound(
    load: Callable[[eb.Ear], _native.Model], variant: dict[str, Any], share: float
) -> None:
    changed = 0
    for seed in range(6):
        model = load(eb.recogniser(seed=seed, pieces=16, phones=PHONES, **variant))
        samples = noise(24_000, seed=seed)
        for paths in (1, 4, 16):
            options: dict[str, Any] = {
                "max_active_paths": paths,
                "lattice_paths": paths,
                "internal_lm_weight": 0.2,
            }
            plain = _native.Recognizer(model, "modified_beam_search", **options)
            found = _native.Recognizer(
                model, "modified_beam_search", hotwords=easily_found(model, share), **options
            )
            whole, candidates, _ = heard(found, samples, [], lattice=False)
            cut, again, _ = heard(found, samples, [700, 5000, 5100, 16_000], lattice=False)
            assert whole == cut and candidates == again
            totals = [c["score"] + c["hotwords"] + c["language"] for c in candidates]
            assert totals == sorted(totals, reverse=True) and np.isfinite(totals).all()
            histories = [tuple(c["tokens"]) for c in candidates]
            assert len(set(histories)) == len(histories) <= paths
            frames = whole["frames"]
            assert frames == sorted(frames)
            changed += whole["tokens"] != heard(plain, samples, [], lattice=False)[0]["tokens"]
            recorded, _, arcs = heard(found, samples, [], lattice=True)
            lattice = to_lattice(arcs)
            cut_best = nbest(to_lattice(heard(found, samples, [9000], lattice=True)[2]), 5)
            assert [path.words for path in cut_best] == [path.words for path in nbest(lattice, 5)]
            best = nbest(lattice, 5)
            assert best[0].words == tuple(word["word"] for word in recorded["words"])
            assert best_path(lattice).words == best[0].words
            total = recorded["score"] + recorded["hotwords"] + recorded["language"]
            assert best[0].score == pytest.approx(total, abs=1e-3)
            posteriors = arc_posteriors(lattice)
            out_of_start = posteriors[lattice.src == 0].sum()
            assert out_of_start == pytest.approx(1.0, abs=1e-6)
    assert changed > 0
