"""Real recordings as cuts: what may be used, and digit strings joined from single digits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from earshot.train import corpora, synthesis


def _tone(seconds: float, hertz: float, rate: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def _folder(root: Path, corpus: str, rows: list[dict]) -> None:
    folder = root / corpus
    (folder / "audio").mkdir(parents=True)
    for row in rows:
        path = folder / row["audio"]
        if not path.exists():
            sf.write(path, _tone(row.pop("file_s", row["duration"]), 200, 8000), 8000)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A data folder with rows of every split, and of corpora that are for tests only."""
    root = tmp_path / "data"

    def row(name: str, split: str, text: str, **more: object) -> dict:
        return {
            "id": name, "audio": f"audio/{name}.wav", "duration": 1.0, "text": text,
            "split": split, "lang": "en", **more,
        }  # fmt: skip

    _folder(
        root,
        "librispeech_dev_clean_half",
        [
            row("l1", "train", "Mr. Quilter's apostle", speaker="s1"),
            row("l2", "dev", "the middle classes", speaker="s2"),
            row("l3", "test", "secret words", speaker="s3"),
            row("l4", "train", "too long", speaker="s1", duration=25.0, file_s=25.0),
        ],
    )
    digits = [
        row(f"d{n}", "train", word, speaker="d", audio="audio/d.wav", file_s=3.0, duration=0.4)
        | {"offset": 0.5 * n}
        for n, word in enumerate(("zero", "one", "two", "oh"))
    ]
    digits.append(row("e0", "dev", "nine", speaker="e", duration=0.4))
    digits.append(row("f0", "test", "eight", speaker="f", duration=0.4))
    _folder(root, "spoken_digits", digits)
    _folder(root, "coffee_commands", [row("c1", "train", "an espresso")])
    _folder(root, "librispeech_speakers", [row("t1", "test", "rare words")])
    _folder(
        root,
        "alphanumeric_accents",
        [
            row("a1", "train", "s a f", prompt_type="spelled_name"),
            row("a2", "train", "five six", prompt_type="phone_number"),
        ],
    )
    _folder(root, "common_voice_sample", [row("v1", "train", "bonjour", lang="fr")])
    return root


def _cuts(path: Path) -> list[dict]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


SMALL = corpora.CorporaConfig(joined_train=6, joined_dev=2)


def test_only_english_rows_of_train_and_dev_are_used(made: Path) -> None:
    rows = {row.id: row for row in corpora.training_rows(made)}
    assert set(rows) == {"l1", "l2", "l4", "d0", "d1", "d2", "d3", "e0", "a1", "a2"}
    assert rows["l1"].text == "mister quilter's apostle"
    assert (rows["a1"].kind, rows["a2"].kind) == ("spelled", "digit_strings")
    with pytest.raises(ValueError, match="only train and dev"):
        list(corpora.training_rows(made, splits=("train", "test")))


def test_cuts_are_16_khz_clips_with_their_kind(made: Path, tmp_path: Path) -> None:
    hours = corpora.prepare(tmp_path, seed=1, config=SMALL, root=made)
    train = _cuts(tmp_path / "cuts" / "real_train.jsonl.gz")
    dev = _cuts(tmp_path / "cuts" / "real_dev.jsonl.gz")
    by_id = {cut["id"]: cut for cut in train}
    assert "l4" not in by_id  # longer than 20 s
    assert {"l1", "d0", "d3", "a1", "a2"} <= set(by_id)
    assert sum(cut["id"].startswith("joined-") for cut in train) == 6
    assert {cut["id"] for cut in dev} == {"l2", "e0", "joined-dev-00000", "joined-dev-00001"}
    said = {cut["supervisions"][0]["text"] for cut in train + dev}
    assert not said & {"secret words", "eight", "an espresso", "rare words", "bonjour"}
    for cut in train + dev:
        info = sf.info(cut["recording"]["sources"][0]["source"])
        assert (info.samplerate, info.channels) == (16000, 1)
        assert info.frames == cut["recording"]["num_samples"]
        assert cut["supervisions"][0]["custom"]["kind"] in {
            "read", "spelled", "digit", "digit_strings", "wake", "paragraph",
        }  # fmt: skip
    assert by_id["d1"]["duration"] == pytest.approx(0.4)
    assert hours["train/digit"] == pytest.approx(4 * 0.4 / 3600, abs=1e-3)


def test_cuts_are_what_lhotse_reads(made: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse", reason="needs lhotse; install earshot[train]")
    corpora.prepare(tmp_path, seed=1, config=SMALL, root=made)
    for cut in lhotse.CutSet.from_file(tmp_path / "cuts" / "real_train.jsonl.gz"):
        audio = cut.load_audio()
        assert audio.shape == (1, cut.recording.num_samples)
        assert cut.supervisions[0].text


def test_prepare_makes_nothing_twice(made: Path, tmp_path: Path) -> None:
    first = corpora.prepare(tmp_path, seed=1, config=SMALL, root=made)
    path = tmp_path / "cuts" / "real_train.jsonl.gz"
    before = path.stat().st_mtime_ns
    assert corpora.prepare(tmp_path, seed=1, config=SMALL, root=made) == first
    assert path.stat().st_mtime_ns == before


def test_without_recordings_nothing_is_written(tmp_path: Path) -> None:
    assert corpora.prepare(tmp_path, seed=1, root=tmp_path / "absent") == {}
    assert not (tmp_path / "cuts").exists()


def test_joined_digits_hold_every_clip_and_its_word() -> None:
    clips = [(_tone(0.3, hertz, 16000), word) for hertz, word in ((300, "oh"), (500, "two"))]
    joined, said = corpora.join_digits(clips, np.random.default_rng(0), pause_s=(0.2, 0.6))
    again, _ = corpora.join_digits(clips, np.random.default_rng(0), pause_s=(0.2, 0.6))
    np.testing.assert_array_equal(joined, again)
    assert said == "oh two"
    assert 0.8 * 16000 <= len(joined) <= 1.2 * 16000
    assert np.abs(joined[:4800] - clips[0][0]).max() < 0.02
    assert np.abs(joined[-4800:] - clips[1][0]).max() < 0.02
    pause = joined[4800:-4800]
    assert 0 < pause.std() < 0.01 * clips[0][0].std()
    with pytest.raises(ValueError, match="at least one"):
        corpora.join_digits([], np.random.default_rng(0))


def test_real_manifests_never_yield_a_test_row(real_data: Path) -> None:
    tests: set[tuple[str, str]] = set()
    for manifest in real_data.glob("*/manifest.jsonl"):
        for line in manifest.read_text().splitlines():
            row = json.loads(line)
            if row["split"] == "test" or manifest.parent.name == "coffee_commands":
                tests.add((manifest.parent.name, row["id"]))
    rows = list(corpora.training_rows(real_data))
    assert len(rows) > 1000
    assert not {(row.corpus, row.id) for row in rows} & tests
    assert "coffee_commands" not in {row.corpus for row in rows}


def test_clones_of_the_held_out_speakers_are_left_out(tmp_path: Path) -> None:
    names = ("mimic3-cmu-arctic_low-awb", "other/RMS", "mimic3-cmu-arctic_low-aew", "vctk-p225")
    rows = [
        {
            "id": name.replace("/", "-"), "audio": f"audio/{n}.wav", "duration": 0.2,
            "text": "a rainbow", "split": "train", "speaker": name,
        }
        for n, name in enumerate(names)
    ]  # fmt: skip
    rows.append(rows[0] | {"id": "x-slt", "speaker": None})
    rows.append(rows[0] | {"id": "x-rms", "speaker": None})
    _folder(tmp_path, "neural_voices_sample", rows)
    speakers = {row.speaker for row in corpora.training_rows(tmp_path)}
    assert speakers == {"mimic3-cmu-arctic_low-aew", "vctk-p225", "x-slt"}


def test_cuts_made_before_speakers_were_left_out_are_made_again(made: Path, tmp_path: Path) -> None:
    corpora.prepare(tmp_path, seed=1, config=SMALL, root=made)
    summary_path = tmp_path / "real" / "summary.json"
    summary = json.loads(summary_path.read_text())
    del summary["settings"]["speakers_left_out"]
    summary_path.write_text(json.dumps(summary))
    (tmp_path / "cuts" / "real_dev.jsonl.gz").write_bytes(b"")
    corpora.prepare(tmp_path, seed=1, config=SMALL, root=made)
    assert _cuts(tmp_path / "cuts" / "real_dev.jsonl.gz")


def test_real_neural_voices_hold_no_clone_of_a_held_out_speaker(real_data: Path) -> None:
    manifest = real_data / "neural_voices_sample" / "manifest.jsonl"
    if not manifest.is_file():
        pytest.skip(f"{real_data} has no neural_voices_sample")
    held_out = tuple(voice.split("-")[1] for voice in synthesis.HELD_OUT_VOICES)
    every = {json.loads(line)["speaker"] for line in manifest.read_text().splitlines()}
    assert {s for s in every if s.endswith(held_out)}, "the sample should hold such clones"
    rows = [r for r in corpora.training_rows(real_data) if r.corpus == "neural_voices_sample"]
    assert len({row.speaker for row in rows}) > 100
    assert not [row.speaker for row in rows if row.speaker.endswith(held_out)]
