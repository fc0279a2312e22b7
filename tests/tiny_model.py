"""A small recogniser with random weights, written by the package's own writer.

It hears nothing, but it emits pieces: enough to test everything that does not depend on what
the words are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from earshot.modelfile.codecs import (
    EncodedTensor,
    encode_f32,
    encode_f32_r16,
    encode_int8,
    encode_u8,
    lstm_unit_blocks,
)
from earshot.modelfile.writer import write_model

BINS, HIDDEN, JOINT = 20, 32, 16
WORD = "\u2581"
PIECES = ["<blk>", "<sos/eos>", "<unk>", f"{WORD}turn", f"{WORD}on", f"{WORD}li", "ght", "s"]
SEARCH = {
    "blank_id": 0,
    "unk_id": 2,
    "predictor": "stateless",
    "context_size": 2,
    "max_symbols_per_frame": 1,
}

Matrix = Literal["f32_r16", "i8_r16x4"]


def node(op: str, inputs: str, out: str, attributes: Any = None, **tensors: str) -> dict[str, Any]:
    made = {"op": op, "in": inputs.split(), "out": out} | (attributes or {})
    return made | {"tensors": tensors} if tensors else made


def tiny_parts(
    *, seed: int = 6, codec: Matrix = "f32_r16", endpoint: bool = False
) -> dict[str, Any]:
    """The arguments of `write_model` for a tiny recogniser, with an end-of-query head if wanted."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, EncodedTensor] = {}

    def matrix(name: str, rows: int, columns: int, gain: float = 1.0) -> str:
        values = rng.normal(0, gain / np.sqrt(columns), (rows, columns)).astype(np.float32)
        if name.startswith("lstm"):
            values = lstm_unit_blocks(values)
        tensors[name] = (encode_int8 if codec == "i8_r16x4" else encode_f32_r16)(values)
        return name

    def vector(name: str, values: Any) -> str:
        tensors[name] = encode_f32(np.asarray(values, np.float32))
        return name

    encoder = [
        node(
            "normalize",
            "x",
            "n",
            mean=vector("mean", np.full(BINS, -1.0)),
            inv_std=vector("inv_std", np.full(BINS, 0.8)),
        ),
        node("stack", "n", "s", {"factor": 4}),
        node("linear", "s", "p", weight=matrix("proj", HIDDEN, 4 * BINS)),
        node(
            "lstm",
            "p",
            "l",
            {"hidden": HIDDEN},
            weight_x=matrix("lstm_x", 4 * HIDDEN, HIDDEN, 2),
            weight_h=matrix("lstm_h", 4 * HIDDEN, HIDDEN),
            bias=vector("lstm_b", lstm_unit_blocks(rng.normal(0, 1, 4 * HIDDEN))),
        ),
        node("add", "p l", "a"),
        node(
            "layer_norm",
            "a",
            "hidden",
            {"eps": 1e-5},
            gamma=vector("gamma", np.ones(HIDDEN)),
            beta=vector("beta", np.zeros(HIDDEN)),
        ),
        node("linear", "hidden", "encoder_out", weight=matrix("enc_out", JOINT, HIDDEN, 4)),
    ]
    predictor = [
        node("embedding", "y", "e", table=vector("table", rng.normal(0, 1, (len(PIECES), JOINT)))),
        node(
            "conv1d",
            "e",
            "c",
            {"kernel": 2, "dilation": 1, "padding": "valid"},
            weight=matrix("context", JOINT, 2 * JOINT),
        ),
        node("relu", "c", "r"),
        node("linear", "r", "predictor_out", weight=matrix("pred_out", JOINT, JOINT, 0.5)),
    ]
    blank_first = np.zeros(len(PIECES))
    blank_first[:3] = 2.0, -50.0, 0.0
    joiner = [
        node("add", "encoder_out predictor_out", "j"),
        node("tanh", "j", "t"),
        node(
            "linear",
            "t",
            "logits",
            weight=matrix("joint", len(PIECES), JOINT, 4),
            bias=vector("joint_bias", blank_first),
        ),
    ]
    ctc = [
        node("linear", "hidden", "o", weight=matrix("ctc", len(PIECES), HIDDEN)),
        node("log_softmax", "o", "log_probs"),
    ]
    tensors["tokenizer"] = encode_u8(b"not a real tokenizer")
    more: dict[str, Any] = {}
    if endpoint:
        head = [
            node(
                "lstm",
                "hidden",
                "m",
                {"hidden": 16},
                weight_x=matrix("lstm_head_x", 64, HIDDEN, 2),
                weight_h=matrix("lstm_head_h", 64, 16),
                bias=vector("lstm_head_b", lstm_unit_blocks(rng.normal(0, 1, 64))),
            ),
            node("linear", "m", "o", weight=matrix("head", 4, 16, 6)),
            node("log_softmax", "o", "log_probs"),
        ]
        more["endpoint"] = {"inputs": ["hidden"], "outputs": ["log_probs"], "nodes": head}
    return {
        "name": "tiny",
        "graphs": {
            "encoder": {"inputs": ["x"], "outputs": ["encoder_out", "hidden"], "nodes": encoder},
            "predictor": {"inputs": ["y"], "outputs": ["predictor_out"], "nodes": predictor},
            "joiner": {
                "inputs": ["encoder_out", "predictor_out"],
                "outputs": ["logits"],
                "nodes": joiner,
            },
            "ctc": {"inputs": ["hidden"], "outputs": ["log_probs"], "nodes": ctc},
            **more,
        },
        "tensors": tensors,
        "pieces": PIECES,
        "search": SEARCH,
        "num_bins": BINS,
        "metadata": {"licence": "Apache-2.0"},
    }


def write_tiny_model(
    path: Path, *, seed: int = 6, codec: Matrix = "f32_r16", endpoint: bool = False
) -> Path:
    """Write a tiny recogniser and return its path."""
    write_model(path, **tiny_parts(seed=seed, codec=codec, endpoint=endpoint))
    return path
