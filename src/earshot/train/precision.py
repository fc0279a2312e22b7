"""In which numbers to train: bfloat16 where the machine is faster with them, float32 elsewhere.

A CPU without such instructions emulates them, sixteen times slower than float32 (CHANGELOG.md). One
with AVX512-BF16 and no AMX has them and is no faster: it took twice as long. So they are timed.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import Literal

import torch
from torch import nn

from earshot.models.lstm import run_lstm

__all__ = ["Precision", "usual_precision"]

logger = logging.getLogger(__name__)

_MUCH_FASTER = 0.9  # of float32's time: a stopwatch must not decide what is nearly equal

Precision = Literal["auto", "bf16-mixed", "16-mixed", "32-true"]


def usual_precision(
    precision: Precision, *, accelerator: str = "cpu"
) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    """The precision to train in on this machine, with as many threads as torch has now.

    Args:
        precision: Of a recipe; all but `auto` stay as they are. `auto` times both, once a process.
        accelerator: Of a recipe, as Lightning calls it; `auto` takes a GPU that there is.

    Returns:
        As Lightning names it; `16-mixed` only where it was asked for.
    """
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        )
    faster = _cpu_multiplies_bf16() and _bf16_is_faster(torch.get_num_threads())
    return "bf16-mixed" if faster else "32-true"


def _cpu_multiplies_bf16() -> bool:
    """Whether the CPU has AVX512-BF16 or AMX, as far as this torch can tell."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        asked = getattr(torch.cpu, name, None)
        if asked is not None and asked():
            return True
    return False


@functools.cache
def _bf16_is_faster(threads: int) -> bool:
    """Whether a small training step takes clearly less time in bfloat16, with that many threads."""
    with torch.random.fork_rng(devices=[]):  # being timed draws nothing from the run's seed
        for dtype in (torch.bfloat16, torch.float32):  # the first of a kind compiles
            _step_seconds(dtype)
        bf16, f32 = (
            min(_step_seconds(dtype) for _ in range(3)) for dtype in (torch.bfloat16, torch.float32)
        )
    logger.info("a step with %d threads: %.4f s in bfloat16, %.4f in float32", threads, bf16, f32)
    return bf16 < _MUCH_FASTER * f32


def _step_seconds(dtype: torch.dtype) -> float:
    """Seconds of one LSTM layer forward and backward, its products in `dtype`."""
    frames, batch, width = 40, 16, 320
    lstm = nn.LSTM(width, width)
    x, start = torch.randn(frames, batch, width, requires_grad=True), torch.zeros(1, batch, width)
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out, _, _ = run_lstm(lstm, x, (start, start))
    out.float().square().sum().backward()
    return time.perf_counter() - began
