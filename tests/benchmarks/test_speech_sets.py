"""Digit strings are made the same way every time and hold what their text says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech_sets import (
    DIGITS,
    SAMPLE_RATE_HZ,
    Clip,
    SetMissing,
    digit_strings,
    join_digits,
    load_set,
    pooled_sets,
    read_clip,
)


def singles(per_digit: int = 3) -> list[Clip]:
    """Recordings of one digit each: the value of the samples says which digit and take."""
    return [
        Clip(
            f"{word}-{take}",
            word,
            "one-voice",
            lambda value=0.05 * (number + 1) + 0.01 * take: np.full(800, value, np.float32),
        )
        for number, word in enumerate(DIGITS)
        for take in range(per_digit)
    ]


def test_strings_are_the_same_every_time() -> None:
    first, second = (digit_strings(singles(), count=12) for _ in range(2))
    assert [c.text for c in first] == [c.text for c in second]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.read(), b.read())


def test_a_smaller_count_gives_the_first_strings() -> None:
    long, short = digit_strings(singles(), count=9), digit_strings(singles(), count=4)
    assert [c.text for c in long[:4]] == [c.text for c in short]


def test_strings_differ_from_each_other_and_with_the_seed() -> None:
    strings = [c.text for c in digit_strings(singles(), count=40)]
    assert len(set(strings)) > 30
    assert strings != [c.text for c in digit_strings(singles(), count=40, seed=1)]


def test_strings_have_three_to_seven_digits_and_all_lengths_and_digits_occur() -> None:
    texts = [c.text.split() for c in digit_strings(singles(), count=200)]
    assert {len(t) for t in texts} == {3, 4, 5, 6, 7}
    assert {word for t in texts for word in t} == set(DIGITS)


def test_samples_hold_the_digits_of_the_text_in_order() -> None:
    for clip in digit_strings(singles(), count=10):
        loud = np.round(clip.read() / 0.05 - 0.4).astype(int)  # 1..10 in a digit, <= 0 elsewhere
        loud = np.clip(loud, 0, 10)
        changes = np.flatnonzero(np.diff(loud)) + 1
        runs = np.split(loud, changes)
        heard = [DIGITS[run[0] - 1] for run in runs if run[0] > 0 and len(run) > 700]
        assert " ".join(heard) == clip.text


def test_pauses_are_between_a_twentieth_and_two_fifths_of_a_second() -> None:
    digit = np.full(800, 0.5, np.float32)
    for seed in range(20):
        joined = join_digits([digit] * 5, rng=np.random.default_rng(seed))
        quiet = np.abs(joined) < 0.25
        edges = np.flatnonzero(np.diff(quiet.astype(int)))
        lengths = np.diff(edges)[1::2] / SAMPLE_RATE_HZ  # every other stretch is a pause
        assert len(lengths) == 4
        assert lengths.min() >= 0.05 - 1e-3
        assert lengths.max() <= 0.4 + 1e-3


def test_a_missing_digit_is_refused() -> None:
    with pytest.raises(ValueError, match="no recording of 'nine'"):
        digit_strings([c for c in singles() if c.text != "nine"])


def test_offsets_cut_the_clip_out_of_its_file(tmp_path: Path) -> None:
    ramp = np.linspace(-0.5, 0.5, SAMPLE_RATE_HZ, dtype=np.float32)
    soundfile.write(tmp_path / "ramp.wav", ramp, SAMPLE_RATE_HZ, subtype="FLOAT")
    cut = read_clip(tmp_path / "ramp.wav", offset_s=0.25, duration_s=0.5)
    np.testing.assert_array_equal(cut, ramp[4000:12000])


def test_missing_recordings_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetMissing, match=r"manifest\.jsonl does not exist"):
        load_set("librispeech", data=tmp_path, synthetic=tmp_path)


def test_too_small_a_synthetic_test_is_refused(tmp_path: Path) -> None:
    row = {"id": "a", "audio": "a.wav", "text": "hello", "split": "test", "speaker": "awb"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SetMissing, match="1 sentences, 1000 are asked for"):
        load_set("synthetic", data=tmp_path, synthetic=tmp_path)


def test_pooled_sets_hold_no_training_rows(tmp_path: Path, real_data: Path) -> None:
    rows = [
        {"id": str(i), "audio": "a.wav", "text": "hi", "split": "test", "speaker": "awb"}
        for i in range(1000)
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    trained = set()
    for manifest in real_data.glob("*/manifest.jsonl"):
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("split") == "train":
                trained.add(row["id"])
    for speech in pooled_sets(data=real_data, synthetic=tmp_path):
        assert not trained & {clip.id for clip in speech.clips}, speech.name
