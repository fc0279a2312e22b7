"""In which numbers to train: bfloat16 where the machine multiplies them, float32 elsewhere.

A CPU without such instructions emulates them, sixteen times slower than float32 (CHANGELOG.md).
"""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["Precision", "usual_precision"]

Precision = Literal["auto", "bf16-mixed", "16-mixed", "32-true"]


def usual_precision(
    precision: Precision, *, accelerator: str = "cpu"
) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    """The precision to train in on this machine.

    Args:
        precision: Of a recipe; all but `auto` stay as they are.
        accelerator: Of a recipe, as Lightning calls it; `auto` takes a GPU that there is.
    """
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        )
    return "bf16-mixed" if _cpu_multiplies_bf16() else "32-true"


def _cpu_multiplies_bf16() -> bool:
    """Whether the CPU has AVX512-BF16 or AMX, as far as this torch can tell."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        asked = getattr(torch.cpu, name, None)
        if asked is not None and asked():
            return True
    return False
