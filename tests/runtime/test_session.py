"""Stepping a graph: causal, independent of chunks, and pure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.core.errors import ModelFileError
from earshot.runtime.session import GraphSession, open_model
from tests.tiny_model import BINS, HIDDEN, JOINT, PIECES, write_tiny_model

FRAMES = np.random.default_rng(5).normal(-8, 3, (53, BINS)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.ear"
    return open_model(write_tiny_model(path, codec="i8_r16x4"))


@pytest.fixture(scope="module")
def encoder(model):
    return GraphSession(model, "encoder")


def test_names_and_shapes(model, encoder):
    assert encoder.inputs == ["x"]
    assert encoder.outputs == ["encoder_out", "hidden"]
    out, _ = encoder.step(FRAMES)
    assert out["encoder_out"].shape == (13, JOINT)
    assert out["hidden"].shape == (13, HIDDEN)
    predictor = GraphSession(model, "predictor")
    predicted, _ = predictor.step(np.array([-1, 0], np.int32))
    assert predicted["predictor_out"].shape == (1, JOINT)
    joined, _ = GraphSession(model, "joiner").step(
        {"encoder_out": out["encoder_out"][:1], "predictor_out": predicted["predictor_out"]}
    )
    assert joined["logits"].shape == (1, len(PIECES))


@given(st.lists(st.integers(0, len(FRAMES)), max_size=6).map(sorted))
def test_output_does_not_depend_on_the_chunks(encoder, cuts):
    whole, _ = encoder.step(FRAMES, flush=True)
    state, parts = None, []
    chunks = np.split(FRAMES, cuts)
    for index, chunk in enumerate(chunks):
        out, state = encoder.step(chunk, state, flush=index == len(chunks) - 1)
        parts.append(out["encoder_out"])
    np.testing.assert_array_equal(np.concatenate(parts), whole["encoder_out"])


def test_a_prefix_of_the_input_gives_a_prefix_of_the_output(encoder):
    whole, _ = encoder.step(FRAMES)
    for frames in (0, 3, 4, 17, 40):
        out, _ = encoder.step(FRAMES[:frames])
        np.testing.assert_array_equal(out["hidden"], whole["hidden"][: frames // 4])


def test_a_state_is_left_as_it_was(encoder):
    _, state = encoder.step(FRAMES[:22])
    before = {name: value.copy() for name, value in state.tensors().items()}
    first, after = encoder.step(FRAMES[22:], state)
    assert before.keys() == state.tensors().keys()
    for name, value in state.tensors().items():
        np.testing.assert_array_equal(value, before[name])
    again, _ = encoder.step(FRAMES[22:], state)
    np.testing.assert_array_equal(first["hidden"], again["hidden"])
    assert any((after.tensors()[n] != before[n]).any() for n in before if n.endswith((".h", ".c")))


def test_flush_repeats_the_last_frame(encoder):
    flushed, _ = encoder.step(FRAMES, flush=True)
    padded, _ = encoder.step(np.concatenate([FRAMES, np.repeat(FRAMES[-1:], 3, 0)]))
    np.testing.assert_array_equal(flushed["hidden"], padded["hidden"])


def test_what_does_not_fit_is_refused(model, encoder):
    with pytest.raises(ValueError) as caught:
        GraphSession(model, "decoder")
    assert str(caught.value).startswith("tiny: no graph 'decoder'; there are ")
    with pytest.raises(ValueError, match=r"input 'x' must be a float32 array of shape \(frames, "):
        encoder.step(FRAMES[:, :5])
    with pytest.raises(ValueError, match="the state belongs to another graph"):
        GraphSession(model, "ctc").step(np.zeros((1, HIDDEN), np.float32), encoder.initial_state())


def test_models_that_cannot_be_opened(tmp_path):
    with pytest.raises(ModelFileError) as caught:
        open_model(tmp_path / "no.ear")
    assert str(caught.value) == f"{tmp_path}/no.ear: there is no such file. Check the path."
    (tmp_path / "cut.ear").write_bytes(write_tiny_model(tmp_path / "a.ear").read_bytes()[:-64])
    with pytest.raises(ModelFileError) as caught:
        open_model(tmp_path / "cut.ear")
    assert str(caught.value).startswith(f"{tmp_path}/cut.ear: ")
