"""Hearing a sound again at other rates: what comes out, when it is asked for, and when not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr

from earshot import Recognizer
from earshot.core.events import Final
from earshot.data.audio import read_audio
from earshot.session import event_stream, looks, recognizer
from earshot.understand.confidence import CommandConfig
from earshot.understand.graph import CommandGraph, compile_commands
from earshot.understand.templates import load_commands
from tests.session.test_commands import HOUSE

RATE = 16_000


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> CommandGraph:
    path = tmp_path_factory.mktemp("looks") / "house.yaml"
    path.write_text(HOUSE)
    model = recognizer.embedded_model_path()
    return compile_commands(
        load_commands([path]), recognizer.tokenizer_of(model), lexicon=recognizer.lexicon_of(model)
    )


def listener(graph: CommandGraph, **config: object) -> Recognizer:
    model = recognizer.open_model(recognizer.embedded_model_path())
    settings = CommandConfig(**config)  # type: ignore[arg-type]
    return Recognizer(model, commands=graph, command_config=settings)


@pytest.fixture(scope="module")
def clip(repository: Path) -> np.ndarray:
    return read_audio(repository / "examples" / "turn-on-the-fan-in-the-bedroom.flac")


def test_each_look_counts_time_as_the_signal_does(graph: CommandGraph, clip: np.ndarray) -> None:
    engine = listener(graph).engine
    (as_it_is,) = looks.hear_again(engine, clip, [1.0])
    slower, quicker = looks.hear_again(engine, clip, [0.9, 1.1])
    usual = as_it_is[0]["paths"][0]["words"]
    for found, free in (slower, quicker):
        words = found["paths"][0]["words"]
        assert [word["word"] for word in words] == [word["word"] for word in usual]
        for word, other in zip(words, usual, strict=True):
            assert abs(word["start_frame"] - other["start_frame"]) <= 4
        assert free["words"][-1]["end_frame"] <= 1.1 * len(clip) / 640
    # Not the same thing thrice.
    assert slower[0]["paths"][0]["score"] != as_it_is[0]["paths"][0]["score"]
    assert quicker[0]["num_frames"] < as_it_is[0]["num_frames"] < slower[0]["num_frames"]


def test_what_is_longer_than_any_command_and_silence_are_not_heard_again(
    graph: CommandGraph,
) -> None:
    engine = listener(graph).engine
    assert looks.hear_again(engine, np.zeros(0, np.float32), [0.9]) == []
    assert (
        looks.hear_again(engine, np.zeros(int(looks.LONGEST_S * RATE) + 1, np.float32), [0.9]) == []
    )
    found, free = looks.hear_again(engine, np.zeros(8000, np.float32), [0.9])[0]
    assert free["words"] == []
    assert found["num_frames"] > 0


def test_a_voice_that_the_model_hears_better_slower_is_understood(
    graph: CommandGraph, clip: np.ndarray
) -> None:
    """Played fast the clip is in doubt; a look at 0.7 takes most of that back."""
    fast = soxr.resample(clip, RATE * 1.4, RATE).astype(np.float32)

    def sure(*taken: float) -> float:
        stream = listener(graph, looks=taken, sure=1.0).create_stream()
        stream.accept_waveform(RATE, fast)
        stream.input_finished()
        stream.decode()
        understood = stream.understanding()
        assert understood is not None
        return understood.confidence

    alone = sure()
    assert sure(0.7) > alone + 0.02
    assert sure(0.7, 1.0) == sure(0.7)  # the surest look counts


def test_looks_are_taken_once_at_the_end_and_only_in_doubt(
    graph: CommandGraph, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    real = looks.hear_again

    def counted(engine: object, samples: np.ndarray, rates: object) -> object:
        taken.append(len(samples))
        return real(engine, samples, rates)  # type: ignore[arg-type]

    monkeypatch.setattr(recognizer, "hear_again", counted)
    for sure, expected in ((1.0, [len(clip)]), (0.0, [])):
        taken.clear()
        stream = listener(graph, sure=sure).create_stream()
        for first in range(0, len(clip), 5000):
            stream.accept_waveform(RATE, clip[first : first + 5000])
            stream.decode()
            stream.understanding()
        assert taken == []
        stream.input_finished()
        stream.decode()
        stream.result()
        stream.understanding()
        assert taken == expected


def test_long_signals_are_not_kept(graph: CommandGraph) -> None:
    stream = listener(graph).create_stream()
    for _ in range(30):
        stream.accept_waveform(RATE, np.zeros(RATE, np.float32))
    assert sum(map(len, stream._heard)) <= looks.LONGEST_S * RATE + RATE
    stream.input_finished()
    stream.decode()
    understood = stream.understanding()
    assert understood is not None
    assert understood.intent is None
    stream.reset()
    assert stream._heard == []


def test_events_hear_the_utterance_alone_and_alike_however_sound_arrives(
    graph: CommandGraph, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[np.ndarray] = []
    real = looks.hear_again

    def kept(engine: object, samples: np.ndarray, rates: object) -> object:
        taken.append(samples)
        return real(engine, samples, rates)  # type: ignore[arg-type]

    monkeypatch.setattr(event_stream, "hear_again", kept)
    rng = np.random.default_rng(3)
    quiet = [(1e-3 * rng.standard_normal(s * RATE)).astype(np.float32) for s in (5, 3, 4)]
    signal = np.concatenate([quiet[0], clip, quiet[1], 0.9 * clip, quiet[2]])
    known: list[tuple[str, float, float]] = []
    for chunk in (700, 16_000, len(signal)):
        taken.clear()
        stream = listener(graph, sure=1.0).create_event_stream()
        events = []
        for first in range(0, len(signal), chunk):
            stream.accept_waveform(RATE, signal[first : first + chunk])
            events += stream.decode()
        stream.input_finished()
        events += stream.decode()
        finals = [event for event in events if isinstance(event, Final)]
        assert [final.intent for final in finals] == ["TurnOn", "TurnOn"]
        said = [(final.text, final.confidence, final.t_s) for final in finals]
        known = known or said
        assert said == known
        assert 2 <= len(taken) <= 6
        for samples in taken:  # a stretch of the signal that holds a clip, and little more
            at = np.flatnonzero(signal == samples[12_000])
            starts = [a - 12_000 for a in at if signal[a + 1] == samples[12_001]]
            assert any(np.array_equal(signal[a : a + len(samples)], samples) for a in starts)
            assert len(clip) * 0.7 < len(samples) < len(clip) + 3 * RATE
