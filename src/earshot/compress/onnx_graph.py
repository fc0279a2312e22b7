"""Turns the graphs of a `.ear` file into ONNX operators.

Every op of docs/formats/ear.md is known, gates (`when`) excepted; quantised weights become the
float32 values that they stand for. Values are laid out (frames, streams, width), so that layers
follow each other without transposing; only `lstm`, `stack`, `conv1d` and `embedding` care which
axis is time. State leaves and enters as vectors, for the caller to arrange: nothing here knows
what a recogniser or a file layout is. Needs the package `onnx`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from earshot.core.errors import ModelFileError
from earshot.modelfile.codecs import ROW_BLOCK

OPSET = 17
IR_VERSION = 8  # what runtimes of 2022 and later read
FAR = 2**31 - 1  # a slice's end when there is none

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StateVector:
    """What one node remembers: value `name` comes in, `<name>.next` goes out, (1, N, width)."""

    name: str
    width: int
    is_cell: bool = False  # the cell of an lstm


def onnx_gates(blocks: Array) -> Array:
    """The rows of an lstm as whole gates i, o, f, g, the order of ONNX.

    Args:
        blocks: Shape (4H, ...), rows `[unit block of 16][gate i, f, g, o][16 units]`.

    Returns:
        Same shape.
    """
    rest = blocks.shape[1:]
    gates = blocks.reshape(-1, 4, ROW_BLOCK, *rest).swapaxes(0, 1).reshape(4, -1, *rest)
    return np.ascontiguousarray(gates[[0, 3, 1, 2]].reshape(blocks.shape))


@dataclass(slots=True)
class GraphWriter:
    """Collects the nodes and constants of one ONNX model, in evaluation order.

    Args:
        path: The model file, for messages.
        tensor: Gives a tensor's float32 values by name.
        widths: Width of every value that is there at the start.
    """

    path: Path
    tensor: Callable[[str], Array]
    widths: dict[str, int]
    states: list[StateVector] = field(default_factory=list)
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def emit(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str] | str, **attributes: Any
    ) -> str:
        """Append one ONNX operator; return the name of its first output."""
        return self._insert(len(self._nodes), op, inputs, outputs, attributes)

    def emit_first(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str] | str, **attributes: Any
    ) -> str:
        """Like `emit`, before everything else: what it reads must be inputs or constants."""
        return self._insert(0, op, inputs, outputs, attributes)

    def _insert(
        self,
        place: int,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | str,
        attributes: Mapping[str, Any],
    ) -> str:
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self._nodes.insert(place, helper.make_node(op, list(inputs), names, **attributes))
        return names[0]

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Keep a constant under a name."""
        self._constants[name] = value
        return name

    def ints(self, *values: int) -> str:
        """A constant of whole numbers; equal ones are kept once."""
        name = "ints:" + ",".join(map(str, values))
        return self.constant(name, np.array(values, dtype=np.int64))

    def add_graph(self, name: str, graph: Mapping[str, Any], *, outputs: Sequence[str]) -> None:
        """Append what some outputs of a graph need.

        Args:
            name: The graph's name.
            graph: The graph as the header holds it. A value `v` of it is `<name>/v` here, and
                its inputs are there already.
            outputs: Outputs of the graph.

        Raises:
            ModelFileError: A node is gated, or has an op that ONNX gets no translation of.
        """
        needed = set(outputs)
        for node in reversed(graph["nodes"]):
            if node["out"] in needed:
                needed.update(node["in"])
        for node in graph["nodes"]:
            if node["out"] not in needed:
                continue
            if "when" in node or node["op"] not in _OPS:
                what = "a gate" if "when" in node else f"the op {node['op']!r}"
                raise ModelFileError(
                    self.path,
                    f"node {node['out']!r} of graph {name!r} has {what}, which is not translated "
                    "to ONNX",
                    remedy=f"Export a model of ungated {', '.join(sorted(_OPS))}",
                )
            values = {"in": [f"{name}/{v}" for v in node["in"]], "out": f"{name}/{node['out']}"}
            self.widths[f"{name}/{node['out']}"] = _OPS[node["op"]](self, node | values)

    def model(
        self,
        name: str,
        *,
        inputs: Mapping[str, tuple[int, Sequence[int | str]]],
        outputs: Mapping[str, Sequence[int | str]],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """What was collected, as a checked model.

        Args:
            name: Name of the ONNX graph.
            inputs: Element type and shape of every input, in order; axes that may vary by name.
            outputs: Shape of every output, float32, in order.
            metadata: Kept beside the graph.

        Returns:
            The model.
        """
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(key, *spec) for key, spec in inputs.items()],
            [
                helper.make_tensor_value_info(key, TensorProto.FLOAT, shape)
                for key, shape in outputs.items()
            ],
            [numpy_helper.from_array(value, key) for key, value in self._constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="earshot",
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

    def role(self, node: Mapping[str, Any], role: str) -> str:
        """One of a node's tensors, as a constant as it is."""
        return self.constant(f"{node['out']}.{role}", self.tensor(node["tensors"][role]))

    def remember(self, name: str, width: int, *, is_cell: bool = False) -> tuple[str, str]:
        """Declare state; return its names before and after the step."""
        self.states.append(StateVector(name, width, is_cell))
        return name, f"{name}.next"


def _normalize(w: GraphWriter, node: Mapping[str, Any]) -> int:
    (x,), out = node["in"], node["out"]
    w.emit("Sub", [x, w.role(node, "mean")], f"{out}.centred")
    w.emit("Mul", [f"{out}.centred", w.role(node, "inv_std")], out)
    return w.widths[x]


def _stack(w: GraphWriter, node: Mapping[str, Any]) -> int:
    (x,), out = node["in"], node["out"]
    width = w.widths[x] * int(node["factor"])
    w.emit("Transpose", [x], f"{out}.by_stream", perm=[1, 0, 2])
    w.emit("Reshape", [f"{out}.by_stream", w.ints(0, -1, width)], f"{out}.joined")
    w.emit("Transpose", [f"{out}.joined"], out, perm=[1, 0, 2])
    return width


def _linear(w: GraphWriter, node: Mapping[str, Any]) -> int:
    (x,), out = node["in"], node["out"]
    weight = np.ascontiguousarray(w.tensor(node["tensors"]["weight"]).T)
    w.constant(f"{out}.weight", weight)
    biased = "bias" in node["tensors"]
    w.emit("MatMul", [x, f"{out}.weight"], f"{out}.product" if biased else out)
    if biased:
        w.emit("Add", [f"{out}.product", w.role(node, "bias")], out)
    return int(weight.shape[1])


def _lstm(w: GraphWriter, node: Mapping[str, Any]) -> int:
    (x,), out, hidden = node["in"], node["out"], int(node["hidden"])
    gates = {role: onnx_gates(w.tensor(name)) for role, name in node["tensors"].items()}
    bias = np.concatenate([gates["bias"], np.zeros_like(gates["bias"])])  # ONNX adds two
    weights = [
        w.constant(f"{out}.weight_x", gates["weight_x"][None]),
        w.constant(f"{out}.weight_h", gates["weight_h"][None]),
        w.constant(f"{out}.bias", bias[None]),
    ]
    h, next_h = w.remember(f"{out}.h", hidden)
    c, next_c = w.remember(f"{out}.c", hidden, is_cell=True)
    results = [f"{out}.directions", next_h, next_c]
    w.emit("LSTM", [x, *weights, "", h, c], results, hidden_size=hidden)
    w.emit("Squeeze", [f"{out}.directions", w.ints(1)], out)
    return hidden


def _layer_norm(w: GraphWriter, node: Mapping[str, Any]) -> int:
    (x,), scales = node["in"], [w.role(node, "gamma"), w.role(node, "beta")]
    epsilon = float(node["eps"])
    w.emit("LayerNormalization", [x, *scales], node["out"], axis=-1, epsilon=epsilon)
    return w.widths[x]


def _rms_norm(w: GraphWriter, node: Mapping[str, Any]) -> int:
    (x,), out = node["in"], node["out"]
    w.emit("Mul", [x, x], f"{out}.squares")
    w.emit("ReduceMean", [f"{out}.squares"], f"{out}.power", axes=[-1], keepdims=1)
    w.constant(f"{out}.eps", np.array([node["eps"]], dtype=np.float32))
    w.emit("Add", [f"{out}.power", f"{out}.eps"], f"{out}.safe")
    w.emit("Sqrt", [f"{out}.safe"], f"{out}.root")
    w.emit("Div", [x, f"{out}.root"], f"{out}.unit")
    w.emit("Mul", [f"{out}.unit", w.role(node, "gamma")], out)
    return w.widths[x]


def _embedding(w: GraphWriter, node: Mapping[str, Any]) -> int:
    (y,), out = node["in"], node["out"]
    table = w.tensor(node["tensors"]["table"])
    # An id below 0 gives zeros: a row of zeros stands first, and all ids move up by one.
    w.constant(f"{out}.table", np.concatenate([np.zeros_like(table[:1]), table]))
    lowest, one = np.array(-1, dtype=np.int64), np.array(1, dtype=np.int64)
    w.emit("Max", [y, w.constant(f"{out}.lowest", lowest)], f"{out}.clipped")
    w.emit("Add", [f"{out}.clipped", w.constant(f"{out}.one", one)], f"{out}.rows")
    w.emit("Gather", [f"{out}.table", f"{out}.rows"], out, axis=0)
    return int(table.shape[1])


def _conv1d(w: GraphWriter, node: Mapping[str, Any]) -> int:
    (x,), out = node["in"], node["out"]
    kernel, dilation, width = int(node["kernel"]), int(node["dilation"]), w.widths[x]
    weight = w.tensor(node["tensors"]["weight"])
    depthwise = weight.shape == (width, kernel) and width > 1
    if depthwise:
        taps = weight[:, None, :]  # (W, 1, kernel)
    else:
        taps = weight.reshape(len(weight), kernel, width).swapaxes(1, 2)  # (M, W, kernel)
    w.emit("Transpose", [x], f"{out}.columns", perm=[1, 2, 0])  # (N, W, T)
    source, held = f"{out}.columns", (kernel - 1) * dilation
    if node["padding"] == "causal" and held > 0:
        past, following = w.remember(f"{out}.past", width * held)
        w.emit("Reshape", [past, w.ints(-1, width, held)], f"{out}.before")
        w.emit("Concat", [f"{out}.before", source], f"{out}.joined", axis=2)
        source = f"{out}.joined"
        w.emit("Slice", [source, w.ints(-held), w.ints(FAR), w.ints(2)], f"{out}.kept")
        w.emit("Reshape", [f"{out}.kept", w.ints(1, -1, width * held)], following)
    inputs = [source, w.constant(f"{out}.taps", np.ascontiguousarray(taps))]
    if "bias" in node["tensors"]:
        inputs.append(w.role(node, "bias"))
    group = width if depthwise else 1
    w.emit("Conv", inputs, f"{out}.convolved", dilations=[dilation], group=group)
    w.emit("Transpose", [f"{out}.convolved"], out, perm=[2, 0, 1])
    return len(weight)


def _elementwise(op: str, **attributes: Any) -> Callable[[GraphWriter, Mapping[str, Any]], int]:
    def translate(w: GraphWriter, node: Mapping[str, Any]) -> int:
        w.emit(op, node["in"], node["out"], **attributes)
        return w.widths[node["in"][0]]

    return translate


_OPS: dict[str, Callable[[GraphWriter, Mapping[str, Any]], int]] = {
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
