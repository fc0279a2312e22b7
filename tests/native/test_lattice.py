"""The search that records: against enumeration, exact scores of its paths, and a plain rewrite.

The oracles run predictor and joiner in double precision. One lists every alignment; one scores a
given sequence of pieces over all its alignments; the third follows the rule of recombination over
dictionaries of whole histories, with no nodes, entries or hashes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import ear_builder as eb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_oracle import BLANK, F32, F64, UNK, History, Joint, encode, noise

from earshot import _native
from earshot.decode.lattice import Lattice, arc_posteriors, best_path, nbest, oracle
from earshot.decode.result import to_lattice

Load = Callable[[eb.Ear], _native.Model]


def record(
    model: _native.Model, samples: F32, *, cuts: list[int] | None = None, **kwargs: Any
) -> tuple[Lattice, Any]:
    recogniser = _native.Recognizer(model, "modified_beam_search", **kwargs)
    stream = recogniser.create_stream(lattice=True)
    for part in np.split(samples, cuts or []):
        stream.accept_waveform(part)
        recogniser.decode_streams([stream])
        stream.lattice()
    stream.input_finished()
    recogniser.decode_streams([stream])
    arcs = stream.lattice()
    assert arcs is not None
    return to_lattice(arcs), stream.result()


def words_of(pieces: list[str], history: History) -> tuple[str, ...]:
    return tuple("".join(pieces[token] for token in history).replace("▁", " ").split())


def history_of(pieces: list[str], words: tuple[str, ...]) -> History:
    """Pieces of `ear_builder` are one letter each, so words say which they are."""
    letters = {piece: token for token, piece in enumerate(pieces)}
    out: list[int] = []
    for i, word in enumerate(words):
        for j, letter in enumerate(word):
            start = letters.get("▁" + letter) if j == 0 else None
            token = start if start is not None else letters.get(letter)
            assert token is not None and (j > 0 or i == 0 or start is not None)
            out.append(token)
    return tuple(out)


def exact_score(joint: Joint, frames: F64, history: History) -> float:
    """log p(pieces | frames), at most one piece a frame, over all alignments."""
    alpha = np.full(len(history) + 1, -np.inf)
    alpha[0] = 0.0
    for frame in frames:
        rows = [joint(history[:u], frame) for u in range(len(history) + 1)]
        stay = alpha + [row[BLANK] for row in rows]
        step = [alpha[u] + rows[u][history[u]] for u in range(len(history))]
        alpha = np.logaddexp(stay, [-np.inf, *step])
    return float(alpha[-1])


VARIANTS: dict[str, dict[str, Any]] = {
    "stateless": {"blank_bias": 1.0},
    "one piece of context": {"context_size": 1, "blank_bias": 1.0},
    "stateful": {"stateful": True, "blank_bias": 1.0},
    "sure of itself": {"gain": 12.0, "blank_bias": 4.0},
    "talkative": {"blank_bias": -1.0},
}


@pytest.mark.parametrize("cap", [1, 3])
@pytest.mark.parametrize("what", VARIANTS)
def test_the_best_path_is_the_result(load: Load, what: str, cap: int) -> None:
    """Words, score and times; and no path scores higher, nor do times fall."""
    for seed, paths in enumerate((1, 4, 16)):
        model = load(eb.recogniser(seed=seed, pieces=23, **VARIANTS[what]))
        samples = noise(16000, seed=seed)
        lattice, result = record(model, samples, lattice_paths=paths, max_symbols_per_frame=cap)
        best = best_path(lattice)
        assert list(best.words) == [word["word"] for word in result["words"]]
        assert best.score == pytest.approx(result["score"], abs=1e-3)
        frames = [(lattice.start_frame[arc], lattice.end_frame[arc]) for arc in best.arcs]
        assert [start for start, _ in frames] == [w["start_frame"] for w in result["words"]]
        assert (lattice.start_frame < lattice.end_frame).all()
        if cap == 1:
            starts = [start for start, _ in frames]
            assert sorted(set(starts)) == starts
        assert lattice.end_frame.max() <= result["num_frames"]
        assert arc_posteriors(lattice)[lattice.src == 0].sum() == pytest.approx(1)
        assert not lattice.prior.any()
        assert paths == 1 or lattice.num_arcs > len(best.arcs)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 20000), max_size=6).map(sorted), which=st.integers(0, 1))
def test_lattices_do_not_depend_on_how_audio_is_cut(
    two_models: list[_native.Model], cuts: list[int], which: int
) -> None:
    """Also while lattices of what has come so far are asked for."""
    clip = noise(20000, seed=4)
    whole, _ = record(two_models[which], clip)
    parts, _ = record(two_models[which], clip, cuts=cuts)
    assert whole.words == parts.words
    for name in ("src", "dst", "word", "start_frame", "end_frame", "acoustic", "prior"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@pytest.fixture(scope="module")
def two_models(load: Load) -> list[_native.Model]:
    return [
        load(eb.recogniser(seed=2, blank_bias=1.0)),
        load(eb.recogniser(seed=4, stateful=True, matrix_codec="i8_r16x4", blank_bias=1.0)),
    ]


@pytest.mark.parametrize("stateful", [False, True])
def test_with_room_for_all_histories_every_sentence_has_its_exact_score(
    load: Load, stateful: bool
) -> None:
    """Three frames, three pieces: 40 histories, none of which become one."""
    ear = eb.recogniser(seed=3, pieces=5, gain=2.0, stateful=stateful)
    ear.header["pieces"] = ["<blk>", "▁s", "<unk>", "▁a", "b"]
    model, joint = load(ear), Joint(ear)
    samples = noise(1900, seed=3)
    frames = encode(model, samples)
    assert len(frames) == 3
    total: dict[tuple[str, ...], float] = {}
    for alignment in itertools.product((0, 1, 3, 4), repeat=3):
        history: History = ()
        score = 0.0
        for token, frame in zip(alignment, frames, strict=True):
            score += joint(history, frame)[token]
            history += (token,) * (token != BLANK)
        words = words_of(ear.header["pieces"], history)
        total[words] = total.get(words, 0.0) + math.exp(score)
    assert len(total) == 40
    lattice, _ = record(model, samples, lattice_paths=64, lattice_context=8, lattice_beam=1000.0)
    got = {path.words: path.score for path in nbest(lattice, 100)}
    want = {words: math.log(mass) for words, mass in total.items()}
    assert got == pytest.approx(want, abs=1e-3)


def recombining_oracle(
    joint: Joint, frames: F64, *, paths: int, context: int, pieces: list[str]
) -> list[dict[History, float]]:
    """The rule, with every history of a hypothesis written out; one piece a frame."""

    def unfinished(history: History) -> History:
        starts = [i for i, token in enumerate(history) if pieces[token].startswith("▁")]
        return history[starts[-1] :] if starts else history

    def key(history: History) -> tuple[History, History]:
        return ((-1,) * context + history)[-context:], unfinished(history)

    active: list[dict[History, float]] = [{(): 0.0}]
    for frame in frames:
        pool: dict[Any, dict[History, float]] = {}

        def add(histories: dict[History, float], pool: Any = pool) -> None:
            there = pool.setdefault(key(next(iter(histories))), {})
            for history, score in histories.items():
                there[history] = float(np.logaddexp(there.get(history, -np.inf), score))

        for hypothesis in active:
            blank = joint(max(hypothesis, key=lambda h: hypothesis[h]), frame)[BLANK]
            add({history: score + blank for history, score in hypothesis.items()})
        keys = [key(next(iter(hypothesis))) for hypothesis in active]
        for hypothesis in active:
            row = joint(max(hypothesis, key=lambda h: hypothesis[h]), frame)
            order = [t for t in np.argsort(-row, kind="stable") if t not in (BLANK, UNK)]
            some = next(iter(hypothesis))
            for token in (int(t) for t in order):
                if token in order[:paths] or key((*some, token)) in keys:
                    add({(*h, token): score + row[token] for h, score in hypothesis.items()})
        ranked = sorted(pool.values(), key=lambda histories: -max(histories.values()))
        # What is 8 nats behind within its hypothesis decides nothing and would be most of the work.
        active = [
            {h: score for h, score in histories.items() if score > max(histories.values()) - 8}
            for histories in ranked[:paths]
        ]
    return active


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("paths", [4, 8])
def test_recombination_against_a_plain_rewrite(load: Load, paths: int, context: int) -> None:
    for seed in range(3):
        ear = eb.recogniser(seed=seed, pieces=11, context_size=context, blank_bias=2.0)
        model = load(ear)
        samples = noise(6000, seed=seed)
        frames = encode(model, samples)
        pieces = ear.header["pieces"]
        want = recombining_oracle(Joint(ear), frames, paths=paths, context=context, pieces=pieces)
        lattice, result = record(model, samples, lattice_paths=paths, lattice_beam=1000.0)
        best = max((score, history) for histories in want for history, score in histories.items())
        # A word said again ends where it began ("no no"): such nodes are made anew, frame by frame,
        # and leave maxima where the oracle adds up. All else is exact.
        words = words_of(pieces, best[1])
        again = any(a == b for a, b in itertools.pairwise(words))
        assert best[0] - (1.5 if again else 1e-3) < result["score"] < best[0] + 1e-3
        # The likeliest that the oracle still holds, the lattice says too.
        held = sorted(
            ((score, history) for histories in want for history, score in histories.items()),
            reverse=True,
        )[:40]
        said = {path.words: path.score for path in nbest(lattice, 200)}
        sentences = [(words_of(pieces, history), score) for score, history in held]
        missing = [words for words, _ in sentences if oracle(lattice, words).errors]
        assert len(missing) <= len(held) // 5
        assert not oracle(lattice, words).errors
        errors = [abs(said[words] - score) for words, score in sentences if words in said]
        assert len(errors) >= len(held) // 2
        assert np.mean(errors) < (2.0 if again else 0.2)


@pytest.mark.parametrize(
    ("variant", "context", "bound"),
    [
        ({}, 0, 0.35),
        ({"stateful": True}, 1, 1.0),
        ({"stateful": True}, 4, 0.35),
        ({"stateful": True}, 8, 0.35),
    ],
)
def test_how_far_scores_of_paths_are_from_exact(
    load: Load, variant: dict[str, Any], context: int, bound: float
) -> None:
    """Mean distance of the ten best paths from log p over all alignments, in nats.

    Recombination puts the winner's predictor in the place of the loser's: with a stateless one
    nothing is lost, with a stateful one what lies more than `context` pieces back.
    """
    distances = []
    for seed in range(3):
        ear = eb.recogniser(seed=seed, pieces=14, blank_bias=1.5, **variant)
        ear.header["pieces"][1] = "#"
        model = load(ear)
        samples = noise(10000, seed=seed)
        frames = encode(model, samples)
        lattice, _ = record(model, samples, lattice_context=context)
        joint = Joint(ear)
        for path in nbest(lattice, 10):
            history = history_of(ear.header["pieces"], path.words)
            distances.append(abs(path.score - exact_score(joint, frames, history)))
    print(variant, context, np.mean(distances), np.max(distances))
    assert np.mean(distances) < bound


def test_a_long_stream_keeps_its_size(load: Load) -> None:
    """Half a minute of noise, 200 arcs: what goes is old and unlikely, and the best path stays."""
    model = load(eb.recogniser(seed=3, blank_bias=3.0))
    recogniser = _native.Recognizer(model, lattice_arcs=200)
    stream = recogniser.create_stream(lattice=True)
    sizes = []
    for second in range(30):
        stream.accept_waveform(noise(16000, seed=second))
        recogniser.decode_streams([stream])
        arcs = stream.lattice()
        assert arcs is not None
        lattice = to_lattice(arcs)
        result = stream.result()
        best = best_path(lattice)
        assert list(best.words) == [word["word"] for word in result["words"]]
        assert best.score == pytest.approx(result["score"], abs=0.05)
        sizes.append(lattice.num_arcs - max(0, len(best.words) - 200))
    assert max(sizes) <= 200 and min(sizes[5:]) > 50


def test_streams_that_record_nothing(load: Load) -> None:
    model = load(eb.recogniser(seed=3))
    recogniser = _native.Recognizer(model)
    stream = recogniser.create_stream()
    assert stream.lattice() is None
    recording = recogniser.create_stream(lattice=True)
    nothing = recording.lattice()
    assert nothing is not None
    assert best_path(to_lattice(nothing)).words == () and len(nothing["src"]) == 1
    recording.accept_waveform(noise(16000))
    recogniser.decode_streams([recording, stream])
    before = recording.lattice()
    assert before is not None and len(before["src"]) > 3
    recording.reset()
    after = recording.lattice()
    assert after is not None and len(after["src"]) == 1
    recording.accept_waveform(noise(16000))
    recogniser.decode_streams([recording])
    again = recording.lattice()
    assert again is not None
    np.testing.assert_array_equal(before["acoustic"], again["acoustic"])


def test_absurd_weights(load: Load) -> None:
    """Scores that overflow become a lattice like any other."""
    for value in (1e30, 3e38):
        ear = eb.recogniser(seed=3, pieces=8)
        ear.tensors["j.w"][1][4] = value
        lattice, _ = record(load(ear), noise(16000))
        best_path(lattice)


def test_words_that_are_spelled_alike_or_not_at_all(load: Load) -> None:
    ear = eb.recogniser(seed=5, pieces=9)
    ear.header["pieces"] = ["<blk>", "<s>", "<unk>", "▁", "▁▁", "▁a", "a", "▁aa", "▁b"]
    lattice, result = record(load(ear), noise(24000, seed=1))
    assert "" not in [lattice.word_at(arc) for arc in range(lattice.num_arcs)]
    assert list(best_path(lattice).words) == [word["word"] for word in result["words"]]
    assert len(set(lattice.words)) == len(lattice.words)


def test_wrong_settings(load: Load) -> None:
    model = load(eb.recogniser())
    for kwargs, message in (
        ({"lattice_paths": 0}, "lattice_paths is 0; it must be in 1..64"),
        ({"lattice_paths": 65}, "1..64"),
        ({"lattice_beam": -1.0}, "lattice_beam"),
        ({"lattice_beam": float("nan")}, "lattice_beam"),
        ({"lattice_arcs": 0}, "lattice_arcs"),
        ({"lattice_context": 1}, "it must be in 2..8"),
        ({"lattice_context": 9}, "2..8"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.Recognizer(model, **kwargs)
