"""How a torch module says what it is, in the vocabulary of `.ear` graphs.

A network is data: a list of nodes in single-assignment form and the tensors they
read (docs/formats/ear.md, section 4). Modules append to a `GraphBuilder`; the exporter
decides codecs and writes the file. Knows nothing of files or codecs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Role = Literal["vector", "table", "matrix"]


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """One tensor of a graph. A `matrix` or `table` may be quantised; a `vector` stays float32.

    Where `value` is not a parameter itself but its rows in another order, `source` is the
    parameter, `arrange` puts its rows, or anything with one entry a row, into that order, and
    `restore` undoes it.
    """

    value: Tensor
    role: Role
    restore: Callable[[Tensor], None] | None = None  # by default: copy into `value`
    source: Tensor | None = None
    arrange: Callable[[Tensor], Tensor] | None = None

    def load(self, value: Tensor) -> None:
        """Put a value back where this one came from, a parameter or buffer of the module.

        Args:
            value: Same shape.
        """
        (self.restore or self.value.copy_)(value)


@dataclass(slots=True)
class GraphBuilder:
    """Collects the nodes and tensors of one graph, in evaluation order."""

    name: str
    inputs: list[str]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, GraphTensor] = field(default_factory=dict)

    def node(
        self,
        op: str,
        inputs: list[str],
        *,
        out: str | None = None,
        tensors: dict[str, GraphTensor] | None = None,
        **attributes: Any,
    ) -> str:
        """Append one node and return the name of the value it defines.

        Args:
            op: An op of docs/formats/ear.md, section 4.
            inputs: Values read, defined above.
            out: Name of the result; by default `<op><index>`.
            tensors: Role to tensor; each is stored as `<graph>.<out>.<role>`.
            **attributes: Op attributes, written as they are.

        Returns:
            The value's name.
        """
        value = out if out is not None else f"{op}{len(self.nodes)}"
        node: dict[str, Any] = {"op": op, "in": inputs, "out": value, **attributes}
        if tensors:
            node["tensors"] = {}
            for role, tensor in tensors.items():
                name = f"{self.name}.{value}.{role}"
                self.tensors[name] = tensor
                node["tensors"][role] = name
        self.nodes.append(node)
        return value

    def linear(self, x: str, layer: torch.nn.Linear, *, out: str | None = None) -> str:
        """Append a `linear` node for a torch layer."""
        tensors = {"weight": GraphTensor(layer.weight.detach(), "matrix")}
        if layer.bias is not None:
            tensors["bias"] = GraphTensor(layer.bias.detach(), "vector")
        return self.node("linear", [x], out=out, tensors=tensors)

    def as_json(self, outputs: list[str]) -> dict[str, Any]:
        """The graph as the `.ear` header holds it."""
        return {"inputs": self.inputs, "outputs": outputs, "nodes": self.nodes}
