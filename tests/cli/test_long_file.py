"""Memory of the whole command does not grow with the length of a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.child_memory import child_figures

RATE_HZ = 16000
MAX_GROWTH_KIB = 30 * 1024


def write_recording(path: Path, clips: list[np.ndarray], *, seconds: float) -> None:
    """Clips and pauses in random order, as FLAC, written piece by piece."""
    rng = np.random.default_rng(4)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1) as file:
        while file.frames < seconds * RATE_HZ:
            file.write(clips[rng.integers(len(clips))])
            pause = rng.normal(0, 1e-3, int(rng.uniform(0.2, 3.0) * RATE_HZ))
            file.write(pause.astype(np.float32))


COMMAND = """
from earshot.cli.app import main
sys.argv = ["earshot", "transcribe", "--json", "-o", sys.argv[2], sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(peak_kib())
"""
KEEPS_THE_AUDIO = """
from earshot.data.audio import read_audio
kept = read_audio(sys.argv[1])
print(peak_kib())
"""


@pytest.mark.slow
def test_two_hours_need_no_more_memory_than_a_minute(repository: Path, tmp_path: Path) -> None:
    clips = [
        soundfile.read(path, dtype="float32")[0]
        for path in sorted((repository / "examples").glob("*.flac"))
    ]
    peaks, kept = [], []
    for name, seconds in (("minute", 60.0), ("hours", 7200.0)):
        recording, output = tmp_path / f"{name}.flac", tmp_path / f"{name}.json"
        write_recording(recording, clips, seconds=seconds)
        peaks += child_figures(COMMAND, recording, output)
        kept += child_figures(KEEPS_THE_AUDIO, recording)
        recording.unlink()
        assert output.stat().st_size > 100
    assert peaks[1] - peaks[0] < MAX_GROWTH_KIB, peaks
    # The measure would notice: two hours are 460 MB of samples.
    assert kept[1] - kept[0] > 10 * MAX_GROWTH_KIB, kept
