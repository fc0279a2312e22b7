"""Noise generators and the pool that training draws from."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from earshot.train import noise, synthesis
from earshot.train.cuts import write_wav


def _speech(seed: int) -> np.ndarray:
    """A stand-in for speech: bursts of a harmonic tone."""
    t = np.arange(24000) / 16000
    tone = sum(np.sin(2 * np.pi * (100 + 20 * seed) * k * t) / k for k in range(1, 9))
    return np.asarray(tone * (np.sin(2 * np.pi * 3 * t) > 0), dtype=np.float32)


VOICES = [_speech(n) for n in range(5)]
EVERY = {
    **noise.GENERATORS,
    "babble": lambda rng, s: noise.make_babble(rng, s, VOICES),
    "events": lambda rng, s: noise.make_events(rng, s, VOICES),
}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_generators_are_repeatable_finite_and_level(name: str) -> None:
    make = EVERY[name]
    for seed in range(4):
        samples = make(np.random.default_rng(seed), 2.5)
        again = make(np.random.default_rng(seed), 2.5)
        np.testing.assert_array_equal(samples, again)
        assert samples.shape == (40000,)
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= 0.9
        assert 0.05 < np.sqrt(np.mean(samples**2)) < 0.11
    other = make(np.random.default_rng(99), 2.5)
    assert not np.array_equal(samples, other)


def test_events_come_again_and_are_no_recording() -> None:
    """Loud and faint by turns; and no second of it is like any second of what it is made of."""
    sounds = [np.random.default_rng(n).standard_normal(48_000).astype(np.float32) for n in range(3)]
    for seed in range(6):
        made = noise.make_events(np.random.default_rng(seed), 6.0, sounds)
        loudness = np.sqrt(np.mean(np.square(made[: 75 * 1280].reshape(75, 1280)), axis=1))
        assert loudness.max() > 1.5 * np.median(loudness)
        for sound in sounds:
            spectrum = np.fft.rfft(made, 2**18) * np.conj(np.fft.rfft(sound, 2**18))
            alike = np.abs(np.fft.irfft(spectrum)).max()
            assert alike < 0.4 * np.linalg.norm(made) * np.linalg.norm(sound)


def test_clatter_is_spiky_and_hum_is_not() -> None:
    def crest(make: noise.Callable, seed: int) -> float:
        samples = make(np.random.default_rng(seed), 4.0)
        return float(np.abs(samples).max() / np.sqrt(np.mean(samples**2)))

    clatter = np.mean([crest(noise.make_clatter, n) for n in range(6)])
    hum = np.mean([crest(noise.make_hum, n) for n in range(6)])
    assert clatter > 1.4 * hum


def test_babble_needs_voices_and_a_duration() -> None:
    with pytest.raises(ValueError, match="at least one"):
        noise.make_babble(np.random.default_rng(0), 1.0, [])
    with pytest.raises(ValueError, match="got no sounds"):
        noise.make_events(np.random.default_rng(0), 1.0, [])
    with pytest.raises(ValueError, match="must be positive"):
        noise.make_hum(np.random.default_rng(0), 0.0)


SMALL = noise.NoiseConfig(minutes=0.4, piece_s=2.0, silent_clips=10)


def _check_pool(folder: Path) -> list[str]:
    pool = np.load(folder / "noise" / "pool.npy", mmap_mode="r")
    offsets = json.loads((folder / "noise" / "offsets.json").read_text())
    labels: list[str] = json.loads((folder / "noise" / "labels.json").read_text())
    assert pool.dtype == np.int16
    assert len(offsets) == len(labels) == 12
    assert offsets[0][0] == 0
    assert offsets[-1][1] == len(pool) == 12 * 32000
    assert all(a[1] == b[0] for a, b in pairwise(offsets))
    for first, last in offsets:
        assert np.abs(pool[first:last].astype(int)).max() > 1000
    return labels


def test_pool_without_any_recordings_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "_voices", lambda root, rng: VOICES)
    assert noise.prepare(tmp_path, seed=2, config=SMALL, root=tmp_path / "absent") == 12
    labels = _check_pool(tmp_path)
    assert set(labels) <= set(EVERY)
    with gzip.open(tmp_path / "cuts" / "noise_train.jsonl.gz", "rt") as lines:
        cuts = [json.loads(line) for line in lines]
    offsets = json.loads((tmp_path / "noise" / "offsets.json").read_text())
    assert len(cuts) == 10
    for cut in cuts:
        supervision = cut["supervisions"][0]
        assert supervision["text"] == ""
        piece = [first <= cut["start"] * 16000 < last for first, last in offsets].index(True)
        assert labels[piece] == supervision["custom"]["label"] != "babble"
        assert round((cut["start"] + cut["duration"]) * 16000) <= offsets[piece][1]


def test_pool_is_repeatable_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_voices", lambda root, rng: VOICES)
    for name in ("a", "b"):
        noise.prepare(tmp_path / name, seed=2, config=SMALL, root=tmp_path / "absent")
    first, second = (tmp_path / name / "noise" / "pool.npy" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    before = first.stat().st_mtime_ns
    noise.prepare(tmp_path / "a", seed=2, config=SMALL, root=tmp_path / "absent")
    assert first.stat().st_mtime_ns == before


def test_recordings_of_the_test_split_are_never_mixed_in(real_data: Path, tmp_path: Path) -> None:
    rows = [
        json.loads(line)
        for line in (real_data / "noise" / "manifest.jsonl").read_text().splitlines()
    ]
    tests = {row["label"] for row in rows if row["split"] != "train"}
    assert tests, "the manifest should hold a test recording"
    labels = {label for label, _ in noise.noise_recordings(real_data)}
    assert labels
    assert not labels & tests
    noise.prepare(tmp_path, seed=2, config=SMALL, root=real_data)
    used = _check_pool(tmp_path)
    assert not set(used) & tests
    assert set(used) & labels


def test_what_is_held_out_is_not_in_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "_voices", lambda root, rng: VOICES)
    rows = []
    for n, label in enumerate(("dishes", "rain")):
        path = tmp_path / "data" / "noise" / "audio" / f"{label}.wav"
        write_wav(path, np.random.default_rng(n).uniform(-0.3, 0.3, 32_000).astype(np.float32))
        rows.append({"label": label, "audio": f"audio/{label}.wav", "split": "train"})
    manifest = tmp_path / "data" / "noise" / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for held_out, there in (((), {"dishes", "rain"}), (("dishes",), {"rain"})):
        config = noise.NoiseConfig(minutes=0.3, piece_s=1.0, silent_clips=4, held_out=held_out)
        noise.prepare(tmp_path, seed=1, config=config, root=tmp_path / "data")
        labels = set(json.loads((tmp_path / "noise" / "labels.json").read_text()))
        assert labels & {"dishes", "rain"} == there


def test_pool_made_without_recordings_is_made_again_when_they_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "_voices", lambda root, rng: VOICES)
    root = tmp_path / "data"
    noise.prepare(tmp_path, seed=2, config=SMALL, root=root)
    labels = json.loads((tmp_path / "noise" / "labels.json").read_text())
    assert "tap" not in labels
    (root / "noise").mkdir(parents=True)
    write_wav(root / "noise" / "tap.wav", 0.1 * VOICES[0])
    row = {"label": "tap", "audio": "tap.wav", "split": "train"}
    (root / "noise" / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    noise.prepare(tmp_path, seed=2, config=SMALL, root=root)
    assert _check_pool(tmp_path).count("tap") == 6
    summary = json.loads((tmp_path / "noise" / "summary.json").read_text())
    assert summary["settings"]["recordings"] == ["noise"]
    assert summary["settings"]["root"] == str(root.resolve())
    before = (tmp_path / "noise" / "pool.npy").stat().st_mtime_ns
    noise.prepare(tmp_path, seed=2, config=SMALL, root=root)
    assert (tmp_path / "noise" / "pool.npy").stat().st_mtime_ns == before


def test_babble_without_recordings_has_no_voice_that_needs_asking_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voices = [
        synthesis.Voice("pico-en-US", "pico", "en-US", 175.0),
        synthesis.Voice("mbrola-us1", "mbrola", "mb-us1", 120.0),
        synthesis.Voice("flite-awb", "flite", "awb", 125.0),
    ]
    heard: list[str] = []
    monkeypatch.setattr(synthesis, "installed_voices", lambda: (voices, []))
    monkeypatch.setattr(
        synthesis, "speak", lambda clips: heard.extend(c.voice.id for c in clips) or []
    )
    noise._voices(tmp_path, np.random.default_rng(0))
    assert set(heard) == {"pico-en-US"}
