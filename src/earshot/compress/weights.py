"""Which parameters of a network are matrices of its model file, and under what names.

The exporter names tensors by graph and node, torch by module; compression speaks of the file's
names and acts on torch's parameters. Knows nothing of what is done to the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from earshot.models.graph import Role
from earshot.models.transducer import Transducer

__all__ = ["Weight", "is_named", "list_weights"]


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter that a model file holds as a matrix, a table or a vector.

    Args:
        name: The tensor's name in the file.
        path: The parameter's name in the module.
        role: A matrix multiplies, a table is looked up, a vector stays float32.
        arrange: Puts rows into the file's order; None where they are in it.
    """

    name: str
    path: str
    role: Role
    arrange: Callable[[Tensor], Tensor] | None

    def of(self, model: Transducer) -> Tensor:
        """The parameter of a network of this shape, to change in place."""
        return model.get_parameter(self.path)

    def in_file_order(self, rows: Tensor) -> Tensor:
        """Anything with one entry a row of the parameter, in the order of the file's rows."""
        return rows if self.arrange is None else self.arrange(rows)


def list_weights(model: Transducer) -> list[Weight]:
    """The parameters that are tensors of the model file, in the file's order.

    Biases of an LSTM are not among them: the file holds their sum.

    Args:
        model: Any transducer.

    Returns:
        Matrices, tables and vectors.
    """
    _, tensors = model.graphs()
    paths = {parameter.data_ptr(): path for path, parameter in model.named_parameters()}
    found = []
    for name, tensor in tensors.items():
        source = tensor.value if tensor.source is None else tensor.source
        path = paths.get(source.data_ptr())
        if path is not None:
            found.append(Weight(name, path, tensor.role, tensor.arrange))
    return found


def is_named(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a tensor's name fits one of the patterns, as file names fit `*` and `?`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
