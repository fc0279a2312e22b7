"""Opens a model in the engine and steps its graphs, one chunk at a time.

A graph is a pure function of (chunk, state): the state that comes in is left as it was, so any
point of a stream can be kept and continued from twice. Does not know what a graph is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earshot import _native
from earshot.modelfile.reader import check_readable, engine_errors

Values = npt.NDArray[np.float32] | npt.NDArray[np.int32]


def open_model(path: Path) -> _native.Model:
    """Map a model file into memory, check all of it, and bind its graphs.

    Args:
        path: A `.ear` file; it must not change while the model is in use.

    Returns:
        The engine's model; it is immutable and may be shared by threads.

    Raises:
        ModelFileError: The file is absent, not readable, or breaks a rule of the format.
    """
    check_readable(path)
    with engine_errors():
        return _native.Model(str(path))


class GraphSession:
    """Steps one graph of a model.

    Args:
        model: From `open_model`.
        graph: One of the model's graph names.

    Raises:
        ValueError: The model has no such graph.
    """

    def __init__(self, model: _native.Model, graph: str) -> None:
        if graph not in model.graph_names:
            raise ValueError(
                f"{model.name}: no graph '{graph}'; there are {', '.join(model.graph_names)}."
            )
        self._graph = model.graph(graph)

    @property
    def inputs(self) -> list[str]:
        """Names of the values that `step` takes."""
        return list(self._graph.inputs)

    @property
    def outputs(self) -> list[str]:
        """Names of the values that `step` gives."""
        return list(self._graph.outputs)

    def initial_state(self) -> _native.GraphState:
        """The state before the first chunk."""
        return self._graph.initial_state()

    def step(
        self,
        chunk: Values | Mapping[str, Values],
        state: _native.GraphState | None = None,
        *,
        flush: bool = False,
    ) -> tuple[dict[str, npt.NDArray[np.float32]], _native.GraphState]:
        """Run the graph over a chunk of frames.

        Args:
            chunk: Shape (T, W) float32, or (T,) int32 piece ids; a mapping by name where the
                graph has several inputs. T may be 0.
            state: What the step before returned; None starts anew. It is not changed.
            flush: The input ends with this chunk: give out what layers hold back.

        Returns:
            Output name to (T', W') float32, and the state after the chunk.

        Raises:
            ValueError: A shape does not fit the graph.
        """
        after = self.initial_state() if state is None else state.copy()
        named = dict(chunk) if isinstance(chunk, Mapping) else chunk
        return self._graph.step(named, after, flush), after
