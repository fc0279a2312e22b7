"""Writes a `Transducer` as a `.ear` file, and reads one back to train it further.

The network describes itself as graphs; this module picks a codec for every tensor and packs it.
Matrices and embedding tables take the recipe's codec or, where training has given them a grid, the
smallest codec that holds it exactly; vectors stay float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from earshot.compress.blocks import block_norms, expanded
from earshot.compress.grid import Grid
from earshot.compress.weights import list_weights
from earshot.core.errors import ConfigError
from earshot.data.pronunciation import PHONES
from earshot.modelfile.codecs import (
    LEVELS,
    ROW_BLOCK,
    Codec,
    EncodedTensor,
    decode_tensor,
    encode_f32,
    encode_f32_r16,
    encode_i8_r16x4,
    encode_int4,
    encode_int8,
    encode_sparse,
    encode_u8,
    levels_and_scales,
)
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model
from earshot.models.biasing import BiasConfig
from earshot.models.encoder import EncoderConfig
from earshot.models.graph import GraphBuilder, GraphTensor
from earshot.models.predictor import PredictorConfig
from earshot.models.second_pass import SecondPassConfig
from earshot.models.transducer import BLANK_ID, UNK_ID, Transducer, TransducerConfig

MatrixCodec = Literal["f32_r16", "i8_r16x4"]

# What a tensor on a grid may be stored as; a table is looked up row by row and cannot be sparse.
_MATRIX_CODECS: tuple[Codec, ...] = (
    "i8_r16x4",
    "i8_b16x4",
    "i8_b16x1",
    "i4_r16x4",
    "i4_b16x4",
    "i4_b16x1",
)
_LEAST_ZEROS = (
    1 / 8
)  # of the columns of blocks of 16 rows: below it, masks cost more than they save
_MOST_STRAYS = 1 / 20  # of a matrix: more zeros outside of blocks were made by training
_BIAS_GRAPHS = frozenset(("bias", "bias_audio", "bias_label"))
_TABLE_CODECS: tuple[Codec, ...] = ("i8_r16x4", "i4_r16x4")


def export_transducer(
    model: Transducer,
    path: Path,
    *,
    name: str,
    pieces: list[str],
    tokenizer: bytes,
    codec: MatrixCodec = "i8_r16x4",
    grids: Mapping[str, Grid] | None = None,
    codecs: Mapping[str, Codec] | None = None,
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
        grids: Tensor name to grid, rows in the parameter's order, for tensors that are rounded to
            it instead.
        codecs: Tensor name to codec, for tensors on grids that must keep the one they had.
        metadata: Licence, description, recipe and so on.

    Raises:
        ModelFileError: The parts do not make a valid file.
    """
    graphs, tensors = model.graphs()
    _set_precision(graphs, codec)
    packed: dict[str, EncodedTensor] = {}
    grids, codecs = grids or {}, codecs or {}
    for tensor_name, tensor in tensors.items():
        value = tensor.value.detach().float().cpu().numpy()
        if tensor.role != "vector" and tensor_name in grids:
            grid = grids[tensor_name]
            scale = grid.scale if tensor.arrange is None else tensor.arrange(grid.scale)
            allowed = _TABLE_CODECS if tensor.role == "table" else _matrix_codecs(value, grid)
            kept = codecs.get(tensor_name)
            allowed = allowed if kept is None else (kept,)
            packed[tensor_name] = _on_grid(value, Grid(grid.levels, scale), allowed)
        else:
            packed[tensor_name] = _packed(tensor, codec)
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
        bias=model.config.bias.header() if model.bias is not None else None,
        metadata=metadata,
    )


def pack_graphs(
    described: Sequence[tuple[GraphBuilder, list[str]]], codec: MatrixCodec
) -> tuple[dict[str, Any], dict[str, EncodedTensor]]:
    """Graphs that a module described, as a file holds them.

    Args:
        described: Each graph and its outputs.
        codec: For matrices and tables.

    Returns:
        Graph name to graph, and tensor name to packed tensor.
    """
    graphs = {builder.name: builder.as_json(outputs) for builder, outputs in described}
    _set_precision(graphs, codec)
    tensors = {
        name: _packed(tensor, codec)
        for builder, _ in described
        for name, tensor in builder.tensors.items()
    }
    return graphs, tensors


def _set_precision(graphs: Mapping[str, Any], codec: MatrixCodec) -> None:
    """Lists of phrases are kept as matrices are: in int8, or exactly."""
    for graph in graphs.values():
        for node in graph["nodes"]:
            if node["op"] == "phrase_attention":
                node["precision"] = "f32" if codec == "f32_r16" else "i8"


def _packed(tensor: GraphTensor, codec: MatrixCodec) -> EncodedTensor:
    value = tensor.value.detach().float().cpu().numpy()
    if tensor.role == "vector":
        return encode_f32(value)
    if codec == "i8_r16x4":
        return encode_int8(value)
    return encode_f32_r16(value) if tensor.role == "matrix" else encode_f32(value)


def _matrix_codecs(value: npt.NDArray[np.float32], grid: Grid) -> tuple[Codec, ...]:
    """The codecs that a matrix may be stored in: sparse ones if enough of it is zero.

    A codebook of 4 bits may have no zero, and is then too good to be lost to a few blocks of them.
    """
    zeros = float((block_norms(torch.from_numpy(value), (ROW_BLOCK, 1)) == 0).float().mean())
    sparse = zeros >= _LEAST_ZEROS or (zeros > 0 and len(grid.levels) <= LEVELS)
    return tuple(c for c in _MATRIX_CODECS if sparse or "_b16" not in c)


def _without_strays(value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The matrix with the few zeros outside of zero blocks made all but zero.

    Weights that come from an int8 file hold some that were rounded to 0. A grid of few levels may
    have none at 0, and one such weight would keep the whole matrix from its codec. Where many
    weights are zero one by one, training has made them so, and they stay.
    """
    block = (ROW_BLOCK, 1)
    weights = torch.from_numpy(value)
    empty = expanded(block_norms(weights, block) == 0, block, weights.shape).numpy()
    stray = (value == 0) & ~empty
    if stray.mean() > _MOST_STRAYS:
        return value
    return np.where(stray, np.finfo(np.float32).tiny, value)


def _on_grid(
    value: npt.NDArray[np.float32], grid: Grid, codecs: Collection[Codec]
) -> EncodedTensor:
    """A matrix rounded to a grid, in the smallest of the codecs that hold exactly that.

    Args:
        value: (M, K).
        grid: Its rows in the file's order.
        codecs: Those that are allowed; one always fits, int8.
    """
    scale = grid.scale.numpy()
    value = _without_strays(value)
    exact = encode_i8_r16x4(grid.codes(torch.from_numpy(value)).numpy(), scale)
    rounded = decode_tensor(exact)
    # A weight that rounds to 0 is not a zero that training made: it must not end its block.
    stored = np.where((rounded == 0) & (value != 0), 0.1 * scale[:, None], rounded)
    made = [exact]
    for codec in codecs:
        shape: Any = {"x1": (16, 1), "x4": (16, 4)}[codec[-2:]]
        if codec.startswith("i8_b"):
            made.append(encode_sparse(stored, block=shape, bits=8, scale=scale))
        elif codec.startswith("i4") and len(grid.levels) <= LEVELS:
            book = np.pad(grid.levels.numpy(), (0, LEVELS - len(grid.levels)), mode="edge")
            if codec == "i4_r16x4":
                made.append(encode_int4(stored, codebook=book, scale=scale))
            else:
                made.append(encode_sparse(stored, block=shape, bits=4, codebook=book, scale=scale))
    fitting = [m for m in made if m.codec in codecs and np.array_equal(decode_tensor(m), rounded)]
    return min(fitting or [exact], key=lambda m: len(m.data))


def file_grids(file: ModelFile, model: Transducer) -> dict[str, Grid]:
    """The grids that the tensors of a file lie on.

    Args:
        file: A file that `export_transducer` wrote.
        model: A network of its shape.

    Returns:
        Tensor name to grid, rows in the parameter's order; not for tensors in float32.
    """
    infos = {info.name: info for info in file.tensors}
    grids = {}
    for weight in list_weights(model):
        info = infos.get(weight.name)
        if info is None or info.codec.startswith("f32"):
            continue
        section = EncodedTensor(info.codec, info.shape, file.tensor_bytes(info.name))
        levels, stored = levels_and_scales(section)
        scale = torch.empty(len(stored))
        order = weight.in_file_order(torch.arange(len(stored))).long()
        scale[order] = torch.from_numpy(stored)
        grids[weight.name] = Grid(torch.from_numpy(levels).float(), scale)
    return grids


def transducer_config(file: ModelFile) -> TransducerConfig:
    """The shape of the network in a file.

    Args:
        file: A file that `export_transducer` wrote.

    Returns:
        Its shape; what only training knows, dropout and weights of losses, is as by default.

    Raises:
        ConfigError: It holds no transducer of this module's kind.
    """
    header = cast("dict[str, Any]", file.header)
    shapes = {tensor.name: tensor.shape for tensor in file.tensors}
    nodes = {
        name: {kind: [n for n in graph["nodes"] if n["op"] == kind] for kind in ("lstm", "linear")}
        for name, graph in header["graphs"].items()
    }
    try:
        lstms, search = nodes["encoder"]["lstm"], header["search"]
        vocab_size, joiner_width = shapes[nodes["joiner"]["linear"][0]["tensors"]["weight"]]
        return TransducerConfig(
            vocab_size=vocab_size,
            joiner_width=joiner_width,
            one_symbol_per_frame=search["max_symbols_per_frame"] == 1,
            phones="phones" in nodes,
            bias=_bias_config(header, shapes),
            second_pass=SecondPassConfig(
                layers=len(nodes["second_pass"]["lstm"]) if "second_pass" in nodes else 0
            ),
            encoder=EncoderConfig(
                num_bins=header["features"]["num_bins"],
                layers=len(lstms),
                hidden=lstms[0]["hidden"],
            ),
            predictor=PredictorConfig(
                type="stateless" if search["predictor"] == "stateless" else "lstm",
                context_size=search["context_size"],
                width=shapes["predictor.embedding0.table"][1],
            ),
        )
    except (KeyError, IndexError, ValueError):
        raise ConfigError(
            f"{file.path}: is not a transducer that this version trains. Take the embedded model, "
            "or one that `earshot train` or `earshot adapt` made."
        ) from None


def _bias_config(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> BiasConfig:
    """The shape of the biasing networks in a file; the default where there are none."""
    if "bias" not in header["graphs"]:
        return BiasConfig()
    nodes = {n["out"]: n for n in header["graphs"]["bias_audio"]["nodes"]}
    heads = nodes["context"]["heads"]
    mix = next(n for n in nodes.values() if n["op"] == "conv1d")
    return BiasConfig(
        query="audio_and_label" if "bias_label" in header["graphs"] else "audio",
        before=header["bias"]["before"],
        after=header["bias"]["after"],
        phones=header["bias"].get("phones", 0),
        width=shapes["bias.embedding0.table"][1],
        hidden=shapes[mix["tensors"]["weight"]][0],
        heads=heads,
        key_width=shapes["bias.audio_keys.weight"][0] // heads,
        value_width=shapes["bias.audio_values.weight"][0] // heads,
        audio_context=mix["kernel"],
    )


def read_transducer(path: Path, config: TransducerConfig) -> Transducer:
    """The network of a `.ear` file, to fine-tune.

    Quantised weights come back as the engine uses them, so the network starts from what was
    shipped, rounding included.

    Args:
        path: A file that `export_transducer` wrote.
        config: The shape it was trained with.

    Returns:
        The network, on the CPU, without a second pass that the configuration does not have. A head
        over phones, a second pass, or biasing networks, that the configuration has and the file
        lacks are as a new network's.

    Raises:
        ModelFileError: Not a sound model file.
        ConfigError: The file holds a network of another shape.
    """
    file = ModelFile(path)
    model = Transducer(config)
    graphs, tensors = model.graphs()
    # What stands beside the network: it is made anew from the network, or has nothing of it.
    left = {"endpoint"} if config.second_pass.layers else {"endpoint", "second_pass"}
    shapes = {
        info.name: info.shape
        for info in file.tensors
        if info.name.partition(".")[0] not in {"tokenizer", "lm", *left}
    }
    wanted = {name: tuple(tensor.value.shape) for name, tensor in tensors.items()}
    there = cast("dict[str, Any]", file.header["graphs"])
    there = {name: graph for name, graph in there.items() if name not in left}
    for missing in {"phones", "second_pass", *_BIAS_GRAPHS} - there.keys():
        # An older model: what it lacks is trained from nothing.
        graphs.pop(missing, None)
        tensors = {k: v for k, v in tensors.items() if not k.startswith(f"{missing}.")}
        wanted = {name: wanted[name] for name in tensors}
    for name in _BIAS_GRAPHS & graphs.keys():  # how lists are kept is the engine's affair
        for node, stored in zip(graphs[name]["nodes"], there[name]["nodes"], strict=False):
            if "precision" in stored:
                node["precision"] = stored["precision"]
    if there != graphs or shapes != wanted:
        raise ConfigError(
            f"{path}: holds a network of another shape than the recipe's [model]. Use the recipe "
            "it was trained with, or train from nothing."
        )
    for name, tensor in tensors.items():
        tensor.load(torch.from_numpy(file.dequantise(name)))
    return model
