"""The search with hotwords and a language model, against a plain rewrite over whole histories."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import ear_builder as eb
import numpy as np
import pytest
from grammar_oracle import Network
from hypothesis import given, settings
from hypothesis import strategies as st
from score_oracle import BLANK, UNK, History, Joint, encode, noise

from earshot import _native

PIECES = 9
STARTS = [0, 0, 0, 1, 1, 1, 0, 0, 0]
PHRASES = [[3, 6], [3, 6, 4], [4], [5, 7, 8, 3]]
BOOSTS = [3.0, 7.0, 0.75, 6.0]


def named(ear: eb.Ear) -> eb.Ear:
    ear.header["pieces"] = [
        "<blk>", "<sos/eos>", "<unk>", "▁a", "▁b", "▁c", "d", "e", "f"
    ]  # fmt: skip
    return ear


def oracle(
    joint: Joint,
    frames: Any,
    prior: Callable[[History], float],
    *,
    paths: int,
    cap: int,
) -> list[tuple[float, History]]:
    """The rule of the search: each history's probability, ranked with its prior."""
    active: dict[History, float] = {(): 0.0}
    for frame in frames:
        left: dict[History, float] = {}
        inside = active
        for symbols in itertools.count(1):
            pool_left = dict(left)
            pool_inside: dict[History, float] = {}
            for history, score in inside.items():
                for token, log_prob in enumerate(joint(history, frame)):
                    if token == UNK:
                        continue
                    new = history if token == BLANK else (*history, token)
                    if token == BLANK or symbols == cap:
                        old = pool_left.get(new, -np.inf)
                        pool_left[new] = float(np.logaddexp(old, score + log_prob))
                    else:
                        pool_inside[new] = score + float(log_prob)
            ranked = sorted(
                [(score + prior(h), score, h, True) for h, score in pool_left.items()]
                + [(score + prior(h), score, h, False) for h, score in pool_inside.items()],
                key=lambda item: -item[0],
            )[:paths]
            left = {h: score for _, score, h, out in ranked if out}
            inside = {h: score for _, score, h, out in ranked if not out}
            if not inside:
                break
        active = left
    return sorted(((score, h) for h, score in active.items()), reverse=True)


def run(
    model: _native.Model, samples: Any, cuts: list[int] | None = None, **kwargs: Any
) -> _native.Stream:
    recogniser = _native.Recognizer(model, "modified_beam_search", **kwargs)
    stream = recogniser.create_stream()
    for part in np.split(samples, cuts or []):
        stream.accept_waveform(part)
        recogniser.decode_streams([stream])
    stream.input_finished()
    recogniser.decode_streams([stream])
    return stream


def trie() -> _native.Hotwords:
    return _native.Hotwords.of_pieces(PHRASES, BOOSTS, STARTS)


@pytest.mark.parametrize("cap", [1, 3])
@pytest.mark.parametrize("paths", [1, 3, 8])
@pytest.mark.parametrize("stateful", [False, True])
def test_hotwords_in_the_search(
    load: Callable[[eb.Ear], _native.Model], cap: int, paths: int, stateful: bool
) -> None:
    ear = named(eb.recogniser(seed=paths, pieces=PIECES, blank_bias=1.0, stateful=stateful))
    model, hotwords = load(ear), trie()
    samples = noise(12000, seed=cap)

    def lent(history: History) -> float:
        return hotwords.walk(np.array(history, np.int32))[-2] if history else 0.0

    def earned(history: History) -> float:
        return hotwords.walk(np.array(history, np.int32))[-1]

    kept = oracle(Joint(ear), encode(model, samples), lent, paths=paths, cap=cap)
    best = max(kept, key=lambda item: item[0] + earned(item[1]))
    stream = run(
        model, samples, max_active_paths=paths, max_symbols_per_frame=cap, hotwords=hotwords
    )
    got = stream.result()
    assert tuple(got["tokens"]) == best[1]
    assert got["score"] == pytest.approx(best[0], abs=2e-3)
    assert got["hotwords"] == earned(best[1])
    assert got["language"] == 0
    every = stream.candidates()
    assert {tuple(c["tokens"]) for c in every} == {history for _, history in kept}
    assert all(c["hotwords"] == earned(tuple(c["tokens"])) for c in every)


def test_the_internal_language_model_is_taken_off(
    load: Callable[[eb.Ear], _native.Model],
) -> None:
    ear = named(eb.recogniser(seed=4, pieces=PIECES, blank_bias=1.0))
    model, joint = load(ear), Joint(ear)
    samples = noise(12000, seed=2)
    weight = 0.4

    def internal(history: History) -> float:
        total = 0.0
        for end, token in enumerate(history):
            logits = joint.tensors["j.w"] @ np.tanh(joint.predictor(history[:end]))
            logits = logits + joint.tensors["j.b"]
            logits[[BLANK, UNK]] = -np.inf
            total += max(logits[token] - np.logaddexp.reduce(logits), -20)
        return -weight * total

    kept = oracle(joint, encode(model, samples), internal, paths=5, cap=1)
    best = max(kept, key=lambda item: item[0] + internal(item[1]))
    got = run(model, samples, max_active_paths=5, internal_lm_weight=weight).result()
    assert tuple(got["tokens"]) == best[1]
    assert got["language"] == pytest.approx(internal(best[1]), abs=2e-3)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 16000), max_size=5).map(sorted))
def test_streaming_is_one_pass(cuts: list[int]) -> None:
    model = _STREAMED.model()
    kwargs: dict[str, Any] = {
        "max_active_paths": 6,
        "hotwords": trie(),
        "internal_lm_weight": 0.3,
    }
    samples = noise(16000, seed=8)
    assert (
        run(model, samples, cuts, **kwargs).candidates()
        == run(model, samples, **kwargs).candidates()
    )


class _Streamed:
    """One model for all examples of a property."""

    def __init__(self) -> None:
        self._model: _native.Model | None = None

    def model(self) -> _native.Model:
        if self._model is None:
            import tempfile
            from pathlib import Path

            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "m.ear"
                path.write_bytes(named(eb.recogniser(seed=9, pieces=PIECES)).bytes())
                self._model = _native.Model(str(path))
        return self._model


_STREAMED = _Streamed()


def test_equal_histories_have_equal_states(load: Callable[[eb.Ear], _native.Model]) -> None:
    """Whatever way a history came about, its states and scores are those of its pieces."""
    ear = named(eb.recogniser(seed=6, pieces=PIECES, blank_bias=0.5))
    model, hotwords = load(ear), trie()
    stream = run(model, noise(16000, seed=5), max_active_paths=32, hotwords=hotwords)
    every = stream.candidates()
    assert len(every) > 8
    assert len({tuple(c["tokens"]) for c in every}) == len(every)
    ranks = [c["score"] + c["hotwords"] for c in every]
    assert ranks == sorted(ranks, reverse=True)


def test_wrong_settings(load: Callable[[eb.Ear], _native.Model]) -> None:
    model = load(named(eb.recogniser(pieces=PIECES)))
    other = _native.Hotwords.of_pieces([[3]], [1.0], [*STARTS, 0])
    with pytest.raises(ValueError, match="made for 10 pieces and the model has 9"):
        _native.Recognizer(model, hotwords=other)
    with pytest.raises(ValueError, match="made for 10 pieces"):
        _native.Recognizer(model).create_stream().set_hotwords(other)
    for name in ("lm_weight", "internal_lm_weight"):
        with pytest.raises(ValueError, match=rf"{name} is -1.*0\.\.10"):
            _native.Recognizer(model, **{name: -1.0})
    with pytest.raises(ValueError, match=r"lm_bonus is nan.*-100\.\.100"):
        _native.Recognizer(model, lm_bonus=math.nan)


def sentences_of(*words: tuple[int, ...]) -> Network:
    """Every sequence of one or two of the words."""
    network = Network(list(words))
    start = network.node()
    for first in range(len(words)):
        after = network.sentence(start, [first])
        for second in range(len(words)):
            network.sentence(after, [second])
    return network


@pytest.mark.parametrize("blank_bias", [0.5, 2.0])
def test_hotwords_within_a_grammar(
    load: Callable[[eb.Ear], _native.Model], blank_bias: float
) -> None:
    """With room for all sentences: each is worth what its phrases are, all else is as before."""
    model = load(named(eb.recogniser(seed=3, pieces=PIECES, blank_bias=blank_bias)))
    graph = sentences_of((3,), (3, 6), (4,), (5, 7, 8)).native(PIECES)
    hotwords = trie()
    found = []
    for listed in (None, hotwords):
        stream = run(
            model,
            noise(4000, seed=1),
            word_graph=graph,
            grammar_paths=64,
            hotwords=listed,
        )
        result = stream.command_result()
        assert result is not None
        found.append({tuple(path["tokens"]): path for path in result["paths"]})
    plain, biased = found
    changed = 0
    for tokens, path in biased.items():
        worth = hotwords.walk(np.array(tokens, np.int32))[-1]
        if tokens in plain:
            assert path["prior"] == plain[tokens]["prior"] + worth
            assert path["transducer"] == plain[tokens]["transducer"]
            changed += worth > 0
    assert changed
    scores = [path["score"] for path in biased.values()]
    assert scores == sorted(scores, reverse=True)


def test_hotwords_among_sentences_found_by_phones(
    load: Callable[[eb.Ear], _native.Model],
) -> None:
    """Words that sound alike are told apart by what the list says of them."""
    model = load(named(eb.recogniser(seed=3, pieces=PIECES, phones=3, blank_bias=0.5)))
    network = sentences_of((3,), (4,), (5, 7))
    network.sounds = [((1, 2),), ((1, 2),), ((3,),)]
    hotwords = _native.Hotwords.of_pieces([[4]], [2.5], STARTS)
    found = []
    for listed in (None, hotwords):
        stream = run(
            model,
            noise(6000, seed=1),
            word_graph=network.native(PIECES, phones=3),
            transducer_weight=0.3,
            hotwords=listed,
        )
        result = stream.command_result()
        assert result is not None
        found.append({tuple(path["pieces"]): path for path in result["paths"]})
        scores = [path["score"] for path in result["paths"]]
        assert scores == sorted(scores, reverse=True)
    plain, biased = found
    common = set(plain) & set(biased)
    assert any(4 in pieces for pieces in common)
    for pieces in common:
        worth = 2.5 * pieces.count(4)
        assert biased[pieces]["prior"] == pytest.approx(plain[pieces]["prior"] + worth)
        assert biased[pieces]["score"] == pytest.approx(plain[pieces]["score"] + worth)
