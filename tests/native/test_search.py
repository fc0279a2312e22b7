"""Search and streams: against enumeration of all paths, and against a plain rewrite.

The oracles run predictor and joiner in double precision from the tensors of the
file. One lists every alignment; the other follows the rule of the search over
dictionaries of whole histories, with no tree, hash, cache or top-k.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ear_builder as eb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_oracle import BLANK, F32, F64, UNK, History, Joint, encode, noise

from earshot import _native
from tests.child_memory import child_figures


def search_oracle(
    joint: Joint, frames: F64, *, paths: int, cap: int
) -> list[tuple[float, History]]:
    """The rule of the search, history by history."""
    active: dict[History, float] = {(): 0.0}
    for frame in frames:
        left: dict[History, float] = {}
        inside = active
        for symbols in itertools.count(1):
            pool_left = dict(left)
            pool_inside: dict[History, float] = {}
            for history, score in inside.items():
                log_probs = joint(history, frame)
                for token, log_prob in enumerate(log_probs):
                    new = history if token == BLANK else (*history, token)
                    if token == BLANK or symbols == cap:
                        old = pool_left.get(new, -np.inf)
                        pool_left[new] = float(np.logaddexp(old, score + log_prob))
                    else:
                        pool_inside[new] = score + float(log_prob)
            ranked = sorted(
                [(score, history, True) for history, score in pool_left.items()]
                + [(score, history, False) for history, score in pool_inside.items()],
                key=lambda item: -item[0],
            )[:paths]
            left = {history: score for score, history, out in ranked if out}
            inside = {history: score for score, history, out in ranked if not out}
            if not inside:
                break
        active = left
    return sorted(((score, history) for history, score in active.items()), reverse=True)


def greedy_oracle(joint: Joint, frames: F64, *, cap: int) -> tuple[History, list[int], list[float]]:
    """The best piece of every frame; pieces, their frames and their log-probabilities."""
    history: History = ()
    at: list[int] = []
    log_probs: list[float] = []
    for t, frame in enumerate(frames):
        for _ in range(cap):
            scores = joint(history, frame)
            best = int(np.argmax(scores))
            if best == BLANK:
                break
            history = (*history, best)
            at.append(t)
            log_probs.append(float(scores[best]))
    return history, at, log_probs


def decode(model: _native.Model, samples: F32, method: str = "greedy_search", **kwargs: Any) -> Any:
    recogniser = _native.Recognizer(model, method, **kwargs)
    stream = recogniser.create_stream()
    stream.accept_waveform(samples)
    stream.input_finished()
    recogniser.decode_streams([stream])
    return stream.result()


VARIANTS: dict[str, dict[str, Any]] = {
    "stateless": {"blank_bias": 1.0},
    "one piece of context": {"context_size": 1, "blank_bias": 1.0},
    "four pieces of context": {"context_size": 4, "blank_bias": 0.0},
    "stateful": {"stateful": True, "blank_bias": 1.0},
    "sure of itself": {"gain": 12.0, "blank_bias": 4.0},
    "talkative": {"blank_bias": -1.0},
}


@pytest.mark.parametrize("cap", [1, 3])
@pytest.mark.parametrize("what", VARIANTS)
def test_greedy_search(load: Callable[[eb.Ear], _native.Model], what: str, cap: int) -> None:
    for seed in range(3):
        ear = eb.recogniser(seed=seed, **VARIANTS[what])
        model = load(ear)
        samples = noise(24000, seed=seed)
        frames = encode(model, samples)
        history, at, log_probs = greedy_oracle(Joint(ear), frames, cap=cap)
        got = decode(model, samples, max_symbols_per_frame=cap)
        assert tuple(got["tokens"]) == history
        assert got["frames"] == at
        np.testing.assert_allclose(got["log_probs"], log_probs, atol=1e-4)
        assert got["num_frames"] == len(frames) == 38
        assert UNK not in history and BLANK not in history
        beam = decode(
            model, samples, "modified_beam_search", max_active_paths=1, max_symbols_per_frame=cap
        )
        assert beam == got


@pytest.mark.parametrize("paths", [2, 4, 9])
@pytest.mark.parametrize("cap", [1, 2, 5])
@pytest.mark.parametrize("what", VARIANTS)
def test_modified_beam_search(
    load: Callable[[eb.Ear], _native.Model], what: str, cap: int, paths: int
) -> None:
    ear = eb.recogniser(seed=paths, pieces=9, **VARIANTS[what])
    model = load(ear)
    samples = noise(12000, seed=cap)
    best, *_ = search_oracle(Joint(ear), encode(model, samples), paths=paths, cap=cap)
    got = decode(
        model,
        samples,
        "modified_beam_search",
        max_active_paths=paths,
        max_symbols_per_frame=cap,
    )
    assert got["score"] == pytest.approx(best[0], abs=2e-3)
    assert tuple(got["tokens"]) == best[1]
    assert len(got["frames"]) == len(got["log_probs"]) == len(best[1])
    assert got["frames"] == sorted(got["frames"])
    assert max(np.bincount(got["frames"], minlength=1)) <= cap


def test_with_room_for_all_paths_the_score_is_the_sum_over_alignments(
    load: Callable[[eb.Ear], _native.Model],
) -> None:
    """Three frames, three pieces that may come out, at most one a frame: 40 histories."""
    ear = eb.recogniser(seed=3, pieces=5, gain=2.0)
    model, joint = load(ear), Joint(ear)
    samples = noise(1900, seed=3)
    frames = encode(model, samples)
    assert len(frames) == 3
    total: dict[History, float] = {}
    for alignment in itertools.product((0, 1, 3, 4), repeat=3):
        history: History = ()
        score = 0.0
        for token, frame in zip(alignment, frames, strict=True):
            score += joint(history, frame)[token]
            history += (token,) * (token != BLANK)
        total[history] = total.get(history, 0.0) + math.exp(score)
    assert len(total) == 40
    best = max(total, key=lambda history: total[history])
    got = decode(model, samples, "modified_beam_search", max_active_paths=64)
    assert tuple(got["tokens"]) == best
    assert got["score"] == pytest.approx(math.log(total[best]), abs=1e-4)


def test_blank_penalty_and_unknown(load: Callable[[eb.Ear], _native.Model]) -> None:
    ear = eb.recogniser(seed=5, blank_bias=8.0)
    ear.tensors["j.b"][1][UNK] = 50  # the likeliest piece by far, and still never put out
    model = load(ear)
    samples = noise(24000)
    frames = encode(model, samples)
    counts = []
    for penalty in (0.0, 2.0, 6.0):
        got = decode(model, samples, blank_penalty=penalty)
        want = greedy_oracle(Joint(ear, blank_penalty=penalty), frames, cap=1)[0]
        assert tuple(got["tokens"]) == want
        assert UNK not in got["tokens"]
        counts.append(len(want))
    assert counts[0] < counts[2]


def test_wrong_settings(load: Callable[[eb.Ear], _native.Model]) -> None:
    model = load(eb.recogniser())
    for kwargs, message in (
        ({"method": "beam"}, "greedy_search"),
        ({"method": "modified_beam_search", "max_active_paths": 0}, "1..64"),
        ({"method": "modified_beam_search", "max_active_paths": 65}, "1..64"),
        ({"max_symbols_per_frame": 101}, "0..100"),
        ({"blank_penalty": float("nan")}, "blank_penalty"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.Recognizer(model, **kwargs)


# --- words ----------------------------------------------------------------------------------


def scripted(pieces: list[str], script: list[int]) -> eb.Ear:
    """A recogniser that puts out `script[t]` in frame t, whatever it hears.

    Its one lstm counts frames: cells hold ever growing values, and so does a
    clock that the joiner can read off. Simpler and exact: the predictor has one
    piece of context, and piece p is followed by the next of the script.
    """
    ear = eb.recogniser(pieces=len(pieces), context_size=1, embedding=16, width=16, layers=1)
    follows = dict(zip([BLANK, *script], [*script, BLANK], strict=True))
    ear.header["pieces"] = pieces
    width = 16
    table = np.zeros((len(pieces), width), np.float32)
    weight = np.zeros((len(pieces), width), np.float32)
    for previous, following in follows.items():
        table[previous, previous] = 10  # one-hot context
        weight[following, previous] = 8
    for name, value in (
        ("table", table),
        ("p.conv", np.eye(width, dtype=np.float32)),
        ("p.w", np.eye(width, dtype=np.float32)),
        ("enc.w", np.zeros((width, 32), np.float32)),
        ("enc.b", np.zeros(width, np.float32)),
        ("j.w", weight),
        ("j.b", np.zeros(len(pieces), np.float32)),
    ):
        ear.tensors[name] = (ear.tensors[name][0], value)
    return ear


def test_words_times_and_confidences(load: Callable[[eb.Ear], _native.Model]) -> None:
    pieces = [
        "<blk>",
        "<sos/eos>",
        "<unk>",
        "▁turn",
        "▁o",
        "n",
        "▁",
        "é",
        "▁li",
        "ght",
        "s",
        "▁x▁y",
    ]
    script = [3, 4, 5, 6, 7, 8, 9, 10, 11]
    model = load(scripted(pieces, script))
    assert decode(model, noise(600))["tokens"] == script[:1]
    got = decode(model, noise(16000))
    assert got["tokens"] == script
    assert got["pieces"] == [pieces[i] for i in script]
    assert got["frames"] == list(range(9))
    assert got["text"] == "turn on é lights x y"
    p = [math.exp(v) for v in got["log_probs"]]
    want = [
        ("turn", 0, 1, p[0]),
        ("on", 1, 3, math.sqrt(p[1] * p[2])),
        ("é", 3, 5, math.sqrt(p[3] * p[4])),
        ("lights", 5, 8, (p[5] * p[6] * p[7]) ** (1 / 3)),
        ("x y", 8, 9, p[8]),
    ]
    for word, (text, start, end, confidence) in zip(got["words"], want, strict=True):
        assert (word["word"], word["start_frame"], word["end_frame"]) == (text, start, end)
        assert word["confidence"] == pytest.approx(confidence, rel=1e-5)
    # All in one frame: a word still lasts a frame, whatever the next one says.
    got = decode(model, noise(16000), max_symbols_per_frame=100)
    assert got["frames"] == [0] * 9
    assert [(w["start_frame"], w["end_frame"]) for w in got["words"]] == [(0, 1)] * 5


def test_a_first_piece_without_a_word_start_and_empty_words(
    load: Callable[[eb.Ear], _native.Model],
) -> None:
    pieces = ["<blk>", "<sos/eos>", "<unk>", "ing", "▁", "▁a", "▁▁"]
    got = decode(load(scripted(pieces, [3, 4, 5, 6])), noise(16000))
    assert [w["word"] for w in got["words"]] == ["ing", "a"]
    assert got["text"] == "ing  a"


# --- streams --------------------------------------------------------------------------------

METHODS: list[dict[str, Any]] = [
    {},
    {"method": "modified_beam_search"},
    {"method": "modified_beam_search", "max_symbols_per_frame": 4, "max_active_paths": 6},
]
CLIP = noise(20000, seed=4)


@pytest.fixture(scope="module")
def models(load: Callable[[eb.Ear], _native.Model]) -> list[_native.Model]:
    return [
        load(eb.recogniser(seed=2)),
        load(eb.recogniser(seed=2, matrix_codec="i8_r16x4")),
        load(eb.recogniser(seed=4, stateful=True, matrix_codec="i8_r16x4")),
    ]


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, len(CLIP)), max_size=8).map(sorted), which=st.integers(0, 8))
def test_text_does_not_depend_on_how_audio_is_cut(
    models: list[_native.Model], cuts: list[int], which: int
) -> None:
    model, kwargs = models[which // 3], METHODS[which % 3]
    whole = decode(model, CLIP, **kwargs)
    assert whole["tokens"]
    recogniser = _native.Recognizer(model, **kwargs)
    stream = recogniser.create_stream()
    frames = 0
    for part in np.split(CLIP, cuts):
        stream.accept_waveform(part)
        recogniser.decode_streams([stream])
        partial = stream.result()
        assert partial["num_frames"] >= frames
        frames = partial["num_frames"]
        assert not stream.is_ready()
    stream.input_finished()
    assert stream.is_ready()
    recogniser.decode_streams([stream])
    assert stream.result() == whole
    assert not stream.is_ready()


@settings(max_examples=15)
@given(data=st.data())
def test_streams_together_equal_streams_alone(
    models: list[_native.Model], data: st.DataObject
) -> None:
    which = data.draw(st.integers(0, 8))
    model, kwargs = models[which // 3], METHODS[which % 3]
    recogniser = _native.Recognizer(model, **kwargs)
    lengths = data.draw(st.lists(st.integers(0, 12000), min_size=1, max_size=6))
    clips = [noise(n, seed=i) for i, n in enumerate(lengths)]
    streams = [recogniser.create_stream() for _ in clips]
    half = [len(clip) * (i % 3) // 3 for i, clip in enumerate(clips)]
    for stream, clip, n in zip(streams, clips, half, strict=True):
        stream.accept_waveform(clip[:n])
    recogniser.decode_streams(streams)
    for stream, clip, n in zip(streams, clips, half, strict=True):
        stream.accept_waveform(clip[n:])
        stream.input_finished()
    recogniser.decode_streams(streams[::-1])
    for stream, clip in zip(streams, clips, strict=True):
        assert stream.result() == decode(model, clip, **kwargs)


def test_more_streams_than_a_block(models: list[_native.Model]) -> None:
    recogniser = _native.Recognizer(models[1])
    streams = [recogniser.create_stream() for _ in range(70)]
    for i, stream in enumerate(streams):
        stream.accept_waveform(noise(2000, seed=i))
        stream.input_finished()
    recogniser.decode_streams(streams)
    for i in (0, 31, 32, 69):
        assert streams[i].result() == decode(models[1], noise(2000, seed=i))


def test_threads_share_a_recogniser(models: list[_native.Model]) -> None:
    """Streams of their own, and one that all threads read while it is decoded."""
    recogniser = _native.Recognizer(models[1], "modified_beam_search")
    shared = recogniser.create_stream()
    clips = [noise(16000, seed=i) for i in range(8)]

    def work(i: int) -> Any:
        stream = recogniser.create_stream()
        for part in np.array_split(clips[i], 20):
            stream.accept_waveform(part)
            if i == 0:
                shared.accept_waveform(part)
            recogniser.decode_streams([shared, stream] if i % 2 else [stream, shared])
            shared.result()
        stream.input_finished()
        recogniser.decode_streams([stream])
        return stream.result()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    for clip, result in zip(clips, results, strict=True):
        assert result == decode(models[1], clip, method="modified_beam_search")
    shared.input_finished()
    recogniser.decode_streams([shared])
    assert shared.result() == results[0]


def test_a_stream_after_reset_is_as_good_as_new(models: list[_native.Model]) -> None:
    recogniser = _native.Recognizer(models[2], "modified_beam_search")
    stream = recogniser.create_stream()
    empty = stream.result()
    assert (empty["text"], empty["tokens"], empty["num_frames"], empty["score"]) == ("", [], 0, 0)
    stream.accept_waveform(noise(5001, seed=9))
    recogniser.decode_streams([stream])
    assert stream.result() != empty
    stream.reset()
    assert stream.result() == empty
    stream.accept_waveform(CLIP)
    stream.input_finished()
    recogniser.decode_streams([stream])
    assert stream.result() == decode(models[2], CLIP, method="modified_beam_search")
    stream.reset()
    stream.accept_waveform(CLIP[:100])  # a reset takes audio again


def test_nothing_to_hear(models: list[_native.Model]) -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(1, np.float32), np.zeros(79, np.float32)):
        assert decode(models[0], samples)["num_frames"] == 0
    assert decode(models[0], np.zeros(80, np.float32))["num_frames"] == 1


def test_wrong_calls(models: list[_native.Model]) -> None:
    recogniser = _native.Recognizer(models[0])
    stream = recogniser.create_stream()
    for bad in (np.nan, np.inf):
        samples = np.zeros(10, np.float32)
        samples[7] = bad
        with pytest.raises(ValueError, match="sample 7"):
            stream.accept_waveform(samples)
    with pytest.raises(ValueError, match="twice"):
        recogniser.decode_streams([stream, stream])
    with pytest.raises(ValueError, match="another recogniser"):
        _native.Recognizer(models[0]).decode_streams([stream])
    recogniser.decode_streams([])
    stream.input_finished()
    stream.input_finished()
    with pytest.raises(RuntimeError, match="reset"):
        stream.accept_waveform(np.zeros(10, np.float32))


TWELVE_MINUTES = """
import numpy as np
from earshot import _native
recogniser = _native.Recognizer(_native.Model(sys.argv[1]), "modified_beam_search")
stream = recogniser.create_stream()
minute = np.random.default_rng(1).normal(scale=0.1, size=16000 * 60).astype(np.float32)
kept = []
for i in range(12):
    for part in np.split(minute, 12):
        stream.accept_waveform(part)
        recogniser.decode_streams([stream])
        if sys.argv[2] == "keep":
            kept.append(part.copy())
    if i == 1:
        print(peak_kib())
print(peak_kib())
stream.input_finished()
recogniser.decode_streams([stream])
result = stream.result()
print(result["num_frames"], len(result["tokens"]))
"""


def test_memory_is_flat_over_twelve_minutes(tmp_path: Path) -> None:
    """What a stream keeps may grow with its pieces, not with its audio (3.8 MB a minute)."""
    ear = eb.recogniser(layers=1, hidden=16, blank_bias=2.0, matrix_codec="i8_r16x4")
    model = tmp_path / "m.ear"
    model.write_bytes(ear.bytes())
    before, after, frames, tokens = child_figures(TWELVE_MINUTES, model, "forget")
    assert frames == 12 * 60 * 25
    assert tokens > 0
    allowed_kib = 12 * tokens / 1000 + 1500
    assert after - before < allowed_kib
    before, after, *_ = child_figures(TWELVE_MINUTES, model, "keep")
    assert after - before > max(30_000, allowed_kib)


# --- instruction sets -----------------------------------------------------------------------

REPORT = """
import json, sys
import numpy as np
from earshot import _native
recogniser = _native.Recognizer(_native.Model(sys.argv[1]), sys.argv[3])
stream = recogniser.create_stream()
stream.accept_waveform(np.load(sys.argv[2]))
stream.input_finished()
recogniser.decode_streams([stream])
print(json.dumps([_native.isa(), stream.result()["tokens"]]))
"""


@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_instruction_sets_agree_on_the_pieces(method: str, tmp_path: Path) -> None:
    import json

    model, audio = tmp_path / "m.ear", tmp_path / "x.npy"
    model.write_bytes(eb.recogniser(seed=7, blank_bias=1.0, matrix_codec="i8_r16x4").bytes())
    np.save(audio, noise(24000))
    results = []
    for isa in _native.available_isas():
        done = subprocess.run(
            [sys.executable, "-c", REPORT, str(model), str(audio), method],
            env={**os.environ, "EARSHOT_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        used, tokens = json.loads(done.stdout)
        assert used == isa
        results.append(tokens)
    assert len(results[0]) > 5
    assert all(tokens == results[0] for tokens in results)
