"""`earshot endpoint tune`: figures, a plot, thresholds in a model, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earshot import Recognizer
from earshot.modelfile.reader import ModelFile
from tests.tiny_model import write_tiny_model

RATE = 16_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tune") / "tiny.ear", endpoint=True)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Bursts that the tiny model takes for speech; half of the rows say when they end."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        loud = np.repeat(rng.uniform(0.1, 0.3, 10), RATE // 10)
        samples = np.concatenate([rng.normal(0, 1, RATE) * loud, np.zeros(RATE // 4)])
        samples += rng.normal(0, 1e-4, len(samples))
        soundfile.write(folder / f"{seed}.wav", samples.clip(-1, 1), RATE)
        rows.append({"audio": f"{seed}.wav"} | ({"end_s": 1.0} if seed % 2 else {}))
    path = folder / "clips.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_thresholds_are_written_and_all_else_stays(earshot, model, manifest, tmp_path):
    output, plot = tmp_path / "tuned.ear", tmp_path / "curve.svg"
    result = earshot(
        "endpoint", "tune", manifest, "-m", model, "-o", output, "--plot", plot, "--json"
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert set(report) == {"before", "after", "settings"}
    assert report["before"]["clips"] == report["after"]["clips"] == 24
    tuned = Recognizer.load(output).endpoint_config()
    assert tuned.final.pause_s == report["settings"]["final"]["pause_s"]
    assert plot.read_text(encoding="utf-8").startswith("<svg")
    before, after = ModelFile(model), ModelFile(output)
    assert [t.name for t in before.tensors] == [t.name for t in after.tensors]
    for tensor in before.tensors:
        assert before.tensor_bytes(tensor.name) == after.tensor_bytes(tensor.name)


def test_without_an_output_nothing_is_written(earshot, model, manifest):
    content = Path(model).read_bytes()
    result = earshot("endpoint", "tune", manifest, "-m", model)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["before", "after"]
    assert "nothing was written" in result.stderr
    assert Path(model).read_bytes() == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is no JSON object with `audio`, and `end_s` in seconds"),
        ('{"end_s": 1}', "it is no JSON object with `audio`"),
        ('{"audio": "no.wav"}', "no.wav"),
        ('{"audio": "silent.wav"}', "nothing in it sounds like speech"),
        ('{"audio": "0.wav", "end_s": -1}', "it is no JSON object with `audio`"),
        ('{"audio": "0.wav", "end_s": 1}', "at least 20 are needed"),
    ],
)
def test_what_cannot_be_tuned_on_is_one_line(earshot, model, manifest, text, message):
    soundfile.write(manifest.parent / "silent.wav", np.zeros(RATE), RATE)
    path = manifest.parent / "bad.jsonl"
    path.write_text(text + "\n", encoding="utf-8")
    result = earshot("endpoint", "tune", path, "-m", model)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert message in result.stderr.splitlines()[-1]


def test_pronunciations_go_with_commands(earshot, manifest, tmp_path):
    result = earshot("endpoint", "tune", manifest, "--pronunciations", tmp_path / "x")
    assert result.exit_code == 2
