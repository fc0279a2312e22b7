"""A model is calibrated from the clips of a working folder, and used as calibrated."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot.core.errors import ConfigError
from earshot.data.audio import read_audio
from earshot.modelfile.reader import ModelFile
from earshot.session.recognizer import Recognizer, embedded_model_path
from earshot.train import calibrate
from earshot.train.cuts import file_cut, write_cuts, write_json, write_wav
from earshot.understand.calibration import stored_config
from earshot.understand.templates import Commands, load_commands

TEMPLATES = """
language: en
intents:
  Light:
    data:
      - sentences: ["turn (on|off) the {thing}"]
lists:
  thing: {values: [lights, radio]}
"""
COMMAND, OTHER = "turn-on-the-lights", "four-one-seven-two-nine"


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    path = tmp_path / "home.yaml"
    path.write_text(TEMPLATES)
    return load_commands([path])


@pytest.fixture
def work_dir(tmp_path: Path, repository: Path) -> Path:
    """Ten clips of each kind, all of one command and of one other sentence; and white noise."""
    folder = tmp_path / "work"
    manifests = (
        ("commands_dev", COMMAND, ["command"]),
        ("synthetic_dev", OTHER, ["question"]),
        ("real_train", OTHER, ["read", "wake", "spelled"]),
    )
    for name, clip, kinds in manifests:
        path = folder / "clips" / f"{clip}.wav"
        samples = read_audio(repository / "examples" / f"{clip}.flac")
        write_wav(path, samples)
        cuts = [
            file_cut(f"{kind}-{n}", path, len(samples), text=clip.replace("-", " "), speaker="a",
                     custom={"kind": kind})
            for kind in kinds
            for n in range(10)
        ]  # fmt: skip
        write_cuts(cuts, folder / "cuts" / f"{name}.jsonl.gz")
    track = np.random.default_rng(0).normal(0, 3000, 80_000).astype(np.int16)
    (folder / "noise").mkdir()
    np.save(folder / "noise" / "pool.npy", track)
    write_json([[0, 40_000], [40_000, 80_000]], folder / "noise" / "offsets.json")
    return folder


def test_a_calibrated_model_carries_its_values_and_uses_them(
    commands: Commands, work_dir: Path, tmp_path: Path
) -> None:
    shown: list[float] = []
    output = tmp_path / "mine.ear"
    config = calibrate.calibrate_model(
        embedded_model_path(),
        commands,
        work_dir=work_dir,
        output=output,
        progress=lambda done, total: shown.append(done / total),
    )
    assert shown[0] == 0 and shown[-1] == 1 and shown == sorted(shown)
    assert stored_config(ModelFile(output)) == config
    start, made = ModelFile(embedded_model_path()), ModelFile(output)
    assert {t.name: t.crc32 for t in made.tensors} == {t.name: t.crc32 for t in start.tensors}
    added = json.loads(json.dumps(made.header["metadata"]))
    before = dict(start.header["metadata"])  # type: ignore[call-overload]
    assert added.pop("commands") != before.pop("commands")
    assert added == before

    assert Recognizer.load(output, commands=commands)._grammar[1] == config  # type: ignore[index]
    given = Recognizer.load(output, commands=commands, command_threshold=0.9)
    assert given._grammar[1].threshold == 0.9  # type: ignore[index]
    assert given._grammar[1].bias == config.bias  # type: ignore[index]
    for clip, intent in ((COMMAND, "Light"), (OTHER, None)):
        stream = Recognizer.load(output, commands=commands).create_stream()
        stream.accept_waveform(16_000, read_audio(work_dir / "clips" / f"{clip}.wav"))
        stream.input_finished()
        stream.decode()
        assert stream.understanding().intent == intent  # type: ignore[union-attr]


def test_kinds_that_are_there_are_heard_clean_and_in_noise(
    commands: Commands, work_dir: Path
) -> None:
    heard = calibrate.hear_clips(embedded_model_path(), commands, work_dir=work_dir)
    assert Counter(one.kind for one in heard) == {
        "commands": 10,
        "commands in noise": 20,
        "general sentences": 20,
        "read speech": 10,
        "wake words": 10,
        "noise alone": calibrate._NUM_SILENT,
    }
    assert all(one.right for one in heard if one.kind == "commands")
    assert not any(one.right or one.near_right for one in heard if not one.is_command)
    assert len({one.evidence for one in heard if one.kind == "commands"}) == 1
    assert len({one.evidence for one in heard if one.kind == "commands in noise"}) > 10


def test_without_recordings_and_noise_what_is_there_is_heard(
    commands: Commands, work_dir: Path, tmp_path: Path
) -> None:
    (work_dir / "cuts" / "real_train.jsonl.gz").unlink()
    (work_dir / "noise" / "pool.npy").unlink()
    heard = calibrate.hear_clips(embedded_model_path(), commands, work_dir=work_dir)
    assert Counter(one.kind for one in heard) == {"commands": 10, "general sentences": 10}
    (work_dir / "cuts" / "synthetic_dev.jsonl.gz").unlink()
    with pytest.raises(ConfigError, match="Give more commands"):
        calibrate.calibrate_model(
            embedded_model_path(), commands, work_dir=work_dir, output=tmp_path / "no.ear"
        )
    assert not (tmp_path / "no.ear").exists()


def test_noise_is_mixed_at_one_of_the_levels() -> None:
    pool = calibrate.NoisePool(
        np.random.default_rng(0).normal(0, 3000, 40_000).astype(np.int16),
        np.asarray([[0, 40_000]]),
    )
    clean = np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32)
    firsts = []
    for seed in range(5):
        whole = calibrate._in_noise(clean, pool, np.random.default_rng(seed))
        assert len(clean) <= len(whole) < len(clean) + 4 * 16_000
        first = int(np.argmax(signal.fftconvolve(whole, clean[::-1], "valid")))
        firsts.append(first)
        mixed = whole[first : first + len(clean)]
        gain = np.dot(mixed, clean) / np.dot(clean, clean)  # noise is all but orthogonal
        rest = mixed - gain * clean
        snr_db = 10 * np.log10(np.mean((gain * clean) ** 2) / np.mean(rest**2))
        assert min(abs(snr_db - level) for level in calibrate._SNRS_DB) < 0.3
        assert np.abs(whole).max() <= 1.0
    assert len(set(firsts)) == 5 and max(firsts) > 8000  # noise comes before the sound


def test_commands_in_voices_of_people_are_heard_too(commands: Commands, work_dir: Path) -> None:
    cuts = work_dir / "cuts"
    (cuts / "spliced_dev.jsonl.gz").write_bytes((cuts / "commands_dev.jsonl.gz").read_bytes())
    heard = calibrate.hear_clips(embedded_model_path(), commands, work_dir=work_dir)
    counts = Counter(one.kind for one in heard)
    assert counts["commands by people"] == 10
    assert counts["commands by people in noise"] == 20
    assert all(one.is_command for one in heard if one.kind.startswith("commands"))
