"""The race with sherpa-onnx: both engines hear the same clips, and the better of theirs counts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the export needs onnx; pip install 'earshot[onnx]'")

import sherpa_race
from sherpa_race import GREEDY, Entrant, write_clips

from earshot.compress.sherpa import export_sherpa_onnx
from earshot.data.audio import read_audio
from earshot.session.recognizer import embedded_model_path

FRAMES = 32
TEXTS = ["set a timer for five minutes", "close the garage door"]


def entrant(engine: str, *, cpu_s: float, peak_mib: float, cold_s: float) -> Entrant:
    made = Entrant(engine, "C", GREEDY, [], [])
    made.cpu_s, made.peak_mib = [cpu_s] * 3, [peak_mib] * 3
    made.cold.wall_s, made.cold.cpu_s = [cold_s] * 3, [cold_s] * 3
    return made


def test_the_better_of_theirs_counts_for_each_figure_by_itself() -> None:
    found = sherpa_race._ratios(
        [
            entrant("earshot", cpu_s=1, peak_mib=10, cold_s=0.1),
            entrant("sherpa-onnx fp32", cpu_s=9, peak_mib=70, cold_s=0.3),
            entrant("sherpa-onnx int8", cpu_s=4, peak_mib=80, cold_s=0.6),
        ]
    )
    assert found == pytest.approx({"cpu": 4, "rss": 7, "cold": 3, "cold_cpu": 3})


def test_clips_are_counted_with_the_silence_that_both_hear(tmp_path: Path) -> None:
    clip = np.array([0.0, 1.0, -1.0, 2.0], np.float32)
    seconds = write_clips(tmp_path / "clips", [clip, clip[:2]], chunk_frames=4)
    data = np.frombuffer((tmp_path / "clips").read_bytes(), np.int16)
    silence = 5 * 160
    assert data[:2].view(np.uint32)[0] == 4 + silence
    np.testing.assert_array_equal(data[2:6], [0, 32767, -32767, 32767])
    assert not data[6 : 6 + silence].any()
    assert data[6 + silence :][:2].view(np.uint32)[0] == 2 + silence
    assert seconds == pytest.approx((6 + 2 * silence) / 16000)


@pytest.fixture(scope="module")
def raced(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> tuple[Path, dict[str, Path]]:
    """A folder with two clips and an export of the embedded model."""
    pytest.importorskip("sherpa_onnx", reason="the peer is sherpa-onnx; pip install sherpa-onnx")
    pytest.importorskip("onnxruntime", reason="quantising needs onnxruntime")
    folder = tmp_path_factory.mktemp("race")
    files = export_sherpa_onnx(embedded_model_path(), folder, chunk_frames=FRAMES, int8=True)
    names = ("set-a-timer-for-five-minutes", "close-the-garage-door")
    clips = [read_audio(repository / "examples" / f"{name}.flac") for name in names]
    write_clips(folder / "long", clips, chunk_frames=FRAMES)
    write_clips(folder / "short", clips[:1], chunk_frames=FRAMES)
    return folder, files


def test_the_python_hosts_hear_the_clips(raced: tuple[Path, dict[str, Path]]) -> None:
    folder, files = raced
    for runner in sherpa_race._entrants(embedded_model_path(), files, {}, python=True):
        runner.run(folder / "long", folder / "short", chunk_samples=160 * FRAMES)
        assert [t.strip() for t in runner.texts] == TEXTS
        assert 0 < runner.cpu_s[0] < 10
        assert 5 < runner.peak_mib[0] < 1000
        assert runner.cold.output.startswith(TEXTS[0])


def test_the_program_in_c_hears_the_clips(
    raced: tuple[Path, dict[str, Path]], repository: Path
) -> None:
    """Compiled against the wheel; the other half of the program needs the engine's library."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder, files = raced
    commands = sherpa_race.compile_commands(folder)
    subprocess.run(commands["sherpa-onnx"], check=True, capture_output=True)
    model = [str(files[part]) for part in ("encoder", "decoder", "joiner", "tokens")]
    program = [str(folder / "stream_race.sherpa-onnx")]
    runner = Entrant("sherpa-onnx fp32", "C", GREEDY, program, model)
    runner.run(folder / "long", folder / "short", chunk_samples=160 * FRAMES)
    assert [t.strip() for t in runner.texts] == TEXTS
