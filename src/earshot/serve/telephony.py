"""G.711: telephone sound in eight bits a sample, as tables of 256 int16 values.

Source: ITU-T Recommendation G.711 (1988), tables 1a to 2b.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int16 = npt.NDArray[np.int16]


def _mulaw_table() -> Int16:
    code = ~np.arange(256, dtype=np.uint8)  # bits are sent inverted
    exponent, mantissa = (code >> 4) & 7, code & 15
    magnitude = (((mantissa.astype(np.int32) << 3) + 132) << exponent) - 132
    return np.where(code & 128, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> Int16:
    code = np.arange(256, dtype=np.uint8) ^ 0x55  # every second bit is sent inverted
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    magnitude = np.where(
        exponent == 0,
        (mantissa << 4) + 8,
        ((mantissa << 4) + 264) << np.maximum(exponent.astype(np.int32) - 1, 0),
    )
    return np.where(code & 128, magnitude, -magnitude).astype(np.int16)


_MULAW, _ALAW = _mulaw_table(), _alaw_table()


def decode_mulaw(data: Bytes) -> Int16:
    """Mu-law (North America, Japan) as int16.

    Args:
        data: Shape (n,).

    Returns:
        Shape (n,), full scale 32,124.
    """
    return _MULAW[data]


def decode_alaw(data: Bytes) -> Int16:
    """A-law (elsewhere) as int16.

    Args:
        data: Shape (n,).

    Returns:
        Shape (n,), full scale 32,256.
    """
    return _ALAW[data]
