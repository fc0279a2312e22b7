"""Runs a recipe: prepares what is missing, trains, exports.

Stages are idempotent: each leaves a marker or its files and is skipped when they stand, so one
command makes a model from nothing and the same command goes on after a kill.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from earshot import _native
from earshot.compress.export import export_transducer, read_transducer, transducer_config
from earshot.compress.methods import export_grids
from earshot.compress.second_order import Site, observe, prune, round_weights
from earshot.core.errors import ConfigError
from earshot.data.atomic import replaced_file
from earshot.decode import language_model
from earshot.modelfile.reader import ModelFile
from earshot.models.transducer import Transducer
from earshot.runtime.session import open_model
from earshot.train import (
    biasing,
    command_text,
    corpora,
    librispeech,
    loop,
    noise,
    phrase_text,
    rooms,
    splicing,
    synthesis,
    text,
)
from earshot.train.batches import Progress, load_audio, read_sources, training_loader
from earshot.train.pieces import load_tokenizer, train_pieces
from earshot.train.recipe import Recipe

logger = logging.getLogger(__name__)

STAGES = (
    "text",
    "noise",
    "rooms",
    "corpora",
    "synthesis",
    "splicing",
    "tokenizer",
    "statistics",
    "frozen",
    "prune",
    "train",
    "export",
    "endpoint",
    "ngrams",
)


_PRUNED = "pruned.ear"


def run(
    recipe: Recipe,
    *,
    stages: Sequence[str] | None = None,
    resume: bool = True,
    progress: Callable[[str, float, float], None] = lambda *_: None,
    training_bar: bool = True,
) -> Path:
    """Run a recipe's stages in order.

    Args:
        recipe: All settings.
        stages: Names out of `STAGES`; all by default.
        resume: Go on from the last checkpoint; False trains anew.
        progress: Called with (stage, done, total) now and then by the stages that take long.
        training_bar: Training shows a bar of its own, with its losses; False makes it call
            `progress` like the others.

    Returns:
        The exported model.

    Raises:
        ConfigError: A stage that does not exist, or `data.prepared` names a folder without speech.
    """
    for stage in stages or ():
        if stage not in STAGES:
            raise ConfigError(f"stage '{stage}': is unknown; known are {', '.join(STAGES)}.")
    material = _material(recipe)
    folder = Path(recipe.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.data.source == "commands":
        recordings = Path(recipe.data.recordings or os.devnull)
    else:
        recordings = Path(os.environ.get("EARSHOT_DATA", recipe.data.recordings))
    if recipe.data.recordings and not recordings.is_dir():
        logger.warning(
            "%s: no recordings there (set EARSHOT_DATA, or data.recordings); the model will be "
            "made without them",
            recordings,
        )
    steps: dict[str, Callable[[], object]] = {
        "tokenizer": lambda: _prepare_tokenizer(recipe, folder),
        "statistics": lambda: _prepare_statistics(recipe, folder, material),
        "prune": lambda: _prune(recipe, folder, material),
        "train": lambda: _train(
            _from_pruned(recipe, folder),
            folder,
            material,
            resume=resume,
            progress=None if training_bar else partial(progress, "train"),
        ),
        "export": lambda: export(recipe),
        "endpoint": lambda: _give_endpoint_head(recipe, material, partial(progress, "endpoint")),
        "ngrams": lambda: _give_language_model(recipe, material),
    }
    if recipe.train.trained == "bias":
        shown = (lambda *_: None) if training_bar else partial(progress, "train")
        steps |= {
            "frozen": lambda: biasing.freeze(recipe, folder, progress=partial(progress, "frozen")),
            "train": lambda: biasing.train(
                recipe, folder, biasing.freeze(recipe, folder), resume=resume, progress=shown
            ),
            "export": lambda: biasing.export(recipe, folder, folder / "checkpoints" / "bias.ckpt"),
        }
    if not recipe.data.prepared:
        steps |= _preparing(recipe, folder, recordings, progress)
    for stage in STAGES:
        if stages is None or stage in stages:
            logger.info("stage %s", stage)
            steps.get(stage, _nothing)()
    return folder / recipe.export.output


def _material(recipe: Recipe) -> Path:
    """The folder with what is trained on: the recipe's own, or that of `data.prepared`."""
    if not recipe.data.prepared:
        return Path(recipe.folder)
    material = Path(recipe.data.prepared)
    if not any((material / "cuts").glob("*_train*.jsonl.gz")):
        raise ConfigError(
            f"data.prepared is '{material}', which holds no speech to train on (no "
            "cuts/*_train*.jsonl.gz). Run the recipe that prepares it first."
        )
    return material


def _preparing(
    recipe: Recipe,
    folder: Path,
    recordings: Path,
    progress: Callable[[str, float, float], None],
) -> dict[str, Callable[[], object]]:
    """The stages before the tokenizer that this recipe's data has."""
    seed = recipe.train.seed
    steps: dict[str, Callable[[], object]] = {}
    steps["rooms"] = lambda: rooms.prepare(
        folder, seed=seed, config=recipe.rooms, progress=partial(progress, "rooms")
    )
    steps["noise"] = lambda: noise.prepare(
        folder, seed=seed, config=recipe.noise, root=recordings, progress=partial(progress, "noise")
    )
    if recipe.data.source == "librispeech":
        steps["corpora"] = lambda: librispeech.prepare(
            folder, seed=seed, root=recordings, config=recipe.librispeech
        )
    else:
        steps["text"] = lambda: _prepare_text(recipe, folder, recordings)
        steps["corpora"] = lambda: corpora.prepare(
            folder,
            seed=seed,
            config=recipe.corpora,
            root=recordings,
            progress=partial(progress, "corpora"),
        )
        steps["synthesis"] = lambda: _prepare_synthesis(
            recipe, folder, progress=partial(progress, "synthesis")
        )
        steps["splicing"] = lambda: _prepare_splicing(
            recipe, folder, recordings, progress=partial(progress, "splicing")
        )
    return steps


def export(recipe: Recipe, *, checkpoint: Path | None = None) -> Path:
    """Write the model of a checkpoint, by default the last one.

    Args:
        recipe: The recipe it was trained by.
        checkpoint: A file that training wrote.

    Returns:
        The model file.
    """
    folder = Path(recipe.folder)
    checkpoint = checkpoint if checkpoint is not None else folder / "checkpoints" / "last.ckpt"
    state = loop.read_checkpoint(checkpoint)
    model = Transducer(recipe.model)
    prefix = "transducer."
    model.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state["state_dict"].items() if k.startswith(prefix)}
    )
    model.eval()
    grids = export_grids(recipe.compress, state, model)
    second_order = recipe.compress.second_order
    if second_order.bits:
        seen = partial(_observed, recipe, folder, _material(recipe))
        grids = round_weights(model, seen, second_order)
    path = folder / recipe.export.output
    _write(
        recipe,
        model,
        path,
        codec=recipe.export.codec,
        grids=grids,
        codecs=None if second_order.bits else state.get("codecs"),
        metadata={
            "licence": recipe.export.licence,
            "description": recipe.export.description,
            "recipe": recipe.name,
            "steps": str(state["global_step"]),
            "audio_hours_seen": f"{state['audio_s'] / 3600:.0f}",
        },
    )
    start = recipe.train.start_from
    if start and "lm" in ModelFile(Path(start)).header:  # of the same pieces
        language_model.embed(path, Path(start), path)
    logger.info("wrote %s, %d bytes", path, path.stat().st_size)
    return path


def _write(recipe: Recipe, model: Transducer, path: Path, **settings: Any) -> None:
    """Write a network with the recipe's name and word pieces; settings of `export_transducer`."""
    tokenizer_path = Path(recipe.folder) / "tokenizer.model"
    tokenizer = load_tokenizer(tokenizer_path)
    export_transducer(
        model,
        path,
        name=recipe.export.name or recipe.name,
        pieces=[tokenizer.id_to_piece(i) for i in range(tokenizer.get_piece_size())],
        tokenizer=tokenizer_path.read_bytes(),
        **settings,
    )


def _observed(recipe: Recipe, folder: Path, material: Path, model: Transducer) -> list[Site]:
    """What the matrices of a network multiply when it hears clips of training."""
    train, config = recipe.train, recipe.compress.second_order
    torch.set_num_threads(train.threads)
    halfway = Progress()
    halfway.set(0.5)
    train = replace(train, batch_s=config.batch_s, workers=0, resident=False)
    loader = training_loader(
        replace(recipe, train=train),
        material,
        load_tokenizer(folder / "tokenizer.model"),
        halfway,
        seed=train.seed,
        sources=read_sources(material / "cuts", recipe.sources),
    )
    return observe(model, islice(loader, config.batches), config, seed=train.seed)


def _prune(recipe: Recipe, folder: Path, material: Path) -> None:
    """Take weights away from the network that training is to start from.

    Checkpoints of a network that lacked others are put aside: training starts anew.
    """
    config = recipe.compress.second_order
    if config.share == 0:
        return
    path, origin = folder / _PRUNED, _pruning(recipe)
    if _is_pruned(path, origin):
        return
    start = Path(recipe.train.start_from)
    own = transducer_config(ModelFile(start))
    # A head that the start does not have is trained from nothing: it has nothing to spare, and what
    # it minds says nothing.
    there = replace(
        recipe.model,
        phones=recipe.model.phones and own.phones,
        second_pass=recipe.model.second_pass if own.second_pass.layers else own.second_pass,
        bias=recipe.model.bias if own.bias.query != "none" else own.bias,
    )
    model = read_transducer(start, there).eval()
    for n, share in enumerate(config.shares()):
        other_clips = replace(recipe, train=replace(recipe.train, seed=recipe.train.seed + n))
        sites = _observed(other_clips, folder, material, model)
        prune(model, sites, replace(config, share=share))
    for checkpoint in (folder / "checkpoints").glob("*.ckpt"):
        logger.warning("%s: is of other zeros; put aside", checkpoint)
        checkpoint.rename(checkpoint.with_suffix(".old"))
    _write(recipe, model, path, codec="f32_r16", metadata={"pruned": origin})


def _pruning(recipe: Recipe) -> str:
    """What decides which weights go, as text."""
    train, settings = recipe.train, asdict(recipe.compress.second_order)
    del settings["bits"], settings["exceptions"]
    settings["seed"] = train.seed
    start = Path(train.start_from)
    digest = blake2b(start.read_bytes()).hexdigest() if start.is_file() else ""
    return json.dumps([settings, asdict(recipe.model), digest])


def _is_pruned(path: Path, origin: str) -> bool:
    if not path.is_file():
        return False
    metadata = cast("Mapping[str, str]", ModelFile(path).header.get("metadata", {}))
    return bool(json.loads(metadata.get("pruned", "null")) == json.loads(origin))


def _from_pruned(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe that trains on from what pruning left, and keeps its zeros."""
    if recipe.compress.second_order.share == 0:
        return recipe
    path = folder / _PRUNED
    if not _is_pruned(path, _pruning(recipe)):
        raise ConfigError(
            f"compress.second_order.share is {recipe.compress.second_order.share} and {path} is "
            "not there or was made otherwise. Run the stage `prune` first."
        )
    return replace(
        recipe,
        train=replace(recipe.train, start_from=str(path)),
        compress=replace(recipe.compress, keep_mask=True),
    )


def _give_endpoint_head(
    recipe: Recipe, material: Path, progress: Callable[[float, float], None]
) -> None:
    if recipe.endpoint.clips == 0:
        return
    from earshot.train.endpoint import train_endpoint

    path = Path(recipe.folder) / recipe.export.output
    train_endpoint(
        path,
        path,
        folder=material,
        config=recipe.endpoint,
        seed=recipe.train.seed,
        progress=progress,
    )


def _give_language_model(recipe: Recipe, material: Path) -> None:
    config = recipe.ngrams
    if config.max_ngrams == 0:
        return
    path = Path(recipe.folder) / recipe.export.output
    recogniser = open_model(path)
    texts = material / "text" / "train.jsonl"
    if not texts.is_file():
        raise ConfigError(
            f"ngrams.max_ngrams is {config.max_ngrams} and {texts} is not there. Run the stage "
            "that writes the text first, or set ngrams.max_ngrams to 0."
        )
    sentences = [item.text for item in text.load_texts(texts)]
    made, _ = language_model.from_text(
        sentences, recogniser, order=config.order, most=config.max_ngrams
    )
    own = path.with_name("lm.ear")
    language_model.save(made, own, pieces=len(recogniser.pieces), config=config.weights)
    language_model.embed(path, own, path)
    logger.info("%s: with a language model, %d bytes", path, path.stat().st_size)


def _nothing() -> None:
    """A stage that this recipe's data does not have."""


def _prepare_text(recipe: Recipe, folder: Path, recordings: Path) -> None:
    seed = recipe.train.seed
    text.prepare(folder, seed=seed, config=recipe.text, root=recordings)
    if recipe.commands.files:
        command_text.prepare(folder, seed=seed, config=recipe.commands)
    if recipe.phrases.hours:
        phrase_text.prepare(folder, seed=seed, config=recipe.phrases)


def _prepare_synthesis(
    recipe: Recipe, folder: Path, *, progress: Callable[[float, float], None]
) -> None:
    """General speech, and before it that of the user's commands and of names, if there are any."""
    seed, general = recipe.train.seed, recipe.synthesis
    natural = synthesis.natural_voices(general) if general.voice_hours else []
    special = {
        "commands": recipe.commands.hours if recipe.commands.files else 0.0,
        "neural": general.voice_hours if natural and recipe.commands.files else 0.0,
        "phrases": recipe.phrases.hours,
    }
    total = sum(special.values()) + general.hours
    before = 0.0
    for source, hours in special.items():
        if not hours:
            continue
        by_natural = source == "neural"
        synthesis.prepare(
            folder,
            seed=seed,
            config=replace(general, hours=hours, dev_clips=0 if by_natural else general.dev_clips),
            source=source,
            texts="commands" if by_natural else "",
            natural=natural if by_natural else (),
            progress=partial(_report_part, progress, before, hours, total),
        )
        before += hours
    synthesis.prepare(
        folder,
        seed=seed,
        config=general,
        progress=partial(_report_part, progress, before, general.hours, total),
    )


def _prepare_splicing(
    recipe: Recipe, folder: Path, recordings: Path, *, progress: Callable[[float, float], None]
) -> None:
    """The user's commands, or general sentences, in the voices of the recordings."""
    splicing.prepare(
        folder,
        seed=recipe.train.seed,
        root=recordings,
        config=recipe.splicing,
        source="commands" if recipe.commands.files else "synthetic",
        pronunciations=recipe.data.own_pronunciations,
        processes=recipe.synthesis.processes,
        progress=progress,
    )


def _report_part(
    progress: Callable[[float, float], None],
    before: float,
    most: float,
    total: float,
    done: float,
    _: float,
) -> None:
    """Progress of one of several parts."""
    progress(before + min(done, most), total)


def _prepare_tokenizer(recipe: Recipe, folder: Path) -> None:
    path = folder / "tokenizer.model"
    if not path.exists():
        if recipe.train.start_from:
            pieces = ModelFile(Path(recipe.train.start_from)).tensor_bytes("tokenizer")
        elif recipe.data.prepared:
            pieces = (_material(recipe) / "tokenizer.model").read_bytes()
        else:
            sentences = [item.text for item in text.load_texts(folder / "text" / "train.jsonl")]
            pieces = train_pieces(sentences, recipe.tokenizer)
        with replaced_file(path) as out:
            out.write(pieces)
    size = load_tokenizer(path).get_piece_size()
    if size != recipe.tokenizer.vocab_size:
        raise ConfigError(
            f"{path}: has {size} pieces; the recipe says {recipe.tokenizer.vocab_size}. Delete it "
            "and the checkpoints beside it, or give the recipe another folder."
        )


def _prepare_statistics(recipe: Recipe, folder: Path, material: Path) -> None:
    """Mean and deviation of log-mel over clips of every source; fixed from then on."""
    path = folder / "statistics.npz"
    if path.exists() or recipe.train.start_from:  # which brings its own
        return
    rng = np.random.default_rng(recipe.train.seed)
    num_bins = recipe.model.encoder.num_bins
    rows = []
    for cuts in read_sources(material / "cuts", recipe.sources).values():
        for index in rng.integers(len(cuts), size=150):
            samples = load_audio(cuts[index])
            gain = 10 ** (rng.uniform(-25, -1) / 20) / (np.abs(samples).max() + 1e-6)
            floor = rng.standard_normal(len(samples), dtype=np.float32) * np.float32(1e-4)
            rows.append(_native.fbank((samples + floor) * np.float32(gain), num_bins))
    frames = np.concatenate(rows)
    with replaced_file(path) as out:
        np.savez(out, mean=frames.mean(axis=0), std=frames.std(axis=0))


def _train(
    recipe: Recipe,
    folder: Path,
    material: Path,
    *,
    resume: bool,
    progress: Callable[[float, float], None] | None,
) -> None:
    statistics = None
    if not recipe.train.start_from:
        with np.load(folder / "statistics.npz") as saved:
            statistics = (torch.from_numpy(saved["mean"]), torch.from_numpy(saved["std"]))
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    loop.train(
        recipe,
        folder,
        tokenizer,
        statistics,
        material=material,
        resume=resume,
        progress=progress,
    )
