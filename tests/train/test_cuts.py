"""Clips and manifests on disk: what is written is what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from earshot.train import cuts


def test_waveforms_are_clipped_and_whole_numbers_are_kept(tmp_path: Path) -> None:
    cuts.write_wav(tmp_path / "new" / "a.wav", np.array([0.5, 1.5, -2.0], dtype=np.float32))
    samples, rate = sf.read(tmp_path / "new" / "a.wav", dtype="int16")
    assert rate == 16000
    assert samples.tolist() == [16384, 32767, -32768]
    cuts.write_wav(tmp_path / "b.wav", np.array([1, -32768, 300], dtype=np.int16))
    assert sf.read(tmp_path / "b.wav", dtype="int16")[0].tolist() == [1, -32768, 300]


def test_the_same_cuts_are_the_same_bytes_and_read_back(tmp_path: Path) -> None:
    made = [
        cuts.file_cut(
            f"c{n}", tmp_path / "a.wav", 8000, text="café", speaker="s", custom={"kind": "read"}
        )
        for n in range(3)
    ]
    for name in ("a", "b"):
        cuts.write_cuts(iter(made), tmp_path / "cuts" / f"{name}.jsonl.gz")
    first, second = (tmp_path / "cuts" / f"{name}.jsonl.gz" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert cuts.read_cuts(first) == made
    assert made[0]["duration"] == 0.5


def test_a_write_that_fails_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    cuts.write_cuts([{"id": "old"}], path)
    with pytest.raises(TypeError):
        cuts.write_cuts([{"id": "new"}, {"id": object()}], path)
    assert cuts.read_cuts(path) == [{"id": "old"}]
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl.gz"]
