"""Writes the graphs of an `.ear` file as ONNX, so that another engine can run the same network.

    python benchmarks/ear_to_onnx.py assistant-en.ear folder/ [--int8]

Every op of docs/formats/ear.md becomes ONNX operators, gates (`when`) excepted; quantised
weights are written as the float32 values that they stand for. State becomes further inputs
and outputs: `<value>.h` and `<value>.c` of an lstm, `<value>.past` of a causal conv1d, each with
a `.next` partner. Two things stay with the caller: `stack` takes whole multiples of its factor
only, and the input's last frame is to be repeated at the end. Knows nothing of audio.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from earshot.modelfile.reader import ModelFile

__all__ = ["graph_to_onnx", "main", "quantise_dynamically", "stacked_gates", "write_onnx"]

OPSET = 17
UNIT_BLOCK = 16
Array = npt.NDArray[np.float32]


def stacked_gates(blocks: Array) -> Array:
    """Rows `[unit block of 16][gate i, f, g, o][16 units]` as whole gates i, o, f, c for ONNX.

    Args:
        blocks: Shape (4H, ...) in the order of a `.ear` file.

    Returns:
        Same shape; `g` is what ONNX calls `c`.
    """
    rest = blocks.shape[1:]
    gates = blocks.reshape(-1, 4, UNIT_BLOCK, *rest).swapaxes(0, 1).reshape(4, -1, *rest)
    return np.ascontiguousarray(gates[[0, 3, 1, 2]].reshape(blocks.shape))


@dataclass(slots=True)
class _Builder:
    """Nodes, constants, inputs and outputs of one ONNX graph on its way."""

    tensor: Callable[[str], Array]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    widths: dict[str, int] = field(default_factory=dict)

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants[name] = value
        return name

    def ints(self, *values: int) -> str:
        name = "ints_" + "_".join(str(v) for v in values)
        return self.constant(name, np.array(values, dtype=np.int64))

    def emit(self, op: str, inputs: list[str], outputs: list[str] | str, **attributes: Any) -> str:
        named = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(helper.make_node(op, inputs, named, **attributes))
        return named[0]

    def state(self, name: str, shape: list[int]) -> tuple[str, str]:
        """Declares an input and its `.next` output."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        following = f"{name}.next"
        self.outputs.append(helper.make_tensor_value_info(following, TensorProto.FLOAT, shape))
        return name, following

    def role(self, node: dict[str, Any], role: str) -> str:
        """A tensor as it is, as a constant."""
        name = node["tensors"][role]
        return self.constant(name, self.tensor(name))


def _normalize(b: _Builder, node: dict[str, Any], x: str, out: str) -> int:
    b.emit("Sub", [x, b.role(node, "mean")], f"{out}.centred")
    b.emit("Mul", [f"{out}.centred", b.role(node, "inv_std")], out)
    return b.widths[x]


def _stack(b: _Builder, node: dict[str, Any], x: str, out: str) -> int:
    width = b.widths[x] * int(node["factor"])
    b.emit("Reshape", [x, b.ints(-1, width)], out)
    return width


def _linear(b: _Builder, node: dict[str, Any], x: str, out: str) -> int:
    name = node["tensors"]["weight"]
    weight = b.constant(name, np.ascontiguousarray(b.tensor(name).T))
    biased = "bias" in node["tensors"]
    b.emit("MatMul", [x, weight], f"{out}.product" if biased else out)
    if biased:
        b.emit("Add", [f"{out}.product", b.role(node, "bias")], out)
    return int(b.constants[name].shape[1])


def _lstm(b: _Builder, node: dict[str, Any], x: str, out: str) -> int:
    names, hidden = node["tensors"], int(node["hidden"])
    gates = {role: stacked_gates(b.tensor(names[role])) for role in names}
    w = b.constant(f"{out}.W", gates["weight_x"][None])
    r = b.constant(f"{out}.R", gates["weight_h"][None])
    # ONNX adds two biases; ours is one.
    bias = np.concatenate([gates["bias"], np.zeros_like(gates["bias"])])
    bias_name = b.constant(f"{out}.B", bias[None])
    h, h_next = b.state(f"{out}.h", [1, 1, hidden])
    c, c_next = b.state(f"{out}.c", [1, 1, hidden])
    b.emit("Unsqueeze", [x, b.ints(1)], f"{out}.batched")
    b.emit(
        "LSTM",
        [f"{out}.batched", w, r, bias_name, "", h, c],
        [f"{out}.sequence", h_next, c_next],
        hidden_size=hidden,
    )
    b.emit("Reshape", [f"{out}.sequence", b.ints(-1, hidden)], out)
    return hidden


def _layer_norm(b: _Builder, node: dict[str, Any], x: str, out: str) -> int:
    scale = [b.role(node, "gamma"), b.role(node, "beta")]
    b.emit("LayerNormalization", [x, *scale], out, axis=-1, epsilon=float(node["eps"]))
    return b.widths[x]


def _rms_norm(b: _Builder, node: dict[str, Any], x: str, out: str) -> int:
    b.emit("Mul", [x, x], f"{out}.squares")
    b.emit("ReduceMean", [f"{out}.squares"], f"{out}.power", axes=[-1], keepdims=1)
    eps = b.constant(f"{out}.eps", np.array([node["eps"]], dtype=np.float32))
    b.emit("Add", [f"{out}.power", eps], f"{out}.safe")
    b.emit("Sqrt", [f"{out}.safe"], f"{out}.root")
    b.emit("Div", [x, f"{out}.root"], f"{out}.unit")
    b.emit("Mul", [f"{out}.unit", b.role(node, "gamma")], out)
    return b.widths[x]


def _embedding(b: _Builder, node: dict[str, Any], y: str, out: str) -> int:
    table = b.tensor(node["tensors"]["table"])
    # An id below 0 gives zeros: rows are shifted by one behind a row of zeros.
    shifted = np.concatenate([np.zeros((1, table.shape[1]), np.float32), table])
    rows = b.constant(node["tensors"]["table"], shifted)
    low = b.constant(f"{out}.low", np.array(-1, dtype=np.int64))
    b.emit("Max", [y, low], f"{out}.clipped")
    b.emit("Add", [f"{out}.clipped", b.constant("one", np.array(1, np.int64))], f"{out}.row")
    b.emit("Gather", [rows, f"{out}.row"], out, axis=0)
    return int(table.shape[1])


def _conv1d(b: _Builder, node: dict[str, Any], x: str, out: str) -> int:
    kernel, dilation, width = int(node["kernel"]), int(node["dilation"]), b.widths[x]
    weight = b.tensor(node["tensors"]["weight"])
    depthwise = weight.shape == (width, kernel) and kernel * width != kernel
    if depthwise:
        taps = weight[:, None, :]  # (W, 1, kernel)
    else:
        taps = weight.reshape(len(weight), kernel, width).swapaxes(1, 2)  # (M, W, kernel)
    source = x
    if node["padding"] == "causal" and kernel > 1:
        held = (kernel - 1) * dilation
        past, following = b.state(f"{out}.past", [held, width])
        source = b.emit("Concat", [past, x], f"{out}.joined", axis=0)
        b.emit("Slice", [source, b.ints(-held), b.ints(2**31 - 1), b.ints(0)], following)
    b.emit("Transpose", [source], f"{out}.columns", perm=[1, 0])
    b.emit("Unsqueeze", [f"{out}.columns", b.ints(0)], f"{out}.batched")
    inputs = [f"{out}.batched", b.constant(f"{out}.taps", np.ascontiguousarray(taps))]
    if "bias" in node["tensors"]:
        inputs.append(b.role(node, "bias"))
    groups = width if depthwise else 1
    b.emit("Conv", inputs, f"{out}.convolved", dilations=[dilation], group=groups)
    b.emit("Squeeze", [f"{out}.convolved", b.ints(0)], f"{out}.rows")
    b.emit("Transpose", [f"{out}.rows"], out, perm=[1, 0])
    return len(weight)


def _elementwise(op: str, **attributes: Any) -> Callable[[_Builder, dict[str, Any], str, str], int]:
    def convert(b: _Builder, node: dict[str, Any], x: str, out: str) -> int:
        b.emit(op, [_value(name) for name in node["in"]], out, **attributes)
        return b.widths[x]

    return convert


OPS: dict[str, Callable[[_Builder, dict[str, Any], str, str], int]] = {
    "normalize": _normalize,
    "stack": _stack,
    "linear": _linear,
    "lstm": _lstm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "embedding": _embedding,
    "conv1d": _conv1d,
    "add": _elementwise("Add"),
    "relu": _elementwise("Relu"),
    "tanh": _elementwise("Tanh"),
    "sigmoid": _elementwise("Sigmoid"),
    "log_softmax": _elementwise("LogSoftmax", axis=-1),
}


def _value(name: str) -> str:
    """ONNX shares one space of names between values and weights; ours do not meet in it."""
    return f"value:{name}"


def graph_to_onnx(
    name: str, graph: dict[str, Any], tensor: Callable[[str], Array], *, widths: dict[str, int]
) -> onnx.ModelProto:
    """One graph of a model file as an ONNX model.

    Args:
        name: The graph's name, for messages.
        graph: The graph as the header holds it.
        tensor: Gives a tensor's float32 values by name.
        widths: Width of every input that is not piece ids.

    Returns:
        A checked model; inputs and outputs have the graph's names, then come states.

    Raises:
        ValueError: The graph has an op or a gate that this converter does not know.
    """
    b = _Builder(tensor, widths={_value(key): width for key, width in widths.items()})
    for key in graph["inputs"]:
        ids = key == "y"
        shape: list[str | int | None] = ["n"] if ids else ["n", widths[key]]
        kind = TensorProto.INT64 if ids else TensorProto.FLOAT
        b.inputs.append(helper.make_tensor_value_info(key, kind, shape))
        b.emit("Identity", [key], _value(key))
    for node in graph["nodes"]:
        if node["op"] not in OPS or "when" in node:
            raise ValueError(
                f"graph {name!r}: node {node['out']!r} has op {node['op']!r}"
                f"{' with a gate' if 'when' in node else ''}; "
                f"the converter knows {', '.join(OPS)}, without gates. Add it to OPS"
            )
        out = _value(node["out"])
        b.widths[out] = OPS[node["op"]](b, node, _value(node["in"][0]), out)
    results = []
    for key in graph["outputs"]:
        b.emit("Identity", [_value(key)], key)
        shape = ["m", b.widths[_value(key)]]
        results.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, shape))
    proto = helper.make_graph(
        b.nodes,
        name,
        b.inputs,
        results + b.outputs,
        [numpy_helper.from_array(value, key) for key, value in b.constants.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(model: Path, folder: Path) -> dict[str, Path]:
    """Every graph of a model file as `<folder>/<graph>.onnx`.

    Args:
        model: A `.ear` file.
        folder: Made when it does not exist.

    Returns:
        Path of each graph.
    """
    file = ModelFile(model)
    header: Any = file.header
    folder.mkdir(parents=True, exist_ok=True)
    widths: dict[str, int] = {"x": int(header["features"]["num_bins"])}
    paths = {}
    # A graph's outputs are other graphs' inputs: their widths are learned on the way.
    for name in sorted(header["graphs"], key=lambda n: n not in ("encoder", "predictor")):
        proto = graph_to_onnx(name, header["graphs"][name], file.dequantise, widths=widths)
        for output in proto.graph.output:
            if output.name in header["graphs"][name]["outputs"]:
                widths[output.name] = output.type.tensor_type.shape.dim[1].dim_value
        paths[name] = folder / f"{name}.onnx"
        onnx.save(proto, paths[name])
    return paths


def quantise_dynamically(paths: dict[str, Path], folder: Path) -> dict[str, Path]:
    """The same graphs with ONNX Runtime's own dynamic int8 quantisation of weights.

    Args:
        paths: float32 graphs.
        folder: Made when it does not exist.

    Returns:
        Path of each quantised graph.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]

    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger().setLevel(logging.ERROR)  # or it advises shape inference each time
    out = {}
    for name, path in paths.items():
        out[name] = folder / f"{name}.int8.onnx"
        quantize_dynamic(
            path,
            out[name],
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "LSTM"],
            per_channel=True,
        )
    return out


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help=".ear file")
    parser.add_argument("folder", type=Path, help="where <graph>.onnx go")
    parser.add_argument("--int8", action="store_true", help="also quantise dynamically")
    options = parser.parse_args()
    paths = write_onnx(options.model, options.folder)
    if options.int8:
        paths |= {f"{k} int8": v for k, v in quantise_dynamically(paths, options.folder).items()}
    for name, path in paths.items():
        print(f"{name}: {path} ({path.stat().st_size} bytes)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
