"""Learns how much a language model counts when it ranks what a recogniser has heard.

On speech that trained neither: the weights are those with the fewest word errors of the best
reading, over a grid, each point together with its neighbours, because single points of so small
a set are luck. Knows nothing of how the models came to be.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earshot.data.audio import read_audio
from earshot.data.scoring import count_words
from earshot.decode.language import EarScorer, LanguageScorer, sentence_scores
from earshot.decode.lattice import Lattice, nbest
from earshot.decode.rescoring import RescoringConfig
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_with_metadata
from earshot.session.recognizer import Recognizer

__all__ = ["Readings", "WeightsConfig", "fit_weights", "read_all", "store_weights", "tune"]

logger = logging.getLogger(__name__)

_F64 = npt.NDArray[np.float64]
LANGUAGE_GRID = tuple(round(0.05 * i, 2) for i in range(25))  # 0..1.2
WORD_GRID = tuple(round(0.25 * i - 1.0, 2) for i in range(21))  # -1..4


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsConfig:
    """What the weights of a rescoring model are learned on.

    Args:
        recogniser: A `.ear` file; empty takes the embedded model.
        clips: Sentences spoken for it, of the held-out half that validates.
        nbest: Readings of each that compete.
        processes: Parallel speakers.
    """

    recogniser: str = ""
    clips: int = 400
    nbest: int = 50
    processes: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (("clips", 1, 100_000), ("nbest", 2, 1000), ("processes", 1, 256)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"weights.{name} is {getattr(self, name)}; it must lie in {low}..{high}"
                )


@dataclass(frozen=True, slots=True)
class Readings:
    """N readings of one utterance.

    Args:
        first: (N,) nats of the first pass.
        language: (N,) nats of the language model.
        words: (N,) number of words.
        errors: (N,) word errors.
        reference_words: Words that were said.
    """

    first: _F64
    language: _F64
    words: _F64
    errors: _F64
    reference_words: int


def read_all(
    lattices: Sequence[tuple[Lattice, str]], scorer: LanguageScorer, *, count: int
) -> list[Readings]:
    """The best readings of lattices, scored and counted.

    Args:
        lattices: Each with what was said.
        scorer: The language model.
        count: Readings of each at most.
    """
    out = []
    for lattice, text in lattices:
        paths = nbest(lattice, count)
        languages = sentence_scores(scorer, [path.words for path in paths])
        errors = [count_words(text, path.text) for path in paths]
        out.append(
            Readings(
                np.array([path.score for path in paths]),
                np.array(languages),
                np.array([float(len(path.words)) for path in paths]),
                np.array([float(counts.errors) for counts in errors]),
                errors[0].reference_words,
            )
        )
    return out


def fit_weights(
    readings: Sequence[Readings],
    *,
    languages: Sequence[float] = LANGUAGE_GRID,
    words: Sequence[float] = WORD_GRID,
) -> tuple[float, float, npt.NDArray[np.float64]]:
    """The weights with the fewest errors, neighbours counted in.

    Args:
        readings: Of a development set.
        languages: Weights of the language model to try, ascending.
        words: Nats a word to try, ascending.

    Returns:
        Both weights, and the errors at every point (len(languages), len(words)).
    """
    errors = np.zeros((len(languages), len(words)))
    for reading in readings:
        total = (
            reading.first[:, None, None]
            + np.multiply.outer(reading.language, np.array(languages))[:, :, None]
            + np.multiply.outer(reading.words, np.array(words))[:, None, :]
        )
        errors += reading.errors[total.argmax(axis=0)]
    padded = np.pad(errors, 1, mode="edge")
    rows, columns = errors.shape
    smooth = sum(padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    language, word = np.unravel_index(int(np.argmin(smooth)), errors.shape)
    return languages[int(language)], words[int(word)], errors


def store_weights(path: Path, config: RescoringConfig) -> None:
    """Write settings into a language model's file, in place of what it had."""
    write_with_metadata(ModelFile(path), path, config.as_metadata())


def tune(
    path: Path,
    manifest: Path,
    config: WeightsConfig,
    *,
    progress: Callable[[float, float], None] = lambda *_: None,
) -> RescoringConfig:
    """Learn the weights of a language model and write them into its file.

    Args:
        path: The model.
        manifest: Speech, as `train.synthesis.make_validation_speech` writes it.
        config: Recogniser and amounts.
        progress: Called with (clips done, clips).

    Returns:
        What was written.
    """
    recogniser = Recognizer.load(config.recogniser or None)
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    heard: list[tuple[Lattice, str]] = []
    for done, row in enumerate(rows):
        stream = recogniser.create_stream(lattice=True)
        stream.accept_waveform(16_000, read_audio(manifest.parent / row["audio"]))
        stream.input_finished()
        stream.decode()
        heard.append((stream.lattice(), row["text"]))
        progress(float(done + 1), float(len(rows)))
    readings = read_all(heard, EarScorer(path), count=config.nbest)
    language, word, errors = fit_weights(readings)
    total = sum(reading.reference_words for reading in readings)
    at = (LANGUAGE_GRID.index(language), WORD_GRID.index(word))
    first = errors[0, WORD_GRID.index(0.0)]
    logger.info(
        "%d sentences, %d words: WER %.2f %% by the first pass, %.2f %% with language %.2f and "
        "word %.2f",
        len(readings),
        total,
        100 * first / total,
        100 * errors[at] / total,
        language,
        word,
    )
    chosen = replace(RescoringConfig(), language=language, word=word)
    store_weights(path, chosen)
    return chosen
