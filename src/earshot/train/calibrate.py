"""Calibrates the confidence of commands for an adapted model, from the clips of its working folder.

The model hears commands of its own dev manifest and speech that is no command: general dev
sentences, recordings of training where there are any, and noise; clean and in noise of its pool.
`understand.calibration` turns what came out into weights and a threshold, which are written into
the model's file. Knows nothing of training; recordings kept for reporting are never opened.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.audio import read_audio
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_with_metadata
from earshot.runtime.session import open_model
from earshot.session.looks import hear
from earshot.session.recognizer import Recognizer, lexicon_of, tokenizer_of
from earshot.train.augment import NoisePool, Samples
from earshot.train.batches import read_noise
from earshot.train.cuts import read_cuts
from earshot.understand.calibration import (
    METADATA_KEY,
    Heard,
    as_metadata,
    calibrated,
    stored_config,
    weigh,
)
from earshot.understand.confidence import CommandConfig
from earshot.understand.decision import meaning_key
from earshot.understand.graph import CommandGraph, compile_commands
from earshot.understand.templates import Commands

if TYPE_CHECKING:
    from earshot.session.looks import Look

__all__ = ["FALSE_ACCEPTS", "calibrate_model", "hear_clips"]

FALSE_ACCEPTS = 0.05  # of each kind of other speech: what is promised of a command's confidence

_SNRS_DB = (6.0, 9.0, 12.0, 15.0, 18.0, 21.0, 24.0)
_MOST_COMMANDS = 120
_MOST_GENERAL = 150
_MOST_RECORDED = 150  # of each kind
_NUM_SILENT = 120
_SILENT_S = 3.0
_LONGEST_S = 8.0
_LONGEST_WAIT_S = 4.0  # around a sound in noise
_COMMANDS = {  # manifests and their kinds
    "commands_dev": "commands",
    "spliced_dev": "commands by people",  # in recorded voices that nothing is trained on
}
_RECORDED = {"read": "read speech", "wake": "wake words", "digit_strings": "digit strings"}
_TOGETHER = 16  # clips decoded at once
_MOST_THREADS = 8

Progress = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class _Trial:
    """One sound to hear: of which kind, what is said, and where from."""

    kind: str
    text: str
    is_command: bool
    read: Callable[[], Samples]


def calibrate_model(
    model: Path,
    commands: Commands,
    *,
    work_dir: Path,
    output: Path,
    pronunciations: Path | None = None,
    seed: int = 1,
    progress: Progress = lambda *_: None,
) -> CommandConfig:
    """Fit the confidence to a model and write the model with the values in it.

    Args:
        model: Made by an adaptation, or by any training from these clips.
        commands: The templates that it was adapted to.
        work_dir: With the adaptation's `cuts` and `noise`.
        output: The file to make or replace; may be `model`.
        pronunciations: The user's own, see `Lexicon.extended`.
        seed: Of the choice of clips and noise.
        progress: Called with (clips heard, clips).

    Returns:
        The values.

    Raises:
        ConfigError: Too few commands were heard right to tell anything; nothing is written.
        ModelFileError: The model is not sound, or carries values that cannot be used.
    """
    heard = hear_clips(
        model,
        commands,
        work_dir=work_dir,
        pronunciations=pronunciations,
        seed=seed,
        progress=progress,
    )
    config = calibrated(CommandConfig(), heard, false_accepts=FALSE_ACCEPTS)
    write_with_metadata(ModelFile(model), output, {METADATA_KEY: as_metadata(config)})
    stored_config(ModelFile(output))  # raises where a user would meet an error
    return config


def hear_clips(
    model: Path,
    commands: Commands,
    *,
    work_dir: Path,
    pronunciations: Path | None = None,
    seed: int = 1,
    progress: Progress = lambda *_: None,
) -> list[Heard]:
    """Let a model hear the clips that it is calibrated on.

    Args:
        model: A `.ear` file.
        commands: The templates.
        work_dir: As of `calibrate_model`.
        pronunciations: As of `calibrate_model`.
        seed: As of `calibrate_model`.
        progress: As of `calibrate_model`.

    Returns:
        What came out of each.
    """
    lexicon = lexicon_of(model, pronunciations=pronunciations)
    graph = compile_commands(commands, tokenizer_of(model), lexicon=lexicon)
    # As users will load it: a language model that it carries changes what is heard beside commands.
    config = CommandConfig()
    engine = Recognizer(open_model(model), commands=graph, command_config=config).engine
    trials = list(_trials(work_dir, graph, seed=seed))
    groups = [trials[first : first + _TOGETHER] for first in range(0, len(trials), _TOGETHER)]

    def listen(group: Sequence[_Trial]) -> list[list[Look]]:
        return hear(engine, [trial.read() for trial in group], config.looks)

    heard: list[Heard] = []
    progress(0, len(trials))
    with ThreadPoolExecutor(_threads()) as pool:  # the engine works outside Python's lock
        for group, found in zip(groups, pool.map(listen, groups), strict=True):
            heard += [_weighed(looks, t, graph) for looks, t in zip(found, group, strict=True)]
            progress(len(heard), len(trials))
    return heard


def _threads() -> int:
    """As many as there are cores for this process, and no more than hold few clips at once."""
    available = getattr(os, "sched_getaffinity", None)
    return min(_MOST_THREADS, len(available(0)) if available else os.cpu_count() or 1)


def _weighed(
    looks: Sequence[Look],
    trial: _Trial,
    graph: CommandGraph,
) -> Heard:
    meant = graph.interpret(trial.text.split())
    wanted = None if meant is None else meaning_key(meant)
    return weigh(
        looks,
        graph,
        kind=trial.kind,
        is_command=trial.is_command,
        is_right=lambda meaning: meaning_key(meaning) == wanted,
    )


def _trials(work_dir: Path, graph: CommandGraph, *, seed: int) -> Iterator[_Trial]:
    """Sounds to hear, those of like origin together."""
    cuts, noise = work_dir / "cuts", read_noise(work_dir)
    rng = random.Random(seed)
    for name, kind in _COMMANDS.items():
        for cut in _cuts(cuts / f"{name}.jsonl.gz")[:_MOST_COMMANDS]:
            if not _is_command(cut, graph):
                continue
            yield _trial(cut, kind, is_command=True)
            for draw in (1, 2) if noise is not None else ():
                yield _trial(
                    cut, f"{kind} in noise", is_command=True, noise=noise, seed=(seed, draw)
                )
    for cut in _cuts(cuts / "synthetic_dev.jsonl.gz")[:_MOST_GENERAL]:
        if not _is_command(cut, graph):
            yield _trial(cut, "general sentences", is_command=False)
            if noise is not None:
                yield _trial(
                    cut, "general sentences", is_command=False, noise=noise, seed=(seed, 3)
                )
    recorded = _cuts(cuts / "real_train.jsonl.gz")
    for name, kind in _RECORDED.items():
        of_kind = [
            cut
            for cut in recorded
            if cut["supervisions"][0]["custom"]["kind"] == name
            and cut["duration"] <= _LONGEST_S
            and not _is_command(cut, graph)
        ]
        for n, cut in enumerate(rng.sample(of_kind, min(_MOST_RECORDED, len(of_kind)))):
            yield _trial(
                cut, kind, is_command=False, noise=noise if n % 2 else None, seed=(seed, 4)
            )
    if noise is not None:
        for n in range(_NUM_SILENT):
            yield _Trial("noise alone", "", False, partial(_silent, noise, (seed, 5, n)))


def _cuts(path: Path) -> list[dict[str, Any]]:
    return read_cuts(path) if path.is_file() else []


def _is_command(cut: Mapping[str, Any], graph: CommandGraph) -> bool:
    return graph.interpret(cut["supervisions"][0]["text"].split()) is not None


def _trial(
    cut: Mapping[str, Any],
    kind: str,
    *,
    is_command: bool,
    noise: NoisePool | None = None,
    seed: Sequence[int] = (),
) -> _Trial:
    def read() -> Samples:
        first = round(cut["start"] * SAMPLE_RATE_HZ)
        count = round(cut["duration"] * SAMPLE_RATE_HZ)
        samples = read_audio(cut["recording"]["sources"][0]["source"])[first : first + count]
        if noise is None:
            return samples
        return _in_noise(samples, noise, np.random.default_rng([*seed, zlib.crc32(name)]))

    name = cut["id"].encode()
    return _Trial(kind, cut["supervisions"][0]["text"], is_command, read)


def _in_noise(samples: Samples, noise: NoisePool, rng: np.random.Generator) -> Samples:
    """The samples over a longer stretch of the pool, at one of the levels."""
    waited = int(rng.integers(0, round(_LONGEST_WAIT_S * SAMPLE_RATE_HZ)))
    early = int(waited * rng.random())
    stretch = noise.draw(len(samples) + waited, rng)
    snr_db = _SNRS_DB[int(rng.integers(len(_SNRS_DB)))]
    power, noise_power = (float(np.mean(np.square(x))) + 1e-10 for x in (samples, stretch))
    gain = np.sqrt(power / noise_power / 10 ** (snr_db / 10))
    mixed = np.pad(samples, (early, waited - early)) + stretch * np.float32(gain)
    peak = float(np.abs(mixed).max())
    return np.asarray(mixed * np.float32(min(1.0, 0.99 / (peak + 1e-9))), dtype=np.float32)


def _silent(noise: NoisePool, seed: Sequence[int]) -> Samples:
    """Noise alone, its peak between -40 and -1 dB."""
    rng = np.random.default_rng(list(seed))
    stretch = noise.draw(round(_SILENT_S * SAMPLE_RATE_HZ), rng)
    gain = 10 ** (rng.uniform(-40.0, -1.0) / 20) / (float(np.abs(stretch).max()) + 1e-6)
    return np.asarray(stretch * np.float32(gain), dtype=np.float32)
