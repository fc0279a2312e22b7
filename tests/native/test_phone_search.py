"""The search of a word graph by phones: against a plain rewrite, enumeration, and under attack.

The oracle keeps whole histories of phones in dictionaries and follows the unfolded network of
`grammar_oracle`; words are found by walking all of that network.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ear_builder as eb
import numpy as np
import pytest
from grammar_oracle import EPSILON, WORD, Flat, Network, random_network, sentences
from hypothesis import given, settings
from hypothesis import strategies as st
from score_oracle import BLANK, F32, F64, UNK, History, Joint, encode, noise

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


@pytest.fixture(scope="module")
def models(load: Load) -> list[_native.Model]:
    return [load(recogniser(seed=6)), load(recogniser(seed=6, stateful=True))]


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
    for history in complete[:64]:
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
        assert got["silent_phones"] == pytest.approx(frames[:, BLANK].sum(), abs=1e-3)
        assert got["num_frames"] == len(frames) and got["alive"]
    assert found >= 5


def all_alignments(ctc: F64, tokens: History) -> float:
    """CTC probability of a history: every labelling of the frames that spells it."""
    total = -np.inf
    for labels in itertools.product({BLANK, *tokens}, repeat=len(ctc)):
        merged = [label for label, _ in itertools.groupby(labels) if label != BLANK]
        if tuple(merged) == tokens:
            total = np.logaddexp(total, sum(row[i] for row, i in zip(ctc, labels, strict=True)))
    return float(total)


def forced(joint: Joint, frames: F64, pieces: History) -> float:
    """Transducer probability of some pieces: every choice of frames to say them in."""
    total = -np.inf
    for at in itertools.combinations(range(len(frames)), len(pieces)):
        score, said = 0.0, 0
        for t, frame in enumerate(frames):
            score += joint(pieces[:said], frame)[pieces[said] if t in at else BLANK]
            said += t in at
        total = np.logaddexp(total, score)
    return float(total)


def language(joint: Joint, pieces: History) -> float:
    """Of the internal language model: the joiner without sound, without blank and unknown."""
    total = 0.0
    for i, piece in enumerate(pieces):
        scores = joint(pieces[:i], np.zeros(len(joint.tensors["enc.b"])))
        others = np.delete(scores, [BLANK, UNK])
        total += max(scores[piece] - float(np.logaddexp.reduce(others)), -20.0)
    return total


def small_network() -> Network:
    """Six sentences: words alone and after each other."""
    net = Network(WORDS, sounds=SOUNDS)
    start = net.node()
    for sentence in ([0], [1], [6], [3], [4, 3], [0, 3]):
        net.sentence(start, sentence, weight=-0.25 * sentence[0])
    return net


@pytest.mark.parametrize("what", VARIANTS)
def test_with_room_for_all_the_scores_are_sums_over_alignments(load: Load, what: str) -> None:
    """Five frames: no beam, no recursion, every alignment of every head listed."""
    ear = recogniser(seed=3, gain=2.0, **VARIANTS[what])
    model, joint = load(ear), Joint(ear)
    samples = noise(3100, seed=3)
    frames, sounds = encode(model, samples), heard(model, samples)
    hidden = model.graph("encoder").step(_native.fbank(samples), None, flush=True)["hidden"]
    ctc = model.graph("ctc").step(hidden, None)["log_probs"].astype(np.float64)
    ctc[:, BLANK] -= 0.75
    assert len(frames) == 5
    net = small_network()
    flat = Flat(net)
    got = commands(
        model,
        samples,
        native(net),
        phone_paths=256,
        phone_beam=math.inf,
        transducer_weight=0.5,
        piece_ctc_weight=0.25,
        language_weight=0.75,
        ctc_blank_penalty=0.75,
    )
    assert len(got["paths"]) == 6 and got["rescored"]
    assert got["free_ctc"] == pytest.approx(ctc.max(axis=1).sum(), abs=1e-4)
    for path in got["paths"]:
        words = tuple(TEXTS.index(word["word"]) for word in path["words"])
        ways = itertools.product(*(SOUNDS[word] for word in words))
        histories = {tuple(itertools.chain(*way)) for way in ways}
        want = np.logaddexp.reduce([all_alignments(sounds, history) for history in histories])
        assert path["phones"] == pytest.approx(float(want), abs=1e-4)
        assert tuple(path["tokens"]) in histories
        pieces = tuple(itertools.chain(*(WORDS[word] for word in words)))
        assert tuple(path["pieces"]) == pieces
        assert path["transducer"] == pytest.approx(forced(joint, frames, pieces), abs=1e-3)
        assert path["ctc"] == pytest.approx(all_alignments(ctc, pieces), abs=1e-4)
        weight = max(sentences(flat, h).get(words, -np.inf) for h in histories)
        prior = weight - 0.5 * 0.75 * language(joint, pieces)
        assert path["prior"] == pytest.approx(prior, abs=1e-3)
        score = path["phones"] + 0.5 * path["transducer"] + 0.25 * path["ctc"] + path["prior"]
        assert path["score"] == pytest.approx(score, abs=1e-9)
    scores = [path["score"] for path in got["paths"]]
    assert scores == sorted(scores, reverse=True)


def test_words_that_sound_alike_are_all_there_and_the_transducer_tells_them_apart(
    load: Load,
) -> None:
    net = Network([(3,), (3, 4), (6,)], sounds=[((1, 2),), ((1, 2),), ((4,),)])
    start = net.node()
    for sentence in ([0, 2], [1, 2]):
        net.sentence(start, sentence)
    model = load(recogniser(seed=1))
    for weight in (0.0, 1.0):
        got = commands(model, noise(9000), native(net), transducer_weight=weight)
        first, second = got["paths"]
        assert first["phones"] == second["phones"] and first["frames"] == second["frames"]
        assert first["transducer"] != second["transducer"]
        assert {spoken(got)[0], spoken(got)[1]} == {("a", "d"), ("ab", "d")}
        if weight:
            assert first["transducer"] > second["transducer"]
        else:
            assert first["score"] == second["score"]


def test_pronunciations_of_a_sentence_are_one_result(load: Load) -> None:
    """Each is a history of its own; their probabilities add up and the words come once."""
    net = Network([(3,)], sounds=[((1, 2), (4,), (4,), (5, 3))])
    net.sentence(net.node(), [0])
    model = load(recogniser(seed=2))
    samples = noise(3100, seed=5)
    (path,) = commands(model, samples, native(net), phone_paths=256, phone_beam=math.inf)["paths"]
    sounds = heard(model, samples)
    each = [all_alignments(sounds, history) for history in ((1, 2), (4,), (5, 3))]
    assert path["phones"] == pytest.approx(float(np.logaddexp.reduce(each)), abs=1e-4)
    assert tuple(path["tokens"]) == ((1, 2), (4,), (5, 3))[int(np.argmax(each))]


def test_words_and_times(load: Load) -> None:
    net = Network(WORDS, sounds=SOUNDS)
    net.sentence(net.node(), [5, 0, 3])
    got = commands(load(recogniser(seed=4)), noise(20000), native(net))
    (path,) = got["paths"]
    first = 1 if path["tokens"][0] == 5 else 3  # "abe" is 5, or 1 2 5; "a" is 1 2
    assert spoken(got) == [("abe", "a", "d")]
    starts = [path["frames"][at] for at in (0, first, first + 2)]
    assert [word["start_frame"] for word in path["words"]] == starts
    assert path["words"][-1]["end_frame"] == path["frames"][-1] + 1
    assert all(0 < word["confidence"] <= 1 for word in path["words"])


def test_more_sentences_than_are_put_out(load: Load) -> None:
    """Nine words of one sound, twice: the best by weight, then the first of the words."""
    rows = [(3, *[4] * i) for i in range(9)]
    net = Network(rows, sounds=[((1, 2),)] * 9)
    start, middle, end = net.node(), net.node(), net.node(final=True)
    for word in range(9):
        net.arc(start, WORD, word, middle, weight=-1.0 * (word % 2))
        net.arc(middle, WORD, word, end, weight=-0.5 * (word // 3))
    got = commands(load(recogniser(seed=1)), noise(9000), native(net))
    want = sorted(
        itertools.product(range(9), repeat=2), key=lambda p: (p[0] % 2 + 0.5 * (p[1] // 3), p)
    )[:8]
    spelled = ["a" + "b" * i for i in range(9)]
    assert spoken(got) == [(spelled[a], spelled[b]) for a, b in want]


def test_more_than_a_minute_is_not_scored_again(load: Load) -> None:
    """A long silence takes nothing from the search, but nothing is kept to score it with."""
    net = small_network()
    model = load(recogniser(seed=1))
    for seconds, rescored in ((59.9, True), (60.5, False)):
        got = commands(model, noise(int(16000 * seconds)), native(net), transducer_weight=1.0)
        assert got["rescored"] is rescored and got["paths"] and got["alive"]
        assert all((path["transducer"] != 0) is rescored for path in got["paths"])
        assert (got["free_ctc"] != 0) is rescored


# --- streams --------------------------------------------------------------------------------

CLIP = noise(16000, seed=4)
RESCORED = {"transducer_weight": 0.5, "piece_ctc_weight": 0.25, "language_weight": 0.5}


@given(cuts=st.lists(st.integers(0, len(CLIP)), max_size=6).map(sorted), stateful=st.booleans())
@settings(max_examples=25)
def test_sentences_do_not_depend_on_how_audio_is_cut(
    models: list[_native.Model], cuts: list[int], stateful: bool
) -> None:
    """Nor on what was asked for on the way, of which scores are remembered."""
    model, graph = models[stateful], native(network(102))
    whole = commands(model, CLIP, graph, **RESCORED)
    assert whole["paths"]
    engine = _native.Recognizer(model, "modified_beam_search", word_graph=graph, **RESCORED)
    stream = engine.create_stream()
    for ask in (True, False):
        for part in np.split(CLIP, cuts):
            stream.accept_waveform(part)
            engine.decode_streams([stream])
            if ask:
                stream.command_result()
        stream.input_finished()
        engine.decode_streams([stream])
        assert stream.command_result() == whole
        stream.reset()


def test_streams_of_different_graphs_together(models: list[_native.Model]) -> None:
    """Forty streams: of graphs of phones, of pieces, and of none."""
    graphs = [
        native(network(102)),
        random_network(102, words=WORDS).native(PIECES),
        native(small_network()),
    ]
    engine = _native.Recognizer(models[0], "modified_beam_search", word_graph=graphs[0], **RESCORED)
    clips = [noise(300 * i, seed=i) for i in range(40)]
    streams = [
        engine.create_stream(word_graph=graphs[i % 3]) if i % 3 else engine.create_stream()
        for i in range(40)
    ]
    for stream, clip in zip(streams, clips, strict=True):
        stream.accept_waveform(clip[: len(clip) // 3])
    engine.decode_streams(streams)
    for stream, clip in zip(streams, clips, strict=True):
        stream.accept_waveform(clip[len(clip) // 3 :])
        stream.input_finished()
    engine.decode_streams(streams[::-1])
    for i in range(40):
        want = decode(models[0], clips[i], graphs[i % 3], **RESCORED)
        assert streams[i].command_result() == want.command_result()
        assert streams[i].result() == want.result()


def test_threads_share_a_recogniser_and_its_graph(models: list[_native.Model]) -> None:
    graph = native(network(102))
    engine = _native.Recognizer(models[0], "modified_beam_search", word_graph=graph, **RESCORED)
    clips = [noise(9000, seed=i) for i in range(8)]

    def work(i: int) -> Any:
        stream = engine.create_stream()
        for part in np.array_split(clips[i], 6):
            stream.accept_waveform(part)
            engine.decode_streams([stream])
            stream.command_result()
        stream.input_finished()
        engine.decode_streams([stream])
        return stream.command_result()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    for clip, result in zip(clips, results, strict=True):
        assert result == commands(models[0], clip, native(network(102)), **RESCORED)


def test_a_search_survives_that_states_are_forgotten(models: list[_native.Model]) -> None:
    """The graph drops what it remembers between two chunks; nothing of the result changes."""

    def large() -> Network:
        net = Network([(3,), (6,)], sounds=[((1,), (2, 3)), ((4,),)])
        nodes = [net.node() for _ in range(15_000)]
        net.final.add(nodes[-1])
        for node, to in itertools.pairwise(nodes):
            net.arc(node, WORD, 0, to)
            net.arc(node, EPSILON, 0, to)
        return net

    graph = native(large())
    whole = commands(models[0], CLIP[:8000], native(large()), word_penalty=0.5)
    assert whole["paths"]
    engine = _native.Recognizer(
        models[0], "modified_beam_search", word_graph=graph, word_penalty=0.5
    )
    stream = engine.create_stream()
    for part in np.array_split(CLIP[:8000], 2):
        stream.accept_waveform(part)
        engine.decode_streams([stream])
        # More different costs of a word than are remembered: all is dropped.
        for i in range(9):
            other = _native.Recognizer(models[0], word_graph=graph, word_penalty=1.0 + i)
            small = other.create_stream()
            small.accept_waveform(CLIP[:2000])
            other.decode_streams([small])
    stream.input_finished()
    engine.decode_streams([stream])
    assert stream.command_result() == whole


# --- the second pass ------------------------------------------------------------------------


def twice_heard(
    model: _native.Model, samples: F32, share: float, *, part: slice = slice(None)
) -> F64:
    """Log-probabilities of blank and phones by both passes, of frames that are an utterance."""
    hidden = model.graph("encoder").step(_native.fbank(samples), None, flush=True)["hidden"]
    second, said = model.graph("second_pass"), hidden[part]
    turned = second.step(np.ascontiguousarray(said[::-1]), second.initial_state())["log_probs"]
    return (1 - share) * heard(model, samples)[part] + share * turned[::-1].astype(np.float64)


@pytest.mark.parametrize("share", [0.5, 1.0, 0.2])
def test_in_the_end_both_passes_count(load: Load, share: float) -> None:
    found = 0
    for seed in range(6):
        model = load(recogniser(seed=seed, second_pass=True))
        net = network(100 + seed)
        flat = Flat(net)
        if not flat.first():
            continue
        samples = noise(5000 + 1500 * seed, seed=seed)
        frames = twice_heard(model, samples, share)
        want = oracle(flat, frames, paths=256)
        searched = {"phone_paths": 256, "phone_beam": math.inf, "second_pass_share": share}
        got: Any = decode(model, samples, native(net), **searched).command_result(ended=True)
        assert spoken(got) == [words for words, _, _ in want]
        for path, (_, phones, prior) in zip(got["paths"], want, strict=True):
            assert path["phones"] == pytest.approx(phones, abs=2e-3)
            assert path["prior"] == pytest.approx(prior, abs=1e-3)
        assert got["free_phones"] == pytest.approx(frames.max(axis=1).sum(), abs=1e-3)
        assert got["silent_phones"] == pytest.approx(frames[:, BLANK].sum(), abs=1e-3)
        found += len(want)
        # Without it, and where it counts for nothing, the first pass decides.
        plain = load(recogniser(seed=seed))
        first = commands(plain, samples, native(net), **searched)
        assert commands(model, samples, native(net), **searched) == first
        without = decode(model, samples, native(net), **searched | {"second_pass_share": 0})
        assert without.command_result(ended=True) == first
        assert first != got
    assert found >= 5


def test_the_second_pass_is_asked_for_when_the_utterance_is_over(load: Load) -> None:
    """While somebody speaks the first pass answers, and asking changes nothing."""
    model, graph = load(recogniser(seed=6, second_pass=True)), native(network(102))
    plain = load(recogniser(seed=6))
    samples = noise(12_000, seed=2)
    engine = _native.Recognizer(model, word_graph=graph, **RESCORED)
    stream, other = engine.create_stream(), decode_some(plain, samples, graph)
    stream.accept_waveform(samples)
    engine.decode_streams([stream])
    assert stream.command_result() == other.command_result()
    ended = stream.command_result(ended=True)
    assert ended != stream.command_result()
    assert ended["num_frames"] == other.command_result()["num_frames"]
    assert other.command_result(ended=True) == other.command_result()
    # Frame by frame, through what is held back: the same.
    framed = engine.create_stream()
    framed.accept_waveform(samples)
    while framed.is_ready():
        engine.decode_frames([framed], [0])
    assert framed.command_result(ended=True) == ended
    # The next utterance begins anew, in the same breath and after a reset.
    stream.reset_search()
    assert stream.command_result(ended=True)["num_frames"] == 0
    other = noise(9000, seed=4)
    stream.accept_waveform(other)
    engine.decode_streams([stream])
    following: Any = stream.command_result(ended=True)
    known = ended["num_frames"]
    part = slice(known, known + following["num_frames"])
    frames = twice_heard(model, np.concatenate([samples, other]), 0.5, part=part)
    assert following["num_frames"] == len(frames) > 5
    assert following["free_phones"] == pytest.approx(frames.max(axis=1).sum(), abs=1e-3)
    stream.reset()
    stream.accept_waveform(samples)
    stream.input_finished()
    engine.decode_streams([stream])
    same = decode(model, samples, graph, **RESCORED)
    assert stream.command_result(ended=True) == same.command_result(ended=True)


def decode_some(model: _native.Model, samples: F32, graph: _native.WordGraph) -> _native.Stream:
    """A stream that waits for more."""
    engine = _native.Recognizer(model, word_graph=graph, **RESCORED)
    stream = engine.create_stream()
    stream.accept_waveform(samples)
    engine.decode_streams([stream])
    return stream


def test_what_is_longer_than_any_command_is_heard_once(load: Load) -> None:
    model, graph = load(recogniser(seed=6, second_pass=True)), native(network(102))
    plain = load(recogniser(seed=6))
    longest = 625 * 640 - 200  # 625 frames
    for length, twice in ((longest, True), (longest + 640, False)):
        samples = noise(length, seed=3)
        found = decode(model, samples, graph).command_result(ended=True)
        assert (found != commands(plain, samples, graph)) == twice


def test_a_second_pass_that_does_not_fit_is_refused(load: Load) -> None:
    ear = recogniser(seed=1, second_pass=True)
    del ear.header["graphs"]["phones"], ear.header["phones"]
    with pytest.raises(_native.ModelFileError, match='"second_pass" has no list `phones`'):
        load(ear)
    ear = recogniser(seed=1, second_pass=True)
    ear.header["phones"].append("P9")
    with pytest.raises(_native.ModelFileError, match="log_probs` of width 6; it must be 7"):
        load(ear)


# --- attacks --------------------------------------------------------------------------------


def test_wrong_settings(models: list[_native.Model]) -> None:
    for kwargs, message in (
        ({"phone_paths": 0}, "phone_paths is 0; it must be in 1..1024"),
        ({"phone_paths": 1025}, "phone_paths is 1025"),
        ({"phone_beam": 0.0}, r"phone_beam is 0.0\d*; it must be above 0"),
        ({"phone_beam": math.nan}, "phone_beam is -?nan"),
        ({"phone_blank_penalty": math.nan}, "phone_blank_penalty is -?nan; .* -100..100"),
        ({"phone_blank_penalty": 101}, "phone_blank_penalty is 101"),
        ({"transducer_weight": -0.1}, r"transducer_weight is -0.1\d*; it must be in 0..100"),
        ({"transducer_weight": math.inf}, "transducer_weight is inf"),
        ({"piece_ctc_weight": math.nan}, "piece_ctc_weight is -?nan"),
        ({"second_pass_share": math.nan}, "second_pass_share is -?nan"),
        ({"second_pass_share": 1.1}, r"second_pass_share is 1.1\d*; it must be in 0..1"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.Recognizer(models[0], **kwargs)  # type: ignore[arg-type]


def test_graphs_of_other_phones_or_pieces(load: Load, models: list[_native.Model]) -> None:
    plain = load(eb.recogniser(pieces=PIECES))
    net = Network([(3,)], sounds=[((1,),)])
    net.sentence(net.node(), [0])
    other = Network([(4,)], sounds=[((1,),)])
    other.sentence(other.node(), [0])
    for model, graph, message in (
        (models[0], net.native(PIECES, phones=PHONES + 1), "for 6 phones and the model has 5"),
        (plain, net.native(PIECES, phones=PHONES), "for 5 phones and the model has 0"),
        (models[0], net.native(PIECES + 1, phones=PHONES), "for 10 pieces and the model has 9"),
        (models[0], other.native(PIECES, phones=PHONES), "piece 0 of a word is 'b', which starts"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.Recognizer(model, word_graph=graph)
        with pytest.raises(ValueError, match=message):
            _native.Recognizer(model).create_stream(word_graph=graph)


@pytest.mark.parametrize("what", ["ph.w", "j.b", "ctc.w", "enc.w"])
@pytest.mark.parametrize("value", [3e38, -3e38])
def test_absurd_weights_do_no_harm(load: Load, what: str, value: float) -> None:
    ear = recogniser(seed=1)
    codec, w = ear.tensors[what]
    bad = np.array(w, np.float32)
    bad.reshape(-1)[::2] = value
    ear.tensors[what] = (codec, bad)
    got = commands(load(ear), noise(8000), native(network(102)), **RESCORED)
    assert got["alive"] and got["num_frames"] == 13
    for path in got["paths"]:
        assert all(math.isfinite(path[of]) for of in ("score", "transducer", "ctc", "phones"))


@pytest.mark.parametrize("seed", range(30))
def test_a_graph_allows_what_the_unfolded_network_does(seed: int) -> None:
    """Along a random history: which phones may follow, where a sentence may end, what it weighs."""
    rng = random.Random(seed)
    net = network(200 + seed)
    flat = Flat(net)
    if not flat.first():
        with pytest.raises(ValueError, match="there must be a sentence"):
            native(net)
        return
    graph = native(net)
    history: History = ()
    for _ in range(10):
        position, want = graph.walk(np.array(history, np.int32)), flat.position(history)
        assert position is not None and want is not None
        assert position["next"] == want["next"] and position["final"] == want["final"]
        assert position["weight"] == want["weight"]
        if not position["next"]:
            break
        history = (*history, rng.choice(position["next"]))
