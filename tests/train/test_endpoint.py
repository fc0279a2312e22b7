"""The end-of-query head: true labels, a graph that is the module, one command for all of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earshot import ConfigError, ModelFileError, Recognizer
from earshot.cli.app import app
from earshot.core.features import ENCODER_CLOCK
from earshot.modelfile.codecs import encode_f32, encode_f32_r16
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model, write_with_graph
from earshot.models.endpoint import EndpointHead
from earshot.runtime.session import GraphSession, open_model
from earshot.train.cuts import file_cut, write_cuts, write_wav
from earshot.train.endpoint_clips import (
    AFTER,
    BEFORE,
    PAUSE,
    SPEECH,
    ClipMaker,
    ClipMix,
    frame_labels,
)
from tests.tiny_model import HIDDEN, tiny_parts, write_tiny_model

RATE = 16_000


def tone(seconds: float, hertz: float = 300.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(
        np.float32
    )


@given(
    runs=st.lists(st.tuples(st.integers(0, 30), st.integers(8, 40)), min_size=1, max_size=4),
    tail=st.integers(8, 60),
    unfinished=st.booleans(),
)
def test_silences_are_named_by_what_follows(runs, tail, unfinished):
    mask = np.concatenate([[False] * quiet + [True] * loud for quiet, loud in runs]).astype(bool)
    count = (len(mask) + tail) // 4
    labels = frame_labels(mask, count, unfinished=unfinished)
    spoken = np.flatnonzero(labels == SPEECH)
    assert set(labels[: spoken[0]]) <= {BEFORE}
    assert set(labels[spoken[-1] + 1 :]) <= {PAUSE if unfinished else AFTER}
    assert set(labels[spoken[0] : spoken[-1]]) <= {SPEECH, PAUSE}
    assert abs(4 * len(spoken) - mask.sum()) <= 8 * len(runs)


def test_noise_alone_is_before_speech():
    assert set(frame_labels(np.zeros(40, bool), 10, unfinished=False)) == {BEFORE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a recipe's stages leave, of tones in place of voices."""
    folder = tmp_path_factory.mktemp("recipe")
    for part, count in (("train", 6), ("dev", 4)):
        cuts = []
        for n in range(count):
            for kind, speaker in (("command", "a"), ("digit", f"d{n % 3}"), ("wake", "w")):
                name = f"{part}-{kind}-{n}"
                path = folder / "audio" / f"{name}.wav"
                quiet = np.zeros(3200, np.float32)
                samples = np.concatenate([quiet, tone(0.5, 200 + 40 * n), quiet, tone(0.3), quiet])
                write_wav(path, samples)
                cuts.append(
                    file_cut(
                        name,
                        path,
                        len(samples),
                        text="turn on",
                        speaker=speaker,
                        custom={"kind": kind},
                    )
                )
        write_cuts(cuts, folder / "cuts" / f"synthetic_{part}_000.jsonl.gz")
    return folder


def made(folder, mix: ClipMix, count: int = 24):
    from earshot.train.cuts import read_cuts

    cuts = read_cuts(folder / "cuts" / "synthetic_train_000.jsonl.gz")
    # Between the two tones, wherever the silence around a clip was cut.
    maker = ClipMaker(
        cuts, None, (), gaps=lambda clips: [[int(0.6 * RATE)] for _ in clips], mix=mix
    )
    return maker.make(count, np.random.default_rng(0))


def only(**shares: float) -> ClipMix:
    none = dict.fromkeys(("sentences", "unfinished", "digits", "noise", "woken"), 0.0)
    return ClipMix(**{**none, **shares})


def test_the_end_is_where_the_sound_ends(folder):
    for clip in made(folder, only(sentences=0.5, digits=0.3, woken=0.2)):
        assert len(clip.labels) == ENCODER_CLOCK.num_frames(len(clip.samples))
        assert np.abs(clip.samples).max() <= 1
        assert clip.end_sample is not None
        frames = clip.samples[: len(clip.samples) // 160 * 160].reshape(-1, 160)
        level = np.sqrt(np.mean(np.square(frames), axis=1))
        loud = np.flatnonzero(level > level.max() / 5)
        assert (loud[-1] + 1) * 160 == pytest.approx(clip.end_sample, abs=480)
        first_after = 640 * int(np.flatnonzero(clip.labels == AFTER)[0])
        assert first_after == pytest.approx(clip.end_sample, abs=640)


def test_broken_off_sentences_and_noise_have_no_end(folder):
    for clip in made(folder, only(unfinished=1.0)):
        assert clip.end_sample is None and AFTER not in clip.labels and PAUSE in clip.labels
    for clip in made(folder, only(noise=1.0), count=4):
        assert clip.end_sample is None and set(clip.labels) == {BEFORE}


@pytest.mark.parametrize("size", [0, 16])
def test_the_graph_in_the_file_is_the_module(tmp_path, size):
    torch.manual_seed(0)
    head = EndpointHead(HIDDEN, size)
    graph = head.describe()
    tensors = {
        name: (encode_f32 if t.role == "vector" else encode_f32_r16)(t.value.numpy())
        for name, t in graph.tensors.items()
    }
    base = write_tiny_model(tmp_path / "base.ear")
    path = tmp_path / "head.ear"
    write_with_graph(ModelFile(base), path, "endpoint", graph.as_json(["log_probs"]), tensors)
    hidden = np.random.default_rng(0).normal(0, 1, (30, HIDDEN)).astype(np.float32)
    ours, _ = GraphSession(open_model(path), "endpoint").step(hidden)
    with torch.no_grad():
        theirs = head(torch.from_numpy(hidden)[None])[0].numpy()
    np.testing.assert_allclose(ours["log_probs"], theirs, atol=2e-5)
    # Another head takes the place of the first, and leaves nothing of it behind.
    again = tmp_path / "again.ear"
    write_with_graph(ModelFile(path), again, "endpoint", graph.as_json(["log_probs"]), tensors)
    assert again.stat().st_size == path.stat().st_size
    assert Recognizer.load(path).transcribe(tone(1.0)).text == (
        Recognizer.load(base).transcribe(tone(1.0)).text
    )


@pytest.mark.parametrize(("outputs", "problem"), [(3, "of width 3; it must be 4"), (4, None)])
def test_a_head_of_another_width_is_refused(tmp_path, outputs, problem):
    parts = tiny_parts(endpoint=True)
    parts["tensors"]["head"] = encode_f32_r16(np.zeros((outputs, 16), np.float32))
    if problem is None:
        write_model(tmp_path / "x.ear", **parts)
        return
    with pytest.raises(ModelFileError, match=problem):
        write_model(tmp_path / "x.ear", **parts)


RECIPE = """
name = "tiny"
folder = "{folder}"
[sources]
synthetic = {{ first = 1.0, last = 1.0 }}
[train]
max_minutes = 1
"""


@pytest.fixture
def recipe(folder, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(folder=folder), encoding="utf-8")
    return path


def test_one_command_gives_a_model_a_head_and_thresholds(folder, recipe, tmp_path):
    from typer.testing import CliRunner

    base = write_tiny_model(tmp_path / "base.ear")
    path = tmp_path / "with_head.ear"
    sizes = [
        f"endpoint.{name}={value}"
        for name, value in (("dev_clips", 16), ("tuning_clips", 48), ("epochs", 4), ("size", 16))
    ]
    result = CliRunner().invoke(
        app,
        ["train", "endpoint", str(recipe), "-m", str(base), "-o", str(path), "--clips", "48"]
        + [part for each in sizes for part in ("--set", each)]
        + ["--json"],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert set(report["accuracy"]) == {"speech", "before", "pause", "after"}
    # A tone is easily told from silence, even by random frames.
    assert report["accuracy"]["speech"] > 0.6
    model = Recognizer.load(path)
    assert "endpoint" in open_model(path).graph_names
    config = model.endpoint_config()
    assert json.loads(ModelFile(path).header["metadata"]["endpoint"])["final"]["pause_s"] == (
        config.final.pause_s
    )
    assert "endpoint" not in ModelFile(base).header["graphs"]


def test_a_folder_without_clips_is_one_line(recipe, tmp_path):
    from earshot.train.endpoint import train_endpoint
    from earshot.train.recipe import EndpointHeadConfig

    base = write_tiny_model(tmp_path / "base.ear")
    with pytest.raises(ConfigError, match="Run the recipe's stages up to `synthesis` first"):
        train_endpoint(base, base, folder=tmp_path / "nothing", config=EndpointHeadConfig(clips=16))


def test_heads_are_of_a_size_that_the_engine_runs():
    from earshot.train.recipe import EndpointHeadConfig

    with pytest.raises(ConfigError, match=r"endpoint\.size is 20; it must be a multiple of 16"):
        EndpointHeadConfig(size=20)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_the_head_is_causal(seed):
    torch.manual_seed(seed)
    head = EndpointHead(8, 16)
    x = torch.randn(1, 12, 8)
    with torch.no_grad():
        torch.testing.assert_close(head(x)[:, :7], head(x[:, :7]))
