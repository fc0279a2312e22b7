"""The second pass in streams: asked for when speech is over, and alike however sound comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataclasses import replace

from earshot import Recognizer
from earshot.compress.export import export_transducer, read_transducer, transducer_config
from earshot.core.events import Final, SpeculationCancelled
from earshot.data.audio import read_audio
from earshot.modelfile.reader import ModelFile
from earshot.models.second_pass import SecondPassConfig
from earshot.runtime.session import open_model
from earshot.session.recognizer import embedded_model_path, lexicon_of, tokenizer_of
from earshot.understand.confidence import CommandConfig
from earshot.understand.graph import CommandGraph, compile_commands
from earshot.understand.templates import load_commands
from tests.session.test_commands import HOUSE

RATE = 16_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded network with a second pass that nobody has trained."""
    torch.manual_seed(1)
    start = embedded_model_path()
    file = ModelFile(start)
    config = replace(transducer_config(file), second_pass=SecondPassConfig(layers=1))
    network = read_transducer(start, config).eval()
    network.second_pass.phones.weight.data.copy_(network.phones.weight)  # type: ignore[union-attr]
    path = tmp_path_factory.mktemp("second") / "twice.ear"
    export_transducer(
        network, path, name="twice", pieces=file.header["pieces"],
        tokenizer=file.tensor_bytes("tokenizer"),
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def graph(model: Path) -> CommandGraph:
    path = model.with_name("house.yaml")
    path.write_text(HOUSE)
    return compile_commands(load_commands([path]), tokenizer_of(model), lexicon=lexicon_of(model))


def listener(model: Path, graph: CommandGraph, share: float) -> Recognizer:
    config = CommandConfig(second_pass_share=share, looks=(), threshold=0.0)
    return Recognizer(open_model(model), commands=graph, command_config=config)


@pytest.fixture(scope="module")
def clip(repository: Path) -> np.ndarray:
    return read_audio(repository / "examples" / "turn-on-the-fan-in-the-bedroom.flac")


def test_a_stream_asks_for_it_in_the_end(
    model: Path, graph: CommandGraph, clip: np.ndarray
) -> None:
    def confidences(share: float) -> tuple[float, float]:
        stream = listener(model, graph, share).create_stream()
        stream.accept_waveform(RATE, clip)
        stream.decode()
        before = stream.understanding()
        stream.input_finished()
        stream.decode()
        after = stream.understanding()
        assert before is not None
        assert after is not None
        assert after.intent == "TurnOn"
        return before.confidence, after.confidence

    without, half = confidences(0.0), confidences(0.3)
    assert half[0] == without[0]
    assert half[1] != without[1]


def test_events_ask_for_it_in_the_end(model: Path, graph: CommandGraph, clip: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    quiet = [(1e-3 * rng.standard_normal(s * RATE)).astype(np.float32) for s in (2, 3, 3)]
    signal = np.concatenate([quiet[0], clip, quiet[1], 0.9 * clip, quiet[2]])

    def finals(share: float, chunk: int) -> list[tuple[str, str | None, float]]:
        stream = listener(model, graph, share).create_event_stream()
        events = []
        for first in range(0, len(signal), chunk):
            stream.accept_waveform(RATE, signal[first : first + chunk])
            events += stream.decode()
        stream.input_finished()
        events += stream.decode()
        assert not any(isinstance(event, SpeculationCancelled) for event in events)
        return [(e.text, e.intent, e.confidence) for e in events if isinstance(e, Final)]

    whole = finals(0.3, len(signal))
    assert [intent for _, intent, _ in whole] == ["TurnOn", "TurnOn"]
    assert finals(0.3, 700) == whole
    without = finals(0.0, len(signal))
    for (_, _, twice), (_, _, once) in zip(whole, without, strict=True):
        assert twice != once
