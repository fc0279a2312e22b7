"""An island of ten regions whose voices are made, and in two of which a recogniser is bad.

A region is what its speakers share: which voices of which engines, how long the vocal tract is, how
fast and how high they speak, and through what channel they are heard. Speakers scatter around that
and live somewhere inside their region. The base model's training speech holds 24 speakers of each
of eight regions and one speaker of each of the two others, whose acoustics are therefore
under-represented: that is all that is planted. Nobody of the population that is audited is in that
training speech, and neither is any of its sentences.

    python benchmarks/planted_voices.py --folder exp/planted        # speaks about 4 hours

Everything follows from the seed; clips that are there are not spoken again. The held-out voices of
the project are not used. What the base model makes of all this is not this file's affair: see
`mitigation.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from scipy import signal

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.atomic import replaced_file
from earshot.train.cuts import file_cut, write_cuts
from earshot.train.synthesis import HELD_OUT_VOICES, Clip, Voice, installed_voices, speak

__all__ = ["REGIONS", "UNDER_REPRESENTED", "Person", "Region", "people", "sentences", "speak_all"]

Samples = npt.NDArray[np.float32]

BASE_SPEAKERS, BASE_CLIPS = 24, 7  # of a region, in training, and clips of each
RARE_SPEAKERS = 1  # of an under-represented region, in training
DEV_SPEAKERS = 1  # of a region, to watch training with
AUDITED_SPEAKERS, AUDITED_CLIPS = 24, 8
STRANGERS, STRANGER_CLIPS = 54, 6  # of a region, whom nothing learns or chooses from
SPREAD = 0.035  # of log tract, rate and pitch among the speakers of a region
MANIFESTS = {"audited": "population.jsonl", "strangers": "strangers.jsonl"}
_TOGETHER = 40  # clips spoken in one call


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of the island, and how its people sound.

    Args:
        name: Of the region.
        lat: South and north.
        lon: West and east.
        voices: Ids of the engines' voices.
        variants: Of espeak-ng; one is drawn for each speaker.
        tract: Formants times this.
        rate: Of speaking.
        pitch: Times the voice's own.
        tilt_db: The spectrum falls by this much from 300 to 6000 Hz, or rises.
        snr_db: Of white noise in the channel.
        band_hz: The channel's pass band.
    """

    name: str
    lat: tuple[float, float]
    lon: tuple[float, float]
    voices: tuple[str, ...]
    variants: tuple[str, ...] = ("",)
    tract: float = 1.0
    rate: float = 1.0
    pitch: float = 1.0
    tilt_db: float = 0.0
    snr_db: float = 35.0
    band_hz: tuple[float, float] = (50.0, 7600.0)


_MEN, _WOMEN = ("m1", "m2", "m3", "m5", "m7", "adam", "john"), ("f1", "f2", "f3", "f5", "linda")

REGIONS: tuple[Region, ...] = (
    Region("north cape", (46, 50), (0, 5), ("espeak-en-us", "flite-kal16"), _MEN, tract=0.97),
    Region("fjords", (46, 50), (5, 11), ("espeak-en-gb", "pico-en-GB"), _WOMEN, rate=0.95),
    Region("glen", (46, 50), (11, 14), ("festival-ked_diphone", "festival-kal_diphone"),
           tract=0.95, tilt_db=-3.0),
    Region("harbour", (43, 46), (0, 7), ("pico-en-US", "espeak-en-us-nyc"), _WOMEN, rate=1.05),
    Region("old town", (43, 46), (7, 14),
           ("festival-cmu_us_slt_arctic_hts", "flite-slt", "pico-en-US"), snr_db=28.0),
    Region("marsh", (40, 43), (0, 4), ("flite-kal", "festival-kal_diphone", "espeak-en-gb-x-rp"),
           _MEN, rate=1.08, pitch=0.95),
    Region("plain", (40, 43), (4, 10), ("espeak-en-gb-x-gbcwmd", "flite-slt", "pico-en-GB"),
           _MEN, tract=1.04),
    Region("delta", (40, 43), (10, 14), ("espeak-en-gb-x-gbclan", "festival-ked_diphone"), _WOMEN,
           pitch=1.06, tilt_db=3.0),
    # The two that training speech hardly has.
    Region("eastern isles", (45, 50), (14, 20),
           ("espeak-en-029", "pico-en-GB", "flite-slt"), _WOMEN, tract=1.19, rate=1.22, pitch=1.2,
           tilt_db=4.0, snr_db=24.0),
    Region("southern rocks", (40, 45), (14, 20),
           ("espeak-en-gb-scotland", "festival-kal_diphone", "flite-kal16"), _MEN, tract=0.83,
           rate=1.15, pitch=0.85, tilt_db=-5.0, snr_db=22.0, band_hz=(250.0, 3600.0)),
)  # fmt: skip
UNDER_REPRESENTED = ("eastern isles", "southern rocks")


@dataclass(frozen=True, slots=True)
class Person:
    """One speaker: where he lives, and how he sounds."""

    id: str
    region: Region
    lat: float
    lon: float
    voice: Voice
    variant: str
    tract: float
    rate: float
    pitch: float
    tilt_db: float
    snr_db: float


def people(
    region: Region, count: int, *, group: str, seed: int, voices: dict[str, Voice]
) -> list[Person]:
    """Speakers of a region.

    Args:
        region: Theirs.
        count: How many.
        group: Part of their names: speakers of different groups are different.
        seed: Of the island.
        voices: Installed ones by id.
    """
    found = []
    for n in range(count):
        rng = random.Random(f"{seed}:{group}:{region.name}:{n}")
        voice = voices[region.voices[n % len(region.voices)]]

        def near(value: float, rng: random.Random = rng) -> float:
            return round(value * float(np.exp(rng.gauss(0, SPREAD))), 3)

        found.append(
            Person(
                id=f"{group}-{region.name.replace(' ', '-')}-{n:02d}",
                region=region,
                lat=round(rng.uniform(region.lat[0] + 0.05, region.lat[1] - 0.05), 4),
                lon=round(rng.uniform(region.lon[0] + 0.05, region.lon[1] - 0.05), 4),
                voice=voice,
                variant=rng.choice(region.variants) if voice.engine == "espeak-ng" else "",
                tract=near(region.tract),
                rate=near(region.rate),
                pitch=near(region.pitch),
                tilt_db=round(region.tilt_db + rng.gauss(0, 1.0), 2),
                snr_db=round(region.snr_db + rng.gauss(0, 2.0), 1),
            )
        )
    return found


_ROOMS = ("kitchen", "bedroom", "garden", "bathroom", "hall", "office", "garage", "nursery")
_THINGS = ("light", "lamp", "fan", "heater", "radio", "blind", "television", "oven")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
            "eleven", "twelve", "fifteen", "twenty", "thirty", "forty", "fifty")  # fmt: skip
_MUSIC = ("jazz", "classical music", "rock", "the news", "folk songs", "a podcast")
_NAMES = ("anna", "peter", "maria", "david", "laura", "michael")
_GOODS = ("milk", "bread", "apples", "coffee", "butter", "cheese", "rice", "soap")
_CHORES = ("water the plants", "feed the cat", "close the window", "wash the car", "call the bank")
_DAYS = ("monday", "tuesday", "friday", "saturday", "sunday")


def sentences() -> list[str]:
    """All that anybody says on the island, in an order of its own."""
    every = [
        *(f"turn {way} the {thing} in the {room}"
          for way, thing, room in itertools.product(("on", "off"), _THINGS, _ROOMS)),
        *(f"set the {room} {thing} to {number} percent"
          for room, thing, number in itertools.product(_ROOMS, _THINGS, _NUMBERS)),
        *(f"set a timer for {number} {unit} in the {room}"
          for number, unit, room in itertools.product(_NUMBERS, ("minutes", "hours"), _ROOMS)),
        *(f"play {music} in the {room} at {number}"
          for music, room, number in itertools.product(_MUSIC, _ROOMS, _NUMBERS)),
        *(f"remind {name} to {chore} on {day}"
          for name, chore, day in itertools.product(("me", *_NAMES), _CHORES, _DAYS)),
        *(f"add {number} {good} and {other} to the list"
          for number, good, other in itertools.product(_NUMBERS, _GOODS, _GOODS) if good != other),
        *(f"call {name} at {number} {number2} on {day}"
          for name, number, number2, day in itertools.product(
              _NAMES, _NUMBERS[:12], ("fifteen", "thirty", "forty"), _DAYS)),
    ]  # fmt: skip
    return sorted(every, key=lambda text: hashlib.blake2b(text.encode(), digest_size=8).digest())


def _channel(samples: Samples, person: Person, *, seed: int) -> Samples:
    """What of a voice arrives: tilt, pass band and noise."""
    frequencies = np.array([0.0, 300.0, 6000.0, 8000.0])
    gains = 10 ** (np.array([0.0, 0.0, person.tilt_db, person.tilt_db]) / 20)
    tilt = signal.firwin2(65, frequencies, gains, fs=SAMPLE_RATE_HZ)
    low, high = person.region.band_hz
    band = signal.butter(4, (low, high), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    heard = signal.sosfilt(band, signal.convolve(samples, tilt, mode="same"))
    rng = np.random.default_rng(seed)
    power = float(np.mean(heard**2)) + 1e-12
    noise = rng.standard_normal(len(heard)) * np.sqrt(power / 10 ** (person.snr_db / 10))
    heard = heard + noise
    return np.asarray(heard * (0.5 / (np.abs(heard).max() + 1e-9)), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Said:
    """One clip to be made."""

    id: str
    person: Person
    clip: Clip
    path: Path


def _plan(
    crowd: Sequence[Person], clips: int, texts: Iterator[str], folder: Path, *, seed: int
) -> list[_Said]:
    found = []
    for person in crowd:
        for n in range(clips):
            rng = random.Random(f"{seed}:{person.id}:{n}")
            clip = Clip(
                text=next(texts),
                kind="command",
                template="planted",
                voice=person.voice,
                variant=person.variant,
                rate=round(person.rate * float(np.exp(rng.gauss(0, 0.02))), 3),
                pitch=round(person.pitch * float(np.exp(rng.gauss(0, 0.02))), 3),
                tract=person.tract,
                lead_s=round(rng.uniform(0.1, 0.25), 3),
                tail_s=round(rng.uniform(0.15, 0.35), 3),
            )
            name = f"{person.id}-{n:02d}"
            path = folder / person.id / f"{name}-{clip.key[:8]}.flac"
            found.append(_Said(name, person, clip, path))
    return found


def _speak(plan: Sequence[_Said], *, seed: int, label: str) -> None:
    """Make the clips that are not there."""
    todo = sorted(
        (said for said in plan if not said.path.is_file()), key=lambda said: said.clip.voice.engine
    )
    for first in range(0, len(todo), _TOGETHER):
        part = todo[first : first + _TOGETHER]
        for said, samples in zip(part, speak([said.clip for said in part]), strict=True):
            if samples is None:
                raise SystemExit(f"error: {said.clip.voice.id} could not say '{said.clip.text}'")
            number = int.from_bytes(hashlib.blake2b(said.id.encode(), digest_size=4).digest())
            heard = _channel(samples, said.person, seed=seed + number)
            said.path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_file(said.path) as file:
                soundfile.write(file, heard, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        print(f"{label}: {first + len(part)} of {len(todo)}", file=sys.stderr)


def speak_all(folder: Path, *, seed: int = 1) -> dict[str, Any]:
    """Speak the island, or what is missing of it.

    Args:
        folder: Gets `audio/`, `base/cuts/` (what a recipe trains on), `base/text/train.jsonl`,
            `general.jsonl` (the same as a manifest), `population.jsonl` (who is audited) and
            `strangers.jsonl` (who only judge what came of it, in sentences of nobody else).
        seed: Of everything.

    Returns:
        Hours and speakers of each part.
    """
    voices = {v.id: v for v in installed_voices()[0] if v.id not in HELD_OUT_VOICES}
    wanted = {name for region in REGIONS for name in region.voices}
    if missing := sorted(wanted - set(voices)):
        raise SystemExit(f"error: voices are not installed: {', '.join(missing)}")
    every = sentences()
    random.Random(seed).shuffle(every)
    half = int(len(every) * 0.45)
    base_texts, audited_texts = itertools.cycle(every[:half]), iter(every[half:])
    audio = folder / "audio"
    base, dev, audited, strangers = [], [], [], []
    for region in REGIONS:
        rare = region.name in UNDER_REPRESENTED
        count = RARE_SPEAKERS if rare else BASE_SPEAKERS
        base += people(region, count, group="base", seed=seed, voices=voices)
        dev += people(region, DEV_SPEAKERS, group="dev", seed=seed, voices=voices)
        audited += people(region, AUDITED_SPEAKERS, group="aud", seed=seed, voices=voices)
        strangers += people(region, STRANGERS, group="new", seed=seed, voices=voices)
    plans = {
        "base": _plan(base, BASE_CLIPS, base_texts, audio, seed=seed),
        "dev": _plan(dev, BASE_CLIPS, base_texts, audio, seed=seed),
        "audited": _plan(audited, AUDITED_CLIPS, audited_texts, audio, seed=seed),
    }
    left_over = itertools.cycle(list(audited_texts))
    plans["strangers"] = _plan(strangers, STRANGER_CLIPS, left_over, audio, seed=seed)
    summary = {}
    for label, plan in plans.items():
        _speak(plan, seed=seed, label=label)
        frames = [soundfile.info(str(said.path)).frames for said in plan]
        summary[label] = {
            "clips": len(plan),
            "speakers": len({said.person.id for said in plan}),
            "hours": round(sum(frames) / SAMPLE_RATE_HZ / 3600, 3),
        }
        if label in MANIFESTS:
            rows = [
                {
                    "id": said.id,
                    "ref": said.clip.text,
                    "speaker": said.person.id,
                    "lat": said.person.lat,
                    "lon": said.person.lon,
                    "region": said.person.region.name,
                    "audio": str(said.path.relative_to(folder)),
                    "duration": count / SAMPLE_RATE_HZ,
                }
                for said, count in zip(plan, frames, strict=True)
            ]
            _write_lines(folder / MANIFESTS[label], rows)
            continue
        cuts = [
            file_cut(said.id, said.path, count, text=said.clip.text, speaker=said.person.id,
                     custom={"kind": "command"})
            for said, count in zip(plan, frames, strict=True)
        ]  # fmt: skip
        name = "synthetic_train_000" if label == "base" else "synthetic_dev"
        write_cuts(cuts, folder / "base" / "cuts" / f"{name}.jsonl.gz")
        if label == "base":
            general = [
                {"id": said.id, "text": said.clip.text, "speaker": said.person.id,
                 "audio": str(said.path.relative_to(folder)), "region": said.person.region.name}
                for said in plan
            ]  # fmt: skip
            _write_lines(folder / "general.jsonl", general)
            texts = [
                {"text": text, "kind": "command", "template": "planted"}
                for text in sorted({said.clip.text for said in plan})
            ]
            _write_lines(folder / "base" / "text" / "train.jsonl", texts)
    return summary


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("exp/planted"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(speak_all(options.folder, seed=options.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
