"""Writes the inputs that the fuzzers start from: small models and small updates.

    PYTHONPATH=src:. python tests/fuzz/write_seeds.py build/seeds

`models/` is for native/tests/capi_libfuzzer.cc and `modelfile_fuzz.py read`, `updates/` for
`modelfile_fuzz.py patch`, whose base is `base.ear`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earshot.modelfile.codecs import (
    EncodedTensor,
    decode_tensor,
    encode_f32,
    encode_int4,
    encode_int8,
    encode_sparse,
    encode_u8,
)
from earshot.modelfile.diff import compare_models
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model
from tests.tiny_model import tiny_parts, write_tiny_model

__all__ = ["write_base", "write_seeds"]


PACKED: dict[str, Callable[[npt.NDArray[np.float32]], EncodedTensor]] = {
    "int4": encode_int4,
    "sparse8-1": lambda matrix: encode_sparse(matrix, block=(16, 1), bits=8),
    "sparse8-4": lambda matrix: encode_sparse(matrix, block=(16, 4), bits=8),
    "sparse4-1": lambda matrix: encode_sparse(matrix, block=(16, 1), bits=4),
    "sparse4-4": lambda matrix: encode_sparse(matrix, block=(16, 4), bits=4),
}


def write_packed(path: Path, encoded: Callable[[npt.NDArray[np.float32]], EncodedTensor]) -> None:
    """A tiny recogniser with another codec, three of four groups of columns zero."""
    parts = tiny_parts()
    tensors: dict[str, EncodedTensor] = parts["tensors"]
    for name, tensor in tensors.items():
        if tensor.codec == "f32_r16":
            matrix = decode_tensor(tensor)
            matrix[:, np.arange(matrix.shape[1]) // 4 % 4 != 0] = 0
            tensors[name] = encoded(matrix)
    write_model(path, **parts)


def write_base(path: Path) -> Path:
    """The model that the updates are for: a few tensors and no graphs."""
    tensors = {
        "w": encode_u8(bytes(range(200)) * 3),
        "b": encode_f32([0.5, -0.25, 3.0]),
        "t": encode_u8(b"some bytes"),
    }
    write_model(path, name="base", graphs={}, tensors=tensors)
    return path


def write_language(path: Path) -> Path:
    """A language model of one layer of attention, in version 3."""
    rng = np.random.default_rng(7)
    graph = {
        "inputs": ["y"],
        "outputs": ["log_probs"],
        "nodes": [
            {"op": "embedding", "in": ["y"], "out": "e", "tensors": {"table": "table"}},
            {"op": "linear", "in": ["e"], "out": "qkv", "tensors": {"weight": "qkv"}},
            {
                "op": "causal_attention",
                "in": ["qkv"],
                "out": "mixed",
                "heads": 2,
                "window": 4,
                "tensors": {"distance": "distance"},
            },
            {"op": "linear", "in": ["mixed"], "out": "logits", "tensors": {"weight": "table"}},
            {"op": "log_softmax", "in": ["logits"], "out": "log_probs"},
        ],
    }
    tensors = {
        "table": encode_int8(rng.standard_normal((10, 8))),
        "qkv": encode_int8(rng.standard_normal((24, 8))),
        "distance": encode_f32(rng.standard_normal((2, 4))),
    }
    write_model(path, name="language", graphs={"language": graph}, tensors=tensors)
    return path


def write_seeds(folder: Path) -> None:
    """All seeds, in folders that are made."""
    models, updates = folder / "models", folder / "updates"
    for made in (models, updates):
        made.mkdir(parents=True, exist_ok=True)
    write_tiny_model(models / "floats.ear")
    write_tiny_model(models / "int8.ear", codec="i8_r16x4")
    for name, encoded in PACKED.items():
        write_packed(models / f"{name}.ear", encoded)
    write_language(models / "language.ear")
    base = write_base(models / "plain.ear")
    changed = {
        "same": {"w": encode_u8(bytes(range(200)) * 3)},
        "moved": {"a": encode_u8(bytes(70)), "w": encode_u8(bytes(range(200)) * 3)},
        "steps": {"w": encode_u8(bytes((i + i % 2) % 256 for i in range(200)) * 4)},
        "other": {"t": encode_u8(b"other bytes"), "b": encode_f32([0.5, -0.5, 3.0])},
    }
    for name, tensors in changed.items():
        result = folder / "result.ear"
        write_model(result, name=name, graphs={}, tensors=tensors)
        update = compare_models(ModelFile(base), ModelFile(result)).encoded()
        # The first byte tells the fuzzer what to make right: nothing, sizes and check, all.
        for kind in (0, 1, 3):
            (updates / f"{name}-{kind}").write_bytes(bytes([kind]) + update)
        result.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: write_seeds.py FOLDER")
    write_seeds(Path(sys.argv[1]))
