"""Writes a `LanguageModel` as a `.ear` file with the graph `language`, and its word pieces.

Matrices and the table of embeddings take the recipe's codec; vectors stay float32. The table and
the last layer are one matrix, and in int8 one section of the file.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from earshot.compress.export import MatrixCodec
from earshot.modelfile.codecs import encode_f32, encode_f32_r16, encode_int8, encode_u8
from earshot.modelfile.writer import write_model
from earshot.models.language_model import LanguageModel

__all__ = ["export_language_model"]


def export_language_model(
    model: LanguageModel,
    path: Path,
    *,
    name: str,
    tokenizer: bytes,
    codec: MatrixCodec = "i8_r16x4",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `model` for the engine.

    Args:
        model: On the CPU.
        path: The file to make or replace.
        name: Model name.
        tokenizer: The SentencePiece model, stored as it is.
        codec: For matrices: int8 with one scale a row, or float32.
        metadata: Licence, description, recipe and so on.

    Raises:
        ModelFileError: The parts do not make a valid file.
    """
    described, tensors = model.graphs()
    graphs = copy.deepcopy(described)
    if codec == "i8_r16x4":
        nodes = graphs["language"]["nodes"]
        table = next(n["tensors"]["table"] for n in nodes if n["op"] == "embedding")
        last = next(n for n in nodes if n["out"] == "logits")
        del tensors[last["tensors"]["weight"]]
        last["tensors"]["weight"] = table
    packed = {}
    for tensor_name, tensor in tensors.items():
        value = tensor.value.detach().float().cpu().numpy()
        if tensor.role == "vector":
            packed[tensor_name] = encode_f32(value)
        elif codec == "i8_r16x4":
            packed[tensor_name] = encode_int8(value)
        else:
            encode = encode_f32_r16 if tensor.role == "matrix" else encode_f32
            packed[tensor_name] = encode(value)
    packed["tokenizer"] = encode_u8(tokenizer)
    write_model(path, name=name, graphs=graphs, tensors=packed, metadata=metadata)
