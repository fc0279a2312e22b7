"""The recognisers that are compared: Earshot's engine, and pocketsphinx as it comes.

Each takes 16 kHz samples of one utterance and gives back text. Nothing here knows what was
said. pocketsphinx gets its best settings: its own US English model, dictionary and language
model, whole utterances at once (so that its cepstral means come from all of the utterance),
and, where a set has a small vocabulary, also a loop over exactly those words, which Earshot is
not given. The loop is a unigram language model with equal probabilities: as a JSGF grammar
of 36 words the same loop takes pocketsphinx minutes for a few seconds of audio.
"""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from speech_sets import SAMPLE_RATE_HZ

import earshot
from earshot.session.recognizer import embedded_model_path

__all__ = ["METHODS", "EarshotSystem", "PocketSphinx", "System", "default_model", "word_loop"]

METHODS = ("greedy_search", "modified_beam_search")
CHUNK_SAMPLES = 1600

Samples = npt.NDArray[np.float32]


class System(Protocol):
    """One recogniser with one setting."""

    @property
    def name(self) -> str:
        """Label in tables."""

    def transcribe(self, samples: Samples) -> str:
        """Text of one utterance, mono 16 kHz samples in [-1, 1]."""


def default_model() -> Path:
    """The model inside the package."""
    try:
        return embedded_model_path()
    except earshot.EarshotError as err:
        raise SystemExit(f"error: {err}") from None


class EarshotSystem:
    """A model file run by the engine, fed in chunks of 100 ms as a microphone would."""

    def __init__(
        self, model: Path, *, method: str = "greedy_search", label: str | None = None
    ) -> None:
        self.name = label or f"earshot {method.removesuffix('_search')}"
        self._recognizer = earshot.Recognizer.load(model, method=method)

    def transcribe(self, samples: Samples) -> str:
        return text_in_chunks(self._recognizer.create_stream(), samples)


def text_in_chunks(stream: earshot.Stream, samples: Samples) -> str:
    """What a stream makes of a recording that comes in chunks, as a microphone would give it."""
    for start in range(0, len(samples), CHUNK_SAMPLES):
        stream.accept_waveform(SAMPLE_RATE_HZ, samples[start : start + CHUNK_SAMPLES])
        stream.decode()
    stream.input_finished()
    stream.decode()
    return stream.result().text


class PocketSphinx:
    """pocketsphinx with the model that its wheel ships.

    Args:
        vocabulary: Words that may be said, in any order and number; empty uses the language
            model that comes with the wheel.
        label: Name in tables.
        grammar: The sentences that may be said, as JSGF, instead of a vocabulary.
        dictionary: Pronunciations of the grammar's words, as a dictionary file's text; empty
            uses the one that comes with the wheel.
    """

    def __init__(
        self,
        vocabulary: tuple[str, ...] = (),
        *,
        label: str | None = None,
        grammar: str = "",
        dictionary: str = "",
    ) -> None:
        try:
            from pocketsphinx import Decoder  # type: ignore[import-untyped]
        except ImportError as err:
            raise SystemExit(
                f"error: pocketsphinx is not installed ({err}). Run `pip install pocketsphinx`"
            ) from err
        kind = f"loop of {len(vocabulary)} words" if vocabulary else "default LM"
        kind = "JSGF" if grammar else kind
        self.name = label or f"pocketsphinx {kind}"
        settings: dict[str, Any] = {"samprate": 16000, "loglevel": "FATAL"}
        with tempfile.TemporaryDirectory() as folder:
            for setting, text in (
                ("lm", word_loop(vocabulary) if vocabulary else ""),
                ("jsgf", grammar),
                ("dict", dictionary),
            ):
                if text:
                    file = Path(folder) / setting
                    file.write_text(text, encoding="utf-8")
                    settings[setting] = str(file)
            self._decoder: Any = Decoder(**settings)

    @staticmethod
    def own_dictionary() -> Path:
        """The pronunciations that come with the wheel."""
        from pocketsphinx import get_model_path

        return Path(get_model_path("en-us/cmudict-en-us.dict"))

    def transcribe(self, samples: Samples) -> str:
        pcm = (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        if hypothesis is None:
            return ""
        # Pronunciation variants "word(2)" and fillers such as "<sil>" or "[NOISE]" are no words.
        text = re.sub(r"\(\d+\)", "", hypothesis.hypstr)
        return " ".join(word for word in text.split() if word[0] not in "<[+")


def word_loop(vocabulary: tuple[str, ...]) -> str:
    """A unigram language model in ARPA format: every word, and the end, equally likely."""
    log10_p = -math.log10(len(vocabulary) + 1)
    lines = ["\\data\\", f"ngram 1={len(vocabulary) + 2}", "", "\\1-grams:"]
    lines += ["-99 <s> 0", f"{log10_p:.4f} </s>"]
    lines += [f"{log10_p:.4f} {word}" for word in vocabulary]
    return "\n".join([*lines, "", "\\end\\", ""])
