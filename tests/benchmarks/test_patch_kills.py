"""Processes killed while they patch: never a broken model. The full count is in the benchmark."""

from __future__ import annotations

from pathlib import Path

from patch_kills import kill_patches, write_changed

from earshot.modelfile.reader import ModelFile
from earshot.session.recognizer import embedded_model_path


def test_a_killed_patch_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    base, result, folder = embedded_model_path(), tmp_path / "new.ear", tmp_path / "device"
    write_changed(ModelFile(base), result)
    folder.mkdir()
    report = kill_patches(base, result, folder=folder, kills=8)
    assert report.old + report.new == report.kills == 8
    assert report.broken == 0
    assert report.left_at_end == 0
