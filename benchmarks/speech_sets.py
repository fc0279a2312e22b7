"""The utterances that word error rates are measured on: which rows, and how they are made.

Real recordings come from the data folder's manifests; digit strings are joined here from
single digits of the one speaker that is in no training batch, though training watches the word
error rate on that speaker. Every set is deterministic: same folder and count, same samples.
Knows nothing of recognisers or of scoring.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.audio import read_audio

__all__ = [
    "REAL_SETS",
    "SAMPLE_RATE_HZ",
    "Clip",
    "SetMissing",
    "Speech",
    "data_folder",
    "digit_strings",
    "join_digits",
    "load_set",
    "pooled_sets",
    "read_clip",
]

DIGIT_SEED = 20261
DIGIT_STRINGS = 200
SYNTHETIC_SENTENCES = 1000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")

Samples = npt.NDArray[np.float32]


class SetMissing(Exception):
    """A set cannot be measured here; the message is the reason that the table shows."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance: what was said, by whom, and a way to read its samples."""

    id: str
    text: str
    speaker: str | None
    read: Callable[[], Samples]  # mono, 16 kHz, in [-1, 1]
    group: str = ""  # part of the set that is also scored by itself


@dataclass(frozen=True, slots=True)
class Speech:
    """A named set of utterances, and how its text is to be judged.

    `vocabulary` is the whole vocabulary where a set has a small one: peers that can be limited
    to it are also run so. `rules` names extra scoring rules (see `scored_text.RULES`).
    """

    name: str
    title: str
    clips: tuple[Clip, ...]
    vocabulary: tuple[str, ...] = ()
    rules: str = ""
    remark: str = ""


def data_folder(given: Path | None = None) -> Path:
    """The folder of recordings: the argument, else EARSHOT_DATA, else ../shared/data."""
    if given is not None:
        return given
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("EARSHOT_DATA", default))


def read_clip(path: Path, *, offset_s: float = 0.0, duration_s: float | None = None) -> Samples:
    """Samples of a file at 16 kHz, channels averaged, cut where an offset is given.

    Args:
        path: Anything libsndfile reads.
        offset_s: Start of the clip inside the file, in seconds.
        duration_s: Length of the clip in seconds; None reads to the end.

    Returns:
        Shape (n,), float32 in [-1, 1].
    """
    samples = _whole_file(path) if duration_s is not None else read_audio(path)
    start = round(offset_s * SAMPLE_RATE_HZ)
    if duration_s is None:
        return samples[start:]
    end = start + round(duration_s * SAMPLE_RATE_HZ)
    return samples[start:end]


# Files that hold many clips are decoded once: seeking in Ogg is slow and not sample-exact.
_whole_file = functools.lru_cache(maxsize=8)(read_audio)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "manifest.jsonl"
    if not path.is_file():
        raise SetMissing(f"{path} does not exist")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _clip(folder: Path, row: dict[str, Any]) -> Clip:
    path = folder / row["audio"]
    if "offset" in row:
        read = functools.partial(
            read_clip, path, offset_s=row["offset"], duration_s=row["duration"]
        )
    else:
        read = functools.partial(read_clip, path)
    return Clip(row["id"], row["text"], row.get("speaker"), read, row.get("prompt_type", ""))


def _select(folder: Path, splits: Sequence[str], *, lang: str = "en") -> tuple[Clip, ...]:
    """Rows with a transcript, in manifest order."""
    clips = tuple(
        _clip(folder, row)
        for row in _rows(folder)
        if row["split"] in splits and row.get("lang") == lang and row.get("text")
    )
    if not clips:
        raise SetMissing(f"{folder} has no {lang} rows with text in split {' or '.join(splits)}")
    return clips


def join_digits(
    digits: Sequence[Samples], *, rng: np.random.Generator, floor_db: float = -66.0
) -> Samples:
    """One recording from single digits, with pauses of 0.05 to 0.4 s and a quiet noise floor.

    The floor runs below everything, so that joints are not given away by digital silence.

    Args:
        digits: Samples of each digit at 16 kHz.
        rng: Source of pauses and noise.
        floor_db: Level of the white noise in dB relative to full scale (RMS).

    Returns:
        Shape (n,), float32: lead-in, digits and pauses, lead-out.
    """
    edge = np.zeros(round(0.25 * SAMPLE_RATE_HZ), dtype=np.float32)
    parts: list[Samples] = [edge]
    for position, digit in enumerate(digits):
        if position:
            pause_s = rng.uniform(0.05, 0.4)
            parts.append(np.zeros(round(pause_s * SAMPLE_RATE_HZ), dtype=np.float32))
        parts.append(digit)
    parts.append(edge)
    joined = np.concatenate(parts)
    floor = rng.standard_normal(len(joined)) * 10.0 ** (floor_db / 20.0)
    return np.asarray(joined + floor, dtype=np.float32)


def digit_strings(
    singles: Sequence[Clip], *, count: int = DIGIT_STRINGS, seed: int = DIGIT_SEED
) -> tuple[Clip, ...]:
    """Random strings of 3 to 7 digits, joined from recordings of single digits.

    Digits are drawn evenly, then one of the recordings of each; clip i depends on `seed`
    and i alone, so a smaller `count` gives the first strings of a larger one.

    Args:
        singles: Recordings of one digit each, of one speaker.
        count: How many strings.
        seed: Seed of everything that is random.

    Returns:
        `count` clips; their samples are made when they are read.

    Raises:
        ValueError: A digit has no recording.
    """
    by_digit = {word: [c for c in singles if c.text == word] for word in DIGITS}
    for word, recordings in by_digit.items():
        if not recordings:
            raise ValueError(f"no recording of {word!r} among {len(singles)} single digits")
    speakers = {clip.speaker for clip in singles}
    if len(speakers) != 1:
        raise ValueError(f"digit strings of {len(speakers)} speakers; each must have one voice")
    strings = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        words = [DIGITS[d] for d in rng.integers(0, 10, size=rng.integers(3, 8))]
        chosen = [by_digit[w][rng.integers(len(by_digit[w]))] for w in words]
        sound_seed = int(rng.integers(2**31))
        strings.append(
            Clip(
                f"digits-{index:03d}",
                " ".join(words),
                singles[0].speaker,
                functools.partial(_read_string, tuple(chosen), sound_seed),
            )
        )
    return tuple(strings)


def _read_string(digits: Sequence[Clip], seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    return join_digits(
        [d.read() for d in digits], rng=rng, floor_db=float(rng.uniform(-70.0, -58.0))
    )


def _digits(data: Path, splits: Sequence[str]) -> Speech:
    # The corpus has no test split here: its fifth speaker, `dev`, is in no training batch.
    del splits
    clips = digit_strings(_select(data / "spoken_digits", ["dev"]))
    return Speech(
        "digits",
        "digit strings, 3-7 joined, dev speaker",
        clips,
        vocabulary=DIGITS,
        rules="digits",
        remark="single digits of one speaker, native 8 kHz, joined with pauses of 0.05-0.4 s; "
        "also the development speaker, whose word error rate was watched during training",
    )


def _alphanumeric(data: Path, splits: Sequence[str]) -> Speech:
    clips = _select(data / "alphanumeric_accents", splits)
    return Speech(
        "alphanumeric",
        f"spelled names, phone numbers, {'+'.join(splits)}",
        clips,
        vocabulary=DIGITS + LETTERS,
        rules="alphanumeric",
        remark="references are prompts, not verbatim",
    )


def _plain(name: str, folder: str, title: str) -> Callable[[Path, Sequence[str]], Speech]:
    def load(data: Path, splits: Sequence[str]) -> Speech:
        clips = _select(data / folder, splits)
        return Speech(name, f"{title}, {'+'.join(splits)}", clips)

    return load


REAL_SETS: dict[str, Callable[[Path, Sequence[str]], Speech]] = {
    "digits": _digits,
    "alphanumeric": _alphanumeric,
    "librispeech": _plain(
        "librispeech", "librispeech_dev_clean_half", "LibriSpeech dev-clean half"
    ),
    "librispeech_other": _plain(
        "librispeech_other", "librispeech_speakers", "LibriSpeech test-other, 10 speakers"
    ),
    "common_voice": _plain("common_voice", "common_voice_sample", "Common Voice 6.1 English"),
}


def _synthetic(folder: Path, count: int) -> Speech:
    """Assistant sentences of the held-out synthetic voices, made when they are not there yet."""
    if not (folder / "manifest.jsonl").is_file():
        try:
            from earshot.train import synthesis
        except ImportError as err:
            raise SetMissing(f"{folder} does not exist and cannot be made: {err}") from err
        try:
            synthesis.make_heldout_test(folder, count)
        except Exception as err:  # a missing voice, engine or text: reason goes into the table
            raise SetMissing(f"{folder} does not exist and making it failed: {err}") from err
    rows = list(_rows(folder))[:count]
    clips = tuple(_clip(folder, row) for row in rows)
    if len(clips) < count:
        raise SetMissing(f"{folder} holds {len(clips)} sentences, {count} are asked for")
    return Speech(
        "synthetic",
        f"{count} assistant sentences, held-out voices",
        clips,
        remark="synthetic speech; voices flite awb and rms: never in training; the first model "
        "saw one paragraph each by neural clones of these speakers",
    )


def load_set(
    name: str, *, data: Path, synthetic: Path, sentences: int = SYNTHETIC_SENTENCES
) -> Speech:
    """A set by name, its test rows.

    Args:
        name: A key of `REAL_SETS`, or "synthetic".
        data: Folder of the recordings.
        synthetic: Folder of the synthetic test.
        sentences: Of the synthetic test.

    Raises:
        SetMissing: The recordings are not there; the message says which.
        KeyError: No such set.
    """
    if name == "synthetic":
        return _synthetic(synthetic, sentences)
    return REAL_SETS[name](data, ["test"])


def pooled_sets(
    *, data: Path, synthetic: Path, sentences: int = SYNTHETIC_SENTENCES
) -> list[Speech]:
    """Every utterance that was not trained on: test and dev rows, and the synthetic test.

    Leaves out what has no verbatim English transcript (spoken orders, wake words) and what
    is not English.

    Raises:
        SetMissing: A set is missing: a pooled figure over what happens to be there would mislead.
    """
    sets = [load(data, ["dev", "test"]) for load in REAL_SETS.values()]
    sets.append(_synthetic(synthetic, sentences))
    return sets
