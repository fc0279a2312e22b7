"""Writes a trained `Transducer` as a `.ear` file.

The network describes itself as graphs; this module picks a codec for every tensor and packs it.
Matrices and embedding tables take the recipe's codec, vectors stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from earshot.modelfile.codecs import encode_f32, encode_f32_r16, encode_int8, encode_u8
from earshot.modelfile.writer import write_model
from earshot.models.transducer import BLANK_ID, UNK_ID, Transducer

MatrixCodec = Literal["f32_r16", "i8_r16x4"]


def export_transducer(
    model: Transducer,
    path: Path,
    *,
    name: str,
    pieces: list[str],
    tokenizer: bytes,
    codec: MatrixCodec = "i8_r16x4",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `model` for the engine.

    Args:
        model: On the CPU.
        path: The file to make or replace.
        name: Model name.
        pieces: The word piece of every id.
        tokenizer: The SentencePiece model, stored as it is.
        codec: For matrices: int8 with one scale a row, or float32.
        metadata: Licence, description, recipe and so on.

    Raises:
        ModelFileError: The parts do not make a valid file.
    """
    graphs, tensors = model.graphs()
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
    predictor = model.config.predictor
    stateless = predictor.type == "stateless"
    write_model(
        path,
        name=name,
        graphs=graphs,
        tensors=packed,
        pieces=pieces,
        search={
            "blank_id": BLANK_ID,
            "unk_id": UNK_ID,
            "predictor": "stateless" if stateless else "stateful",
            "context_size": predictor.context_size if stateless else 1,
            "max_symbols_per_frame": 1 if model.config.one_symbol_per_frame else 10,
        },
        num_bins=model.config.encoder.num_bins,
        metadata=metadata,
    )
