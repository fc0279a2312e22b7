"""A recipe from nothing to a model that transcribes: what one command must do, in small."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot import _native
from earshot.decode.language_model import open_language_model
from earshot.modelfile.reader import ModelFile

speaks = pytest.mark.skipif(
    not (shutil.which("espeak-ng") or shutil.which("flite")),
    reason="no speech engine: apt-get install espeak-ng flite",
)

SMALL = [
    "synthesis.hours=0.12",
    "synthesis.dev_clips=8",
    "synthesis.processes=2",
    "text.generated=400",
    "text.sentences_per_template=1",
    "noise.minutes=1",
    "noise.silent_clips=4",
    "rooms.count=4",
    "corpora.joined_train=40",
    "corpora.joined_dev=4",
    "train.validation_clips=3",
    "train.batch_s=30",
]
TINY = [
    *SMALL,
    "tokenizer.vocab_size=120",
    "model.vocab_size=120",
    "model.joiner_width=32",
    "model.encoder.hidden=32",
    "model.encoder.layers=1",
    "model.predictor.width=16",
    "synthesis.hours=0.02",
    "train.max_minutes=0",
    "train.workers=0",
    "train.buckets=2",
    "train.warmup_steps=2",
    "ngrams.max_ngrams=2000",
    "endpoint.clips=48",
    "endpoint.dev_clips=16",
    "endpoint.tuning_clips=32",
    "endpoint.epochs=2",
]


def start(
    repository: Path, folder: Path, overrides: list[str], **environment: str
) -> subprocess.Popen[str]:
    options = [f"folder={folder}", *overrides]
    code = "import sys; from earshot.cli.app import main; main()"
    return subprocess.Popen(
        [
            sys.executable, "-c", code, "train", "run", "recipes/assistant-en.toml",
            *(part for option in options for part in ("--set", option)),
        ],
        cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def transcribe(path: Path) -> str:
    recognizer = _native.Recognizer(_native.Model(str(path)), method="greedy_search")
    stream = recognizer.create_stream()
    stream.accept_waveform(np.zeros(16000, dtype=np.float32))
    stream.input_finished()
    while stream.is_ready():
        recognizer.decode_streams([stream])
    return str(stream.result()["text"])


@pytest.mark.slow
@speaks
def test_recipe_runs_is_killed_resumes_and_exports(repository: Path, tmp_path: Path) -> None:
    """Three minutes of training on a small slice, killed after one and resumed."""
    last = tmp_path / "checkpoints" / "last.ckpt"
    settings = [*SMALL, "train.max_minutes=3", "train.checkpoint_minutes=0.5"]
    first = start(repository, tmp_path, settings)
    deadline = time.monotonic() + 900
    while not last.exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(1)
    assert last.exists(), first.communicate()[0][-3000:]
    first.send_signal(signal.SIGKILL)
    first.communicate()  # closes its pipe, too
    steps_before = checkpoint(last)["global_step"]
    assert steps_before > 0
    second = start(repository, tmp_path, settings)
    output, _ = second.communicate(timeout=900)
    assert second.returncode == 0, output[-3000:]
    resumed = checkpoint(last)
    assert resumed["global_step"] > steps_before
    assert resumed["audio_s"] > 0
    assert isinstance(transcribe(tmp_path / "assistant-en.ear"), str)
    header = ModelFile(tmp_path / "assistant-en.ear").header
    assert "lm" in header and "endpoint" in header["graphs"]


@speaks
def test_a_tiny_recipe_trains_exports_and_goes_on(repository: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no-recordings")
    run = start(repository, tmp_path, [*TINY, "train.max_steps=25"], EARSHOT_DATA=nowhere)
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output[-3000:]
    saved = checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == 25
    assert (tmp_path / "assistant-en.ear").stat().st_size < 200_000
    assert isinstance(transcribe(tmp_path / "assistant-en.ear"), str)
    _, weights = open_language_model(tmp_path / "assistant-en.ear")
    assert (weights.weight, weights.internal_weight, weights.bonus) == (0.3, 0.1, 1.0)
    again = start(repository, tmp_path, [*TINY, "train.max_steps=30"], EARSHOT_DATA=nowhere)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output[-3000:]
    assert checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 30

    other = tmp_path / "other"
    prepared = [*TINY, "train.max_steps=4", f"data.prepared={tmp_path}"]
    third = start(repository, other, prepared, EARSHOT_DATA=nowhere)
    output, _ = third.communicate(timeout=400)
    assert third.returncode == 0, output[-3000:]
    assert not (other / "cuts").exists() and not (other / "noise").exists()
    assert (other / "tokenizer.model").read_bytes() == (tmp_path / "tokenizer.model").read_bytes()
    assert checkpoint(other / "checkpoints" / "last.ckpt")["global_step"] == 4

    small = tmp_path / "small"
    pruned = [
        *prepared, f"train.start_from={tmp_path / 'assistant-en.ear'}", "endpoint.clips=0",
        "compress.quantise.bits=0",
        "compress.second_order.share=0.4", "compress.second_order.bits=4",
        "compress.second_order.rounds=2", "compress.second_order.batches=2",
        "compress.second_order.frames=400",
    ]  # fmt: skip
    fourth = start(repository, small, pruned, EARSHOT_DATA=nowhere)
    output, _ = fourth.communicate(timeout=400)
    assert fourth.returncode == 0, output[-3000:]
    start_weights = ModelFile(small / "pruned.ear")
    made = ModelFile(small / "assistant-en.ear")
    zeros, codecs = 0, set()
    for info in made.tensors:
        if info.name.startswith("encoder.lstm") and "weight" in info.name:
            before, after = start_weights.dequantise(info.name), made.dequantise(info.name)
            for row in range(0, len(before), 16):  # what was taken away stays away
                gone = ~before[row : row + 16].any(axis=0)
                assert not after[row : row + 16, gone].any()
                zeros += int(gone.sum())
            codecs.add(info.codec)
    assert zeros and any(codec.startswith("i4_b16") for codec in codecs), codecs
    assert isinstance(transcribe(small / "assistant-en.ear"), str)


@speaks
def test_what_another_run_prepared_must_be_there(repository: Path, tmp_path: Path) -> None:
    settings = [*TINY, "train.max_steps=4", f"data.prepared={tmp_path}"]
    run = start(repository, tmp_path / "new", settings)
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 1
    assert "holds no speech to train on" in output
    assert not (tmp_path / "new").exists()


def checkpoint(path: Path) -> dict[str, object]:
    from earshot.train.loop import read_checkpoint

    return read_checkpoint(path)
