"""Writes a `Transducer` as a `.ear` file, and reads one back to train it further.

The network describes itself as graphs; this module picks a codec for every tensor and packs it.
Matrices and embedding tables take the recipe's codec, vectors stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import torch

from earshot.core.errors import ConfigError
from earshot.data.pronunciation import PHONES
from earshot.modelfile.codecs import encode_f32, encode_f32_r16, encode_int8, encode_u8
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model
from earshot.models.transducer import BLANK_ID, UNK_ID, Transducer, TransducerConfig

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
        phones=PHONES if model.config.phones else None,
        metadata=metadata,
    )


def read_transducer(path: Path, config: TransducerConfig) -> Transducer:
    """The network of a `.ear` file, to fine-tune.

    Quantised weights come back as the engine uses them, so the network starts from what was
    shipped, rounding included.

    Args:
        path: A file that `export_transducer` wrote.
        config: The shape it was trained with.

    Returns:
        The network, on the CPU. A head over phones that the configuration has and the file lacks
        is as a new network's.

    Raises:
        ModelFileError: Not a sound model file.
        ConfigError: The file holds a network of another shape.
    """
    file = ModelFile(path)
    model = Transducer(config)
    graphs, tensors = model.graphs()
    shapes = {info.name: info.shape for info in file.tensors}
    wanted = {name: tuple(tensor.value.shape) for name, tensor in tensors.items()}
    shapes.pop("tokenizer", None)
    if "phones" not in cast("dict[str, object]", file.header["graphs"]):
        # An older model: the head is trained from nothing.
        graphs.pop("phones", None)
        tensors = {k: v for k, v in tensors.items() if not k.startswith("phones.")}
        wanted = {name: wanted[name] for name in tensors}
    if file.header["graphs"] != graphs or shapes != wanted:
        raise ConfigError(
            f"{path}: holds a network of another shape than the recipe's [model]. Use the recipe "
            "it was trained with, or train from nothing."
        )
    for name, tensor in tensors.items():
        tensor.load(torch.from_numpy(file.dequantise(name)))
    return model
