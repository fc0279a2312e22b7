"""ONNX Runtime running the graphs of a `.ear` file: the other engine of the speed benchmark.

One thread, sequential execution, no spinning. Features are Earshot's own, so that only the
networks differ. The search is a plain greedy loop in Python: it shows that the same tokens
come out, and its time is named for what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

__all__ = ["OnnxEncoder", "OnnxGreedy", "one_thread_session"]

Array = npt.NDArray[np.float32]
STACK = 4


def one_thread_session(path: Path) -> Any:
    """A session that uses one core and does not wait for work in a loop."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OnnxEncoder:
    """The encoder with its state kept outside, as the graph wants it."""

    def __init__(self, path: Path) -> None:
        self._session = one_thread_session(path)
        self._states = [i for i in self._session.get_inputs() if i.name != "x"]
        self._outputs = ["encoder_out", *(f"new_{i.name}" for i in self._states)]

    def initial_state(self) -> list[Array]:
        """Zeros for both state inputs, for one stream."""
        return [np.zeros((1, 1, i.shape[2]), dtype=np.float32) for i in self._states]

    def step(self, frames: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        """Runs whole stacks of frames.

        Args:
            frames: Shape (T, bins), T a multiple of 4.
            state: From `initial_state` or the step before.
        """
        feed = {"x": frames[None]} | {i.name: s for i, s in zip(self._states, state, strict=True)}
        out, *following = self._session.run(self._outputs, feed)
        return out[0], following

    def whole(self, frames: Array) -> Array:
        """All frames in one call; the last one is repeated to fill the last stack."""
        short = -len(frames) % STACK
        filled = np.concatenate([frames, np.repeat(frames[-1:], short, axis=0)])
        return self.step(filled, self.initial_state())[0]

    def in_chunks(self, frames: Array, *, chunk_frames: int) -> Array:
        """The same in chunks, as frames come in; what does not fill a stack waits."""
        state, held, parts = self.initial_state(), frames[:0], []
        for start in range(0, len(frames), chunk_frames):
            held = np.concatenate([held, frames[start : start + chunk_frames]])
            ready = len(held) // STACK * STACK
            if ready:
                out, state = self.step(held[:ready], state)
                parts.append(out)
                held = held[ready:]
        if len(held):
            held = np.concatenate([held, np.repeat(held[-1:], STACK - len(held), axis=0)])
            parts.append(self.step(held, state)[0])
        return np.concatenate(parts)


@dataclass(slots=True)
class OnnxGreedy:
    """Greedy search over ONNX graphs, for a stateless predictor.

    Args:
        encoder: The encoder.
        predictor: Session of the predictor, `decoder.onnx`.
        joiner: Session of the joiner.
        search: The `search` object of the model's header.
    """

    encoder: OnnxEncoder
    predictor: Any
    joiner: Any
    search: dict[str, Any]

    def __post_init__(self) -> None:
        if self.search["predictor"] != "stateless":
            raise ValueError(
                f"predictor is {self.search['predictor']!r}; this loop runs stateless ones only"
            )

    def _predict(self, context: list[int]) -> Array:
        feed = {"y": np.array([context], dtype=np.int64)}
        out: Array = self.predictor.run(["decoder_out"], feed)[0]
        return out

    def tokens(self, encoder_out: Array) -> list[int]:
        """The best piece of every frame, blanks left out.

        Args:
            encoder_out: Shape (T, J).
        """
        blank, size = self.search["blank_id"], self.search["context_size"]
        context = [-1] * (size - 1) + [blank]
        predicted = self._predict(context)
        found: list[int] = []
        for frame in encoder_out:
            for _ in range(self.search["max_symbols_per_frame"]):
                feed = {"encoder_out": frame[None], "decoder_out": predicted}
                best = int(self.joiner.run(["logit"], feed)[0].argmax())
                if best == blank:
                    break
                found.append(best)
                context = [*context[1:], best]
                predicted = self._predict(context)
        return found
