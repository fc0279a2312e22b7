"""Memory of the whole command does not grow with the length of a recording."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE_HZ = 16000
MAX_GROWTH_BYTES = 30 * 1024 * 1024


def write_recording(path: Path, clips: list[np.ndarray], *, seconds: float) -> None:
    """Clips and pauses in random order, as FLAC, written piece by piece."""
    rng = np.random.default_rng(4)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1) as file:
        while file.frames < seconds * RATE_HZ:
            file.write(clips[rng.integers(len(clips))])
            pause = rng.normal(0, 1e-3, int(rng.uniform(0.2, 3.0) * RATE_HZ))
            file.write(pause.astype(np.float32))


def peak_bytes(path: Path, output: Path) -> int:
    """Largest resident size of an `earshot transcribe` process."""
    arguments = ["-m", "earshot.cli", "transcribe", "--json", "-o", str(output), str(path)]
    child = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)
    _, status, usage = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
def test_two_hours_need_no_more_memory_than_a_minute(repository: Path, tmp_path: Path) -> None:
    clips = [
        soundfile.read(path, dtype="float32")[0]
        for path in sorted((repository / "examples").glob("*.flac"))
    ]
    peaks = []
    for name, seconds in (("minute", 60.0), ("hours", 7200.0)):
        recording, output = tmp_path / f"{name}.flac", tmp_path / f"{name}.json"
        write_recording(recording, clips, seconds=seconds)
        peaks.append(peak_bytes(recording, output))
        recording.unlink()
        assert output.stat().st_size > 100
    assert peaks[1] - peaks[0] < MAX_GROWTH_BYTES, [peak // 2**20 for peak in peaks]
