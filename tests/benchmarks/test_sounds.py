"""Generated music is the same every time, and twelve minutes are twelve minutes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sounds import music, wordless_sounds
from speech_sets import SAMPLE_RATE_HZ, SetMissing


def test_music_repeats_with_its_seed_and_is_never_silent() -> None:
    first, again, other = (
        music(3, duration_s=4.0),
        music(3, duration_s=4.0),
        music(4, duration_s=4.0),
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == 4 * SAMPLE_RATE_HZ
    for sound in (first, other):
        assert 0.1 <= np.abs(sound).max() <= 0.7
        per_second = sound.reshape(4, -1)
        assert np.sqrt((per_second**2).mean(axis=1)).min() > 1e-3


def noise_folder(folder: Path, rows: list[dict[str, object]]) -> Path:
    (folder / "noise").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "noise" / "manifest.jsonl").write_text(text)
    return folder


def test_parts_are_kept_apart_and_fill_twelve_minutes(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "k", "audio": "k.ogg", "split": "test", "duration": 122.0},
        {"id": "short", "audio": "s.ogg", "split": "train", "duration": 7.0},
        *(
            {"id": f"n{i}", "audio": f"{i}.ogg", "split": "train", "duration": 90.0}
            for i in range(9)
        ),
    ]
    sounds = wordless_sounds(noise_folder(tmp_path, rows))
    assert sum(s.duration_s for s in sounds) == pytest.approx(720.0)
    parts = {s.id: s.part for s in sounds}
    assert parts["k"] == "unseen noise"
    assert parts["short"] == "training noise"
    assert [s.duration_s for s in sounds if s.id in ("k", "short")] == [122.0, 7.0]


def test_too_little_noise_is_said(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "n", "audio": "n.ogg", "split": "train", "duration": 5.0}
    ]
    with pytest.raises(SetMissing, match="too little noise"):
        wordless_sounds(noise_folder(tmp_path, rows))
