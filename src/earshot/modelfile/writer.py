"""Writes `.ear` files, versions 1 to 3 of `docs/formats/ear.md`.

Lays sections out and checksums them. Does not know what a network is: graphs come as
JSON-ready objects, tensors already packed (see `codecs`). What was written is opened again
by the engine's reader before it takes its name, so a file that exists is a file that loads.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from earshot.core.errors import ModelFileError
from earshot.data.atomic import replaced_file
from earshot.modelfile.codecs import VERSION_2_CODECS, EncodedTensor
from earshot.modelfile.reader import ModelFile

MAGIC = b"\x89EAR\r\n\x1a\n"
ALIGNMENT = 64
PREAMBLE_BYTES = 32
MAX_HEADER_BYTES = 1 << 20
# Those that a reader of version 2 does not know.
VERSION_3_OPS = frozenset(("causal_attention", "phrase_attention"))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def feature_settings(num_bins: int) -> dict[str, object]:
    """The `features` object of a header: the one front end that version 1 allows.

    Args:
        num_bins: Mel bins, 1..256.

    Returns:
        A JSON-ready object.
    """
    return {
        "type": "kaldi_fbank",
        "sample_rate_hz": 16000,
        "num_bins": num_bins,
        "frame_length_ms": 25,
        "frame_shift_ms": 10,
        "low_freq_hz": 20,
        "high_freq_hz": -400,
        "preemphasis": 0.97,
        "window": "povey",
        "snip_edges": False,
        "dither": 0,
    }


def _placed(
    header: dict[str, object], tensors: Mapping[str, EncodedTensor]
) -> tuple[bytes, list[int]]:
    """The header bytes with the offsets that they themselves imply, and those offsets.

    Offsets are written inside the header, whose length moves them. Starting from the smallest
    guess they only grow, so the loop ends as soon as a pass changes nothing.
    """
    start = 0
    while True:
        entries, offsets, position = [], [], start
        for name, tensor in tensors.items():
            offsets.append(position)
            entries.append(
                {
                    "name": name,
                    "codec": tensor.codec,
                    "shape": list(tensor.shape),
                    "offset": position,
                    "bytes": len(tensor.data),
                    "crc32": zlib.crc32(tensor.data),
                }
            )
            position = _aligned(position + len(tensor.data))
        text = json.dumps(
            {**header, "tensors": entries},
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        ).encode()
        needed = _aligned(PREAMBLE_BYTES + len(text))
        if needed == start:
            return text, offsets
        start = needed


def write_model(
    path: Path,
    *,
    name: str,
    graphs: Mapping[str, object],
    tensors: Mapping[str, EncodedTensor],
    pieces: Sequence[str] | None = None,
    search: Mapping[str, object] | None = None,
    phones: Sequence[str] | None = None,
    num_bins: int = 80,
    understanding: Mapping[str, object] | None = None,
    bias: Mapping[str, object] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model file, checked by the reader before it takes its name.

    Args:
        path: The file to make or replace.
        name: Model name, at most 128 bytes.
        graphs: Graph name to graph, as in section 4 of the specification.
        tensors: Tensor name to packed tensor; sections lie in this order.
        pieces: The word piece of every id; only a recogniser has them.
        search: The `search` object of section 2; only a recogniser has one.
        phones: What outputs 1.. of the graph `phones` mean; only a model with that graph has them.
        num_bins: Mel bins of the features, 1..256; said in a recogniser's file only.
        understanding: The `understanding` object of section 6, for a model over words.
        bias: The `bias` object of section 2; only a model with the graph `bias` has one.
        metadata: Licence, description, recipe and so on.

    Raises:
        ModelFileError: The parts do not make a valid file.
        OSError: The file cannot be written.
    """
    header: dict[str, object] = {"name": name}
    if search is not None:
        header |= {"features": feature_settings(num_bins), "search": dict(search)}
    if pieces is not None:
        header["pieces"] = list(pieces)
    if phones is not None:
        header["phones"] = list(phones)
    header |= {"graphs": dict(graphs), "metadata": dict(metadata or {})}
    if understanding is not None:
        header["understanding"] = dict(understanding)
    if bias is not None:
        header["bias"] = dict(bias)
    _write(path, header, tensors)


def stored_tensors(file: ModelFile) -> dict[str, EncodedTensor]:
    """All tensors of a file by name, as they are stored."""
    return {
        tensor.name: EncodedTensor(tensor.codec, tensor.shape, file.tensor_bytes(tensor.name))
        for tensor in file.tensors
    }


def write_with_metadata(
    source: ModelFile,
    path: Path,
    metadata: Mapping[str, str],
    *,
    tensors: Mapping[str, EncodedTensor] | None = None,
) -> None:
    """Write a model again with further metadata; all else stays.

    Args:
        source: The model.
        path: The file to make or replace; may be that of `source`.
        metadata: Added to what is there, or in its place where a key is there already.
        tensors: Taken in the place of those of the same names.

    Raises:
        ModelFileError: The header becomes too long, or a tensor does not fit the graphs.
        OSError: The file cannot be written.
    """
    header = {key: value for key, value in source.header.items() if key != "tensors"}
    header["metadata"] = {**cast("dict[str, str]", header.get("metadata", {})), **metadata}
    _write(path, header, {**stored_tensors(source), **(tensors or {})})


def write_with_graph(
    source: ModelFile,
    path: Path,
    name: str,
    graph: Mapping[str, object],
    tensors: Mapping[str, EncodedTensor],
) -> None:
    """Write a model again with one graph more, or with another in the place of one.

    Args:
        source: The model.
        path: The file to make or replace; may be that of `source`.
        name: Of the graph.
        graph: As in section 4 of the specification.
        tensors: All that it reads, named `<name>.…`; those of a graph that was there go.

    Raises:
        ModelFileError: The parts do not make a valid file.
        OSError: The file cannot be written.
    """
    header = {key: value for key, value in source.header.items() if key != "tensors"}
    header["graphs"] = {**cast("dict[str, object]", header["graphs"]), name: graph}
    kept = {
        known: tensor
        for known, tensor in stored_tensors(source).items()
        if not known.startswith(f"{name}.")
    }
    _write(path, header, {**kept, **tensors})


def write_with_graphs(
    source: ModelFile,
    path: Path,
    graphs: Mapping[str, object],
    tensors: Mapping[str, EncodedTensor],
    *,
    bias: Mapping[str, object],
    metadata: Mapping[str, str],
) -> None:
    """Write a model again with the graphs of trained biasing; all that is in it stays.

    Args:
        source: The model.
        path: The file to make or replace; may be that of `source`.
        graphs: Added, or in the place of those of the same names.
        tensors: Likewise.
        bias: The `bias` object of section 2.
        metadata: Added, or in the place of what has the same key.

    Raises:
        ModelFileError: The parts do not make a valid file.
        OSError: The file cannot be written.
    """
    header = {key: value for key, value in source.header.items() if key != "tensors"}
    # Of an older bias nothing must stay: a tensor that no graph reads is dead weight.
    kept_graphs = {
        name: graph
        for name, graph in cast("dict[str, object]", header["graphs"]).items()
        if name != "bias" and not name.startswith("bias_")
    }
    kept = {
        name: tensor
        for name, tensor in stored_tensors(source).items()
        if name.split(".")[0] not in ("bias", "bias_audio", "bias_label")
    }
    header["graphs"] = {**kept_graphs, **graphs}
    header["bias"] = dict(bias)
    header["metadata"] = {**cast("dict[str, str]", header.get("metadata", {})), **metadata}
    _write(path, header, {**kept, **tensors})


def write_language_model(
    path: Path,
    *,
    name: str,
    lm: Mapping[str, object],
    tensors: Mapping[str, EncodedTensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file that holds a language model and nothing else.

    Args:
        path: The file to make or replace.
        name: Model name, at most 128 bytes.
        lm: The `lm` object of section 9 of the specification.
        tensors: Those whose names begin with `lm.`.
        metadata: Licence, sources and so on.

    Raises:
        ModelFileError: The parts do not make a valid file.
        OSError: The file cannot be written.
    """
    header: dict[str, object] = {"name": name, "graphs": {}, "lm": dict(lm)}
    header["metadata"] = dict(metadata or {})
    _write(path, header, tensors)


def write_with_language_model(
    source: ModelFile,
    path: Path,
    *,
    lm: Mapping[str, object] | None,
    tensors: Mapping[str, EncodedTensor],
) -> None:
    """Write a model again with another language model; all else stays.

    Args:
        source: The model.
        path: The file to make or replace; may be that of `source`.
        lm: The `lm` object; None takes away the one that is there.
        tensors: Those whose names begin with `lm.`.

    Raises:
        ModelFileError: The header becomes too long.
        OSError: The file cannot be written.
    """
    header = {key: value for key, value in source.header.items() if key not in ("tensors", "lm")}
    if lm is not None:
        header["lm"] = dict(lm)
    kept = {
        name: tensor
        for name, tensor in stored_tensors(source).items()
        if not name.startswith("lm.")
    }
    _write(path, header, {**kept, **tensors})


def _version(header: dict[str, object], tensors: Mapping[str, EncodedTensor]) -> int:
    """The oldest version that has all that is used, so that older readers open what they can."""
    graphs = cast("Mapping[str, Mapping[str, Sequence[Mapping[str, object]]]]", header["graphs"])
    joined = any(
        node.get("op") == "lstm" and "weight" in cast("Mapping[str, str]", node.get("tensors", {}))
        for graph in graphs.values()
        for node in graph.get("nodes", ())
    )
    packed = any(tensor.codec in VERSION_2_CODECS for tensor in tensors.values())
    newest = any(
        node.get("op") in VERSION_3_OPS
        for graph in graphs.values()
        for node in graph.get("nodes", ())
    )
    if newest:
        return 3
    return 2 if joined or packed else 1


def _write(path: Path, header: dict[str, object], tensors: Mapping[str, EncodedTensor]) -> None:
    """Lay a file out, and check it with the reader before it takes its name."""
    text, offsets = _placed(header, tensors)
    if len(text) > MAX_HEADER_BYTES:
        raise ModelFileError(
            path,
            f"the header takes {len(text)} bytes and may take {MAX_HEADER_BYTES}",
            remedy="Use fewer pieces, shorter names or less metadata",
        )
    ends = [at + len(t.data) for at, t in zip(offsets, tensors.values(), strict=True)]
    size = _aligned(ends[-1] if ends else PREAMBLE_BYTES + len(text))
    preamble = MAGIC + struct.pack("<IIQ", _version(header, tensors), len(text), size)
    check = struct.pack("<II", zlib.crc32(text, zlib.crc32(preamble)), 0)
    with replaced_file(path) as file:
        file.write(preamble + check + text)
        for offset, tensor in zip(offsets, tensors.values(), strict=True):
            file.write(bytes(offset - file.tell()))
            file.write(tensor.data)
        file.write(bytes(size - file.tell()))
        file.flush()
        try:
            ModelFile(Path(file.name))
        except ModelFileError as err:
            raise ModelFileError(path, err.problem, remedy=err.remedy) from None
