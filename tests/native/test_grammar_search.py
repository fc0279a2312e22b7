"""The search of a word graph: against a plain rewrite, against enumeration, and under attack.

The oracle keeps whole histories in dictionaries, follows the unfolded network of
`grammar_oracle`, and runs predictor and joiner in double precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ear_builder as eb
import numpy as np
import pytest
from grammar_oracle import CALL, EPSILON, WORD, Flat, Network, random_network
from hypothesis import given, settings
from hypothesis import strategies as st
from score_oracle import BLANK, F32, F64, UNK, History, Joint, encode, noise
from sentencepiece import SentencePieceProcessor

from earshot import _native
from earshot.data.audio import AudioFile, StreamingResampler
from earshot.data.manifest import read_manifest
from tests.tiny_model import PIECES as TINY_PIECES
from tests.tiny_model import write_tiny_model

Load = Callable[[eb.Ear], _native.Model]
# Pieces 3, 6, 9.. of `ear_builder` start a word; the others go on with one.
WORDS = [(3,), (3, 4), (3, 4, 4), (6,), (6, 5), (3, 4, 7), (6, 6 + 1, 8)]
PIECES = 9


def posteriors(model: _native.Model, samples: F32) -> F64:
    """CTC log-probabilities of every frame."""
    hidden = model.graph("encoder").step(_native.fbank(samples), None, flush=True)["hidden"]
    return model.graph("ctc").step(hidden, None)["log_probs"].astype(np.float64)


def decode(
    model: _native.Model, samples: F32, graph: _native.WordGraph | None, **kwargs: Any
) -> _native.Stream:
    recogniser = _native.Recognizer(model, "modified_beam_search", word_graph=graph, **kwargs)
    stream = recogniser.create_stream()
    stream.accept_waveform(samples)
    stream.input_finished()
    recogniser.decode_streams([stream])
    return stream


def commands(*args: Any, **kwargs: Any) -> Any:
    return decode(*args, **kwargs).command_result()


def oracle(
    joint: Callable[[History, F64], F64],
    flat: Flat,
    frames: F64,
    ctc: F64,
    *,
    paths: int = 8,
    beam: float = math.inf,
    ctc_weight: float = 0.5,
    word_penalty: float = 0.0,
    ctc_blank_penalty: float = 0.0,
    language_weight: float = 0.0,
) -> list[tuple[float, History, float, float, float]]:
    """Complete sentences of the last beam: score, pieces, transducer, CTC, prior; best first."""
    positions: dict[History, dict[Any, float]] = {(): flat.first()}
    ctc = ctc.copy()
    ctc[:, BLANK] -= ctc_blank_penalty

    def beside(history: History) -> float:
        """What is added to the weights of the graph."""
        total = 0.0
        for i, piece in enumerate(history):
            total -= word_penalty * (piece % 3 == 0)
            if language_weight:
                scores = joint(history[:i], np.zeros(frames.shape[1]))
                others = np.delete(scores, [BLANK, UNK])
                total -= language_weight * max(scores[piece] - np.logaddexp.reduce(others), -20)
        return total

    def prior(history: History) -> float:
        return max(positions[history].values()) + beside(history)

    def final_prior(history: History) -> float | None:
        ends = [w for s, w in positions[history].items() if flat.final(s)]
        return max(ends) + beside(history) if ends else None

    def rank(alpha: float, blank: float, piece: float, weight: float) -> float:
        if ctc_weight == 0:
            return alpha + weight
        return (1 - ctc_weight) * alpha + ctc_weight * float(np.logaddexp(blank, piece)) + weight

    held: dict[History, tuple[float, float, float]] = {(): (0.0, 0.0, -np.inf)}
    for frame, posterior in zip(frames, ctc, strict=True):
        pool: dict[History, list[float]] = {}
        for history, (alpha, blank, piece) in held.items():
            scores = joint(history, frame)
            both = np.logaddexp(blank, piece)
            last = posterior[history[-1]] if history else -np.inf
            moves = [(history, scores[BLANK], both + posterior[BLANK], piece + last)]
            for p in flat.next_pieces(positions[history]):
                longer = (*history, p)
                if longer not in positions:
                    positions[longer] = flat.after(positions[history], p)
                before = blank if history[-1:] == (p,) else both
                moves.append((longer, scores[p], -np.inf, before + posterior[p]))
            for to, score, to_blank, to_piece in moves:
                old = pool.setdefault(to, [-np.inf] * 3)
                for i, value in enumerate((alpha + score, to_blank, to_piece)):
                    old[i] = float(np.logaddexp(old[i], value))
        ranked = sorted(pool, key=lambda h: -rank(*pool[h], prior(h)))
        ranks = {h: rank(*pool[h], prior(h)) for h in ranked[:paths]}
        far = ranks[ranked[0]] - beam
        kept = [h for h, value in ranks.items() if value >= far and value > -np.inf]
        if all(final_prior(h) is None for h in kept):
            complete = [h for h in held if final_prior(h) is not None]
            kept += sorted(complete, key=lambda h: -rank(*pool[h], final_prior(h) or 0.0))[:1]
        held = {h: tuple(pool[h]) for h in kept}  # type: ignore[misc]
    found = []
    for history, (alpha, blank, piece) in held.items():
        end = final_prior(history)
        if end is not None:
            score = rank(alpha, blank, piece, end)
            found.append((score, history, alpha, float(np.logaddexp(blank, piece)), end))
    return sorted(found, reverse=True)[:8]


def check(got: Any, want: list[tuple[float, History, float, float, float]]) -> None:
    assert [tuple(path["tokens"]) for path in got["paths"]] == [w[1] for w in want]
    for path, (score, tokens, transducer, ctc, prior) in zip(got["paths"], want, strict=True):
        assert path["score"] == pytest.approx(score, abs=2e-3)
        assert path["transducer"] == pytest.approx(transducer, abs=2e-3)
        assert path["ctc"] == pytest.approx(ctc, abs=2e-3)
        assert path["prior"] == pytest.approx(prior, abs=1e-4)
        assert len(path["frames"]) == len(tokens)
        assert path["frames"] == sorted(set(path["frames"]))  # one piece a frame


VARIANTS: dict[str, dict[str, Any]] = {
    "stateless": {"blank_bias": 1.0},
    "one piece of context": {"context_size": 1, "blank_bias": 1.0},
    "stateful": {"stateful": True, "blank_bias": 1.0},
    "sure of itself": {"gain": 12.0, "blank_bias": 4.0},
    "talkative": {"blank_bias": -1.0},
    "many symbols a frame": {"max_symbols_per_frame": 3},
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"grammar_paths": 3, "ctc_weight": 0.25, "word_penalty": 0.5},
    {"grammar_paths": 1, "ctc_weight": 0.0},
    {"grammar_paths": 5, "ctc_weight": 1.0, "word_penalty": -1.0},
    {"grammar_paths": 64, "ctc_weight": 0.5},
    {"grammar_paths": 4, "ctc_blank_penalty": 1.5, "language_weight": 0.75},
    {"grammar_paths": 64, "grammar_beam": 2.0},
    {"grammar_paths": 32, "grammar_beam": 6.0, "ctc_weight": 0.25, "language_weight": 0.5},
]


@pytest.mark.parametrize("kwargs", SETTINGS, ids=str)
@pytest.mark.parametrize("what", VARIANTS)
def test_against_the_rewrite(load: Load, what: str, kwargs: dict[str, Any]) -> None:
    sentences = 0
    for seed in range(4):
        ear = eb.recogniser(seed=seed, pieces=PIECES, **VARIANTS[what])
        model = load(ear)
        network = random_network(100 + seed, words=WORDS)
        flat = Flat(network)
        if not flat.first():
            continue
        samples = noise(6000 + 3000 * seed, seed=seed)
        options = {k.removeprefix("grammar_"): v for k, v in kwargs.items()}
        frames, ctc = encode(model, samples), posteriors(model, samples)
        want = oracle(Joint(ear), flat, frames, ctc, **options)
        stream = decode(model, samples, network.native(PIECES), **kwargs)
        got: Any = stream.command_result()
        check(got, want)
        for path in got["paths"]:
            assert len(path["words"]) == sum(piece % 3 == 0 for piece in path["tokens"])
        sentences += len(want)
        assert got["num_frames"] == len(frames)
        ctc[:, BLANK] -= kwargs.get("ctc_blank_penalty", 0.0)
        assert got["free_ctc"] == pytest.approx(ctc.max(axis=1).sum(), abs=1e-3)
        assert got["free_transducer"] == stream.result()["score"]
        if want:
            history = want[0][1]
            position = flat.position(history)
            assert position is not None and got["can_continue"] == bool(position["next"])
    assert sentences > 0


def all_alignments(ctc: F64, tokens: History) -> float:
    """CTC probability of a history: every labelling of the frames that spells it."""
    total = -np.inf
    for labels in itertools.product({BLANK, *tokens}, repeat=len(ctc)):
        merged = [label for label, _ in itertools.groupby(labels) if label != BLANK]
        if tuple(merged) == tokens:
            total = np.logaddexp(total, sum(row[i] for row, i in zip(ctc, labels, strict=True)))
    return float(total)


def test_with_room_for_all_the_scores_are_sums_over_alignments(load: Load) -> None:
    """Four sentences and five frames: no beam, no recursion, every alignment listed.

    With a share of CTC in the rank, a piece would have to wait for the blank between it and its
    equal before it; without one, no alignment of the transducer is lost either.
    """
    ear = eb.recogniser(seed=3, pieces=PIECES, gain=2.0)
    model, joint = load(ear), Joint(ear)
    samples = noise(3100, seed=3)
    frames, ctc = encode(model, samples), posteriors(model, samples)
    assert len(frames) == 5
    network = Network(WORDS)
    start = network.node()
    for sentence in ([0], [2], [3, 3], [1, 3]):  # "3 4 4" and "6 6": a piece twice
        network.sentence(start, sentence)
    graph = network.native(PIECES)
    got = commands(model, samples, graph, grammar_paths=64, ctc_weight=0.0)
    assert len(got["paths"]) == 4
    for path in got["paths"]:
        tokens = tuple(path["tokens"])
        total = -np.inf
        for at in itertools.combinations(range(5), len(tokens)):
            score = 0.0
            said = 0
            for t, frame in enumerate(frames):
                piece = tokens[said] if t in at else BLANK
                score += joint(tokens[:said], frame)[piece]
                said += t in at
            total = np.logaddexp(total, score)
        assert path["transducer"] == pytest.approx(total, abs=1e-4)
        assert path["ctc"] == pytest.approx(all_alignments(ctc, tokens), abs=1e-4)
        assert path["score"] == path["transducer"] and path["prior"] == 0
    for path in commands(model, samples, graph, grammar_paths=64, ctc_weight=0.25)["paths"]:
        mixed = 0.75 * path["transducer"] + 0.25 * path["ctc"]
        assert path["score"] == pytest.approx(mixed, abs=1e-9)


def test_the_blank_penalty_is_the_grammar_s_own(load: Load) -> None:
    ear = eb.recogniser(seed=5, pieces=PIECES, blank_bias=3.0)
    model = load(ear)
    network = random_network(102, words=WORDS)
    graph = network.native(PIECES)
    samples = noise(9000, seed=1)
    frames, ctc = encode(model, samples), posteriors(model, samples)
    free = decode(model, samples, None, blank_penalty=1.5).result()
    for penalty in (0.0, 1.5, 4.0, -2.0):
        stream = decode(model, samples, graph, blank_penalty=1.5, grammar_blank_penalty=penalty)
        check(
            stream.command_result(),
            oracle(Joint(ear, blank_penalty=penalty), Flat(network), frames, ctc),
        )
        assert stream.result() == free


def test_the_free_search_is_untouched(load: Load) -> None:
    for what in VARIANTS:
        model = load(eb.recogniser(seed=2, pieces=PIECES, **VARIANTS[what]))
        graph = random_network(102, words=WORDS).native(PIECES)
        samples = noise(16000, seed=2)
        with_graph = decode(model, samples, graph)
        without = decode(model, samples, None)
        assert with_graph.result() == without.result()
        assert without.command_result() is None
        assert with_graph.command_result() is not None


def test_words_and_times(tmp_path: Path) -> None:
    """The tiny model of the Python tests: spelling and the spans of words."""
    model = _native.Model(str(write_tiny_model(tmp_path / "tiny.ear")))
    network = Network([(3,), (4,), (5, 6, 7), (5, 6)])
    start = network.node()
    network.sentence(start, [0, 1, 2])
    got = commands(model, noise(40000), network.native(len(TINY_PIECES)), grammar_paths=16)
    (path,) = got["paths"]
    assert [word["word"] for word in path["words"]] == ["turn", "on", "lights"]
    assert path["tokens"] == [3, 4, 5, 6, 7]
    frames = path["frames"]
    assert [word["start_frame"] for word in path["words"]] == [frames[0], frames[1], frames[2]]
    assert path["words"][2]["end_frame"] == frames[4] + 1
    assert all(0 < word["confidence"] <= 1 for word in path["words"])
    assert not got["can_continue"] and got["alive"]


def test_a_model_without_ctc(load: Load) -> None:
    ear = eb.recogniser(seed=1, pieces=PIECES)
    network = random_network(102, words=WORDS)
    samples = noise(9000, seed=1)
    want = commands(load(ear), samples, network.native(PIECES), ctc_weight=0.0)
    del ear.header["graphs"]["ctc"]
    got = commands(load(ear), samples, network.native(PIECES), ctc_weight=0.75)
    assert got["paths"] and got["free_ctc"] == 0
    for path, other in zip(got["paths"], want["paths"], strict=True):
        assert path["ctc"] == 0
        assert path == {**other, "ctc": 0}


def test_no_sentence_is_complete(load: Load) -> None:
    """Three frames cannot hold seven pieces."""
    network = Network(WORDS)
    network.sentence(network.node(), [2, 2, 0])
    model = load(eb.recogniser(seed=1, pieces=PIECES))
    got = commands(model, noise(1900), network.native(PIECES))
    assert got["paths"] == [] and got["alive"] and not got["can_continue"]
    assert got["num_frames"] == 3
    recogniser = _native.Recognizer(model, word_graph=network.native(PIECES))
    fresh: Any = recogniser.create_stream().command_result()
    assert fresh == {
        "paths": [],
        "free_transducer": 0,
        "free_ctc": 0,
        "free_phones": 0,
        "silent_phones": 0,
        "rescored": True,
        "num_frames": 0,
        "alive": True,
        "can_continue": False,
    }


def test_a_complete_sentence_outlives_longer_ones(load: Load) -> None:
    """With one place in the beam, the beginning of a longer sentence would push it out."""
    ear = eb.recogniser(seed=0, pieces=PIECES, blank_bias=-6.0)  # a piece in every frame
    model = load(ear)
    network = Network(WORDS)
    end = network.sentence(network.node(), [0])
    network.sentence(end, [0] * 30)
    samples = noise(6000)
    got = commands(model, samples, network.native(PIECES), grammar_paths=1, ctc_weight=0.0)
    assert [path["tokens"] for path in got["paths"]] == [[3]]
    frames, ctc = encode(model, samples), posteriors(model, samples)
    check(got, oracle(Joint(ear), Flat(network), frames, ctc, paths=1, ctc_weight=0.0))


def test_a_tiny_beam_keeps_one_path(tmp_path: Path, load: Load) -> None:
    model = _native.Model(str(write_tiny_model(tmp_path / "tiny.ear")))
    network = Network([(3,), (4,), (5, 6, 7), (5, 6)])
    start = network.node()
    network.arc(start, WORD, 1, network.sentence(start, [0]))
    network.sentence(start, [3])
    network.sentence(start, [0, 1, 2])
    graph = network.native(len(TINY_PIECES))
    for samples in (noise(40000), noise(9000, seed=1)):
        got = commands(model, samples, graph, grammar_paths=64, grammar_beam=1e-30)
        assert got["paths"] and got["alive"]
        assert got == commands(model, samples, graph, grammar_paths=1)
        wide = commands(model, samples, graph, grammar_paths=64)
        assert len(wide["paths"]) > len(got["paths"])


def test_a_huge_beam_is_none(load: Load) -> None:
    for what in VARIANTS:
        model = load(eb.recogniser(seed=2, pieces=PIECES, **VARIANTS[what]))
        graph = random_network(102, words=WORDS).native(PIECES)
        none, huge, small = (
            commands(model, noise(16000), graph, grammar_paths=64, grammar_beam=beam)
            for beam in (math.inf, 1e30, 0.5)
        )
        assert none["paths"] and none == huge
        assert small["paths"] and small != none


# --- streams --------------------------------------------------------------------------------

CLIP = noise(20000, seed=4)
NETWORK = random_network(102, words=WORDS)


@pytest.fixture(scope="module")
def models(load: Load) -> list[_native.Model]:
    return [
        load(eb.recogniser(seed=2, pieces=PIECES)),
        load(eb.recogniser(seed=2, pieces=PIECES, matrix_codec="i8_r16x4")),
        load(eb.recogniser(seed=4, pieces=PIECES, stateful=True, matrix_codec="i8_r16x4")),
    ]


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, len(CLIP)), max_size=8).map(sorted), which=st.integers(0, 2))
def test_sentences_do_not_depend_on_how_audio_is_cut(
    models: list[_native.Model], cuts: list[int], which: int
) -> None:
    graph = NETWORK.native(PIECES)
    whole = commands(models[which], CLIP, graph)
    assert whole["paths"]
    recogniser = _native.Recognizer(models[which], "modified_beam_search", word_graph=graph)
    stream = recogniser.create_stream()
    for _ in range(2):
        for part in np.split(CLIP, cuts):
            stream.accept_waveform(part)
            recogniser.decode_streams([stream])
            stream.command_result()
        stream.input_finished()
        recogniser.decode_streams([stream])
        assert stream.command_result() == whole
        stream.reset()


def test_streams_of_different_graphs_together(models: list[_native.Model]) -> None:
    """Forty streams: more than a block, each with the recogniser's graph, its own, or none."""
    graphs = [random_network(102 + i, words=WORDS).native(PIECES) for i in range(3)]
    recogniser = _native.Recognizer(models[1], "modified_beam_search", word_graph=graphs[0])
    streams, clips = [], []
    for i in range(40):
        streams.append(
            recogniser.create_stream(word_graph=graphs[i % 3])
            if i % 3
            else recogniser.create_stream()
        )
        clips.append(noise(300 * i, seed=i))
        streams[-1].accept_waveform(clips[-1][: 100 * i])
    recogniser.decode_streams(streams)
    for stream, clip in zip(streams, clips, strict=True):
        stream.accept_waveform(clip[len(clip) // 3 :])
        stream.input_finished()
    recogniser.decode_streams(streams[::-1])
    for i in range(0, 40, 3):
        for j in range(i, min(i + 3, 40)):
            assert streams[j].command_result() == commands(models[1], clips[j], graphs[j % 3])
    plain = _native.Recognizer(models[1], "modified_beam_search")
    mixed = [plain.create_stream(word_graph=graphs[1]), plain.create_stream()]
    for stream in mixed:
        stream.accept_waveform(clips[39])
        stream.input_finished()
    plain.decode_streams(mixed)
    assert mixed[0].command_result() == commands(models[1], clips[39], graphs[1])
    assert mixed[1].command_result() is None
    assert mixed[1].result() == decode(models[1], clips[39], None).result()


def test_threads_share_a_recogniser_and_its_graph(models: list[_native.Model]) -> None:
    graph = NETWORK.native(PIECES)
    recogniser = _native.Recognizer(models[1], "modified_beam_search", word_graph=graph)
    clips = [noise(16000, seed=i) for i in range(8)]

    def work(i: int) -> Any:
        stream = recogniser.create_stream()
        for part in np.array_split(clips[i], 10):
            stream.accept_waveform(part)
            recogniser.decode_streams([stream])
        stream.input_finished()
        recogniser.decode_streams([stream])
        return stream.command_result()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    for clip, result in zip(clips, results, strict=True):
        assert result == commands(models[1], clip, NETWORK.native(PIECES))


def test_a_search_survives_that_states_are_forgotten(models: list[_native.Model]) -> None:
    """The graph drops what it remembers between two chunks; nothing of the result changes."""

    def network() -> Network:
        net = Network([(3,), (6,)])
        nodes = [net.node() for _ in range(20_000)]
        net.final.add(nodes[-1])
        values = net.node()
        net.sentence(values, [1], weight=-0.25)
        for node, to in itertools.pairwise(nodes):
            net.arc(node, WORD, 0, to)
            net.arc(node, EPSILON, 0, to)
        net.arc(nodes[5], CALL, values, nodes[7])
        return net

    graph = network().native(PIECES)
    whole = commands(models[1], CLIP, network().native(PIECES))
    assert whole["paths"]
    recogniser = _native.Recognizer(models[1], "modified_beam_search", word_graph=graph)
    stream = recogniser.create_stream()
    for part in np.array_split(CLIP, 2):
        stream.accept_waveform(part)
        recogniser.decode_streams([stream])
        before = graph.size_bytes
        graph.walk(np.full(40, 3, np.int32))
        assert graph.size_bytes < before  # more than it keeps: what it remembers is gone
    stream.input_finished()
    recogniser.decode_streams([stream])
    assert stream.command_result() == whole


# --- attacks --------------------------------------------------------------------------------


def test_wrong_settings(models: list[_native.Model]) -> None:
    for kwargs, message in (
        ({"grammar_paths": 0}, "grammar_paths is 0; it must be in 1..64"),
        ({"grammar_paths": 65}, "grammar_paths is 65"),
        ({"grammar_beam": 0.0}, r"grammar_beam is 0.0\d*; it must be above 0"),
        ({"grammar_beam": -1.0}, "grammar_beam is -1"),
        ({"grammar_beam": math.nan}, "grammar_beam is -?nan"),
        ({"grammar_beam": 1e-50}, "grammar_beam is 0"),  # as a float
        ({"ctc_weight": -0.1}, r"ctc_weight is -0.1\d*; it must be in 0..1"),
        ({"ctc_weight": 1.1}, "ctc_weight is 1.1"),
        ({"ctc_weight": math.nan}, "ctc_weight is -?nan"),
        ({"grammar_blank_penalty": math.inf}, "grammar_blank_penalty is inf"),
        ({"word_penalty": math.nan}, "word_penalty is -?nan"),
        ({"word_penalty": 101}, "word_penalty is 101"),
        ({"ctc_blank_penalty": math.nan}, "ctc_blank_penalty is -?nan"),
        ({"language_weight": -0.5}, "language_weight is -0.5"),
        ({"language_weight": math.nan}, "language_weight is -?nan"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.Recognizer(models[0], **kwargs)  # type: ignore[arg-type]


def test_graphs_of_other_pieces(models: list[_native.Model]) -> None:
    for words, vocabulary, message in (
        ([(3,)], PIECES + 1, "made for 10 pieces and the model has 9"),
        ([(4,)], PIECES, "piece 0 of a word is 'b', which starts no word"),
        ([(3, 4, 6)], PIECES, "piece 2 of a word is '.d', which starts another word"),
    ):
        network = Network(words)
        network.sentence(network.node(), [0])
        graph = network.native(vocabulary)
        with pytest.raises(ValueError, match=message):
            _native.Recognizer(models[0], word_graph=graph)
        with pytest.raises(ValueError, match=message):
            _native.Recognizer(models[0]).create_stream(word_graph=graph)


@pytest.mark.parametrize("what", ["j.b", "ctc.w", "enc.w", "p.w"])
@pytest.mark.parametrize("value", [3e38, -3e38])
def test_absurd_weights_do_no_harm(load: Load, what: str, value: float) -> None:
    """Networks that make infinities and NaN: ranks stay numbers, and the search goes on."""
    ear = eb.recogniser(seed=1, pieces=PIECES)
    codec, w = ear.tensors[what]
    bad = np.array(w, np.float32)
    bad.reshape(-1)[::2] = value
    ear.tensors[what] = (codec, bad)
    model = load(ear)
    graph = NETWORK.native(PIECES)
    for ctc_weight, language_weight in ((0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.5, 1.0)):
        got = commands(
            model, noise(8000), graph, ctc_weight=ctc_weight, language_weight=language_weight
        )
        assert got["alive"] and got["num_frames"] == 13
        for path in got["paths"]:
            assert math.isfinite(path["score"]) and math.isfinite(path["transducer"])


class EngineJoint:
    """As `Joint`, by the engine's own networks: for models that only the engine can run."""

    def __init__(self, model: _native.Model) -> None:
        self.predictor, self.joiner = model.graph("predictor"), model.graph("joiner")
        self.memory: dict[History, F32] = {}

    def __call__(self, history: History, frame: F64) -> F64:
        ids = (-1, BLANK, *history)[-2:]
        if ids not in self.memory:
            self.memory[ids] = self.predictor.step(np.array(ids, np.int32))["predictor_out"]
        rows = {"encoder_out": frame[None].astype(np.float32), "predictor_out": self.memory[ids]}
        logits = self.joiner.step(rows)["logits"][0].astype(np.float64)
        out: F64 = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        return out


def test_real_recordings(real_data: Path, repository: Path) -> None:
    """The embedded model on digits, of which any number may be said in a row."""
    model_path = repository / "src/earshot/assets/assistant-en.ear"
    manifest = real_data / "spoken_digits" / "manifest.jsonl"
    if not model_path.is_file() or not manifest.is_file():
        pytest.skip(f"no embedded model at {model_path}, or no {manifest}")
    model = _native.Model(str(model_path))
    assert model.search is not None and model.search["context_size"] == 2
    tokenizer = SentencePieceProcessor(
        model_proto=_native.ModelFile(str(model_path)).tensor_bytes("tokenizer")
    )
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    network = Network([tuple(tokenizer.encode(word)) for word in digits])
    start, loop = network.node(), network.node(final=True)
    for word in range(10):
        network.arc(start, WORD, word, loop, weight=-0.125 * (word % 3))
        network.arc(loop, WORD, word, loop, weight=-2.5)
    graph, flat = network.native(len(model.pieces)), Flat(network)
    right = 0
    rows = read_manifest(manifest)[::40]
    for i, row in enumerate(rows):
        with AudioFile(row.audio) as file:
            rate = file.sample_rate_hz
            blocks = file.blocks(offset_s=row.offset_s, duration_s=row.duration_s)
            samples = np.concatenate([np.zeros(rate // 4), *blocks, np.zeros(rate // 2)])
        resampler = StreamingResampler(rate)
        heard = [resampler.push(samples.astype(np.float32)), resampler.finish()]
        samples = np.concatenate(heard)
        got = commands(model, samples, graph)
        words = [word["word"] for path in got["paths"][:1] for word in path["words"]]
        right += words == [row.text]
        if i < 4:
            frames, ctc = encode(model, samples), posteriors(model, samples)
            check(got, oracle(EngineJoint(model), flat, frames, ctc))
    assert len(rows) >= 50
    assert right >= 0.85 * len(rows)  # all but 3 of 63 when this was written
