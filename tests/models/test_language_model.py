"""The language model: torch against itself step by step, and against the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot.compress.language_export import export_language_model
from earshot.models.language_model import LanguageModel, LanguageModelConfig
from earshot.runtime.session import GraphSession, open_model

CONFIG = LanguageModelConfig(
    vocab_size=48, width=32, layers=2, heads=4, inner=48, window=7, dropout=0.0
)
PIECES = np.random.default_rng(3).integers(0, 48, 23).astype(np.int32)


def made(config: LanguageModelConfig = CONFIG) -> LanguageModel:
    torch.manual_seed(5)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and distances too, or they test nothing
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


MODEL = made()


def log_probs(model: LanguageModel, pieces: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        logits = model(torch.from_numpy(pieces.astype(np.int64))[None])[0]
    return logits.log_softmax(-1).numpy()


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GraphSession]:
    folder = tmp_path_factory.mktemp("lm")
    out = {}
    for codec in ("f32_r16", "i8_r16x4"):
        path = folder / f"{codec}.ear"
        export_language_model(MODEL, path, name="tiny", tokenizer=b"x", codec=codec)
        out[codec] = GraphSession(open_model(path), "language")
    return out


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, len(PIECES)), max_size=6).map(sorted))
def test_torch_in_chunks_equals_one_pass(cuts: list[int]) -> None:
    state = None
    parts = []
    with torch.no_grad():
        for part in np.split(PIECES.astype(np.int64), cuts):
            if len(part):
                logits, state = MODEL.step(torch.from_numpy(part)[None], state)
                parts.append(logits[0].log_softmax(-1).numpy())
    np.testing.assert_allclose(np.concatenate(parts), log_probs(MODEL, PIECES), atol=1e-5)


def test_torch_sees_the_past_within_its_window_and_nothing_else() -> None:
    """One layer sees `window` pieces; two see 2 (window - 1) + 1."""
    whole = log_probs(MODEL, PIECES)
    changed = PIECES.copy()
    changed[10] = (changed[10] + 1) % CONFIG.vocab_size
    differs = np.abs(log_probs(MODEL, changed) - whole).max(axis=1) > 1e-6
    reach = 2 * (CONFIG.window - 1)
    assert differs[10 : 10 + reach + 1].all()
    assert not differs[:10].any()
    assert not differs[10 + reach + 1 :].any()


@pytest.mark.parametrize(("codec", "tolerance"), [("f32_r16", 1e-4), ("i8_r16x4", 0.15)])
def test_the_engine_computes_what_torch_does(
    sessions: dict[str, GraphSession], codec: str, tolerance: float
) -> None:
    got = sessions[codec].step(PIECES)[0]["log_probs"]
    np.testing.assert_allclose(got, log_probs(MODEL, PIECES), atol=tolerance)


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, len(PIECES)), max_size=8).map(sorted))
def test_chunks_change_no_bit(sessions: dict[str, GraphSession], cuts: list[int]) -> None:
    for session in sessions.values():
        whole = session.step(PIECES)[0]["log_probs"]
        state = session.initial_state()
        parts = []
        for part in np.split(PIECES, cuts):
            out, state = session.step(part, state)
            parts.append(out["log_probs"])
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_engine_is_causal_and_resets(sessions: dict[str, GraphSession]) -> None:
    for session in sessions.values():
        whole, state = session.step(PIECES)
        changed = PIECES.copy()
        changed[12:] = 1
        other, _ = session.step(changed)
        np.testing.assert_array_equal(other["log_probs"][:12], whole["log_probs"][:12])
        again, _ = session.step(PIECES, state)
        assert not np.array_equal(again["log_probs"], whole["log_probs"])
        state.reset()
        fresh, _ = session.step(PIECES, state)
        np.testing.assert_array_equal(fresh["log_probs"], whole["log_probs"])


def test_one_section_holds_embeddings_and_last_layer(tmp_path: Path) -> None:
    from earshot.modelfile.reader import ModelFile

    path = tmp_path / "m.ear"
    export_language_model(MODEL, path, name="tiny", tokenizer=b"x")
    names = [tensor.name for tensor in ModelFile(path).tensors]
    assert "language.embedding0.table" in names
    assert "language.logits.weight" not in names
    assert ModelFile(path).version == 3


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the heads"):
        LanguageModelConfig(width=30, heads=4)
    with pytest.raises(ValueError, match="window"):
        LanguageModelConfig(window=0)
