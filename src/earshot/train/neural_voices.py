"""Voices of neural speech engines, from model files in a folder of the user's: Piper and Kokoro.

Both are VITS-like networks in ONNX files that read the phonemes of espeak-ng; the engines' own
Python packages run them. A Piper file holds one speaker or hundreds, a Kokoro file takes a vector
that says who speaks, and two people's vectors mixed are a third person. Knows nothing of what is
said or trained; never fetches anything.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earshot.core.errors import SynthesisError

if TYPE_CHECKING:
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

__all__ = ["ENGINES", "FOLDER_VARIABLE", "NeuralVoice", "find_voices", "speak", "voices_folder"]

ENGINES = ("piper", "kokoro")
FOLDER_VARIABLE = "EARSHOT_VOICES"
MOST_SPEED = 2.0  # Kokoro refuses more, and less than one half

_PACKAGES = {"piper": ("piper", "piper-tts"), "kokoro": ("kokoro_onnx", "kokoro-onnx")}
_ENGLISH = "en"
# The first letter of a Kokoro voice is a language, the second a gender. People of other languages
# speak English with their accents.
_KOKORO_BRITISH = "b"
_MOST_MODELS = 2  # that a process keeps open, of each engine; clips come sorted by model


@dataclass(frozen=True, slots=True)
class NeuralVoice:
    """One speaker of one model file.

    Args:
        engine: One of `ENGINES`.
        model: The ONNX file.
        speaker: Piper's number of the speaker, Kokoro's name of the voice.
    """

    engine: str
    model: Path
    speaker: str

    @property
    def id(self) -> str:
        """Such as `piper-en_US-libritts_r-medium-17` or `kokoro-af_heart`."""
        model = f"{self.model.stem}-" if self.engine == "piper" else ""
        return f"{self.engine}-{model}{self.speaker}"


def voices_folder(setting: str = "") -> Path | None:
    """The folder of voices: the setting, else the environment variable; None without either."""
    named = setting or os.environ.get(FOLDER_VARIABLE, "")
    return Path(named) if named else None


def find_voices(
    folder: Path, *, engines: Collection[str] = ENGINES, without: Collection[str] = ()
) -> list[NeuralVoice]:
    """The voices of a folder that speak English, in a fixed order.

    Args:
        folder: With Piper's `NAME.onnx` and `NAME.onnx.json`, each in it or below, of English
            voices; or with Kokoro's `kokoro*.onnx` and its `voices*.bin` or `voices*.npz` beside
            it, all of whose voices speak English, many with an accent.
        engines: Those of `ENGINES` that are wanted.
        without: Names of people, as Piper's files have them, who must not speak.

    Returns:
        At least one.

    Raises:
        SynthesisError: There is no such folder or no voice in it, a file cannot be used, or the
            package that speaks is not installed.
    """
    if not folder.is_dir():
        raise SynthesisError(
            f"voices: {folder} is no folder. Name one with Piper's or Kokoro's model files, or "
            f"leave it out (--voices, or the variable {FOLDER_VARIABLE})."
        )
    found: list[NeuralVoice] = []
    used: set[Path] = set()
    for model in sorted(folder.rglob("*.onnx")):
        described = model.with_name(model.name + ".json")
        styles = _styles_beside(model)
        if described.is_file():
            if "piper" in engines:
                found += _piper(model, described, without)
        elif (
            styles is not None and styles not in used and "kokoro" in engines
        ):  # else another precision of the same
            used.add(styles)
            found += [NeuralVoice("kokoro", model, name) for name in _names(styles)]
    if not found:
        raise SynthesisError(
            f"voices: {folder} holds no English voice of {' or '.join(engines)}. Put Piper's "
            "NAME.onnx with its NAME.onnx.json there, or Kokoro's kokoro*.onnx with its voices*.bin"
        )
    for engine in sorted({voice.engine for voice in found}):
        package, distribution = _PACKAGES[engine]
        if importlib.util.find_spec(package) is None:
            raise SynthesisError(
                f"voices: {folder} holds voices of {engine}, and the package that speaks with "
                f"them is not installed. Run: pip install {distribution}"
            )
    return found


def speak(voice: NeuralVoice, text: str, *, rate: float, blend: str = "") -> tuple[Samples, int]:
    """A sentence in a voice.

    Args:
        voice: Of `find_voices`.
        text: English words.
        rate: Of speaking, 1.2 is faster; Kokoro takes 0.5 to 2.
        blend: `NAME:SHARE`, another Kokoro voice and how much of it, 0..1, is mixed in.

    Returns:
        (samples in [-1, 1], their rate in hertz). Piper and Kokoro draw noise of their own: the
        same call does not give the same samples.

    Raises:
        SynthesisError: The engine failed.
    """
    try:
        if voice.engine == "piper":
            return _speak_piper(voice, text, rate)
        return _speak_kokoro(voice, text, rate, blend)
    except SynthesisError:
        raise
    except Exception as err:  # whatever a model or a package of others may raise
        raise SynthesisError(
            f"{voice.id}: could not say {text!r}: {err} Fetch {voice.model.name} anew, or take it "
            "out of the folder."
        ) from err


def _piper(model: Path, described: Path, without: Collection[str]) -> list[NeuralVoice]:
    try:
        about = json.loads(described.read_text(encoding="utf-8"))
        language = str(about["espeak"]["voice"])
        speakers = int(about.get("num_speakers", 1))
        left_out = {
            int(n) for name, n in about.get("speaker_id_map", {}).items() if name in without
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise SynthesisError(
            f"voices: {described} does not describe a Piper voice ({type(err).__name__}: {err}). "
            "Fetch the voice anew, or move it elsewhere."
        ) from None
    if not language.startswith(_ENGLISH):
        return []
    numbers = [number for number in range(max(1, speakers)) if number not in left_out]
    return [NeuralVoice("piper", model, str(number)) for number in numbers]


def _styles_beside(model: Path) -> Path | None:
    """The voices of a Kokoro file: `voices-v1.0.bin` of `kokoro-v1.0.int8.onnx`."""
    if not model.name.startswith("kokoro"):
        return None
    version = model.stem.removeprefix("kokoro")
    styles = [
        path
        for path in model.parent.glob("voices*")
        if path.suffix in (".bin", ".npz") and version.startswith(path.stem.removeprefix("voices"))
    ]
    return max(styles, key=lambda path: (len(path.stem), path.name), default=None)


def _names(styles: Path) -> Sequence[str]:
    try:
        with styles.open("rb") as raw, np.load(raw) as file:
            return sorted(file.files)
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as err:
        raise SynthesisError(
            f"voices: {styles} does not hold Kokoro's voices ({err}). Fetch it anew."
        ) from None


def _session(model: Path) -> Any:
    """One thread: clips are spoken side by side."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


@lru_cache(_MOST_MODELS)
def _piper_model(model: Path) -> Any:
    from piper import PiperVoice
    from piper.config import PiperConfig

    about = json.loads(model.with_name(model.name + ".json").read_text(encoding="utf-8"))
    return PiperVoice(config=PiperConfig.from_dict(about), session=_session(model))


@lru_cache(_MOST_MODELS)
def _kokoro_model(model: Path) -> Any:
    from kokoro_onnx import Kokoro

    logging.getLogger("phonemizer").setLevel(logging.ERROR)  # it counts words otherwise
    return Kokoro.from_session(_session(model), str(_styles_beside(model)))


def _speak_piper(voice: NeuralVoice, text: str, rate: float) -> tuple[Samples, int]:
    from piper.config import SynthesisConfig

    model = _piper_model(voice.model)
    several = model.config.num_speakers > 1
    asked = SynthesisConfig(
        speaker_id=int(voice.speaker) if several else None,
        length_scale=model.config.length_scale / rate,
    )
    chunks = list(model.synthesize(text, asked))
    sounds = [np.asarray(chunk.audio_float_array, dtype=np.float32) for chunk in chunks]
    return np.concatenate(sounds), int(chunks[0].sample_rate)


def _speak_kokoro(voice: NeuralVoice, text: str, rate: float, blend: str) -> tuple[Samples, int]:
    model = _kokoro_model(voice.model)
    style = model.get_voice_style(voice.speaker)
    if blend:
        other, _, share = blend.rpartition(":")
        style = (1 - float(share)) * style + float(share) * model.get_voice_style(other)
    language = "en-gb" if voice.speaker.startswith(_KOKORO_BRITISH) else "en-us"
    speed = min(MOST_SPEED, max(1 / MOST_SPEED, rate))
    samples, hertz = model.create(text, voice=style.astype(np.float32), speed=speed, lang=language)
    return np.asarray(samples, dtype=np.float32), int(hertz)
