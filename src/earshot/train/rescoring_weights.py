"""Learns how much a language model counts when it ranks what a recogniser has heard.

On speech that trained neither. The weights, and the scale of posteriors by which a reading is
chosen, are those with the fewest word errors of what is chosen, over a grid; each point counts
together with its neighbours, because single points of so small a set are luck. Lattices are read
as the client sends them. Knows nothing of how the models came to be.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earshot.core.errors import ConfigError
from earshot.data.audio import read_audio
from earshot.data.scoring import count_words
from earshot.decode.language import EarScorer, LanguageScorer
from earshot.decode.lattice import Lattice, best_path
from earshot.decode.lattice_wire import decode_lattice
from earshot.decode.rescoring import COMPARED, RescoringConfig, rescore
from earshot.decode.rescoring_client import ClientConfig
from earshot.decode.risk import edit_distances, expected_word_errors
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_with_metadata
from earshot.session.recognizer import Recognizer

__all__ = ["Readings", "WeightsConfig", "fit_weights", "read_all", "store_weights", "tune"]

logger = logging.getLogger(__name__)

_F64 = npt.NDArray[np.float64]
LANGUAGE_GRID = tuple(round(0.05 * i, 2) for i in range(25))  # 0..1.2
WORD_GRID = tuple(round(0.25 * i - 1.0, 2) for i in range(21))  # -1..4
RISK_GRID = (0.0, 0.25, 0.35, 0.5, 0.7, 1.0)

# Which readings a lattice gives depends little on the weights, which are learned afterwards.
_FOUND_WITH = RescoringConfig(language=0.5, word=1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsConfig:
    """What the weights of a rescoring model are learned on.

    Args:
        recogniser: A `.ear` file; empty takes the embedded model.
        clips: Sentences spoken for it, of the held-out half that validates.
        processes: Parallel speakers.
    """

    recogniser: str = ""
    clips: int = 1000
    processes: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (("clips", 1, 100_000), ("processes", 1, 256)):
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
        distances: (N, N) word errors of each against each.
        reference_words: Words that were said.
    """

    first: _F64
    language: _F64
    words: _F64
    errors: _F64
    distances: _F64
    reference_words: int


def read_all(
    lattices: Sequence[tuple[Lattice, str]], scorer: LanguageScorer, config: RescoringConfig
) -> list[Readings]:
    """What rescoring finds in lattices, scored and counted.

    Args:
        lattices: Each with what was said.
        scorer: The language model.
        config: The weights that readings are found with.
    """
    out = []
    for lattice, text in lattices:
        found = rescore([lattice], scorer, config, nbest=COMPARED)[0]
        errors = [count_words(text, reading.text) for reading in found]
        out.append(
            Readings(
                np.array([reading.first for reading in found]),
                np.array([reading.language for reading in found]),
                np.array([float(len(reading.words)) for reading in found]),
                np.array([float(counts.errors) for counts in errors]),
                edit_distances([reading.words for reading in found]),
                errors[0].reference_words,
            )
        )
    return out


def fit_weights(
    readings: Sequence[Readings],
    *,
    languages: Sequence[float] = LANGUAGE_GRID,
    words: Sequence[float] = WORD_GRID,
    risks: Sequence[float] = RISK_GRID,
) -> tuple[RescoringConfig, _F64]:
    """The weights with the fewest errors, neighbours counted in.

    Args:
        readings: Of a development set.
        languages: Weights of the language model to try, ascending.
        words: Nats a word to try, ascending.
        risks: Scales of the posteriors to try, ascending; 0 chooses by score.

    Returns:
        Settings with all three, and the errors at every point (len(languages), len(words),
        len(risks)).
    """
    points = np.array([(language, word) for language in languages for word in words])
    errors = np.zeros((len(points), len(risks)))
    for reading in readings:
        scores = reading.first[:, None] + np.stack([reading.language, reading.words], 1) @ points.T
        for column, risk in enumerate(risks):
            if risk == 0:
                chosen = scores.argmax(axis=0)
            else:
                expected = expected_word_errors(reading.distances, scores, scale=risk)
                chosen = expected.argmin(axis=0)
            errors[:, column] += reading.errors[chosen]
    grid = errors.reshape(len(languages), len(words), len(risks))
    padded = np.pad(grid, 1, mode="edge")
    smooth = sum(
        padded[i : i + len(languages), j : j + len(words), k : k + len(risks)]
        for i, j, k in np.ndindex(3, 3, 3)
    )
    i, j, k = map(int, np.unravel_index(int(np.argmin(smooth)), grid.shape))
    config = RescoringConfig(language=languages[i], word=words[j], risk=risks[k])
    return config, grid


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

    Raises:
        ConfigError: The recogniser heard nothing in any of them.
    """
    recogniser = Recognizer.load(config.recogniser or None)
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    client = ClientConfig()
    heard: list[tuple[Lattice, str]] = []
    first = 0
    for done, row in enumerate(rows):
        stream = recogniser.create_stream(lattice=True)
        stream.accept_waveform(16_000, read_audio(manifest.parent / row["audio"]))
        stream.input_finished()
        stream.decode()
        sent = decode_lattice(client.encoded(stream.lattice()))
        first_pass = best_path(sent).text
        if first_pass:  # where nothing was heard, nothing is asked
            first += count_words(row["text"], first_pass).errors
            heard.append((sent, row["text"]))
        progress(float(done + 1), float(len(rows)))
    if not heard:
        raise ConfigError(
            f"weights: the recogniser heard nothing in {len(rows)} sentences of {manifest}, so "
            "there is nothing to rank. Set weights.recogniser to one that hears this language."
        )
    readings = read_all(heard, EarScorer(path), _FOUND_WITH)
    chosen, errors = fit_weights(readings)
    total = sum(reading.reference_words for reading in readings)
    logger.info(
        "%d sentences, %d words: WER %.2f %% by the first pass, at best %.2f %% by the score and "
        "%.2f %% by expected errors; language %.2f, word %.2f, risk %.2f",
        len(readings),
        total,
        100 * first / total,
        100 * errors[..., 0].min() / total,
        100 * errors[..., 1:].min() / total,
        chosen.language,
        chosen.word,
        chosen.risk,
    )
    store_weights(path, chosen)
    return chosen
