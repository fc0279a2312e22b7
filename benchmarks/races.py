"""Things timed in turns over the same audio, so that whatever disturbs one disturbs all.

Knows nothing of what runs; `rtf.py` and `grammar_size.py` say that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from speech_sets import REAL_SETS, SAMPLE_RATE_HZ, SetMissing, read_clip

ROOT = Path(__file__).resolve().parents[1]

Array = npt.NDArray[np.float32]


@dataclass(slots=True)
class Contestant:
    """Something that goes over all of the audio, and how long that took each time."""

    name: str
    part: str  # "recogniser" or "encoder"
    run: Callable[[], None]
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def row(self, audio_s: float) -> dict[str, Any]:
        """Real-time factors, as they go into the JSON object."""
        wall, cpu = np.array(self.wall_s) / audio_s, np.array(self.cpu_s) / audio_s
        return {
            "part": self.part,
            "contestant": self.name,
            "rounds": len(wall),
            "rtf_median": float(np.median(wall)),
            "rtf_p10": float(np.percentile(wall, 10)),
            "cpu_rtf_median": float(np.median(cpu)),
            "cpu_rtf_p10": float(np.percentile(cpu, 10)),
        }


def race(contestants: Sequence[Contestant], *, rounds: int) -> None:
    """Lets everybody run once unmeasured, then `rounds` times in turns."""
    for contestant in contestants:
        contestant.run()
    for number in range(rounds):
        for turn in range(len(contestants)):
            contestant = contestants[(turn + number) % len(contestants)]
            wall, cpu = time.perf_counter(), time.process_time()
            contestant.run()
            contestant.cpu_s.append(time.process_time() - cpu)
            contestant.wall_s.append(time.perf_counter() - wall)


def test_audio(data: Path, *, seconds: float) -> tuple[list[Array], str]:
    """Speech to run over: LibriSpeech test rows, or the shipped examples where there are none."""
    try:
        clips = [clip.read() for clip in REAL_SETS["librispeech"](data, ["test"]).clips[:40]]
        source = "LibriSpeech dev-clean half, test rows"
    except SetMissing:
        clips = [read_clip(path) for path in sorted((ROOT / "examples").glob("*.flac"))]
        source = "examples/*.flac"
    chosen: list[Array] = []
    while sum(map(len, chosen)) < seconds * SAMPLE_RATE_HZ:
        chosen.append(clips[len(chosen) % len(clips)])
    return chosen, source
