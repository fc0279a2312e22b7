"""Event streams with hotwords and lattices: what finals carry, and when a new list counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from earshot.core.errors import HotwordsError
from earshot.core.events import Final
from earshot.decode.lattice import best_path
from earshot.decode.lattice_wire import decode_lattice
from earshot.session.event_stream import EventStream
from earshot.session.recognizer import Recognizer


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    examples = Path(__file__).parents[2] / "examples"
    samples, rate = soundfile.read(examples / "turn-on-the-lights.flac", dtype="float32")
    assert rate == 16000
    return np.concatenate([samples, np.zeros(rate, np.float32)])


def finals(stream: EventStream, samples: np.ndarray) -> list[Final]:
    stream.accept_waveform(16000, samples)
    stream.flush()
    return [event for event in stream.decode() if isinstance(event, Final)]


def test_finals_carry_the_lattice_that_was_asked_for(
    recognizer: Recognizer, clip: np.ndarray
) -> None:
    for final in finals(recognizer.create_event_stream(lattice=True), np.tile(clip, 2)):
        assert final.lattice is not None
        assert " ".join(best_path(decode_lattice(final.lattice)).words) == final.text
    (plain,) = finals(recognizer.create_event_stream(), clip)
    assert plain.lattice is None


def test_new_hotwords_count_from_the_next_utterance_on(
    recognizer: Recognizer, clip: np.ndarray
) -> None:
    stream = recognizer.create_event_stream()
    stream.accept_waveform(16000, clip[: len(clip) // 3])
    stream.decode()
    # So strong that it is heard wherever anything like it is said.
    stream.set_hotwords({"turn on the flights": 20.0})
    (first,) = finals(stream, clip[len(clip) // 3 :])
    (second,) = finals(stream, clip)
    assert first.text == "turn on the lights"
    assert "flights" in second.text
    stream.set_hotwords([])
    (third,) = finals(stream, clip)
    assert third.text == "turn on the lights"


def test_a_list_of_the_stream_stands_for_that_of_the_recogniser(
    recognizer: Recognizer, clip: np.ndarray
) -> None:
    (final,) = finals(recognizer.create_event_stream(hotwords={"turn on the flights": 20.0}), clip)
    assert "flights" in final.text
    with pytest.raises(HotwordsError):
        recognizer.create_event_stream(hotwords=[("lights", float("nan"))])
