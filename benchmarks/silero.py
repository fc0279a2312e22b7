"""Silero VAD as an end-pointer: silence of some length after speech ends the utterance.

The network is that which pipecat-ai ships, run by onnxruntime as its own code does: windows of 512
samples with 64 before them. Speech begins above 0.5, and is silence again below 0.35.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["SileroMissing", "SileroVad", "first_end_s"]

WINDOW, CONTEXT, RATE_HZ = 512, 64, 16_000
BEGINS, ENDS = 0.5, 0.35


class SileroMissing(Exception):
    """Neither onnxruntime nor the network is there."""


def _network() -> Path:
    """The ONNX file: SILERO_VAD names it, or an installed pipecat-ai has it."""
    named = os.environ.get("SILERO_VAD")
    if named:
        path = Path(named)
    else:
        found = importlib.util.find_spec("pipecat")
        if found is None or not found.submodule_search_locations:
            raise SileroMissing("pipecat-ai is not installed, and SILERO_VAD names no file")
        path = Path(found.submodule_search_locations[0]) / "audio/vad/data/silero_vad.onnx"
    if not path.is_file():
        raise SileroMissing(f"{path} does not exist")
    return path


class SileroVad:
    """The network; every clip begins with a clean state."""

    def __init__(self) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise SileroMissing("onnxruntime is not installed") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(_network()), options, providers=["CPUExecutionProvider"]
        )

    def speech(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Probability of speech in each whole window of 32 ms."""
        state = np.zeros((2, 1, 128), np.float32)
        context = np.zeros(CONTEXT, np.float32)
        out = []
        for at in range(0, len(samples) - WINDOW + 1, WINDOW):
            window = np.concatenate([context, samples[at : at + WINDOW]])
            probability, state = self._session.run(
                None, {"input": window[None], "state": state, "sr": np.array(RATE_HZ, np.int64)}
            )
            context = window[-CONTEXT:]
            out.append(float(probability[0, 0]))
        return np.asarray(out)


def first_end_s(speech: npt.NDArray[np.float64], *, silence_s: float) -> float | None:
    """When the first utterance is ended: after so much silence behind speech.

    Args:
        speech: From `SileroVad.speech`.
        silence_s: How much, seconds.

    Returns:
        Seconds; None if it is not.
    """
    spoken, quiet_since = False, None
    for n, probability in enumerate(speech):
        if probability >= BEGINS:
            spoken, quiet_since = True, None
        elif spoken and quiet_since is None and probability < ENDS:
            quiet_since = n
        if quiet_since is not None and (n + 1 - quiet_since) * WINDOW >= silence_s * RATE_HZ - 1e-6:
            return (n + 1) * WINDOW / RATE_HZ
    return None
