"""Impulse responses of simulated rooms, for reverberation while training.

Shoebox rooms by the image-source method of pyroomacoustics: random size, wall absorption for a
wanted reverberation time, one talker, one microphone. Every response starts at its direct path,
whose energy is one, so that convolving neither delays nor rescales the near sound.
Knows nothing of speech or noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.atomic import replaced_file
from earshot.train.cuts import write_json

__all__ = ["RoomsConfig", "prepare", "simulate"]

Samples = npt.NDArray[np.float32]
_DIRECT_S = 0.0025  # the direct path: from its onset this long


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsConfig:
    """How many rooms, and their ranges."""

    count: int = 300
    t60_s: tuple[float, float] = (0.1, 0.7)
    distance_m: tuple[float, float] = (0.3, 4.0)
    longest_s: float = 0.4
    most_reflections: int = 24  # image-source order; the echo beyond is 0.4 s away in most rooms

    def __post_init__(self) -> None:
        for name in ("t60_s", "distance_m"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"rooms.{name} is ({low}, {high}); it must be a positive range")


def _place(
    rng: np.random.Generator, size: npt.NDArray[np.float64], config: RoomsConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Talker and microphone inside the room at an allowed distance, or None."""
    margin = 0.2
    low, high = np.log(config.distance_m)
    distance = float(np.exp(rng.uniform(low, high)))
    for _ in range(30):
        microphone = rng.uniform(margin, size - margin)
        microphone[2] = rng.uniform(0.5, min(1.8, size[2] - margin))
        angle, rise = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.4)
        step = np.array([np.cos(angle) * np.cos(rise), np.sin(angle) * np.cos(rise), np.sin(rise)])
        talker = microphone + distance * step
        if np.all(talker > margin) and np.all(talker < size - margin):
            return talker, microphone
    return None


def simulate(rng: np.random.Generator, config: RoomsConfig | None = None) -> Samples:
    """One random room's impulse response at 16 kHz.

    Args:
        rng: Of size, reverberation time and places.
        config: Ranges.

    Returns:
        Shape (N,), at most `longest_s` long; sample 0 is the onset of the direct path, and the
        first 2.5 ms have an energy of one.

    Raises:
        ImportError: pyroomacoustics is missing.

    Source:
        Allen and Berkley, "Image method for efficiently simulating small-room acoustics",
        J. Acoust. Soc. Am. 65(4), 1979.
    """
    try:
        import pyroomacoustics as pra
    except ImportError as err:
        raise ImportError(
            "rooms: pyroomacoustics is not installed; it simulates the rooms. "
            "Install the extra: pip install 'earshot[train]'"
        ) from err
    config = config or RoomsConfig()
    while True:
        size = np.array([rng.uniform(2.0, 9.0), rng.uniform(2.0, 7.0), rng.uniform(2.2, 3.6)])
        t60 = float(rng.uniform(*config.t60_s))
        places = _place(rng, size, config)
        if places is None:
            continue
        try:
            absorption, order = pra.inverse_sabine(t60, size)
        except ValueError:
            continue  # so large a room cannot be so dry
        break
    room = pra.ShoeBox(
        size,
        fs=SAMPLE_RATE_HZ,
        materials=pra.Material(absorption),
        max_order=min(int(order), config.most_reflections),
    )
    room.add_source(places[0])
    room.add_microphone(places[1])
    room.compute_rir()
    response = np.asarray(room.rir[0][0], dtype=np.float64)
    # The interpolation filter rings a little before the peak of the direct path.
    direct = int(np.linalg.norm(places[0] - places[1]) / pra.constants.get("c") * SAMPLE_RATE_HZ)
    near = response[: direct + 120]
    onset = max(0, int(np.abs(near).argmax()) - 2)
    response = response[onset : onset + int(config.longest_s * SAMPLE_RATE_HZ)]
    energy = float(np.sum(np.square(response[: int(_DIRECT_S * SAMPLE_RATE_HZ)])))
    # Faded at the cut, so that the end of the echo is no click.
    fade = min(response.size // 4, SAMPLE_RATE_HZ // 50)
    response[response.size - fade :] *= np.linspace(1, 0, fade)
    return np.asarray(response / np.sqrt(energy), dtype=np.float32)


def prepare(
    out_dir: Path,
    *,
    seed: int,
    config: RoomsConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write `rooms/rirs.npz`, one array per room, unless it is there.

    Args:
        out_dir: Experiment folder.
        seed: Of all rooms; room n depends on nothing else.
        config: Count and ranges.
        progress: Called with (rooms done, rooms).

    Returns:
        Number of rooms.
    """
    config = config or RoomsConfig()
    folder = out_dir / "rooms"
    path, summary_path = folder / "rirs.npz", folder / "summary.json"
    settings = json.loads(json.dumps({"seed": seed, **asdict(config)}))
    known = json.loads(summary_path.read_text()) if summary_path.is_file() else None
    if path.is_file() and known == settings:
        return config.count
    responses: dict[str, Any] = {}
    for n in range(config.count):
        responses[f"room_{n:04d}"] = simulate(np.random.default_rng((seed, n)), config)
        if progress is not None:
            progress(n + 1, config.count)
    folder.mkdir(parents=True, exist_ok=True)
    summary_path.unlink(missing_ok=True)  # of the responses that are about to go
    with replaced_file(path) as out:
        np.savez(out, **responses)
    write_json(settings, summary_path)
    return config.count
