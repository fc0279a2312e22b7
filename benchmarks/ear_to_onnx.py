"""The networks of a `.ear` file as ONNX files, for benchmarks that run them by themselves.

The layout is that of `earshot model export`, and so is the code. Knows nothing of audio.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from earshot.compress.sherpa import onnx_models, quantised_onnx
from earshot.modelfile.reader import ModelFile

__all__ = ["quantise_dynamically", "write_onnx"]


def write_onnx(model: Path, folder: Path) -> dict[str, Path]:
    """Every network of a model file as `<folder>/<name>.onnx`.

    Args:
        model: A `.ear` file with a graph `encoder`.
        folder: Made when it does not exist.

    Returns:
        Path by name: `encoder`, and where there are such, `decoder` (our predictor) and `joiner`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, proto in onnx_models(ModelFile(model)).items():
        paths[name] = folder / f"{name}.onnx"
        onnx.save(proto, paths[name])
    return paths


def quantise_dynamically(paths: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The same networks with ONNX Runtime's own dynamic int8 quantisation of weights.

    Args:
        paths: float32 networks.
        folder: Made when it does not exist.

    Returns:
        Path of each quantised network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = {}
    for name, path in paths.items():
        out[name] = folder / f"{name}.int8.onnx"
        out[name].write_bytes(quantised_onnx(onnx.load(path)))
    return out
