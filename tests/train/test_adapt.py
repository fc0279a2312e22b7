"""An adaptation: the recipe that a request becomes, and a run that stops and goes on."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

pytest.importorskip("torch")
pytest.importorskip("lightning")

from earshot.compress.config import QuantiseConfig
from earshot.compress.export import export_transducer, read_transducer
from earshot.compress.quantisation import fit_grids
from earshot.core.errors import CommandsError, ConfigError, ModelFileError
from earshot.core.understanding import SlotValue, Understanding
from earshot.data.audio import read_audio
from earshot.modelfile.reader import ModelFile
from earshot.models.encoder import EncoderConfig
from earshot.models.predictor import PredictorConfig
from earshot.models.transducer import Transducer, TransducerConfig
from earshot.session.recognizer import Recognizer, embedded_model_path
from earshot.train import adapt as adaptation
from earshot.train import command_text, measure, run, synthesis
from earshot.train.adapt import Adaptation, adapt, adaptation_recipe, training_minutes
from earshot.train.recipe import CommandsConfig
from earshot.train.text import load_texts
from earshot.understand.calibration import stored_config
from earshot.understand.templates import load_commands

TEMPLATES = """
language: en
intents:
  Light:
    data:
      - sentences: ["turn (on|off) the {room} light"]
  Timer:
    data:
      - sentences: ["set a timer for {minutes} minutes"]
lists:
  room: {values: [kitchen, hall, {in: living room, out: lounge}]}
  minutes: {range: {from: 1, to: 30}}
"""

# Amounts so small that a run takes seconds.
TINY = (
    "commands.hours=0.01",
    "commands.sentences=40",
    "commands.dev_sentences=10",
    "synthesis.hours=0.01",
    "synthesis.dev_clips=4",
    "synthesis.processes=1",
    "text.generated=200",
    "text.sentences_per_template=1",
    "noise.minutes=1",
    "noise.silent_clips=4",
    "rooms.count=2",
    "train.batch_s=10",
    "train.buckets=2",
    "train.workers=0",
    "train.peak_lr=1e-6",
    "train.validation_clips=1",
)
SIX_STEPS = (*TINY, "train.max_minutes=0", "train.max_steps=6")


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    path = tmp_path / "home.yaml"
    path.write_text(TEMPLATES)
    return path


def _request(templates: Path, **settings: object) -> Adaptation:
    output = templates.parent / "mine.ear"
    work_dir = templates.parent / "mine.ear.work"
    return Adaptation(commands=(str(templates),), output=output, work_dir=work_dir, **settings)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the recipe


def _small_model(path: Path) -> TransducerConfig:
    config = TransducerConfig(
        vocab_size=60,
        joiner_width=32,
        encoder=EncoderConfig(hidden=16, layers=2),
        predictor=PredictorConfig(width=16),
    )
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["turn on the light in the kitchen", "quick brown fox jumps"] * 20),
        model_writer=pieces, vocab_size=60, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    names = ["<blk>", "<sos/eos>", "<unk>", *(f"p{i}" for i in range(57))]
    export_transducer(
        Transducer(config), path, name="small", pieces=names, tokenizer=pieces.getvalue()
    )
    return config


def test_the_network_has_the_shape_of_the_model_started_from(
    templates: Path, tmp_path: Path
) -> None:
    start = tmp_path / "small.ear"
    config = _small_model(start)
    recipe = adaptation_recipe(_request(templates, model=start))
    assert recipe.model.second_pass.layers == 1
    assert recipe.model == dataclasses.replace(
        config,
        phones=True,
        phone_weight=recipe.model.phone_weight,
        second_pass=recipe.model.second_pass,
    )
    read_transducer(start, recipe.model)  # raises where the shape is another
    embedded = adaptation_recipe(_request(templates))
    read_transducer(embedded_model_path(), embedded.model)


def test_a_sparse_model_grows_unless_it_is_to_stay_small(templates: Path, tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense.ear", tmp_path / "sparse.ear"
    model = Transducer(_small_model(dense))
    for name, weights in model.named_parameters():
        if weights.dim() == 2 and "embedding" not in name:
            weights.data[:, ::2] = 0
    names = [f"p{i}" for i in range(60)]
    config = QuantiseConfig(bits=4, exceptions={"predictor.*.table": 4, "joiner.*": 8})
    grids = fit_grids(model, config)
    export_transducer(model, sparse, name="s", pieces=names, tokenizer=b"-", grids=grids)

    grown = adaptation_recipe(_request(templates, model=sparse))
    assert not grown.compress.keep_mask
    assert grown.model.second_pass.layers == 1
    update = ("compress.changed_blocks=0.1",)
    sent = adaptation_recipe(_request(templates, model=sparse, overrides=update))
    assert sent.model.second_pass.layers == 0  # nothing new in it

    with pytest.raises(ConfigError, match="Leave out --small"):
        adaptation_recipe(_request(templates, model=sparse, small=True, overrides=update))
    small = adaptation_recipe(_request(templates, model=sparse, small=True))
    assert small.compress.keep_mask
    assert small.model.second_pass.layers == 0
    assert small.compress.second_order.bits == 4
    assert small.compress.second_order.exceptions == {
        "joiner.logits.weight": 8,
        "predictor.embedding0.table": 4,
    }
    asked = _request(templates, model=sparse, small=True, overrides=("model.second_pass.layers=1",))
    assert adaptation_recipe(asked).model.second_pass.layers == 1

    of_dense = adaptation_recipe(_request(templates, model=dense, small=True))
    assert of_dense.compress.second_order.bits == 8 and of_dense.model.second_pass.layers == 0


def test_what_is_to_stay_small_or_ship_as_an_update_gets_no_second_pass(
    templates: Path, tmp_path: Path
) -> None:
    start = tmp_path / "small.ear"
    _small_model(start)
    asked = _request(templates, model=start, overrides=("compress.changed_blocks=0.1",))
    assert adaptation_recipe(asked).model.second_pass.layers == 0
    small = ("compress.second_order.share=0.5", "compress.second_order.bits=4")
    asked = _request(templates, model=start, overrides=small)
    assert adaptation_recipe(asked).model.second_pass.layers == 0


def test_templates_that_cannot_be_heard_are_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "wild.yaml"
    path.write_text(
        "intents: {Play: {data: [{sentences: ['play {song}']}]}}\nlists: {song: {wildcard: true}}"
    )
    request = _request(path)
    with pytest.raises(CommandsError):
        adapt(request)
    assert not request.work_dir.exists()


def test_a_file_that_is_no_transducer_is_refused(templates: Path, tmp_path: Path) -> None:
    start = tmp_path / "no.ear"
    start.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"no\.ear"):
        adaptation_recipe(_request(templates, model=start))


def test_recorded_sources_need_recordings(templates: Path, tmp_path: Path) -> None:
    without = adaptation_recipe(_request(templates))
    with_them = adaptation_recipe(_request(templates, recordings=tmp_path))
    assert set(without.sources) == {"commands", "synthetic", "noise"}
    assert {"read", "digit_strings", "spelled"} <= set(with_them.sources)
    assert with_them.data.recordings == str(tmp_path)


def test_a_run_ends_on_commands_and_people(templates: Path) -> None:
    for recordings in (None, templates.parent):
        sources = adaptation_recipe(_request(templates, recordings=recordings)).sources
        total = sum(source.last for source in sources.values())
        recorded = sum(s.last for k, s in sources.items() if k in adaptation._RECORDED)
        commands = sum(s.last for k, s in sources.items() if k in ("commands", "spliced"))
        assert 0.35 < commands / total < 0.85
        assert recorded == 0 if recordings is None else recorded / total > 0.35
        assert ("spliced" in sources) == (recordings is not None)


def test_what_the_user_sets_wins_over_the_budget(templates: Path) -> None:
    whole = adaptation_recipe(_request(templates))
    half = adaptation_recipe(_request(templates, minutes=adaptation.DEFAULT_MINUTES / 2))
    assert half.commands.hours == pytest.approx(whole.commands.hours / 2)
    assert half.train.max_minutes == pytest.approx(whole.train.max_minutes / 2)
    overrides = ("commands.hours=4", "augment.snr_min_db=-3", "train.max_minutes=7")
    request = _request(templates, minutes=adaptation.DEFAULT_MINUTES / 2, overrides=overrides)
    given = adaptation_recipe(request)
    assert (given.commands.hours, given.augment.snr_min_db) == (4.0, -3.0)
    assert training_minutes(request, given, spent_s=10_000) == 7.0
    with pytest.raises(ConfigError, match="peak_lr"):
        adaptation_recipe(_request(templates, overrides=("train.peak_rl=1",)))


def test_training_gets_what_preparing_left_of_the_budget(templates: Path) -> None:
    request = _request(templates, minutes=20)
    recipe = adaptation_recipe(request)
    quick = training_minutes(request, recipe, spent_s=60)
    slow = training_minutes(request, recipe, spent_s=8 * 60)
    assert quick == pytest.approx(recipe.train.max_minutes)
    assert slow < quick
    assert slow + 8 < 20
    assert training_minutes(request, recipe, spent_s=3600) == pytest.approx(8.0)  # the least
    longer = _request(templates, minutes=adaptation.DEFAULT_MINUTES + 30)
    recipe = adaptation_recipe(longer)
    assert training_minutes(longer, recipe, spent_s=60) == pytest.approx(
        recipe.train.max_minutes + 30
    )


def test_a_budget_must_be_positive(templates: Path) -> None:
    with pytest.raises(ConfigError, match="minutes is 0"):
        _request(templates, minutes=0)


# ---------------------------------------------------------------- sentences


def test_sentences_of_the_templates_are_spelled_and_balanced(
    templates: Path, tmp_path: Path
) -> None:
    config = CommandsConfig(files=(str(templates),), sentences=200, dev_sentences=20)
    counts = command_text.prepare(tmp_path, seed=3, config=config)
    assert 40 <= counts["train"] <= 200 and counts["heldout"] == 20
    items = load_texts(tmp_path / "text" / "commands_train.jsonl")
    assert {item.template for item in items} == {"commands:Light", "commands:Timer"}
    for item in items:
        assert set(item.text) <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert any("living room" in item.text for item in items)
    # 6 sentences of one intent and 30 of the other are drawn equally often: each of the few comes
    # more often, but the other intent has the more.
    often = Counter(item.text for item in items)
    assert len(often) == 36
    assert often["turn on the kitchen light"] > often["set a timer for ten minutes"] >= 1
    intents = Counter(item.template for item in items)
    assert intents["commands:Timer"] > intents["commands:Light"] > len(items) / 6
    first = (tmp_path / "text" / "commands_train.jsonl").read_bytes()
    command_text.prepare(tmp_path, seed=3, config=config)
    assert (tmp_path / "text" / "commands_train.jsonl").read_bytes() == first
    command_text.prepare(tmp_path, seed=4, config=config)
    assert (tmp_path / "text" / "commands_train.jsonl").read_bytes() != first


# ---------------------------------------------------------------- a run in small


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, repository: Path) -> list[str]:
    """An engine that says one thing whatever it is told; the list holds what it was told."""
    told: list[str] = []
    samples = read_audio(repository / "examples" / "turn-on-the-lights.flac")

    def speak(clips: Sequence[synthesis.Clip]) -> list[np.ndarray]:
        told.extend(clip.text for clip in clips)
        return [samples for _ in clips]

    voice = synthesis.Voice("pico-en-US", "pico", "en-US", 175.0)
    monkeypatch.setattr(synthesis, "speak", speak)
    monkeypatch.setattr(synthesis, "installed_voices", lambda: ([voice], []))
    monkeypatch.setattr(adaptation, "installed_voices", lambda: ([voice], []))
    monkeypatch.setattr(os, "nice", lambda _: 19)  # this process must not slow down
    return told


class _StoppedHere(Exception):
    """Stands for a kill."""


def _stop_at(stage: str, share: float) -> adaptation.Progress:
    def progress(name: str, done: float, total: float) -> None:
        if name == stage and done >= share * total:
            raise _StoppedHere

    return progress


@pytest.mark.train
def test_a_stopped_adaptation_goes_on_and_another_one_starts_anew(
    templates: Path, engine: list[str]
) -> None:
    """Stopped while speaking and again while training, then finished; then changed."""
    request = _request(templates, overrides=SIX_STEPS)
    said: list[str] = []
    with pytest.raises(_StoppedHere):
        adapt(request, progress=_stop_at("synthesis", 0.4), tell=said.append)
    assert said == [] and engine
    spoken = len(engine)
    with pytest.raises(_StoppedHere):
        adapt(request, progress=_stop_at("train", 0.8), tell=said.append)
    assert len(said) == 1 and said[0].startswith("going on in ")
    assert not request.output.exists()
    clips = sum(1 for _ in (request.work_dir / "synthetic").rglob("*.wav"))
    # Each clip was spoken once: those that were there before the stop were not spoken again.
    assert spoken < len(engine) == clips + _babble_sentences(engine)
    engine.clear()
    result = adapt(request, tell=said.append)
    assert engine == []
    assert not list((request.work_dir / "checkpoints").glob("*.old"))  # as a new run leaves them
    assert said[-2].startswith("going on in ")
    # One thing said for all sentences is no ground for a confidence.
    assert said[-1].startswith("the confidence stays as it is")
    assert stored_config(ModelFile(request.output)) is None
    assert result.before is None and result.after is None  # without flite's held-out voices
    assert result.output == request.output
    assert Recognizer.load(request.output).transcribe_file(_any_clip(request)).text

    before = (request.work_dir / "model.ear").stat().st_mtime_ns
    adapt(request, tell=said.append)
    assert said[-2].endswith("it is taken as it is")
    assert (request.work_dir / "model.ear").stat().st_mtime_ns == before

    templates.write_text(TEMPLATES.replace("hall", "attic"))
    stopped = dataclasses.replace(request, seed=2)
    with pytest.raises(_StoppedHere):
        adapt(stopped, progress=_stop_at("noise", 0), tell=said.append)
    assert said[-1].startswith("starting anew in ")
    assert "templates" in said[-1] and "train" in said[-1]
    assert not (request.work_dir / "checkpoints").exists()
    assert not (request.work_dir / "model.ear").exists()
    assert request.output.exists()  # what was finished stays until it is replaced


def _babble_sentences(told: Sequence[str]) -> int:
    return sum(text.startswith(("what are you", "i have not", "she said")) for text in told)


def _any_clip(request: Adaptation) -> Path:
    return next((request.work_dir / "synthetic").rglob("*.wav"))


def test_broken_templates_leave_nothing_behind(templates: Path) -> None:
    templates.write_text(TEMPLATES.replace("{room} light", "{rom} light"))
    request = _request(templates)
    with pytest.raises(CommandsError, match=r"home\.yaml:6"):
        adapt(request)
    assert not request.work_dir.exists()


def test_a_model_that_hears_nothing_is_no_result(
    templates: Path, engine: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = _request(templates, overrides=SIX_STEPS)

    def finish(recipe: adaptation.Recipe, *, stages: Sequence[str], **_: object) -> Path:
        made = Path(recipe.folder) / "model.ear"
        if "export" in stages:  # the untrained network instead of a trained one
            _deaf_model(made, recipe.model)
        elif stages == ["synthesis"]:
            synthesis.write_cuts([], Path(recipe.folder) / "cuts" / "commands_dev.jsonl.gz")
        return made

    monkeypatch.setattr(run, "run", finish)
    with pytest.raises(ModelFileError, match="hears no word"):
        adapt(request)
    assert not request.output.exists()


def _deaf_model(path: Path, config: TransducerConfig) -> None:
    network = Transducer(config)
    network.joiner.bias.data[0] = 100.0  # always blank
    names = ["<blk>", "<sos/eos>", "<unk>", *(f"p{i}" for i in range(config.vocab_size - 3))]
    export_transducer(network, path, name="deaf", pieces=names, tokenizer=b"-")


# ---------------------------------------------------------------- measuring


def test_noise_is_mixed_at_the_level_that_is_said() -> None:
    clean = np.sin(np.arange(32000, dtype=np.float32) / 7) * np.float32(0.2)
    for clip in range(5):
        noisy = measure._in_noise(clean, clip)
        gain = np.dot(noisy, clean) / np.dot(clean, clean)  # noise is all but orthogonal
        rest = noisy - gain * clean
        snr_db = 10 * np.log10(np.mean((gain * clean) ** 2) / np.mean(rest**2))
        assert snr_db == pytest.approx(measure.NOISE_DB, abs=0.5)
        assert np.abs(noisy).max() <= 1.0
    assert not np.array_equal(measure._in_noise(clean, 0), measure._in_noise(clean, 5))


def test_a_command_is_right_with_intent_and_every_slot() -> None:
    row = {"intent": "Light", "slots": {"room": "lounge"}}
    slots = {"room": SlotValue("lounge", "living room")}
    assert measure._is_right(Understanding("Light", slots), row)
    assert not measure._is_right(Understanding("Light", {}), row)
    assert not measure._is_right(Understanding("Timer", slots), row)
    more = {**slots, "state": SlotValue("on", "on")}
    assert not measure._is_right(Understanding("Light", more), row)
    assert not measure._is_right(Understanding(None), row)
    assert not measure._is_right(None, row)


@pytest.mark.skipif(not shutil.which("flite"), reason="no flite: apt-get install flite")
def test_figures_of_the_embedded_model(templates: Path, tmp_path: Path) -> None:
    """Real clips of the held-out voices through the whole way; figures are of what was heard."""
    texts = tmp_path / "heldout.jsonl"
    sentence = {"text": "what is the weather like today", "kind": "command", "template": "ha:a:b"}
    names = [f"ha:a:{n}" for n in range(400)]
    chosen = next(name for name in names if synthesis.text_stage.is_test(name))
    texts.write_text(json.dumps({**sentence, "template": chosen}) + "\n")
    commands = load_commands([templates])
    clips = measure.make_clips(
        tmp_path / "clips", commands, heldout_texts=texts, num_commands=4, processes=1
    )
    again = measure.make_clips(
        tmp_path / "clips", commands, heldout_texts=texts, num_commands=4, processes=1
    )
    assert again == clips
    rows = [json.loads(line) for line in clips.commands.read_text().splitlines()]
    assert {row["speaker"] for row in rows} == set(synthesis.HELD_OUT_VOICES)
    heard: list[float] = []
    figures = measure.measure(
        embedded_model_path(), commands, clips, progress=lambda done, _: heard.append(done)
    )
    assert heard[-1] == 2 * 4 + 2 * 2  # one general sentence, by both voices
    assert figures.commands.num_units == figures.commands_in_noise.num_units == 4
    assert 0 <= figures.commands_in_noise.value <= 1 and figures.general_wer.value >= 0
    assert figures.mistaken.num_units == 2
    assert json.loads(json.dumps(figures.as_dict()))["commands"]["unit"] == "clip"


# ---------------------------------------------------------------- the command, killed for real


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("flite"), reason="no speech engine: apt-get install espeak-ng flite"
)
def test_a_killed_command_resumes_and_ends_in_a_working_model(templates: Path) -> None:
    output = templates.parent / "mine.ear"
    settings = (
        "train.max_minutes=1.2",
        "train.checkpoint_minutes=0.3",
        *TINY,
        "commands.hours=0.1",
    )
    command = [
        sys.executable, "-m", "earshot.cli", "adapt", str(templates), "--output", str(output),
        "--json", *(part for option in settings for part in ("--set", option)),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "EARSHOT_DATA"}
    last = templates.parent / "mine.ear.work" / "checkpoints" / "last.ckpt"
    first = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    deadline = time.monotonic() + 900
    while not last.exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(1)
    first.send_signal(signal.SIGKILL)
    output_of_first, _ = first.communicate()
    assert last.exists(), output_of_first[-3000:]
    assert not output.exists()
    from earshot.train.loop import read_checkpoint

    steps = read_checkpoint(last)["global_step"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on in" in done.stderr
    assert read_checkpoint(last)["global_step"] > steps
    report = json.loads(done.stdout)
    assert report["after"]["commands"]["num_units"] > 100
    assert report["after"]["commands"]["value"] >= report["before"]["commands"]["value"] - 0.1
    assert (
        Recognizer.load(output)
        .transcribe_file(
            next((templates.parent / "mine.ear.work" / "measured" / "commands").rglob("*.wav"))
        )
        .text
    )
