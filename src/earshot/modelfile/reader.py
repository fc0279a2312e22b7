"""Opens `.ear` files through the engine's one reader and says what is inside.

The engine checks everything in `docs/formats/ear.md` once, when the file is opened; this file
only turns its findings into Python values. Does not know what a network is.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from earshot import _native
from earshot.core.errors import ModelFileError
from earshot.modelfile.codecs import Codec


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of a file's table of tensors.

    Args:
        name: Unique name.
        codec: How the section is laid out.
        shape: Logical shape.
        offset: Start of the section in the file, bytes.
        num_bytes: Size of the section.
        crc32: Checksum of the section.
    """

    name: str
    codec: Codec
    shape: tuple[int, ...]
    offset: int
    num_bytes: int
    crc32: int


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn the engine's model-file errors into the package's own.

    Raises:
        ModelFileError: The block met the engine's error; path, problem and remedy are kept.
    """
    try:
        yield
    except _native.ModelFileError as err:
        raise ModelFileError(err.path, err.problem, remedy=err.remedy) from None


def check_readable(path: Path) -> None:
    """Tell a missing, unreadable or wrong kind of path apart before the engine opens it.

    Args:
        path: The file to be opened.

    Raises:
        ModelFileError: The path is absent, a folder, a device or a pipe, or not readable.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # others may keep who opens them waiting
            with open(path, "rb"):
                str(path).encode()  # the engine takes names in UTF-8
                return
        problem, remedy = "this is not a regular file", "Name a `.ear` file"
    except UnicodeEncodeError:
        problem, remedy = "the file's name is not UTF-8", "Rename the file"
    except FileNotFoundError:
        problem, remedy = "there is no such file", "Check the path"
    except IsADirectoryError:
        problem, remedy = "this is a folder", "Name a `.ear` file inside it"
    except PermissionError:
        problem, remedy = "the file may not be read", "Change its permissions"
    except OSError as err:
        problem, remedy = f"the file cannot be opened ({err.strerror})", "Check the path"
    raise ModelFileError(path, problem, remedy=remedy)


class ModelFile:
    """A `.ear` file that has passed every check.

    Args:
        path: The file.

    Raises:
        ModelFileError: The file is absent, not readable, or breaks a rule of the format.
    """

    def __init__(self, path: Path) -> None:
        check_readable(path)
        with engine_errors():
            self._native = _native.ModelFile(str(path))
        self.path = path
        self.header: Mapping[str, object] = json.loads(self._native.header_json)
        rows = cast("list[dict[str, object]]", self.header["tensors"])
        self.tensors = tuple(
            TensorInfo(
                name=cast("str", row["name"]),
                codec=cast("Codec", row["codec"]),
                shape=tuple(cast("list[int]", row["shape"])),
                offset=cast("int", row["offset"]),
                num_bytes=cast("int", row["bytes"]),
                crc32=cast("int", row["crc32"]),
            )
            for row in rows
        )

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return self._native.size

    @property
    def version(self) -> int:
        """The version of the format that the file says."""
        return self._native.version

    def tensor_bytes(self, name: str) -> bytes:
        """The section of a tensor as it lies in the file.

        Args:
            name: One of the names in `tensors`.

        Returns:
            A copy of the bytes.

        Raises:
            KeyError: There is no such tensor.
        """
        self._require(name)
        return self._native.tensor_bytes(name)

    def dequantise(self, name: str) -> npt.NDArray[np.float32]:
        """The values of a tensor.

        Args:
            name: One of the names in `tensors`.

        Returns:
            Float32 of the logical shape.

        Raises:
            KeyError: There is no such tensor.
        """
        self._require(name)
        return self._native.dequantise(name)

    def _require(self, name: str) -> None:
        if not any(tensor.name == name for tensor in self.tensors):
            known = ", ".join(tensor.name for tensor in self.tensors)
            raise KeyError(f"{self.path}: no tensor {name!r}; there are {known}.")

    def _weights(self, tensor: TensorInfo) -> tuple[int, int, int]:
        """How many weights a tensor has, its bytes, and how many weights are 0."""
        values = self.dequantise(tensor.name)
        return values.size, tensor.num_bytes, values.size - int(np.count_nonzero(values))

    def summary(self) -> dict[str, object]:
        """What `earshot model inspect` shows: sizes, graphs and every tensor.

        Returns:
            JSON-ready: `path, name, version, size_bytes, num_pieces, search, features, graphs,
            understanding, tensors, weights, bytes_by_codec, metadata`; what a file does not have
            is empty. A graph is `{"inputs", "outputs", "nodes", "ops"}` with `ops` counting
            nodes by kind; a tensor is `{"name", "codec", "shape", "offset", "bytes", "crc32",
            "bits_per_weight", "zeros"}`, the last the share of weights that are 0; both are
            None for bytes. `weights` is `{"count", "bits_per_weight", "zeros"}` of all of them.
        """
        weights = {t.name: self._weights(t) for t in self.tensors if t.codec != "u8"}
        count = sum(number for number, _, _ in weights.values())
        graphs = cast("dict[str, dict[str, list[dict[str, str]]]]", self.header["graphs"])
        by_codec: dict[str, int] = {}
        for tensor in self.tensors:
            by_codec[tensor.codec] = by_codec.get(tensor.codec, 0) + tensor.num_bytes
        return {
            "path": str(self.path),
            "name": self.header["name"],
            "version": self.version,
            "size_bytes": self.size_bytes,
            "num_pieces": len(cast("list[str]", self.header.get("pieces", []))),
            "search": self.header.get("search", {}),
            "features": self.header.get("features", {}),
            "graphs": {name: _graph_summary(graph) for name, graph in graphs.items()},
            "understanding": self.header.get("understanding", {}),
            "tensors": [
                {
                    "name": tensor.name,
                    "codec": tensor.codec,
                    "shape": list(tensor.shape),
                    "offset": tensor.offset,
                    "bytes": tensor.num_bytes,
                    "crc32": tensor.crc32,
                    **_density(*weights.get(tensor.name, (0, 0, 0))),
                }
                for tensor in self.tensors
            ],
            "weights": {
                "count": count,
                **_density(
                    count,
                    sum(stored for _, stored, _ in weights.values()),
                    sum(zeros for _, _, zeros in weights.values()),
                ),
            },
            "bytes_by_codec": by_codec,
            "metadata": self.header.get("metadata", {}),
        }


def _density(count: int, stored_bytes: int, zeros: int) -> dict[str, float | None]:
    if count == 0:
        return {"bits_per_weight": None, "zeros": None}
    return {"bits_per_weight": 8 * stored_bytes / count, "zeros": zeros / count}


def _graph_summary(graph: dict[str, list[dict[str, str]]]) -> dict[str, object]:
    ops: dict[str, int] = {}
    for node in graph["nodes"]:
        ops[node["op"]] = ops.get(node["op"], 0) + 1
    return {
        "inputs": graph["inputs"],
        "outputs": graph["outputs"],
        "nodes": len(graph["nodes"]),
        "ops": ops,
    }
