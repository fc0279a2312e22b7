"""Recordings whose end of speech is known, each with seconds of its own room's noise behind it.

Coffee orders: the labelled intent and slots are found on the path of the grammar search, whose last
word says about where speech ends; the recording's energy says exactly. What came out is kept in
`coffee_ends.json`, so that all systems and models are measured with the same ends. Digit strings:
single digits of one speaker with pauses between them. Knows nothing of end-pointers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from command_sets import CommandClip, coffee_orders
from speech_sets import SetMissing, read_clip

from earshot import Recognizer
from earshot.data.speech_energy import HOP_SAMPLES, more_silence, speech_mask

__all__ = ["BEHIND_S", "EndedClip", "align_coffee", "ended_coffee", "ended_digits", "faint_room"]

SAMPLE_RATE_HZ = 16_000
BEHIND_S = 3.5
ENDS = Path(__file__).with_name("coffee_ends.json")
_LATE_S = 0.7  # after the last word's last piece: so late may its sound end
_LONGEST_GAP = 25  # hops: a longer silence behind the last word parts it from what comes then

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EndedClip:
    """A recording with room noise behind it.

    Args:
        id: Its name.
        samples: Shape (N,), 16 kHz.
        end_s: When speech ends.
        aligned: Whether the label was found on the grammar's path.
        intent: What is wanted; None if that is no question here.
        slots: Likewise.
    """

    id: str
    samples: Samples
    end_s: float
    aligned: bool
    intent: str | None = None
    slots: dict[str, object] | None = None


def speech_end_s(samples: Samples, last_word_s: float) -> float:
    """Where the sound that holds the last word ends.

    Args:
        samples: The recording.
        last_word_s: When the search emitted the last piece of the last word.

    Returns:
        Seconds.
    """
    mask = speech_mask(samples)
    at = min(int(last_word_s * SAMPLE_RATE_HZ) // HOP_SAMPLES, len(mask) - 1)
    latest = min(len(mask), at + int(_LATE_S * SAMPLE_RATE_HZ) // HOP_SAMPLES)
    end = at
    for hop in range(max(0, at - 20), latest):
        if mask[hop] and (hop - end <= _LONGEST_GAP or end <= at):
            end = hop + 1
    return max(end, 1) * HOP_SAMPLES / SAMPLE_RATE_HZ


def align_coffee(data: Path, grammar: Path, model: Path | None) -> dict[str, tuple[float, bool]]:
    """When speech ends in each recorded order, and whether its label was found on the path.

    Where it was not, the recording's energy alone says it.
    """
    listener = Recognizer.load(model, commands=grammar, command_threshold=0.0)
    ends = {}
    for clip in coffee_orders(data):
        samples = clip.read()
        last_s = _last_word(listener, clip, samples)
        if last_s is not None:
            end_s = speech_end_s(samples, last_s)
        else:
            spoken = np.flatnonzero(speech_mask(samples))
            end_s = (int(spoken[-1]) + 1) * HOP_SAMPLES / SAMPLE_RATE_HZ
        ends[clip.id] = (round(end_s, 2), last_s is not None)
    return ends


def ended_coffee(data: Path) -> Iterator[EndedClip]:
    """The recorded orders, which nothing may be tuned on, with the ends of `coffee_ends.json`."""
    ends = json.loads(ENDS.read_text(encoding="utf-8"))
    for number, clip in enumerate(coffee_orders(data)):
        samples = clip.read()
        end_s, aligned = ends[clip.id]
        kept = samples[: int((end_s + 0.25) * SAMPLE_RATE_HZ)]
        mask = speech_mask(kept)
        spoken = kept[: len(mask) * HOP_SAMPLES][np.repeat(mask, HOP_SAMPLES)]
        loud = float(np.sqrt(np.mean(np.square(spoken))))
        whole = _with_room(samples, kept)
        # Some recordings have digital silence, which no microphone gives.
        whole = whole + _hiss(len(whole), np.random.default_rng((7, number))) * loud * 10**-2.25
        yield EndedClip(
            clip.id,
            np.asarray(whole, np.float32),
            end_s,
            aligned,
            clip.intent,
            dict(clip.slots),
        )


def _hiss(count: int, rng: np.random.Generator) -> Samples:
    """Brown noise, as most rooms have, of mean power 1."""
    hiss = np.cumsum(rng.standard_normal(count))
    hiss = hiss - np.convolve(hiss, np.ones(800) / 800, mode="same")
    return np.asarray(hiss / (np.std(hiss) + 1e-9), np.float32)


def faint_room(whole: Samples, speech: Samples, rng: np.random.Generator) -> Samples:
    """`whole` in brown noise, 25 to 35 dB below the speech in it."""
    loud = float(np.sqrt(np.mean(np.square(speech))))
    hiss = _hiss(len(whole), rng) * loud * 10 ** (-rng.uniform(25, 35) / 20)
    return np.asarray(whole + hiss, np.float32)


def _last_word(listener: Recognizer, clip: CommandClip, samples: Samples) -> float | None:
    """When the last piece of the labelled sentence's last word is emitted, in seconds."""
    stream = listener.create_stream()
    stream.accept_waveform(SAMPLE_RATE_HZ, samples)
    stream.input_finished()
    stream.decode()
    assert listener._grammar is not None
    graph = listener._grammar[0]
    found = stream._native.command_result()
    assert found is not None
    for path in found["paths"]:
        meaning = graph.interpret([word["word"] for word in path["words"]])
        if meaning is None or meaning.intent != clip.intent:
            continue
        if {name: slot.value for name, slot in meaning.slots.items()} == dict(clip.slots):
            return float(0.04 * path["frames"][-1])
    return None


def _with_room(recording: Samples, kept: Samples) -> Samples:
    """`kept`, then noise like the quiet parts of the whole recording."""
    fade = 800
    room = more_silence(recording, int(BEHIND_S * SAMPLE_RATE_HZ) + fade)
    if len(kept) <= fade:
        return np.concatenate([kept, room])
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    blend = kept[-fade:] * np.sqrt(1 - ramp) + room[:fade] * np.sqrt(ramp)
    return np.concatenate([kept[:-fade], blend, room[fade:]])


def ended_digits(
    data: Path,
    *,
    count: int,
    seed: int = 6,
    longest_pause_s: float = 0.4,
    digits: int = 0,
    split: str = "dev",
) -> Iterator[EndedClip]:
    """Digit strings, each of one speaker, in a faint room of their own.

    Args:
        data: Folder of the recordings.
        count: How many.
        seed: Of digits, pauses and noise.
        longest_pause_s: Pauses are even between 0 and so many seconds.
        digits: Digits in each; 0 draws 2..7.
        split: Whose digits: of the development speaker, or of those trained on.
    """
    folder = data / "spoken_digits"
    if not (folder / "manifest.jsonl").is_file():
        raise SetMissing(f"{folder / 'manifest.jsonl'} does not exist")
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == split]
    speakers = sorted({row["speaker"] for row in rows})
    by_speaker = [[row for row in rows if row["speaker"] == speaker] for speaker in speakers]
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        parts = [np.zeros(int(rng.uniform(0.3, 1.5) * SAMPLE_RATE_HZ), np.float32)]
        length = digits or int(rng.integers(2, 8))
        words = []
        own = by_speaker[number % len(by_speaker)]
        for n in range(length):
            row = own[int(rng.integers(len(own)))]
            words.append(row["text"])
            samples = read_clip(
                folder / row["audio"],
                offset_s=row.get("offset", 0.0),
                duration_s=row["duration"],
            )
            where = np.flatnonzero(speech_mask(samples))
            if n:
                parts.append(
                    np.zeros(int(rng.uniform(0, longest_pause_s) * SAMPLE_RATE_HZ), np.float32)
                )
            parts.append(samples[where[0] * HOP_SAMPLES : (where[-1] + 1) * HOP_SAMPLES])
        spoken = np.concatenate(parts)
        end_s = len(spoken) / SAMPLE_RATE_HZ
        whole = np.concatenate([spoken, np.zeros(int(BEHIND_S * SAMPLE_RATE_HZ), np.float32)])
        whole = faint_room(whole, spoken[len(parts[0]) :], rng)
        yield EndedClip(
            f"digits-{number:04d}",
            whole,
            end_s,
            True,
            slots={"digits": " ".join(words)},
        )
