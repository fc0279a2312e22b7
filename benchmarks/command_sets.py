"""The clips that commands are measured on: recorded orders, spoken samples, and no commands.

The coffee recordings are test only: nothing was trained on them or tuned with them. Samples of
another grammar are spoken here with the two voices that no training batch has. Every set is
deterministic. Knows nothing of recognisers, of noise or of scoring.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from speech_sets import REAL_SETS, Clip, SetMissing, load_set, read_clip

from earshot.data.atomic import replaced_file

__all__ = [
    "CommandClip",
    "coffee_orders",
    "no_commands",
    "spoken_samples",
]

ASSISTANT_SENTENCES = 300
SPOKEN_SEED = 611
SPOKEN_VERSION = 1  # raised when the same seed gives other clips
RATES = (0.85, 1.2)
PITCHES = (0.92, 1.08)

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CommandClip:
    """One recording and the command in it; `intent` is None where it holds none."""

    id: str
    set: str
    speaker: str | None
    read: Callable[[], Samples]
    intent: str | None = None
    slots: Mapping[str, object] = field(default_factory=dict)


def coffee_orders(data: Path) -> list[CommandClip]:
    """The recorded orders of the coffee benchmark, in manifest order. No speaker ids exist.

    Raises:
        SetMissing: The recordings are not there.
    """
    return _labelled(data / "coffee_commands", "coffee orders")


def _labelled(folder: Path, name: str) -> list[CommandClip]:
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise SetMissing(f"{manifest} does not exist")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return [
        CommandClip(
            row["id"],
            name,
            row.get("speaker"),
            functools.partial(read_clip, folder / row["audio"]),
            row["intent"],
            row["slots"],
        )
        for row in rows
    ]


def no_commands(data: Path, synthetic: Path) -> list[CommandClip]:
    """Speech that is no command: read sentences of dev and test, and assistant sentences.

    Args:
        data: Folder of the recordings.
        synthetic: Folder of the synthetic test; made when it is not there.

    Raises:
        SetMissing: A set is missing: a pooled figure over the others would mislead.
    """
    parts: list[tuple[str, tuple[Clip, ...]]] = [
        (f"{title}, {split}", REAL_SETS[name](data, [split]).clips)
        for name, title, split in (
            ("librispeech", "LibriSpeech dev-clean half", "dev"),
            ("librispeech", "LibriSpeech dev-clean half", "test"),
            ("librispeech_other", "LibriSpeech test-other", "test"),
        )
    ]
    sentences = load_set("synthetic", data=data, synthetic=synthetic).clips[:ASSISTANT_SENTENCES]
    parts.append(("assistant sentences, held-out voices", sentences))
    return [
        CommandClip(clip.id, title, clip.speaker, clip.read)
        for title, clips in parts
        for clip in clips
    ]


def spoken_samples(
    grammar: Path,
    folder: Path,
    *,
    count: int,
    progress: Callable[[str | None], None] = lambda text: None,
) -> list[CommandClip]:
    """Sentences of a grammar in the voices that are held out from training, made when absent.

    Drawn evenly over intents and list values; clip n has the same sentence, voice, rate and
    pitch each time.

    Args:
        grammar: A file of command templates.
        folder: Gets `manifest.jsonl` and `audio/*.wav`.
        count: How many sentences.
        progress: Told where it is.

    Raises:
        SetMissing: The engine or its held-out voices are not there.
    """
    settings = {
        "version": SPOKEN_VERSION,
        "grammar": hashlib.sha256(grammar.read_bytes()).hexdigest(),
        "count": count,
        "seed": SPOKEN_SEED,
    }
    recorded = folder / "settings.json"
    if not recorded.is_file() or json.loads(recorded.read_text()) != settings:
        _speak(grammar, folder, count, settings, progress)
    return _labelled(folder, f"{grammar.stem}, held-out voices")


def _speak(
    grammar: Path,
    folder: Path,
    count: int,
    settings: dict[str, object],
    progress: Callable[[str | None], None],
) -> None:
    try:
        from earshot.train.cuts import write_wav
        from earshot.train.synthesis import HELD_OUT_VOICES, installed_voices, speak
        from earshot.train.synthesis import Clip as Spoken
    except ImportError as err:
        raise SetMissing(f"{folder} does not exist and cannot be made: {err}") from err
    from earshot.understand.templates import load_commands

    voices = [voice for voice in installed_voices()[0] if voice.id in HELD_OUT_VOICES]
    if len(voices) != len(HELD_OUT_VOICES):
        raise SetMissing(
            f"{folder} does not exist and flite has {len(voices)} of the voices "
            f"{' and '.join(HELD_OUT_VOICES)} to make it. Run: apt-get install flite"
        )
    samples = load_commands([grammar]).sample(count, seed=SPOKEN_SEED)
    rows: list[dict[str, Any]] = []
    (folder / "settings.json").unlink(missing_ok=True)
    for number, sample in enumerate(samples):
        rng = np.random.default_rng([SPOKEN_SEED, number])
        voice = voices[number % len(voices)]
        rate, pitch = (
            round(float(np.exp(rng.uniform(*np.log(bounds)))), 3) for bounds in (RATES, PITCHES)
        )
        clip = Spoken(
            text=sample.text,
            kind="command",
            template=sample.intent,
            voice=voice,
            rate=rate,
            pitch=pitch,
            lead_s=0.2,
            tail_s=0.4,
        )
        waveform = speak([clip])[0]
        if waveform is None:
            raise SetMissing(f"{voice.id} cannot say {sample.text!r}")
        clip_id = f"{grammar.stem}-{number:04d}-{voice.name}"
        write_wav(folder / "audio" / f"{clip_id}.wav", waveform)
        rows.append(
            {
                "id": clip_id,
                "audio": f"audio/{clip_id}.wav",
                "text": sample.text,
                "intent": sample.intent,
                "slots": dict(sample.slots),
                "speaker": voice.id,
                "rate": rate,
                "pitch": pitch,
                "split": "test",
            }
        )
        if number % 20 == 19:
            progress(f"speaking {grammar.stem}: {number + 1}/{len(samples)}")
    progress(None)
    for name, text in (
        ("manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        ("settings.json", json.dumps(settings) + "\n"),  # last: it says that all is there
    ):
        with replaced_file(folder / name) as file:
            file.write(text.encode())
