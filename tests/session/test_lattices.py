"""Streams that record a lattice, as Python's users meet them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from earshot import ConfigError, Recognizer
from earshot.decode.lattice import best_path, nbest, word_confidences
from earshot.decode.lattice_wire import decode_lattice, encode_lattice
from tests.tiny_model import write_tiny_model

RATE = 16_000
CLIP = np.random.default_rng(11).normal(0, 0.1, 2 * RATE).astype(np.float32)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.ear")
    return Recognizer.load(path, lattice_paths=8, lattice_beam=12.0)


def test_the_lattice_of_a_stream(recognizer: Recognizer) -> None:
    stream = recognizer.create_stream(lattice=True)
    for part in np.array_split(CLIP, 5):
        stream.accept_waveform(RATE, part)
        stream.decode()
        assert best_path(stream.lattice()).text == stream.result().text
    stream.input_finished()
    stream.decode()
    lattice = stream.lattice()
    result = stream.result()
    assert len(result.words) > 3
    assert best_path(lattice).words == tuple(word.word for word in result.words)
    assert len(nbest(lattice, 10)) == 10
    confidences = word_confidences(lattice)
    assert len(confidences) == len(result.words) and max(confidences) <= 1
    assert best_path(decode_lattice(encode_lattice(lattice))).text == result.text
    stream.reset()
    assert best_path(stream.lattice()).words == ()


def test_streams_record_only_when_asked(recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError, match=r"Make it with `create_stream\(lattice=True\)`"):
        recognizer.create_stream().lattice()


def test_settings_out_of_range(recognizer: Recognizer, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.ear")
    with pytest.raises(ConfigError, match=r"search\.lattice_paths is 65"):
        Recognizer.load(path, lattice_paths=65)
    with pytest.raises(ConfigError, match=r"search\.lattice_beam is -1"):
        Recognizer.load(path, lattice_beam=-1.0)
