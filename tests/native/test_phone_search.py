"""The search of a word graph by phones: against a plain rewrite, enumeration, and under attack.

The oracle keeps whole histories of phones in dictionaries and follows the unfolded network of
`grammar_oracle`; words are found by walking all of that network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ear_builder as eb
import numpy as np
import pytest
from grammar_oracle import Flat, Network, random_network, sentences
from score_oracle import BLANK, F32, F64, History, noise

from earshot import _native

Load = Callable[[eb.Ear], _native.Model]
PIECES, PHONES = 9, 5
# In the pieces of `ear_builder`, of which 3 and 6 start a word.
WORDS = [(3,), (3, 4), (3, 4, 4), (6,), (6, 5), (3, 4, 7), (6, 7, 8)]
TEXTS = ["a", "ab", "abb", "d", "dc", "abe", "def"]
# Words that sound alike (0 and 1, 3 and 4 in one way), that begin alike, with a phone twice, and
# words that together sound like another (0 and 3 like 6).
SOUNDS = [
    ((1, 2),),
    ((1, 2), (1, 1)),
    ((2, 3, 3),),
    ((4,), (3, 1)),
    ((4,),),
    ((1, 2, 5), (5,)),
    ((1, 2, 4), (1, 2, 3, 1)),
]


def heard(model: _native.Model, samples: F32) -> F64:
    """Log-probabilities of blank and phones in every frame."""
    hidden = model.graph("encoder").step(_native.fbank(samples), None, flush=True)["hidden"]
    return model.graph("phones").step(hidden, None)["log_probs"].astype(np.float64)


def recogniser(**kwargs: Any) -> eb.Ear:
    return eb.recogniser(pieces=PIECES, phones=PHONES, **kwargs)


def network(seed: int) -> Network:
    """A random one whose words are spelled in phones."""
    made = random_network(seed, words=WORDS)
    made.sounds = SOUNDS
    return made


def native(net: Network) -> _native.WordGraph:
    return net.native(PIECES, phones=PHONES)


def decode(
    model: _native.Model, samples: F32, graph: _native.WordGraph, **kwargs: Any
) -> _native.Stream:
    engine = _native.Recognizer(model, "modified_beam_search", word_graph=graph, **kwargs)
    stream = engine.create_stream()
    stream.accept_waveform(samples)
    stream.input_finished()
    engine.decode_streams([stream])
    return stream


def commands(*args: Any, **kwargs: Any) -> Any:
    return decode(*args, **kwargs).command_result()


def spoken(result: Any) -> list[tuple[str, ...]]:
    return [tuple(word["word"] for word in path["words"]) for path in result["paths"]]


def oracle(
    flat: Flat, frames: F64, *, paths: int, beam: float = math.inf, blank_penalty: float = 0.0
) -> list[tuple[tuple[str, ...], float, float]]:
    """Sentences of the last beam: words, phone score, prior; best first."""
    positions: dict[History, dict[Any, float]] = {(): flat.first()}
    frames = frames.copy()
    frames[:, BLANK] -= blank_penalty

    def prior(history: History) -> float:
        return max(positions[history].values())

    def end(history: History) -> float | None:
        ends = [w for s, w in positions[history].items() if flat.final(s)]
        return max(ends) if ends else None

    held: dict[History, tuple[float, float]] = {(): (0.0, -np.inf)}
    for frame in frames:
        pool: dict[History, list[float]] = {}
        for history, (blank, phone) in held.items():
            both = float(np.logaddexp(blank, phone))
            last = frame[history[-1]] if history else -np.inf
            moves = [(history, both + frame[BLANK], phone + last)]
            for p in flat.next_pieces(positions[history]):
                longer = (*history, p)
                if longer not in positions:
                    positions[longer] = flat.after(positions[history], p)
                before = blank if history[-1:] == (p,) else both
                moves.append((longer, -np.inf, before + frame[p]))
            for to, *values in moves:
                old = pool.setdefault(to, [-np.inf] * 2)
                for i, value in enumerate(values):
                    old[i] = float(np.logaddexp(old[i], value))
        rank = {h: float(np.logaddexp(*pool[h])) + prior(h) for h in pool}
        ranked = [h for h in sorted(pool, key=lambda h: -rank[h])[:paths] if rank[h] > -np.inf]
        kept = [h for h in ranked if rank[h] >= rank[ranked[0]] - beam]
        if all(end(h) is None for h in kept):
            complete = [h for h in held if end(h) is not None]
            kept += sorted(complete, key=lambda h: -(rank[h] + (end(h) or 0.0)))[:1]
        held = {h: (pool[h][0], pool[h][1]) for h in kept}
    best: dict[tuple[int, ...], list[float]] = {}
    total = {h: float(np.logaddexp(*held[h])) for h in held}
    complete = sorted(
        (h for h in held if end(h) is not None), key=lambda h: -(total[h] + (end(h) or 0.0))
    )
    for history in complete[:32]:
        said = sentences(flat, history)
        for words in sorted(said, key=lambda words: (-said[words], words))[:8]:
            if words in best:
                best[words][0] = float(np.logaddexp(best[words][0], total[history]))
            else:
                best[words] = [total[history], said[words]]
    ranked_words = sorted(best, key=lambda words: -sum(best[words]))[:8]
    return [
        (tuple(TEXTS[word] for word in words), best[words][0], best[words][1])
        for words in ranked_words
    ]


VARIANTS: dict[str, dict[str, Any]] = {"plain": {}, "stateful": {"stateful": True}}
SETTINGS: list[dict[str, Any]] = [
    {"phone_paths": 256, "phone_beam": math.inf},
    {"phone_paths": 1, "phone_beam": math.inf},
    {"phone_paths": 6, "phone_beam": math.inf, "phone_blank_penalty": 1.5},
    {"phone_paths": 64, "phone_beam": 3.0},
    {"phone_paths": 20, "phone_beam": 6.0, "word_penalty": 1.5},
    {"phone_paths": 20, "phone_beam": 6.0, "word_penalty": -2.0, "phone_blank_penalty": -1.0},
]


@pytest.mark.parametrize("kwargs", SETTINGS, ids=str)
def test_against_the_rewrite(load: Load, kwargs: dict[str, Any]) -> None:
    found = 0
    for seed in range(8):
        model = load(recogniser(seed=seed))
        net = network(100 + seed)
        flat = Flat(net, word_penalty=kwargs.get("word_penalty", 0.0))
        if not flat.first():
            continue
        samples = noise(5000 + 1500 * seed, seed=seed)
        frames = heard(model, samples)
        want = oracle(
            flat,
            frames,
            paths=kwargs["phone_paths"],
            beam=kwargs["phone_beam"],
            blank_penalty=kwargs.get("phone_blank_penalty", 0.0),
        )
        got = commands(model, samples, native(net), **kwargs)
        assert spoken(got) == [words for words, _, _ in want]
        for path, (_, phones, prior) in zip(got["paths"], want, strict=True):
            assert path["phones"] == pytest.approx(phones, abs=2e-3)
            assert path["prior"] == pytest.approx(prior, abs=1e-3)
            assert path["score"] == pytest.approx(phones + prior, abs=3e-3)
            assert len(path["frames"]) == len(path["tokens"])
            assert path["frames"] == sorted(set(path["frames"]))
        found += len(want)
        frames[:, BLANK] -= kwargs.get("phone_blank_penalty", 0.0)
        assert got["free_phones"] == pytest.approx(frames.max(axis=1).sum(), abs=1e-3)
        assert got["num_frames"] == len(frames) and got["alive"]
    assert found >= 5
