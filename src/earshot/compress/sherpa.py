"""Writes a `.ear` recogniser as the folder that sherpa-onnx loads as a streaming transducer.

Three ONNX models and `tokens.txt`, in the layout of icefall's LSTM transducers: what sherpa-onnx
calls an LSTM's state is any vector that it hands back at the next call, so all that an encoder
remembers travels there, whatever its layers are. Knows that layout; knows nothing of operators
(`onnx_graph`) and of torch. Needs the package `onnx`, and `onnxruntime` to quantise.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto

from earshot.compress.onnx_graph import GraphWriter
from earshot.core.errors import ConfigError, MissingExtraError, ModelFileError
from earshot.data.atomic import replaced_file
from earshot.data.tokenizer import Tokenizer
from earshot.modelfile.reader import ModelFile

CHUNK_FRAMES = 32
SUBSAMPLING = 4
NEVER = -1e9  # added to the logit of a piece that must not come out

# Ops that look at one frame only: a joiner of these needs no axis of time.
_FRAME_OPS = {"normalize", "linear", "layer_norm", "rms_norm", "add", "relu", "tanh", "sigmoid"}


def export_sherpa_onnx(
    path: Path, folder: Path, *, chunk_frames: int = CHUNK_FRAMES, int8: bool = False
) -> dict[str, Path]:
    """Write a recogniser for sherpa-onnx's `OnlineRecognizer.from_transducer`.

    Args:
        path: A `.ear` file of a recogniser with a stateless predictor.
        folder: Where `encoder.onnx`, `decoder.onnx`, `joiner.onnx` and `tokens.txt` go, and
            where the model carries its tokenizer, `bpe.vocab` for hotwords; made when it does
            not exist. Each file appears complete or not at all.
        chunk_frames: Frames of 10 ms that the encoder takes at a time, a multiple of 4 in
            4..400. Fewer answer sooner, more take less work.
        int8: Also write the three with int8 weights, quantised by onnxruntime, as
            `<name>.int8.onnx`.

    Returns:
        Path of every file by what it is: `encoder`, `decoder`, `joiner`, `tokens`, perhaps
        `bpe`, and with `int8` also `encoder.int8` and so on.

    Raises:
        ModelFileError: The file is not sound, no recogniser, or not what this layout can hold.
        ConfigError: `chunk_frames` is out of its range.
        MissingExtraError: `int8` is wanted and onnxruntime is not installed.
    """
    if chunk_frames % SUBSAMPLING or not SUBSAMPLING <= chunk_frames <= 400:
        raise ConfigError(
            f"chunk_frames is {chunk_frames}; it must be a multiple of {SUBSAMPLING} in "
            f"{SUBSAMPLING}..400."
        )
    file = ModelFile(path)
    header = cast("dict[str, Any]", file.header)
    _require_recogniser(path, header)
    models = onnx_models(file, chunk_frames=chunk_frames)
    contents = {f"{name}.onnx": model.SerializeToString() for name, model in models.items()}
    if int8:
        quantised = {f"{name}.int8.onnx": quantised_onnx(model) for name, model in models.items()}
        contents |= quantised
    contents["tokens.txt"] = _token_table(path, header["pieces"])
    if scores := _piece_scores(file):
        contents["bpe.vocab"] = scores
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        with replaced_file(folder / name) as target:
            target.write(data)
    return {Path(name).stem: folder / name for name in contents}


def onnx_models(file: ModelFile, *, chunk_frames: int = CHUNK_FRAMES) -> dict[str, onnx.ModelProto]:
    """The networks of a model file in sherpa-onnx's layout, float32.

    Args:
        file: With a graph `encoder`, and perhaps `joiner` and a stateless `predictor`.
        chunk_frames: Frames that sherpa-onnx gives the encoder; the network itself takes any
            multiple of 4.

    Returns:
        `encoder`, and with the other graphs `decoder` and `joiner`.

    Raises:
        ModelFileError: A graph is not what this layout can hold.
    """
    header = cast("dict[str, Any]", file.header)
    models = {"encoder": _encoder(file, header, chunk_frames=chunk_frames)}
    if "predictor" in header["graphs"] and header["search"]["predictor"] == "stateless":
        models["decoder"] = _decoder(file, header)
    if "joiner" in header["graphs"]:
        joint = models["encoder"].graph.output[0].type.tensor_type.shape.dim[2].dim_value
        models["joiner"] = _joiner(file, header, joint=joint)
    return models


def _require_recogniser(path: Path, header: Mapping[str, Any]) -> None:
    missing = [g for g in ("encoder", "predictor", "joiner") if g not in header["graphs"]]
    if missing:
        raise ModelFileError(
            path,
            f"it has no graph {' and no '.join(missing)}, so it is no recogniser",
            remedy="Name a recogniser's model file",
        )
    if header["search"]["predictor"] != "stateless":
        raise ModelFileError(
            path,
            "its predictor remembers all pieces, and this layout holds predictors of the last "
            "few pieces only",
            remedy='Train with a predictor of type "stateless"',
        )


def _writer(file: ModelFile, widths: dict[str, int]) -> GraphWriter:
    return GraphWriter(file.path, file.dequantise, widths)


def _encoder(file: ModelFile, header: Mapping[str, Any], *, chunk_frames: int) -> onnx.ModelProto:
    """From x (N, T, bins), state0, state1 to encoder_out (N, T / 4, J) and the states after it."""
    bins = int(header["features"]["num_bins"])
    w = _writer(file, {"encoder/x": bins})
    w.emit("Transpose", ["x"], "encoder/x", perm=[1, 0, 2])
    w.add_graph("encoder", header["graphs"]["encoder"], outputs=["encoder_out"])
    w.emit("Transpose", ["encoder/encoder_out"], "encoder_out", perm=[1, 0, 2])
    widths = {
        "state0": _carry(w, "state0", cells=False),
        "state1": _carry(w, "state1", cells=True),
    }
    states: dict[str, tuple[int, list[int | str]]] = {
        name: (TensorProto.FLOAT, [1, "N", width]) for name, width in widths.items()
    }
    return w.model(
        "encoder",
        inputs={"x": (TensorProto.FLOAT, ["N", "T", bins]), **states},
        outputs={
            "encoder_out": ["N", "T_out", w.widths["encoder/encoder_out"]],
            **{f"new_{name}": shape for name, (_, shape) in states.items()},
        },
        metadata={
            "model_type": "lstm",
            "version": "1",
            "model_author": "earshot",
            "comment": str(header["name"]),
            "T": str(chunk_frames),
            "decode_chunk_len": str(chunk_frames),
            "num_encoder_layers": "1",
            "d_model": str(widths["state0"]),
            "rnn_hidden_size": str(widths["state1"]),
        },
    )


def _carry(w: GraphWriter, name: str, *, cells: bool) -> int:
    """Take state vectors out of one input and put their followers into `new_<name>`."""
    held = [state for state in w.states if state.is_cell == cells]
    if not held:  # an input that nothing reads would crash sherpa-onnx
        w.emit("Identity", [name], f"new_{name}")
        return 1
    sizes = w.ints(*(state.width for state in held))
    w.emit_first("Split", [name, sizes], [state.name for state in held], axis=2)
    w.emit("Concat", [f"{state.name}.next" for state in held], f"new_{name}", axis=2)
    return sum(state.width for state in held)


def _decoder(file: ModelFile, header: Mapping[str, Any]) -> onnx.ModelProto:
    """From y (N, context_size) to decoder_out (N, J): our predictor is called decoder there."""
    context = int(header["search"]["context_size"])
    w = _writer(file, {})
    w.emit("Transpose", ["y"], "predictor/y", perm=[1, 0])
    w.add_graph("predictor", header["graphs"]["predictor"], outputs=["predictor_out"])
    w.emit("Squeeze", ["predictor/predictor_out", w.ints(0)], "decoder_out")
    return w.model(
        "decoder",
        inputs={"y": (TensorProto.INT64, ["N", context])},
        outputs={"decoder_out": ["N", w.widths["predictor/predictor_out"]]},
        metadata={"vocab_size": str(len(header["pieces"])), "context_size": str(context)},
    )


def _joiner(file: ModelFile, header: Mapping[str, Any], *, joint: int) -> onnx.ModelProto:
    """From encoder_out and decoder_out (N, J) to logit (N, pieces); `<unk>` never wins."""
    names = {"encoder_out": "encoder_out", "predictor_out": "decoder_out"}
    graph = header["graphs"]["joiner"]
    other = {node["op"] for node in graph["nodes"]} - _FRAME_OPS
    if other:
        raise ModelFileError(
            file.path,
            f"the joiner has the op {sorted(other)[0]!r}, and this layout holds joiners that "
            "look at one frame only",
            remedy=f"Export a model whose joiner has {', '.join(sorted(_FRAME_OPS))} only",
        )
    w = _writer(file, {f"joiner/{ours}": joint for ours in names})
    for ours, theirs in names.items():
        w.emit("Identity", [theirs], f"joiner/{ours}")
    w.add_graph("joiner", graph, outputs=["logits"])
    never = np.zeros(len(header["pieces"]), dtype=np.float32)
    never[header["search"]["unk_id"]] = NEVER
    w.emit("Add", ["joiner/logits", w.constant("never", never)], "logit")
    return w.model(
        "joiner",
        inputs={theirs: (TensorProto.FLOAT, ["N", joint]) for theirs in names.values()},
        outputs={"logit": ["N", len(never)]},
        metadata={"joiner_dim": str(joint)},
    )


def _token_table(path: Path, pieces: list[str]) -> bytes:
    for number, piece in enumerate(pieces):
        if len(piece.split()) != 1 or piece != piece.strip():
            raise ModelFileError(
                path,
                f"word piece {number} is {piece!r}, and tokens.txt separates by blanks",
                remedy="Train with pieces that have no blanks",
            )
    return "".join(f"{piece} {number}\n" for number, piece in enumerate(pieces)).encode()


def _piece_scores(file: ModelFile) -> bytes:
    """What spells hotwords there: each piece and its score; empty without a usable tokenizer."""
    if all(tensor.name != "tokenizer" for tensor in file.tensors):
        return b""
    try:
        tokenizer = Tokenizer(file.tensor_bytes("tokenizer"))
    except ConfigError:
        return b""
    rows = zip(tokenizer.pieces, tokenizer.scores, strict=True)
    return "".join(f"{piece}\t{score:g}\n" for piece, score in rows).encode()


def quantised_onnx(model: onnx.ModelProto) -> bytes:
    """A model whose matrices and LSTMs onnxruntime has made int8, activations when it runs.

    Args:
        model: float32.

    Returns:
        The serialised model.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ModuleNotFoundError:
        raise MissingExtraError("int8 export", package="onnxruntime", extra="onnx") from None
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a shape inference that these graphs have had
    try:
        with tempfile.TemporaryDirectory(prefix="earshot-onnx-") as name:
            target = Path(name) / "model.onnx"
            quantize_dynamic(
                model,
                target,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "LSTM"],
                per_channel=True,
                # Weights of 7 bits: without VNNI, AVX2's products of 8 by 8 bits overflow.
                reduce_range=True,
            )
            return target.read_bytes()
    finally:
        logging.disable(disabled)
