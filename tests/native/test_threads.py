"""Calls from many threads, and Python code that runs in the middle of a call.

The engine computes without the interpreter lock, so whatever Python holds may
change meanwhile: lists are emptied, arrays are written, a state is used twice.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import ear_builder as eb
import numpy as np
import numpy.typing as npt
import pytest

from earshot import _native


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _native.Model:
    path = tmp_path_factory.mktemp("threads") / "m.ear"
    path.write_bytes(eb.recogniser(hidden=64, blank_bias=2).bytes())
    return _native.Model(str(path))


def features(frames: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(frames).normal(-8, 3, (frames, 80)).astype(np.float32)


def test_decode_keeps_the_streams_of_a_list_that_is_emptied(model: _native.Model) -> None:
    recogniser = _native.Recognizer(model)
    samples = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    streams = [recogniser.create_stream() for _ in range(32)]
    for stream in streams:
        for _ in range(8):
            stream.accept_waveform(samples)
        stream.input_finished()
    probe = streams[0]
    alone = sys.getrefcount(probe) - 1  # without the list
    done = threading.Event()

    def decode() -> None:
        recogniser.decode_streams(streams)
        done.set()

    thread = threading.Thread(target=decode)
    thread.start()
    while sys.getrefcount(probe) == alone + 1 and not done.is_set():
        time.sleep(0.001)
    kept = sys.getrefcount(probe) > alone + 1
    streams.clear()
    thread.join()
    assert kept
    assert sys.getrefcount(probe) == alone
    assert probe.result()["num_frames"] == 200


def test_step_batch_keeps_the_states_of_a_list_that_is_emptied(model: _native.Model) -> None:
    graph = model.graph("encoder")
    x = features(40)
    want = graph.step(x)["encoder_out"]
    states = [graph.initial_state()]
    inputs: list[Any] = [x.copy()]
    others: list[Any] = []

    class Flush:
        def __getitem__(self, index: int) -> bool:
            states.clear()
            inputs.clear()
            others.extend(graph.initial_state() for _ in range(64))  # where the state was
            return False

    flush: Any = Flush()
    results = graph.step_batch(inputs, states, flush=flush)
    np.testing.assert_array_equal(results[0]["encoder_out"], want)
    for other in others:
        assert not any(tensor.any() for tensor in other.tensors().values())


def test_a_state_serves_one_call_at_a_time(model: _native.Model) -> None:
    graph = model.graph("encoder")
    state = graph.initial_state()
    x = features(40000)
    want = graph.step(x, graph.initial_state())["encoder_out"]
    got: list[npt.NDArray[np.float32]] = []
    thread = threading.Thread(target=lambda: got.append(graph.step(x, state)["encoder_out"]))
    refused = dict.fromkeys(("step", "step_batch", "copy", "tensors", "reset"), 0)
    calls = {
        "copy": state.copy,
        "tensors": state.tensors,
        "step": lambda: graph.step(x[:0], state),
        "step_batch": lambda: graph.step_batch([x[:0]] * 2, [graph.initial_state(), state]),
        "reset": state.reset,
    }
    thread.start()
    while thread.is_alive() and not refused["copy"]:  # until the thread computes
        try:
            state.copy()
        except ValueError:
            refused["copy"] = 1
    for name, call in calls.items():
        with pytest.raises(ValueError, match="in use by another call; give each thread its own"):
            call()
        refused[name] = 1
    thread.join()
    assert all(refused.values())
    np.testing.assert_array_equal(got[0], want)
    state.reset()
    np.testing.assert_array_equal(graph.step(x, state)["encoder_out"], want)


def test_ids_that_change_during_the_call_are_never_looked_up(tmp_path: Path) -> None:
    """What was checked is what is used: a row far outside the table would end the process."""
    table = np.ones((4, 8), np.float32)
    node = {"op": "embedding", "in": ["y"], "out": "out", "tensors": {"table": "t"}}
    path = tmp_path / "m.ear"
    path.write_bytes(eb.graph_file([node], {"t": ("f32", table)}, inputs=("y",)))
    graph = _native.Model(str(path)).graph("net")
    ids = np.zeros(2_000_000, np.int32)
    stop = threading.Event()

    def spoil() -> None:
        while not stop.is_set():
            ids[-1] = 2**31 - 1
            ids[-1] = 0

    thread = threading.Thread(target=spoil)
    thread.start()
    refused = []
    try:
        for _ in range(12):
            try:
                assert graph.step(ids)["out"].all()
            except ValueError as error:
                refused.append(str(error))
    finally:
        stop.set()
        thread.join()
    assert all("id 2147483647 at position 1999999" in error for error in refused)


def test_labels_that_change_during_the_call_are_never_used() -> None:
    logits = np.zeros((400, 1001, 4), np.float32)
    labels = np.ones(1000, np.int32)
    stop = threading.Event()

    def spoil() -> None:
        while not stop.is_set():
            labels[-1] = 2**31 - 1
            labels[-1] = 1

    thread = threading.Thread(target=spoil)
    thread.start()
    refused = []
    try:
        for _ in range(6):
            work = logits.copy()
            try:
                assert np.isfinite(_native.transducer_loss(work, labels))
            except ValueError as error:
                refused.append(str(error))
    finally:
        stop.set()
        thread.join()
    assert all("label 999 is 2147483647" in error for error in refused)
