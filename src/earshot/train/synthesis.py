"""Speaks text with every text-to-speech engine that the machine has, as training audio.

Debian packages few natural voices, so each is multiplied: speaking rate, pitch and the length of
the vocal tract vary independently. A waveform resampled by a factor moves formants, pitch and
duration together; the engine is asked for the opposite pitch and rate beforehand, so what is left
is a speaker with a shorter or longer vocal tract.

A plan (clip n of a seed: which text, voice, rate, pitch, tract) is a pure function, clips are
files named by the hash of what they say and how, and shards of manifests are written whole: a
stage that was stopped goes on where it was. Knows nothing of rooms and noise, which are added
while training, and deliberately never speaks training text with the held-out voices.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from earshot.core.errors import SynthesisError
from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.atomic import replaced_file
from earshot.train import neural_voices
from earshot.train import text as text_stage
from earshot.train.cuts import file_cut, read_cuts, write_cuts, write_json, write_wav
from earshot.train.neural_voices import NeuralVoice

__all__ = [
    "HELD_OUT_VOICES",
    "Clip",
    "SynthesisConfig",
    "Voice",
    "installed_voices",
    "make_command_test",
    "make_heldout_test",
    "make_validation_speech",
    "model_sizes",
    "natural_voices",
    "prepare",
    "require_speaking",
    "require_voices",
    "speak",
    "spoken_form",
    "training_voices",
]

logger = logging.getLogger(__name__)

HELD_OUT_VOICES = ("flite-awb", "flite-rms")

_ESPEAK_ACCENTS = (
    "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
    "en-029", "en-us-nyc",
)  # fmt: skip
# Whispers, robots and other voices that no person has.
_ESPEAK_NOVELTY = re.compile(
    r"whisper|croak|fast|robo|robot|ufo|demonic|storm|tweaky|klatt6|anxious|\?\?|grand", re.I
)
_MBROLA = ("us1", "us2", "us3", "en1")
# RHVoice has three more English voices. Two may not be used commercially; `alan` speaks with the
# voice of CMU Arctic's awb, who is held out.
_RHVOICE = (("bdl", 125), ("clb", 180), ("slt", 175))
_SPELLED_KINDS = frozenset({"spelled", "mix"})
_NEURAL_BATCH = 8
_NEURAL_SHARD = 64  # clips: Kokoro says them in a minute with two cores
_PAUSED_KINDS = frozenset({"digits", "spelled", "mix", "phone"})


@dataclass(frozen=True, slots=True)
class Voice:
    """One voice of one engine. `name` is what the engine calls it."""

    id: str
    engine: str  # espeak-ng, flite, festival, pico, rhvoice, mbrola, piper, kokoro
    name: str
    pitch_hz: float  # its usual pitch, for engines that are told hertz; 0 of those that are not


@dataclass(frozen=True, slots=True)
class Clip:
    """What is said, by whom and how. Everything that the sound depends on."""

    text: str
    kind: str
    template: str
    voice: Voice
    variant: str = ""  # espeak-ng's voice variant such as `f2`, Kokoro's other voice `NAME:SHARE`
    rate: float = 1.0  # of speaking; 1.2 is faster
    pitch: float = 1.0  # times the voice's own
    tract: float = 1.0  # formants times this; 1.15 is a shorter vocal tract
    level_db: float = -23.0  # root mean square, full scale 0
    lead_s: float = 0.1  # silence before
    tail_s: float = 0.2  # silence after
    pauses: bool = False  # between the items of a string of digits or letters

    @property
    def key(self) -> str:
        """Content hash; names the clip's file."""
        described = asdict(self)
        if self.voice.engine in neural_voices.ENGINES:  # wherever its file lies
            described["voice"]["name"] = Path(self.voice.name).name
        content = json.dumps(described, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=10).hexdigest()


def _default_engine_weights() -> dict[str, float]:
    # The licence of mbrola's voices is non-commercial: whoever wants them must say so.
    return {
        "espeak-ng": 1.0, "flite": 2.0, "festival": 1.5, "pico": 2.5, "rhvoice": 2.0, "mbrola": 0.0,
    }  # fmt: skip


def _default_kind_weights() -> dict[str, float]:
    return {
        "command": 30.0, "assistant": 12.0, "question": 10.0, "music": 3.0, "digits": 12.0,
        "spelled": 6.0, "mix": 2.0, "phone": 3.0, "number": 3.0, "time": 3.0, "timer": 4.0,
        "name": 4.0, "wake": 2.0, "word": 6.0, "read": 2.5,
    }  # fmt: skip


def _default_voice_weights() -> dict[str, float]:
    return dict.fromkeys(neural_voices.ENGINES, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisConfig:
    """How much is spoken, by which engines, and how far voices are bent.

    Args:
        engine_weights: Share of the clips by engine, of those installed: espeak-ng, flite,
            festival, pico, rhvoice, mbrola. One not named gets none. mbrola's is 0 by default,
            because the licence of its voices forbids commercial use.
        kind_weights: Share of the clips by kind of sentence. A kind not named gets none.
        voices: Folder of Piper's or Kokoro's voices (`train.neural_voices`); empty takes the one
            that the variable EARSHOT_VOICES names, if any. Voices of the held-out people are not
            taken.
        voice_hours: Of a user's commands in those voices; the source `neural`.
        voice_weights: How often a voice of an engine speaks: piper, kokoro.
    """

    hours: float = 45.0
    clips_per_shard: int = 3000  # about two hours
    dev_clips: int = 300
    processes: int = 1
    niceness: int = 15
    engine_weights: Mapping[str, float] = field(default_factory=_default_engine_weights)
    kind_weights: Mapping[str, float] = field(default_factory=_default_kind_weights)
    rate: tuple[float, float] = (0.8, 1.3)
    pitch: tuple[float, float] = (0.8, 1.3)
    tract: tuple[float, float] = (0.84, 1.18)
    single_digit_share: float = 0.12  # of the digit clips: one digit alone, to be joined later
    voices: str = ""
    voice_hours: float = 0.0
    voice_weights: Mapping[str, float] = field(default_factory=_default_voice_weights)

    def __post_init__(self) -> None:
        for name in ("rate", "pitch", "tract"):
            low, high = getattr(self, name)
            if not 0.5 <= low <= high <= 2.0:
                raise ValueError(
                    f"synthesis.{name} is ({low}, {high}); it must be a range inside 0.5 to 2"
                )
        for name, defaults in (
            ("engine_weights", _default_engine_weights()),
            ("kind_weights", _default_kind_weights()),
            ("voice_weights", _default_voice_weights()),
        ):
            weights = getattr(self, name)
            for key, weight in weights.items():
                if key not in defaults:
                    raise ValueError(
                        f"synthesis.{name} names '{key}', which is unknown; "
                        f"known are {', '.join(defaults)}"
                    )
                if not 0 <= weight < float("inf"):
                    raise ValueError(f"synthesis.{name}.{key} is {weight}; it must be at least 0")
            if not any(weights.values()):
                raise ValueError(
                    f"synthesis.{name} has no weight above 0; at least one is needed, "
                    f"of {', '.join(defaults)}"
                )


# ---------------------------------------------------------------- which voices exist


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def training_voices(weights: Mapping[str, float] | None = None) -> list[Voice]:
    """Installed voices that may be trained with: not held out, and of an engine with a weight.

    Args:
        weights: By engine; the defaults if not given.
    """
    weights = _default_engine_weights() if weights is None else weights
    return [
        v
        for v in installed_voices()[0]
        if v.id not in HELD_OUT_VOICES and weights.get(v.engine, 0) > 0
    ]


def require_voices(weights: Mapping[str, float]) -> list[Voice]:
    """The training voices, of which there must be one.

    Args:
        weights: By engine.

    Raises:
        SynthesisError: There is none.
    """
    voices = training_voices(weights)
    if not voices:
        raise SynthesisError(
            "synthesis: no text-to-speech engine was found that has a weight above 0; at least "
            "one of espeak-ng, flite, festival, pico and RHVoice must be installed. "
            "Run: apt-get install espeak-ng flite festival"
        )
    return voices


def natural_voices(config: SynthesisConfig) -> list[Voice]:
    """Piper's and Kokoro's voices that a recipe may speak with; none where no folder is named.

    Raises:
        SynthesisError: A folder is named and there is nothing in it that can be used, see
            `neural_voices.find_voices`.
    """
    folder = neural_voices.voices_folder(config.voices)
    if folder is None:
        return []
    return [
        Voice(voice.id, voice.engine, f"{voice.model}#{voice.speaker}", 0.0)
        for voice in neural_voices.find_voices(
            folder.absolute(),
            engines=[e for e in neural_voices.ENGINES if config.voice_weights.get(e, 0) > 0],
            without=[voice.partition("-")[2] for voice in HELD_OUT_VOICES],
        )
    ]


def model_sizes(natural: Sequence[Voice]) -> dict[str, int]:
    """Bytes of the model files of natural voices, by name: tells one collection from another."""
    models = {Path(_model_of(voice)) for voice in natural}
    return {model.name: model.stat().st_size for model in sorted(models)}


def require_speaking(natural: Sequence[Voice]) -> None:
    """Let a voice of each model file say a word, in a process of its own.

    Raises:
        SynthesisError: One cannot.
    """
    of_each = {_model_of(voice): voice for voice in reversed(natural)}
    if of_each:
        with ProcessPoolExecutor(1) as pool:
            pool.submit(_say_a_word, list(of_each.values())).result()


def _say_a_word(voices: Sequence[Voice]) -> None:
    for voice in voices:
        _speak_neural(Clip("hello", "command", "", voice), "hello")


def _model_of(voice: Voice) -> str:
    return voice.name.rpartition("#")[0]


def installed_voices() -> tuple[list[Voice], list[str]]:
    """Voices of Debian's engines that this machine can speak with, and those it lacks.

    Held-out ones are among them, and those of engines without a weight; see `training_voices`.

    Returns:
        (voices, names of missing ones), both in a fixed order.
    """
    found: list[Voice] = []
    missing: list[str] = []

    if shutil.which("espeak-ng"):
        listed = _run(["espeak-ng", "--voices=en"])
        for accent in _ESPEAK_ACCENTS:
            if re.search(rf"\s{re.escape(accent)}\s", listed):
                found.append(Voice(f"espeak-{accent}", "espeak-ng", accent, 100.0))
            else:
                missing.append(f"espeak-{accent}")
        for name in _MBROLA:
            if (Path("/usr/share/mbrola") / name / name).is_file() and shutil.which("mbrola"):
                found.append(Voice(f"mbrola-{name}", "mbrola", f"mb-{name}", 120.0))
            else:
                missing.append(f"mbrola-{name}")
    else:
        missing.append("espeak-ng")

    flite = _run(["flite", "-lv"]).split() if shutil.which("flite") else []
    for name, hertz in (("kal", 105), ("kal16", 105), ("slt", 175), ("awb", 125), ("rms", 105)):
        if name in flite:
            found.append(Voice(f"flite-{name}", "flite", name, float(hertz)))
        else:
            missing.append(f"flite-{name}")

    folders = [p.name for p in Path("/usr/share/festival/voices").glob("*/*")]
    for name, hertz in (("kal_diphone", 105), ("ked_diphone", 105), ("cmu_us_slt_arctic_hts", 180)):
        if shutil.which("festival") and name in folders:
            found.append(Voice(f"festival-{name}", "festival", name, float(hertz)))
        else:
            missing.append(f"festival-{name}")

    for name in ("en-US", "en-GB"):
        data = list(Path("/usr/share/pico/lang").glob(f"{name}_*_sg.bin"))
        if shutil.which("pico2wave") and data:
            found.append(Voice(f"pico-{name}", "pico", name, 175.0))
        else:
            missing.append(f"pico-{name}")

    speaks = shutil.which("RHVoice-test") is not None
    for name, hertz in _RHVOICE:
        if speaks and (Path("/usr/share/RHVoice/voices") / name).is_dir():
            found.append(Voice(f"rhvoice-{name}", "rhvoice", name, float(hertz)))
        else:
            missing.append(f"rhvoice-{name}")
    return found, missing


def _espeak_variants() -> list[str]:
    folders = sorted(Path("/usr/lib").glob("*/espeak-ng-data/voices/!v"))
    for folder in [*folders, Path("/usr/share/espeak-ng-data/voices/!v")]:
        if folder.is_dir():
            names = [p.name for p in folder.iterdir() if p.is_file()]
            return sorted(n for n in names if not _ESPEAK_NOVELTY.search(n) and " " not in n)
    return []


def _versions() -> dict[str, str]:
    out: dict[str, str] = {}
    for engine, command in (
        ("espeak-ng", ["espeak-ng", "--version"]),
        ("flite", ["flite", "--version"]),
        ("festival", ["festival", "--version"]),
    ):
        lines = [line.strip() for line in _run(command).splitlines() if line.strip()]
        named = [line for line in lines if "ersion" in line or "eSpeak" in line]
        if named:
            out[engine] = named[0]
    packages = ["espeak-ng", "flite", "festival", "libttspico-utils", "rhvoice", "mbrola"]
    asked = ["dpkg-query", "-W", "-f=${Package}=${Version}\n", *packages]
    for line in _run(asked).splitlines():
        package, _, version = line.partition("=")
        if package in packages and version:
            out[f"debian:{package}"] = version
    return out


# ---------------------------------------------------------------- what an engine is told


def spoken_form(text: str, kind: str, engine: str, *, pauses: bool) -> str:
    """What an engine must read so that it says `text`.

    Engines read a lone "a" as the article and "am" as the verb, where spelled names and clock
    times want the letter.

    Args:
        text: In the recogniser's spelling.
        kind: Of the sentence; in spelled text every single letter is a letter.
        engine: Its name.
        pauses: Puts commas between the items.
    """
    letter_a = {
        "espeak-ng": "[['eI]]", "mbrola": "[['eI]]", "pico": "A", "piper": "eh", "kokoro": "eh",
    }.get(engine, "ay")  # fmt: skip
    words = text.split()
    out: list[str] = []
    for i, word in enumerate(words):
        if word == "a" and kind in _SPELLED_KINDS:
            out.append(letter_a)
        elif word in ("am", "pm") and i and re.search(_CLOCK_END, words[i - 1]):
            out.extend(["p" if word == "pm" else letter_a, "m"])
        else:
            out.append(word)
    return (", " if pauses else " ").join(out)


_CLOCK_END = re.compile(
    r"^(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirty|fifteen|o'clock"
    r"|twenty|forty|fifty|noon|\w+teen)$"
)


def _speak_espeak(clip: Clip, words: str, folder: Path) -> Path:
    rate, pitch = clip.rate / clip.tract, clip.pitch / clip.tract
    voice = clip.voice.name + (f"+{clip.variant}" if clip.variant else "")
    path = folder / "clip.wav"
    subprocess.run(
        [
            "espeak-ng", "-v", voice, "-w", str(path),
            "-s", str(round(min(340.0, max(80.0, 155 * rate)))),
            # espeak-ng's scale of 0 to 99 is about an octave and a half around 50.
            "-p", str(round(min(95.0, max(5.0, 50 + 65 * float(np.log2(pitch)))))),
            words,
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return path


def _speak_flite(clip: Clip, words: str, folder: Path) -> Path:
    rate, pitch = clip.rate / clip.tract, clip.pitch / clip.tract
    path = folder / "clip.wav"
    subprocess.run(
        [
            "flite", "-voice", clip.voice.name,
            "--setf", f"duration_stretch={1 / rate:.3f}",
            "--setf", f"int_f0_target_mean={clip.voice.pitch_hz * pitch:.1f}",
            "-o", str(path), "-t", " " + words,
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return path


def _speak_pico(clip: Clip, words: str, folder: Path) -> Path:
    rate, pitch = clip.rate / clip.tract, clip.pitch / clip.tract
    path = folder / "clip.wav"
    marked = (
        f"<pitch level='{round(100 * min(2.0, max(0.5, pitch)))}'>"
        f"<speed level='{round(100 * min(3.0, max(0.4, rate)))}'>{words}</speed></pitch>"
    )
    subprocess.run(
        ["pico2wave", "-l", clip.voice.name, "-w", str(path), marked],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return path


def _speak_rhvoice(clip: Clip, words: str, folder: Path) -> Path:
    rate, pitch = clip.rate / clip.tract, clip.pitch / clip.tract
    path = folder / "clip.wav"
    subprocess.run(
        [
            "RHVoice-test", "-p", clip.voice.name, "-o", str(path),
            "-r", str(round(100 * min(2.0, max(0.5, rate)))),
            "-t", str(round(100 * min(2.0, max(0.5, pitch)))),
        ],
        input=words + "\n", text=True, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return path


def _speak_neural(clip: Clip, words: str) -> tuple[npt.NDArray[np.float32], int]:
    # These networks take no pitch: it moves with the vocal tract alone.
    model, _, speaker = clip.voice.name.rpartition("#")
    voice = NeuralVoice(clip.voice.engine, Path(model), speaker)
    return neural_voices.speak(voice, words, rate=clip.rate / clip.tract, blend=clip.variant)


def _festival_script(clips: Sequence[tuple[Clip, str, Path]]) -> str:
    lines: list[str] = []
    for name in sorted({clip.voice.name for clip, _, _ in clips}):
        lines.append(f"(voice_{name})")
        if name.endswith("hts"):
            lines.append("(set! earshot_hts hts_engine_params)")
        for clip, words, path in clips:
            if clip.voice.name != name:
                continue
            rate, pitch = clip.rate / clip.tract, clip.pitch / clip.tract
            if name.endswith("hts"):
                # This voice takes no pitch: it moves with the vocal tract alone.
                lines.append(
                    f'(set! hts_engine_params (append earshot_hts (list (list "-r" {rate:.3f}))))'
                )
            else:
                lines.append(f"(Parameter.set 'Duration_Stretch {1 / rate:.3f})")
                lines.append(
                    f"(set! int_lr_params '((target_f0_mean {clip.voice.pitch_hz * pitch:.1f}) "
                    "(target_f0_std 15) (model_f0_mean 170) (model_f0_std 34)))"
                )
            quoted = words.replace("\\", "").replace('"', "")
            # One bad sentence must not end the batch.
            lines.append(
                f'(unwind-protect (utt.save.wave (utt.synth (Utterance Text "{quoted}")) '
                f'"{path}" \'riff) nil)'
            )
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- waveforms


def _trim(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Without the silence at both ends; 30 ms of it are kept."""
    frame = SAMPLE_RATE_HZ // 100
    peak = float(np.abs(samples).max(initial=0.0))
    loud = np.flatnonzero(np.abs(samples) > 0.02 * peak)
    if peak == 0.0 or loud.size == 0:
        return samples[:0]
    return samples[max(0, loud[0] - 3 * frame) : loud[-1] + 3 * frame]


def _finish_file(path: Path, clip: Clip) -> npt.NDArray[np.float32] | None:
    """An engine's file as a finished clip, as of `_finish`."""
    samples, rate = sf.read(path, dtype="float32")
    return _finish(samples.mean(axis=1) if samples.ndim > 1 else samples, rate, clip)


def _finish(
    samples: npt.NDArray[np.float32], rate: int, clip: Clip
) -> npt.NDArray[np.float32] | None:
    """What an engine said as a finished 16 kHz clip, or None when there is nothing in it."""
    if samples.size < rate // 20:
        return None
    played_at = rate * clip.tract  # faster, so formants and pitch rise; pitch was lowered before
    if abs(played_at - SAMPLE_RATE_HZ) > 0.5:
        samples = soxr.resample(samples, played_at, SAMPLE_RATE_HZ, quality="MQ")
    samples = _trim(np.asarray(samples, dtype=np.float32))
    if samples.size < SAMPLE_RATE_HZ // 10:
        return None
    loudness = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    gain = min(10 ** (clip.level_db / 20) / loudness, 0.95 / float(np.abs(samples).max()))
    silence = [np.zeros(round(s * SAMPLE_RATE_HZ), np.float32) for s in (clip.lead_s, clip.tail_s)]
    return np.concatenate([silence[0], samples * np.float32(gain), silence[1]])


_SPEAKERS: Mapping[str, Callable[[Clip, str, Path], Path]] = {
    "espeak-ng": _speak_espeak,
    "mbrola": _speak_espeak,
    "flite": _speak_flite,
    "pico": _speak_pico,
    "rhvoice": _speak_rhvoice,
}


def speak(clips: Sequence[Clip]) -> list[npt.NDArray[np.float32] | None]:
    """Waveforms of clips, 16 kHz mono in [-1, 1].

    Args:
        clips: Of installed voices. Festival's are spoken in one call, since it starts slowly.

    Returns:
        One per clip; None where the engine said nothing or failed.
    """
    out: list[npt.NDArray[np.float32] | None] = [None] * len(clips)
    shared = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="earshot-", dir=shared) as name:
        folder = Path(name)
        batch: list[tuple[Clip, str, Path]] = []
        for i, clip in enumerate(clips):
            words = spoken_form(clip.text, clip.kind, clip.voice.engine, pauses=clip.pauses)
            if clip.voice.engine == "festival":
                batch.append((clip, words, folder / f"{i}.wav"))
                continue
            try:
                if clip.voice.engine in neural_voices.ENGINES:
                    out[i] = _finish(*_speak_neural(clip, words), clip)
                else:
                    path = _SPEAKERS[clip.voice.engine](clip, words, folder)
                    out[i] = _finish_file(path, clip)
            except (OSError, subprocess.SubprocessError, sf.LibsndfileError, SynthesisError) as err:
                logger.debug("%s: %s", clip.voice.id, err)
        if batch:
            script = folder / "speak.scm"
            script.write_text(_festival_script(batch), encoding="utf-8")
            # What was spoken before a failure is kept.
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    ["festival", "-b", str(script)],
                    check=False,
                    capture_output=True,
                    timeout=60 + 5 * len(batch),
                )
            for clip, _, path in batch:
                if path.is_file():
                    try:
                        out[int(path.stem)] = _finish_file(path, clip)
                    except sf.LibsndfileError:
                        continue
    return out


# ---------------------------------------------------------------- the plan


def _pick(rng: random.Random, weights: Mapping[str, float]) -> str:
    names = list(weights)
    return rng.choices(names, [weights[n] for n in names])[0]


def _log_uniform(rng: random.Random, bounds: tuple[float, float]) -> float:
    low, high = np.log(bounds)
    return round(float(np.exp(rng.uniform(low, high))), 3)


class _Plan:
    """Clip n of a seed. Texts of a kind are drawn without replacement, then anew."""

    def __init__(
        self,
        texts: Sequence[text_stage.TextItem],
        voices: Sequence[Voice],
        config: SynthesisConfig,
        *,
        seed: str,
    ) -> None:
        self._config = config
        self._seed = seed
        self._variants = _espeak_variants()
        self._by_engine: dict[str, list[Voice]] = {}
        for voice in voices:
            self._by_engine.setdefault(voice.engine, []).append(voice)
        self._texts: dict[str, list[text_stage.TextItem]] = {}
        for item in texts:
            self._texts.setdefault(item.kind, []).append(item)
        for kind, items in self._texts.items():
            random.Random(f"{seed}:{kind}").shuffle(items)
        self._singles = [
            i for i in self._texts.get("digits", []) if " " not in i.text and i.text != "oh"
        ]
        weights = config.kind_weights
        self._kinds = {k: weights[k] for k in self._texts if weights.get(k, 0) > 0}
        engine_weights = {**config.engine_weights, **config.voice_weights}
        self._engines = {
            e: engine_weights[e] * (len(voices) if e in neural_voices.ENGINES else 1)
            for e, voices in self._by_engine.items()
            if engine_weights.get(e, 0) > 0
        }
        self._said: Counter[str] = Counter()

    def clips(self) -> Iterator[Clip]:
        n = 0
        while True:
            yield self._clip(random.Random(f"{self._seed}:clip:{n}"))
            n += 1

    def _clip(self, rng: random.Random) -> Clip:
        config = self._config
        kind = _pick(rng, self._kinds)
        if kind == "digits" and self._singles and rng.random() < config.single_digit_share:
            item = rng.choice(self._singles)
        else:
            items = self._texts[kind]
            item = items[self._said[kind] % len(items)]
            self._said[kind] += 1
        engine = _pick(rng, self._engines)
        voice = rng.choice(self._by_engine[engine])
        variant = ""
        if engine == "espeak-ng" and self._variants and rng.random() < 0.8:
            variant = rng.choice(self._variants)
        if engine == "kokoro" and rng.random() < 0.5:
            of_model = [v for v in self._by_engine[engine] if _model_of(v) == _model_of(voice)]
            other = rng.choice(of_model).name.rpartition("#")[2]
            variant = f"{other}:{rng.uniform(0.3, 0.7):.2f}"
        several = len(item.text.split()) > 1
        return Clip(
            text=item.text,
            kind=kind,
            template=item.template,
            voice=voice,
            variant=variant,
            rate=_log_uniform(rng, config.rate),
            pitch=_log_uniform(rng, config.pitch),
            tract=_log_uniform(rng, config.tract),
            level_db=round(rng.uniform(-28.0, -18.0), 1),
            lead_s=round(rng.uniform(0.02, 0.35), 3),
            tail_s=round(rng.uniform(0.1, 0.5), 3),
            pauses=kind in _PAUSED_KINDS and several and rng.random() < 0.4,
        )


# ---------------------------------------------------------------- files and manifests


def _job(clips: Sequence[Clip], folder: Path, niceness: int) -> list[int]:
    """Samples of every clip, speaking those whose file is missing; 0 where that failed."""
    if os.nice(0) < niceness:
        os.nice(niceness - os.nice(0))
    paths = [folder / clip.key[:2] / f"{clip.key}.wav" for clip in clips]
    todo = [i for i, path in enumerate(paths) if not path.is_file()]
    for i, samples in zip(todo, speak([clips[i] for i in todo]), strict=True):
        if samples is not None:
            write_wav(paths[i], samples)
    return [sf.info(str(p)).frames if p.is_file() else 0 for p in paths]


def _in_batches(clips: Sequence[Clip], size: int) -> list[list[int]]:
    """Indices, one engine a batch; of a neural one a model, and few, for they take long."""
    by_engine: dict[tuple[str, int], list[int]] = {}
    for i, clip in enumerate(clips):
        if clip.voice.engine in neural_voices.ENGINES:
            by_engine.setdefault((_model_of(clip.voice), _NEURAL_BATCH), []).append(i)
        else:
            by_engine.setdefault((clip.voice.engine, size), []).append(i)
    return [
        part[k : k + most]
        for (_, most), part in by_engine.items()
        for k in range(0, len(part), most)
    ]


def _speak_to_files(
    clips: Sequence[Clip],
    folder: Path,
    *,
    processes: int,
    niceness: int,
    pool: Any = None,
    spoken: Callable[[int], None] = lambda _: None,
    finished: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """Frames of every clip, 0 for one that failed.

    Batch by batch `spoken` hears how many samples are new, and `finished` how many clips are done.
    """
    batches = _in_batches(clips, 50)
    work = [[clips[i] for i in batch] for batch in batches]
    folders, levels = [folder] * len(work), [niceness] * len(work)
    own = ProcessPoolExecutor(processes) if pool is None and processes > 1 else None
    workers = pool or own
    results = []
    try:
        for counts in (workers.map if workers else map)(_job, work, folders, levels):
            results.append(counts)
            spoken(sum(counts))
            finished(len(counts))
    finally:
        if own is not None:
            own.shutdown(cancel_futures=True)
    frames = [0] * len(clips)
    for batch, counts in zip(batches, results, strict=True):
        for i, count in zip(batch, counts, strict=True):
            frames[i] = count
    return frames


def _cut_rows(
    clips: Sequence[Clip], frames: Sequence[int], folder: Path, prefix: str
) -> Iterator[dict[str, Any]]:
    """Lhotse cuts as plain objects; clips that failed are left out."""
    for n, (clip, count) in enumerate(zip(clips, frames, strict=True)):
        if not count:
            continue
        clip_id = f"{prefix}-{n:06d}-{clip.key[:8]}"
        yield file_cut(
            clip_id,
            folder / clip.key[:2] / f"{clip.key}.wav",
            count,
            text=clip.text,
            speaker=clip.voice.id + (f"+{clip.variant}" if clip.variant else ""),
            custom={
                "engine": clip.voice.engine,
                "kind": clip.kind,
                "template": clip.template,
                "synthetic": True,
            },
        )


# ---------------------------------------------------------------- the stage


def _settings(
    config: SynthesisConfig, texts: Path, natural: Sequence[Voice], *, seed: int
) -> dict[str, Any]:
    """What decides the plan: not how much of it is spoken, nor how fast."""
    digest = hashlib.blake2b(texts.read_bytes(), digest_size=10).hexdigest()
    settings = {"seed": seed, "texts": digest, **asdict(config)}
    for name in ("hours", "processes", "niceness", "dev_clips", "voices", "voice_hours"):
        del settings[name]
    if natural:
        settings["natural_voices"] = [voice.id for voice in natural]
        settings["models"] = model_sizes(natural)
    else:
        del settings["voice_weights"]
    return dict(json.loads(json.dumps(settings)))


def _record_path(out_dir: Path, source: str) -> Path:
    return out_dir / ("synthesis.json" if source == "synthetic" else f"synthesis_{source}.json")


def _take_over(out_dir: Path, settings: Mapping[str, Any], source: str) -> Mapping[str, Any] | None:
    """Remove manifests of a source that were made with other settings.

    Returns:
        The settings of the shards: `settings`, or None where there are shards without a record.
    """
    cuts, record_path = out_dir / "cuts", _record_path(out_dir, source)
    shards = sorted(cuts.glob(f"{source}_train_*.jsonl.gz"))
    if not shards:
        return settings
    record = json.loads(record_path.read_text()) if record_path.is_file() else {}
    known: Mapping[str, Any] | None = record.get("settings")
    if known is None:
        return None
    known = {"texts": settings["texts"], **known}  # records did not always say which
    if known == settings:
        return settings
    changed = sorted(k for k in {*known, *settings} if known.get(k) != settings.get(k))
    logger.warning(
        "synthesis: %d shards in %s were made with another %s; they are made again. Clips that "
        "are the same are kept",
        len(shards), cuts, ", ".join(changed),
    )  # fmt: skip
    # The first shard last: while it is there, so is the sign that the others must go.
    for path in (cuts / f"{source}_dev.jsonl.gz", *reversed(shards)):
        path.unlink(missing_ok=True)
    return settings


def _write_record(
    path: Path,
    settings: Mapping[str, Any] | None,
    used: Sequence[Voice],
    hours: Mapping[str, float],
) -> None:
    voices, missing = installed_voices()
    ids = {v.id for v in used}
    record = {
        "settings": settings,
        "engines": _versions(),
        "voices": [v.id for v in used],
        "held_out_voices": [v.id for v in voices if v.id in HELD_OUT_VOICES],
        "unused_voices": [v.id for v in voices if v.id not in ids and v.id not in HELD_OUT_VOICES],
        "missing_voices": missing,
        "espeak_variants": _espeak_variants(),
        "hours": {k: round(v, 3) for k, v in sorted(hours.items())},
    }
    write_json(record, path)


def prepare(
    out_dir: Path,
    *,
    seed: int,
    hours: float | None = None,
    jobs: int | None = None,
    config: SynthesisConfig | None = None,
    source: str = "synthetic",
    texts: str = "",
    natural: Sequence[Voice] = (),
    progress: Callable[[float, float], None] | None = None,
) -> dict[str, float]:
    """Speak the texts of the `text` stage until there are enough hours.

    Writes `synthetic/` (waveforms), `cuts/synthetic_train_NNN.jsonl.gz` one by one as they are
    complete, `cuts/synthetic_dev.jsonl.gz` (the validation half of the held-out texts) and
    `synthesis.json` (settings, engines, voices used and missing). Whole shards and single clips
    that are there are not made again, unless the seed, the texts or the settings of the plan have
    changed since. Shards without a record of their settings are taken as they are.

    Args:
        out_dir: Experiment folder; `text/train.jsonl` and `text/heldout.jsonl` must exist.
        seed: Of the plan.
        hours: Overrides `config.hours`.
        jobs: Overrides `config.processes`.
        config: Amounts and ranges.
        source: Names the manifests. One other than `synthetic` has texts of its own, such as
            `text/commands_train.jsonl`, and a record such as `synthesis_commands.json`.
        texts: The source whose texts are spoken, if it has none of its own.
        natural: Of `natural_voices`: these speak, and not the engines that are installed.
        progress: Called with (hours there, hours wanted) now and then.

    Returns:
        Hours by `engine/<name>` and `kind/<name>`.

    Raises:
        FileNotFoundError: The texts are missing.
        SynthesisError: No engine is installed, or none of them speaks.
    """
    config = config or SynthesisConfig()
    if hours is not None:
        config = replace(config, hours=hours)
    if jobs is not None:
        config = replace(config, processes=jobs)
    texts = texts or source
    prefix = "" if texts == "synthetic" else f"{texts}_"
    train_texts, dev_texts = (
        out_dir / "text" / f"{prefix}{name}.jsonl" for name in ("train", "heldout")
    )
    if not train_texts.is_file():
        raise FileNotFoundError(
            f"synthesis: {train_texts} does not exist; the texts must be made first. "
            "Run the text stage (earshot.train.text.prepare)"
        )
    voices = list(natural) or require_voices(config.engine_weights)
    wav_folder = out_dir / "synthetic"
    cuts = out_dir / "cuts"
    record = _record_path(out_dir, source)
    settings = _take_over(out_dir, _settings(config, train_texts, natural, seed=seed), source)
    if not list(cuts.glob(f"{source}_train_*.jsonl.gz")):
        # Before the first shard, so that none is ever without a record.
        _write_record(record, settings, voices, {})
    spoken: Counter[str] = Counter()
    total = 0.0
    pool = ProcessPoolExecutor(config.processes) if config.processes > 1 else None
    try:
        plan = _Plan(text_stage.load_texts(train_texts), voices, config, seed=f"{seed}:train")
        stream = plan.clips()
        shard = 0
        # Clips last a good two seconds: few hours do not need a whole shard.
        most = _NEURAL_SHARD if natural else config.clips_per_shard
        per_shard = min(most, max(8, round(config.hours * 1600)))
        while total < config.hours:
            clips = [next(stream) for _ in range(per_shard)]
            new = 0.0

            def hear(samples: int, *, before: float = total) -> None:
                nonlocal new
                new += samples / SAMPLE_RATE_HZ / 3600
                if progress is not None:
                    progress(before + new, config.hours)

            path = cuts / f"{source}_train_{shard:03d}.jsonl.gz"
            if path.is_file():
                rows = read_cuts(path)
            else:
                frames = _speak_to_files(
                    clips,
                    wav_folder,
                    processes=config.processes,
                    niceness=config.niceness,
                    pool=pool,
                    spoken=hear,
                )
                rows = list(_cut_rows(clips, frames, wav_folder, f"{source[:3]}{shard:03d}"))
                if not rows:
                    example = "" if natural else ", for instance: flite -t hello"
                    raise SynthesisError(
                        f"synthesis: none of {len(clips)} clips could be spoken; the engines "
                        f"found must work. Try one by hand{example}"
                    )
                write_cuts(rows, path)
            for row in rows:
                custom = row["supervisions"][0]["custom"]
                spoken[f"engine/{custom['engine']}"] += row["duration"] / 3600
                spoken[f"kind/{custom['kind']}"] += row["duration"] / 3600
                total += row["duration"] / 3600
            _write_record(record, settings, voices, spoken)
            if progress is not None:
                progress(total, config.hours)
            dev_cuts = cuts / f"{source}_dev.jsonl.gz"
            if shard == 0 and config.dev_clips and not dev_cuts.is_file():
                held_out = text_stage.load_texts(dev_texts)
                rows = _speak_dev(held_out, wav_folder, voices, config, seed=seed)
                write_cuts(rows, dev_cuts)
            shard += 1
    finally:
        if pool is not None:
            # After an interrupt the batches that wait must not be spoken first.
            pool.shutdown(cancel_futures=True)
    return dict(sorted(spoken.items()))


def _speak_dev(
    held_out: Sequence[text_stage.TextItem],
    folder: Path,
    voices: Sequence[Voice],
    config: SynthesisConfig,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Cuts of the validation half of the held-out text, by the training voices."""
    texts = [item for item in held_out if not text_stage.is_test(item.template)]
    plan = _Plan(texts, voices, config, seed=f"{seed}:dev").clips()
    clips = [next(plan) for _ in range(config.dev_clips)]
    frames = _speak_to_files(clips, folder, processes=1, niceness=config.niceness)
    return list(_cut_rows(clips, frames, folder, "dev"))


_TEST_MIX = {"command": 64, "assistant": 19, "question": 15, "music": 2}
_TEST_VERSION = 2  # raised when another choice of sentences makes another test


def _test_clips(
    texts: Sequence[text_stage.TextItem],
    voices: Sequence[Voice],
    count: int,
    *,
    seed: int,
    half: Literal["test", "validation"] = "test",
) -> list[Clip]:
    rng = random.Random(f"{seed}:{half}")
    by_kind: dict[str, list[text_stage.TextItem]] = {}
    for item in texts:
        if item.kind in _TEST_MIX and text_stage.is_test(item.template) == (half == "test"):
            by_kind.setdefault(item.kind, []).append(item)
    for items in by_kind.values():
        rng.shuffle(items)
        # Round-robin over templates, so that the ones with most sentences do not rule.
        rank: Counter[str] = Counter()
        order = []
        for item in items:
            order.append((rank[item.template], item))
            rank[item.template] += 1
        items[:] = [item for _, item in sorted(order, key=lambda pair: pair[0])]
    shares = {k: _TEST_MIX[k] for k in by_kind}
    said: Counter[str] = Counter()
    clips: list[Clip] = []
    while len(clips) < count and shares:
        kind = _pick(rng, shares)
        if said[kind] >= len(by_kind[kind]):
            del shares[kind]
            continue
        item = by_kind[kind][said[kind]]
        said[kind] += 1
        voice = voices[len(clips) % len(voices)]
        clips.append(_test_clip(item.text, kind, item.template, voice, rng))
    sentences = len(clips)
    for n in range(sentences, min(count, len(voices) * sentences)):
        lap, place = divmod(n, sentences)
        of = clips[place]
        voice = voices[(place + lap) % len(voices)]
        clips.append(_test_clip(of.text, of.kind, of.template, voice, rng))
    return clips


def _test_clip(text: str, kind: str, template: str, voice: Voice, rng: random.Random) -> Clip:
    """A clip of a test: voices are bent a little only, so that they stay what they are."""
    return Clip(
        text=text,
        kind=kind,
        template=template,
        voice=voice,
        rate=_log_uniform(rng, (0.9, 1.15)),
        pitch=_log_uniform(rng, (0.95, 1.05)),
        level_db=round(rng.uniform(-25.0, -20.0), 1),
        lead_s=0.2,
        tail_s=0.4,
    )


def make_heldout_test(
    folder: Path,
    count: int = 1000,
    *,
    seed: int = 1,
    texts: Path | None = None,
    root: Path | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The synthetic test: held-out sentences in the two held-out voices of flite.

    What is held out, and by what:

    - Voices: no clip of awb or rms is in any training batch, nor a neural clone of the two people.
    - Home Assistant sentences, by template: no sentence of the template is trained on. Other
      templates of the same intent are, and so are the names of rooms and devices that fill it; a
      sentence that a training template of the same seed also said is left out.
    - Sentences of SLURP, CLINC and Snips, by sentence. Similar ones are trained on.

    Made-up text (numbers, times, timers, names, spellings) is not in it, because its patterns are
    trained on. None of the sentences is in the validation cuts of `prepare`.

    The texts must be those of the model's training, or of the same seed, settings and corpora.
    Deterministic: the same engines and texts give the same bytes. Makes nothing that is there.

    Args:
        folder: Gets `manifest.jsonl`, `audio/*.wav` and `summary.json`.
        count: Clips. Where there are not as many sentences they are said once more, each by
            another voice; fewer where that is not enough.
        seed: Of the choice of sentences, and of the texts if they are made anew.
        texts: `heldout.jsonl` of the text stage; made anew in a temporary folder if not given.
        root: Folder of the corpora that the texts are made from; `data_root()` if not given.
        processes: Parallel speakers.
        progress: Called with (clips done, clips) now and then.

    Returns:
        Path of the manifest: `id, audio, text, duration, speaker, kind, template, split` a line.

    Raises:
        SynthesisError: flite or one of its voices awb and rms is missing.
    """
    settings: dict[str, Any] = {"version": _TEST_VERSION, "count": count, "seed": seed}
    if texts is None:
        folder_of_texts = (root or text_stage.data_root()) / "text"
        settings["corpora"] = sorted(path.name for path in folder_of_texts.glob("*.gz"))
    else:
        settings["texts"] = hashlib.blake2b(texts.read_bytes(), digest_size=10).hexdigest()
    manifest = folder / "manifest.jsonl"
    if _is_made(folder, settings):
        return manifest
    voices = _held_out_voices()
    if texts is None:
        with tempfile.TemporaryDirectory(prefix="earshot-text-") as name:
            text_stage.prepare(Path(name), seed=seed, root=root)
            items = text_stage.load_texts(Path(name) / "text" / "heldout.jsonl")
    else:
        items = text_stage.load_texts(texts)
    clips = _test_clips(items, voices, count, seed=seed)
    labels = [{"text": c.text, "kind": c.kind, "template": c.template} for c in clips]
    _write_test(clips, labels, folder, settings, processes=processes, progress=progress)
    return manifest


def make_validation_speech(
    folder: Path,
    count: int,
    *,
    seed: int = 1,
    texts: Path,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Sentences like those of `make_heldout_test`, of the other half and in the training voices.

    What is learned on them, such as weights, can be judged on that test: no sentence, template or
    voice is in both. Deterministic, and makes nothing that is there.

    Args:
        folder: Gets `manifest.jsonl`, `audio/*.wav` and `summary.json`.
        count: Clips, as of `make_heldout_test`.
        seed: Of the choice.
        texts: `heldout.jsonl` of the text stage.
        processes: Parallel speakers.
        progress: Called with (clips done, clips) now and then.

    Returns:
        Path of the manifest.

    Raises:
        SynthesisError: No engine is installed.
    """
    digest = hashlib.blake2b(texts.read_bytes(), digest_size=10).hexdigest()
    settings = {"version": 1, "count": count, "seed": seed, "texts": digest}
    manifest = folder / "manifest.jsonl"
    if _is_made(folder, settings):
        return manifest
    voices = require_voices(_default_engine_weights())
    random.Random(f"{seed}:voices").shuffle(voices)
    items = text_stage.load_texts(texts)
    clips = _test_clips(items, voices, count, seed=seed, half="validation")
    labels = [
        {"text": c.text, "kind": c.kind, "template": c.template, "split": "dev"} for c in clips
    ]
    _write_test(clips, labels, folder, settings, processes=processes, progress=progress)
    return manifest


def make_command_test(
    folder: Path,
    samples: Sequence[Mapping[str, Any]],
    *,
    seed: int = 1,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """A test of labelled sentences in the two held-out voices of flite.

    Deterministic: the same engines and samples give the same bytes. Makes nothing that is there.

    Args:
        folder: Gets `manifest.jsonl`, `audio/*.wav` and `summary.json`.
        samples: `text` each, and whatever else is to stand in the manifest.
        seed: Of speaking rate, pitch and level.
        processes: Parallel speakers.
        progress: Called with (clips done, clips) now and then.

    Returns:
        Path of the manifest: `id, audio, duration, speaker, split` and the sample's own a line.

    Raises:
        SynthesisError: flite or one of its voices awb and rms is missing.
    """
    labels = [dict(sample) for sample in samples]
    settings = json.loads(json.dumps({"seed": seed, "samples": labels}))
    manifest = folder / "manifest.jsonl"
    if _is_made(folder, settings):
        return manifest
    voices = _held_out_voices()
    rng = random.Random(f"{seed}:commands")
    clips = [
        _test_clip(label["text"], "command", "commands", voices[n % len(voices)], rng)
        for n, label in enumerate(labels)
    ]
    _write_test(clips, labels, folder, settings, processes=processes, progress=progress)
    return manifest


def _held_out_voices() -> list[Voice]:
    voices = [v for v in installed_voices()[0] if v.id in HELD_OUT_VOICES]
    if len(voices) != len(HELD_OUT_VOICES):
        raise SynthesisError(
            f"synthetic test: flite has {len(voices)} of the voices {HELD_OUT_VOICES}; the test "
            "needs both. Run: apt-get install flite"
        )
    return voices


def _is_made(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a test of these settings is in the folder."""
    summary = folder / "summary.json"
    recorded = json.loads(summary.read_text()) if summary.is_file() else {}
    return (folder / "manifest.jsonl").is_file() and recorded.get("settings") == settings


def _write_test(
    clips: Sequence[Clip],
    labels: Sequence[Mapping[str, Any]],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Speak the clips of a test and write its manifest, in place of any other test's."""
    manifest, audio = folder / "manifest.jsonl", folder / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    for path in (manifest, *audio.glob("heldout-*.wav")):
        path.unlink(missing_ok=True)
    done = 0

    def hear(spoken: int) -> None:
        nonlocal done
        done += spoken
        if progress is not None:
            progress(done, len(clips))

    with tempfile.TemporaryDirectory(prefix="earshot-test-", dir=folder) as name:
        frames = _speak_to_files(clips, Path(name), processes=processes, niceness=0, finished=hear)
        lines = []
        for n, (clip, label, samples) in enumerate(zip(clips, labels, frames, strict=True)):
            if not samples:
                continue
            clip_id = f"heldout-{n:04d}-{clip.voice.name}"
            # Copied: two sentences that are said in the same way share one file.
            spoken_path = Path(name) / clip.key[:2] / f"{clip.key}.wav"
            shutil.copyfile(spoken_path, audio / f"{clip_id}.wav")
            row = {
                "id": clip_id,
                "audio": f"audio/{clip_id}.wav",
                "duration": samples / SAMPLE_RATE_HZ,
                "speaker": clip.voice.id,
                **label,
                "split": label.get("split", "test"),
            }
            lines.append(json.dumps(row) + "\n")
    with replaced_file(manifest) as out:
        out.write("".join(lines).encode())
    write_json({"settings": settings, "clips": len(lines)}, folder / "summary.json")
