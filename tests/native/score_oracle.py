"""Scores of a small recogniser from `ear_builder`, in double precision from its tensors.

Knows predictor and joiner as the page of the format defines them, and shares no code with the
engine; the encoder is taken from it. Searches nothing.
"""

from __future__ import annotations

import ear_builder as eb
import numpy as np
import numpy.typing as npt

from earshot import _native

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
History = tuple[int, ...]
BLANK, UNK = 0, 2


class Joint:
    """log p(piece | history, frame) of a recogniser from `ear_builder`, memoised by history."""

    def __init__(self, ear: eb.Ear, *, blank_penalty: float = 0.0) -> None:
        self.tensors = {name: np.asarray(w, np.float64) for name, (_, w) in ear.tensors.items()}
        self.search = ear.header["search"]
        self.blank_penalty = blank_penalty
        self.memory: dict[History, F64] = {}

    def predictor(self, history: History) -> F64:
        t = self.tensors
        if self.search["predictor"] == "stateful":
            h, c = np.zeros(16), np.zeros(16)
            for token in (BLANK, *history):
                pre = t["p.wx"] @ t["table"][token] + t["p.wh"] @ h + t["p.b"]
                i, f, g, o = pre.reshape(4, 16)
                c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
                h = np.tanh(c) / (1 + np.exp(-o))
            return t["p.w"] @ h
        n = self.search["context_size"]
        context = ([-1] * (n - 1) + [BLANK] + list(history))[-n:]
        width = t["table"].shape[1]
        embedded = [t["table"][i] if i >= 0 else np.zeros(width) for i in context]
        return t["p.w"] @ np.maximum(t["p.conv"] @ np.concatenate(embedded), 0)

    def __call__(self, history: History, frame: F64) -> F64:
        if history not in self.memory:
            self.memory[history] = self.predictor(history)
        logits = self.tensors["j.w"] @ np.tanh(frame + self.memory[history]) + self.tensors["j.b"]
        logits[BLANK] -= self.blank_penalty
        out = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        out[UNK] = -np.inf
        return out


def noise(samples: int, *, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    level = 0.02 + 0.2 * (np.sin(np.arange(samples) / 3000 + seed) > 0)
    return (level * rng.standard_normal(samples)).astype(np.float32)


def encode(model: _native.Model, samples: F32) -> F64:
    x = _native.fbank(samples)
    return model.graph("encoder").step(x, None, flush=True)["encoder_out"].astype(np.float64)
