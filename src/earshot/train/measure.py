"""How well a model hears commands, and general speech, from voices it was not trained with.

The clips are made here: sentences of the templates and general sentences that nothing was trained
on, spoken by the held-out voices, clean and in made noise of draws that no training pool has. So
figures before and after an adaptation compare, but voices of one engine are not people: they say
less about real speakers. Knows nothing of training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.core.understanding import Understanding
from earshot.data.audio import read_audio
from earshot.data.scoring import Estimate, count_words, share, word_error_rate
from earshot.session.recognizer import Recognizer, Stream
from earshot.train import synthesis
from earshot.train.noise import GENERATORS
from earshot.understand.templates import Commands

__all__ = ["NOISE_DB", "Clips", "Figures", "make_clips", "measure"]

NOISE_DB = 10.0  # signal-to-noise ratio of the noisy clips
_NOISE_SEED = 7_000_000  # far from any seed of a training pool
_TOGETHER = 16  # clips decoded at once

Samples = npt.NDArray[np.float32]
Progress = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class Clips:
    """Manifests of clips of held-out voices."""

    commands: Path
    general: Path


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model gets right.

    Args:
        commands: Share of the commands that were accepted with intent and every slot right.
        commands_in_noise: The same in noise of `NOISE_DB`.
        general_wer: Word error rate of general sentences, heard without commands.
        mistaken: Share of the general sentences that were taken for a command.
    """

    commands: Estimate
    commands_in_noise: Estimate
    general_wer: Estimate
    mistaken: Estimate

    def as_dict(self) -> dict[str, dict[str, float]]:
        """JSON-ready: `value`, `low`, `high`, `unit` and `num_units` of each."""
        return {name: dict(value) for name, value in asdict(self).items()}


def make_clips(
    folder: Path,
    commands: Commands,
    *,
    heldout_texts: Path,
    num_commands: int = 120,
    num_general: int = 80,
    seed: int = 1,
    processes: int = 2,
) -> Clips:
    """Speak what is measured with, unless it is there.

    Args:
        folder: Gets a folder for commands and one for general sentences.
        commands: The templates; sentences are sampled from them anew.
        heldout_texts: `heldout.jsonl` of the text stage.
        num_commands: Clips of commands.
        num_general: Clips of general sentences.
        seed: Of the choice of sentences.
        processes: Parallel speakers.

    Returns:
        The manifests.

    Raises:
        SynthesisError: flite or one of its voices awb and rms is missing.
    """
    samples = commands.sample(num_commands, seed=seed + 2_000_000)
    return Clips(
        commands=synthesis.make_command_test(
            folder / "commands",
            [{"text": s.text, "intent": s.intent, "slots": dict(s.slots)} for s in samples],
            seed=seed,
            processes=processes,
        ),
        general=synthesis.make_heldout_test(
            folder / "general", num_general, seed=seed, texts=heldout_texts, processes=processes
        ),
    )


def measure(
    model: Path,
    commands: Commands,
    clips: Clips,
    *,
    pronunciations: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Figures:
    """Let a model hear the clips.

    Args:
        model: A `.ear` file.
        commands: The templates.
        clips: From `make_clips`.
        pronunciations: The user's own, see `Lexicon.extended`.
        progress: Called with (clips heard, clips).

    Returns:
        Its figures, with 95 % intervals over clips.
    """
    spoken, general = _rows(clips.commands), _rows(clips.general)
    listener = Recognizer.load(model, commands=commands, pronunciations=pronunciations)
    done, total = 0, 2 * len(spoken) + 2 * len(general)

    def hear(streams: Iterator[Stream]) -> Iterator[Stream]:
        nonlocal done
        for stream in streams:
            yield stream
            done += 1
            progress(done, total)

    right = [
        [
            _is_right(stream.understanding(), row)
            for row, stream in zip(
                spoken, hear(_decoded(listener, clips.commands, spoken, noisy=noisy)), strict=True
            )
        ]
        for noisy in (False, True)
    ]
    mistaken = [
        (found := stream.understanding()) is not None and found.intent is not None
        for stream in hear(_decoded(listener, clips.general, general, noisy=False))
    ]
    free = _decoded(Recognizer.load(model), clips.general, general, noisy=False)
    counts = [
        count_words(row["text"], stream.result().text)
        for row, stream in zip(general, hear(free), strict=True)
    ]
    names = [row["id"] for row in spoken]
    return Figures(
        commands=share(right[0], names, unit="clip"),
        commands_in_noise=share(right[1], names, unit="clip"),
        # Two voices are too few to resample.
        general_wer=word_error_rate(counts, [None] * len(counts)),
        mistaken=share(mistaken, [row["id"] for row in general], unit="clip"),
    )


def _rows(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def _decoded(
    recognizer: Recognizer, manifest: Path, rows: Sequence[Mapping[str, Any]], *, noisy: bool
) -> Iterator[Stream]:
    """Finished streams of the clips, in their order."""
    for first in range(0, len(rows), _TOGETHER):
        streams = []
        for n, row in enumerate(rows[first : first + _TOGETHER], first):
            samples = read_audio(manifest.parent / row["audio"])
            if noisy:
                samples = _in_noise(samples, n)
            stream = recognizer.create_stream()
            stream.accept_waveform(SAMPLE_RATE_HZ, samples)
            stream.input_finished()
            streams.append(stream)
        recognizer.decode_streams(streams)
        yield from streams


def _in_noise(samples: Samples, clip: int) -> Samples:
    """The clip in one of the kinds of made noise, each in turn."""
    rng = np.random.default_rng((_NOISE_SEED, clip))
    make = list(GENERATORS.values())[clip % len(GENERATORS)]
    noise = make(rng, len(samples) / SAMPLE_RATE_HZ)[: len(samples)]
    power, noise_power = (float(np.mean(np.square(x))) + 1e-10 for x in (samples, noise))
    mixed = samples + noise * np.float32(np.sqrt(power / noise_power / 10 ** (NOISE_DB / 10)))
    peak = float(np.abs(mixed).max())
    return np.asarray(mixed * np.float32(min(1.0, 0.99 / (peak + 1e-9))), dtype=np.float32)


def _is_right(found: Understanding | None, row: Mapping[str, Any]) -> bool:
    """Whether intent and slots are those of the manifest."""
    if found is None:
        return False
    values = {name: slot.value for name, slot in found.slots.items()}
    return found.intent == row["intent"] and values == row["slots"]
