"""Writes `.ear` files from numpy arrays, straight from the page of the format.

An oracle written another way: it shares no code with `earshot.modelfile`, packs
element by element where the real writer packs by reshaping, and lets a test set
every byte. Knows the container and how to describe small networks; checks nothing.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"\x89EAR\r\n\x1a\n"
FEATURES: dict[str, Any] = {
    "type": "kaldi_fbank",
    "sample_rate_hz": 16000,
    "num_bins": 80,
    "frame_length_ms": 25,
    "frame_shift_ms": 10,
    "low_freq_hz": 20,
    "high_freq_hz": -400,
    "preemphasis": 0.97,
    "window": "povey",
    "snip_edges": False,
    "dither": 0,
}
F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]


def up(n: int, to: int) -> int:
    return -(-n // to) * to


def quantise_rows(w: npt.ArrayLike) -> tuple[I8, F32]:
    """int8 values and one scale per row, `w ~ q * scale`."""
    w = np.asarray(w, np.float32)
    scale = (np.abs(w).max(axis=1) / 127).astype(np.float32)
    safe = np.where(scale > 0, scale, 1)
    return np.clip(np.rint(w / safe[:, None]), -127, 127).astype(np.int8), scale


def encode(codec: str, w: npt.NDArray[Any]) -> bytes:
    """The bytes of one section."""
    if codec == "u8":
        return np.asarray(w, np.uint8).tobytes()
    if codec == "f32":
        return np.asarray(w, "<f4").tobytes()
    rows, columns = w.shape
    padded_rows, padded_columns = up(rows, 16), up(columns, 64)
    if codec == "f32_r16":
        out = bytearray(4 * padded_rows * columns)
        for m in range(rows):
            for k in range(columns):
                at = ((m // 16) * columns + k) * 16 + m % 16
                struct.pack_into("<f", out, 4 * at, float(w[m, k]))
        return bytes(out)
    assert codec == "i8_r16x4", codec
    q, scale = quantise_rows(w)
    tiles = np.zeros((padded_rows // 16, padded_columns // 4, 16, 4), np.int8)
    for m in range(rows):
        for k in range(columns):
            tiles[m // 16, k // 4, m % 16, k % 4] = q[m, k]
    scales = np.zeros(padded_rows, "<f4")
    scales[:rows] = scale
    sums = np.zeros(padded_rows, "<i4")
    sums[:rows] = 128 * q.astype(np.int64).sum(axis=1)
    return tiles.tobytes() + scales.tobytes() + sums.tobytes()


def pack(
    header: dict[str, Any] | bytes, sections: list[bytes] | None = None, *, version: int = 1
) -> bytes:
    """A whole file from a header (or its raw bytes) and the sections as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode()
    body = bytearray(up(32 + len(text), 64) - 32)
    body[: len(text)] = text
    for section in sections or []:
        body += section + bytes(-len(section) % 64)
    start = MAGIC + struct.pack("<IIQ", version, len(text), 32 + len(body))
    return start + struct.pack("<II", zlib.crc32(text, zlib.crc32(start)), 0) + bytes(body)


@dataclass
class Ear:
    """A model file in the making; `bytes()` lays it out."""

    header: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[str, npt.NDArray[Any]]] = field(default_factory=dict)

    def tensor(self, name: str, codec: str, w: npt.ArrayLike) -> str:
        self.tensors[name] = (codec, np.asarray(w))
        return name

    def entries(self) -> tuple[list[dict[str, Any]], list[bytes]]:
        """The `tensors` list with offsets, which depend on the header that holds them."""
        sections = [encode(codec, w) for codec, w in self.tensors.values()]
        entries = [
            {
                "name": name,
                "codec": codec,
                "shape": list(w.shape),
                "offset": 0,
                "bytes": len(section),
                "crc32": zlib.crc32(section),
            }
            for (name, (codec, w)), section in zip(self.tensors.items(), sections, strict=True)
        ]
        while True:
            text = json.dumps({**self.header, "tensors": entries}, ensure_ascii=False)
            at = 32 + len(text.encode())
            offsets = []
            for section in sections:
                offsets.append(up(at, 64))
                at = offsets[-1] + len(section)
            if offsets == [entry["offset"] for entry in entries]:
                return entries, sections
            for entry, offset in zip(entries, offsets, strict=True):
                entry["offset"] = offset

    def bytes(self, *, version: int = 1) -> bytes:
        entries, sections = self.entries()
        return pack({**self.header, "tensors": entries}, sections, version=version)


def graph_file(
    nodes: list[dict[str, Any]],
    tensors: dict[str, tuple[str, npt.ArrayLike]],
    *,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("out",),
    name: str = "net",
    version: int = 1,
) -> bytes:
    """A file with one graph and nothing that only a recogniser needs."""
    ear = Ear({"name": "test", "graphs": {}})
    for tensor, (codec, w) in tensors.items():
        ear.tensor(tensor, codec, w)
    ear.header["graphs"][name] = {
        "inputs": list(inputs),
        "outputs": list(outputs),
        "nodes": nodes,
    }
    return ear.bytes(version=version)


def recogniser(
    *,
    seed: int = 0,
    pieces: int = 20,
    hidden: int = 32,
    layers: int = 2,
    width: int = 16,
    embedding: int = 8,
    context_size: int = 2,
    num_bins: int = 80,
    stateful: bool = False,
    matrix_codec: str = "f32_r16",
    max_symbols_per_frame: int = 1,
    blank_bias: float = 0.0,
    gain: float = 4.0,
    phones: int = 0,
    second_pass: bool = False,
) -> Ear:
    """A random recogniser of the shape that the project ships, small enough to read.

    Args:
        blank_bias: Added to the logit of blank; sets how often pieces come out.
        gain: Multiplies the joiner's weights; large enough and scores are not all alike.
        phones: Of a graph of that name; 0: none.
        second_pass: Whether there is a graph of that name over the same phones.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float | None = None) -> F32:
        scale = 1 / np.sqrt(shape[-1]) if scale is None else scale
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    ear = Ear()
    spelled = ["<blk>", "<sos/eos>", "<unk>"]
    spelled += [("▁" if i % 3 == 0 else "") + chr(97 + i % 26) for i in range(pieces - 3)]
    nodes: list[dict[str, Any]] = [
        {
            "op": "normalize",
            "in": ["x"],
            "out": "n",
            "tensors": {
                "mean": ear.tensor("mean", "f32", np.full(num_bins, -8, np.float32)),
                "inv_std": ear.tensor("inv_std", "f32", np.full(num_bins, 0.4, np.float32)),
            },
        },
        {"op": "stack", "in": ["n"], "out": "s", "factor": 4},
        {
            "op": "linear",
            "in": ["s"],
            "out": "h0",
            "tensors": {
                "weight": ear.tensor("in.w", matrix_codec, normal(hidden, 4 * num_bins)),
                "bias": ear.tensor("in.b", "f32", normal(hidden)),
            },
        },
    ]
    for i in range(layers):
        out = "hidden" if i == layers - 1 else f"h{i + 1}"
        nodes += [
            {
                "op": "lstm",
                "in": [f"h{i}"],
                "out": f"l{i}",
                "hidden": hidden,
                "tensors": {
                    "weight_x": ear.tensor(f"l{i}.wx", matrix_codec, normal(4 * hidden, hidden)),
                    "weight_h": ear.tensor(f"l{i}.wh", matrix_codec, normal(4 * hidden, hidden)),
                    "bias": ear.tensor(f"l{i}.b", "f32", normal(4 * hidden)),
                },
            },
            {"op": "add", "in": [f"h{i}", f"l{i}"], "out": f"a{i}"},
            {
                "op": "layer_norm",
                "in": [f"a{i}"],
                "out": out,
                "eps": 1e-5,
                "tensors": {
                    "gamma": ear.tensor(f"n{i}.g", "f32", 1 + normal(hidden)),
                    "beta": ear.tensor(f"n{i}.b", "f32", normal(hidden)),
                },
            },
        ]
    nodes.append(
        {
            "op": "linear",
            "in": ["hidden"],
            "out": "encoder_out",
            "tensors": {
                "weight": ear.tensor("enc.w", matrix_codec, normal(width, hidden)),
                "bias": ear.tensor("enc.b", "f32", normal(width)),
            },
        }
    )
    table = ear.tensor("table", "f32", normal(pieces, embedding, scale=1.0))
    predictor: list[dict[str, Any]] = [
        {"op": "embedding", "in": ["y"], "out": "e", "tensors": {"table": table}}
    ]
    if stateful:
        predictor.append(
            {
                "op": "lstm",
                "in": ["e"],
                "out": "r",
                "hidden": 16,
                "tensors": {
                    "weight_x": ear.tensor("p.wx", matrix_codec, normal(64, embedding)),
                    "weight_h": ear.tensor("p.wh", matrix_codec, normal(64, 16)),
                    "bias": ear.tensor("p.b", "f32", normal(64)),
                },
            }
        )
        last, last_width = "r", 16
    else:
        weight = normal(embedding, context_size * embedding)
        predictor += [
            {
                "op": "conv1d",
                "in": ["e"],
                "out": "c",
                "kernel": context_size,
                "dilation": 1,
                "padding": "valid",
                "tensors": {"weight": ear.tensor("p.conv", matrix_codec, weight)},
            },
            {"op": "relu", "in": ["c"], "out": "r"},
        ]
        last, last_width = "r", embedding
    predictor.append(
        {
            "op": "linear",
            "in": [last],
            "out": "predictor_out",
            "tensors": {"weight": ear.tensor("p.w", matrix_codec, normal(width, last_width))},
        }
    )
    bias = normal(pieces, scale=0.5)
    bias[0] += blank_bias
    joiner = [
        {"op": "add", "in": ["encoder_out", "predictor_out"], "out": "sum"},
        {"op": "tanh", "in": ["sum"], "out": "t"},
        {
            "op": "linear",
            "in": ["t"],
            "out": "logits",
            "tensors": {
                "weight": ear.tensor("j.w", matrix_codec, gain * normal(pieces, width)),
                "bias": ear.tensor("j.b", "f32", bias),
            },
        },
    ]
    ctc = [
        {
            "op": "linear",
            "in": ["hidden"],
            "out": "z",
            "tensors": {"weight": ear.tensor("ctc.w", matrix_codec, normal(pieces, hidden))},
        },
        {"op": "log_softmax", "in": ["z"], "out": "log_probs"},
    ]
    ear.header = {
        "name": "tiny",
        "features": {**FEATURES, "num_bins": num_bins},
        "search": {
            "blank_id": 0,
            "unk_id": 2,
            "predictor": "stateful" if stateful else "stateless",
            "context_size": 1 if stateful else context_size,
            "max_symbols_per_frame": max_symbols_per_frame,
        },
        "pieces": spelled,
        "graphs": {
            "encoder": {"inputs": ["x"], "outputs": ["encoder_out", "hidden"], "nodes": nodes},
            "predictor": {"inputs": ["y"], "outputs": ["predictor_out"], "nodes": predictor},
            "joiner": {
                "inputs": ["encoder_out", "predictor_out"],
                "outputs": ["logits"],
                "nodes": joiner,
            },
            "ctc": {"inputs": ["hidden"], "outputs": ["log_probs"], "nodes": ctc},
        },
        "metadata": {"licence": "CC0-1.0"},
    }
    if phones:
        weight = ear.tensor("ph.w", matrix_codec, 2 * normal(phones + 1, hidden))
        nodes = [
            {"op": "linear", "in": ["hidden"], "out": "z", "tensors": {"weight": weight}},
            {"op": "log_softmax", "in": ["z"], "out": "log_probs"},
        ]
        ear.header["graphs"]["phones"] = {
            "inputs": ["hidden"],
            "outputs": ["log_probs"],
            "nodes": nodes,
        }
        ear.header["phones"] = [f"P{i}" for i in range(phones)]
    if second_pass:
        nodes = [
            {
                "op": "lstm",
                "in": ["hidden"],
                "out": "l",
                "hidden": hidden,
                "tensors": {
                    "weight_x": ear.tensor("sp.wx", matrix_codec, normal(4 * hidden, hidden)),
                    "weight_h": ear.tensor("sp.wh", matrix_codec, normal(4 * hidden, hidden)),
                    "bias": ear.tensor("sp.b", "f32", normal(4 * hidden)),
                },
            },
            {"op": "add", "in": ["hidden", "l"], "out": "a"},
            {
                "op": "linear",
                "in": ["a"],
                "out": "z",
                "tensors": {
                    "weight": ear.tensor("sp.w", matrix_codec, 2 * normal(phones + 1, hidden))
                },
            },
            {"op": "log_softmax", "in": ["z"], "out": "log_probs"},
        ]
        ear.header["graphs"]["second_pass"] = {
            "inputs": ["hidden"],
            "outputs": ["log_probs"],
            "nodes": nodes,
        }
    return ear


def add_bias(
    ear: Ear,
    *,
    pieces: int = 20,
    hidden: int = 32,
    width: int = 16,
    heads: int = 2,
    key_width: int = 8,
    value_width: int = 6,
    precision: str = "f32",
    seed: int = 9,
) -> Ear:
    """Give a file of `recogniser` random graphs of trained biasing; it then needs version 3."""
    rng = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int) -> str:
        values = rng.standard_normal((rows, columns)) / np.sqrt(columns)
        return ear.tensor(name, "f32_r16", values.astype(np.float32))

    def linear(x: str, out: str, weight: str) -> dict[str, Any]:
        return {"op": "linear", "in": [x], "out": out, "tensors": {"weight": weight}}

    def attend(x: str, kind: str) -> dict[str, Any]:
        key = rng.standard_normal(heads * key_width).astype(np.float32)
        return {
            "op": "phrase_attention",
            "in": [x],
            "out": "context",
            "heads": heads,
            "keys": f"{kind}_keys",
            "values": f"{kind}_values",
            "entries": "all" if kind == "audio" else "next",
            "precision": precision,
            "tensors": {"no_bias_key": ear.tensor(f"{kind}.none", "f32", key)},
        }

    table = ear.tensor("b.table", "f32", rng.standard_normal((pieces, 4)).astype(np.float32))
    keys, values = heads * key_width, heads * value_width
    phrases: list[dict[str, Any]] = [
        {"op": "embedding", "in": ["y"], "out": "e", "tensors": {"table": table}},
        {
            "op": "conv1d",
            "in": ["e"],
            "out": "c",
            "kernel": 4,
            "dilation": 1,
            "padding": "valid",
            "tensors": {"weight": matrix("b.mix", 12, 16)},
        },
    ]
    for kind in ("audio", "label"):
        phrases.append(linear("c", f"{kind}_keys", matrix(f"b.{kind}.k", keys, 12)))
        phrases.append(linear("c", f"{kind}_values", matrix(f"b.{kind}.v", values, 12)))
    audio = [
        linear("hidden", "q", matrix("ba.q", keys, hidden)),
        attend("q", "audio"),
        linear("context", "encoder_bias", matrix("ba.out", width, values)),
    ]
    label = [
        linear("predictor_out", "q", matrix("bl.q", keys, width)),
        attend("q", "label"),
        linear("context", "predictor_bias", matrix("bl.out", width, values)),
    ]
    outputs = ["audio_keys", "audio_values", "label_keys", "label_values"]
    ear.header["bias"] = {"before": 2, "after": 1}
    ear.header["graphs"] |= {
        "bias": {"inputs": ["y"], "outputs": outputs, "nodes": phrases},
        "bias_audio": {"inputs": ["hidden"], "outputs": ["encoder_bias"], "nodes": audio},
        "bias_label": {"inputs": ["predictor_out"], "outputs": ["predictor_bias"], "nodes": label},
    }
    return ear
