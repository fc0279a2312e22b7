"""Intents and slots of free sentences, by a small model that was taught from labelled text.

For domains that templates cannot list. A model says what a sentence wants, which of its words
fill which slot, how sure it is, and whether the sentence is out of scope; of an n-best list it
weighs all hypotheses. It lies in a `.ear` file of at most 300 kB, without graphs: section 6 of
`docs/formats/ear.md`. Needs numpy only. How it is taught is in `understand.training`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from earshot.core.errors import ConfigError, ModelFileError
from earshot.core.understanding import SlotValue, Understanding
from earshot.data.spoken import number_value, spoken_form
from earshot.modelfile.codecs import (
    EncodedTensor,
    encode_f32,
    encode_int8,
    encode_u8,
    section_bytes,
)
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import ALIGNMENT, write_model
from earshot.understand.labelled import OUTSIDE, slot_spans
from earshot.understand.network import (
    IMPOSSIBLE,
    Floats,
    Vocabulary,
    Weights,
    best_labels,
    forward,
    softmax,
)

__all__ = ["Calibration", "Reading", "StatisticalModel", "labels_of"]

TABLE_BITS = 4
TABLE_TOP = 2 ** (TABLE_BITS - 1) - 1  # codes run from -7 to 7
DEFAULT_THRESHOLD = 0.5
_PREFIX = "understand."
_MATRICES = ("first", "second", "second_context", "intent", "label")
_BIASES = ("first_bias", "second_bias", "intent_bias", "label_bias")
_HEADER_BYTES = 6144  # of a file's header and metadata, without the names
_RETRAIN = "Make the file again with `earshot understand train`"


def labels_of(slots: Sequence[str]) -> list[str]:
    """The labels of a word: outside, then first and further word of each slot."""
    return [OUTSIDE, *(f"{part}-{slot}" for slot in slots for part in "BI")]


def allowed_moves(slots: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which label may follow which: a slot's further words follow its first or further ones.

    Args:
        slots: S names.

    Returns:
        Shape (2 S + 2, 2 S + 1); the last row starts a sentence.
    """
    count = 2 * len(slots) + 1
    allowed = np.ones((count + 1, count), np.bool_)
    for inner in range(2, count, 2):
        allowed[:, inner] = False
        allowed[inner - 1 : inner + 1, inner] = True
    return allowed


@dataclass(frozen=True, slots=True)
class Calibration:
    """From what a reading shows to the probability that its intent is right.

    Args:
        weights: One for each of `Reading.evidence`.
        bias: Log odds where all evidence is 0.
    """

    weights: tuple[float, ...]
    bias: float

    def probability(self, evidence: Sequence[float]) -> float:
        """The logistic of the weighted evidence, in [0, 1]."""
        odds = self.bias + sum(w * e for w, e in zip(self.weights, evidence, strict=True))
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, odds))))


EVIDENCE = 4  # numbers in `Reading.evidence`


@dataclass(frozen=True, slots=True)
class Reading:
    """What the network made of one sentence, before any decision.

    Args:
        words: In the recogniser's spelling.
        scores: (I,) or (I + 1,), one for each intent and, if the model was taught any, one for
            out of scope.
        labels: The best labelling, one a word.
        unknown: Share of the words that have no row of their own, in [0, 1].
    """

    words: tuple[str, ...]
    scores: Floats
    labels: tuple[str, ...]
    unknown: float

    def evidence(self, intent: int, *, hidden: int | None = None) -> tuple[float, ...]:
        """What speaks for an intent.

        Args:
            intent: Its index.
            hidden: Leave this class out, as if it were not known.

        Returns:
            Its score; its score less that of the best other class, and less those of all others
            together; the share of unknown words. Each of order one.
        """
        kept = [at for at in range(len(self.scores)) if at not in (intent, hidden)]
        own = float(self.scores[intent])
        if not kept:
            return own / 4, 0.0, 0.0, self.unknown
        rest = self.scores[kept].astype(np.float64)
        together = float(rest.max() + np.log(np.exp(rest - rest.max()).sum()))
        return own / 4, (own - float(rest.max())) / 4, (own - together) / 4, self.unknown


class StatisticalModel:
    """A taught model of intents and slots; made by `understand.training` or read from a file.

    Args:
        vocabulary: Features that have a row.
        weights: The network; its scores are those of `intents`, then, if there is one more, that
            of out of scope.
        intents: Names.
        slots: Names.
        number_slots: Those of `slots` whose values are numbers.
        calibration: For the confidence.
        name: Of the model, at most 128 bytes.
        metadata: What the file says beside: data, licence, results.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        weights: Weights,
        *,
        intents: Sequence[str],
        slots: Sequence[str],
        number_slots: Sequence[str],
        calibration: Calibration,
        name: str = "understanding",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.intents = tuple(intents)
        self.slots = tuple(slots)
        self.number_slots = frozenset(number_slots)
        self.calibration = calibration
        self.name = name
        self.metadata = dict(metadata or {})
        self.vocabulary = vocabulary
        self.weights = weights
        self._labels = labels_of(slots)

    def read(self, sentences: Sequence[Sequence[str]]) -> list[Reading]:
        """The network's view of sentences.

        Args:
            sentences: Words in the recogniser's spelling, at least one each.

        Returns:
            A reading for each.
        """
        if not sentences:
            return []
        result = forward(self.weights, self.vocabulary.batch(sentences))
        readings = []
        for at, words in enumerate(sentences):
            labels = [0] * len(words)
            if self.slots:
                labels, _ = best_labels(result.label[at, : len(words)], self.weights.transition)
            unknown = sum(not self.vocabulary.knows(word) for word in words) / len(words)
            names = tuple(self._labels[label] for label in labels)
            readings.append(Reading(tuple(words), result.intent[at], names, unknown))
        return readings

    def understand(self, text: str, *, threshold: float = DEFAULT_THRESHOLD) -> Understanding:
        """What a sentence wants.

        Args:
            text: Any English text; figures and signs are read as words.
            threshold: The intent is None below this confidence.

        Returns:
            The intent with its slots. A slot that is said twice has its first value. Where the
            intent is None the confidence is that of the best intent.

        Raises:
            ConfigError: `threshold` is not in [0, 1].
        """
        return self.understand_best([(text, 0.0)], threshold=threshold)

    def understand_best(
        self, hypotheses: Sequence[tuple[str, float]], *, threshold: float = DEFAULT_THRESHOLD
    ) -> Understanding:
        """What an utterance wants, given what may have been said.

        The hypotheses' own probabilities weigh what each of them means, so an intent that many
        share can beat that of the best one. The slots are those of the hypothesis that says most
        for the chosen intent.

        Args:
            hypotheses: Texts with their log-probabilities, nats, in any order and of any sum.
            threshold: The intent is None below this confidence.

        Returns:
            One understanding; its confidence is the weighted mean over the hypotheses.

        Raises:
            ConfigError: `threshold` is not in [0, 1], or a score is not finite.
        """
        if not all(math.isfinite(score) for _, score in hypotheses):
            raise ConfigError("understand: a hypothesis has no finite score; every one needs it.")
        said = [
            (words, score) for text, score in hypotheses if (words := spoken_form(text).split())
        ]
        if not said:
            return Understanding(None, {}, 0.0)
        scores = np.array([score for _, score in said])
        shares = softmax((scores - scores.max()).astype(np.float32))
        return self.decide(
            self.read([words for words, _ in said]), shares.tolist(), threshold=threshold
        )

    def decide(
        self,
        readings: Sequence[Reading],
        shares: Sequence[float],
        *,
        threshold: float = DEFAULT_THRESHOLD,
    ) -> Understanding:
        """One understanding of what may have been said.

        Args:
            readings: At least one.
            shares: The probability of each; they sum to 1.
            threshold: The intent is None below this confidence.

        Returns:
            As `understand_best`.

        Raises:
            ConfigError: `threshold` is not in [0, 1].
        """
        if not 0 <= threshold <= 1:
            raise ConfigError(f"understand.threshold is {threshold}; it must lie in [0, 1].")
        chances = softmax(np.stack([reading.scores for reading in readings]))
        votes = np.array(shares, np.float32)[:, None] * chances
        sums = votes.sum(axis=0)
        count = len(self.intents)
        best = int(sums[:count].argmax())
        confidence = sum(
            share * self.calibration.probability(reading.evidence(best))
            for share, reading in zip(shares, readings, strict=True)
        )
        if confidence < threshold or (sums[count:] > sums[best]).any():
            return Understanding(None, {}, confidence)
        chosen = readings[int(votes[:, best].argmax())]
        return Understanding(self.intents[best], self._values(chosen), confidence)

    def _values(self, reading: Reading) -> dict[str, SlotValue]:
        values: dict[str, SlotValue] = {}
        for first, end, slot in slot_spans(reading.labels):
            words = reading.words[first:end]
            spoken = " ".join(words)
            number = number_value(words) if slot in self.number_slots else None
            values.setdefault(slot, SlotValue(spoken if number is None else number, spoken))
        return values

    def save(self, path: Path) -> None:
        """Write the model; the file appears complete or not at all.

        Args:
            path: The `.ear` file to make or replace.

        Raises:
            ModelFileError: The parts do not make a valid file.
            OSError: The file cannot be written.
        """
        codes, scale = table_codes(self.weights.table)
        tensors: dict[str, EncodedTensor] = {
            "keys": encode_u8(self.vocabulary.keys.astype("<u4").tobytes()),
            "table": encode_u8(packed(codes)),
            "table_scale": encode_u8(scale.astype("<f2").tobytes()),
        }
        for name in _MATRICES:
            if self.slots or name != "label":
                tensors[name] = encode_int8(getattr(self.weights, name).T)
        for name in _BIASES:
            if self.slots or name != "label_bias":
                tensors[name] = encode_f32(getattr(self.weights, name))
        if self.slots:
            tensors["transition"] = encode_f32(self.weights.transition)
        write_model(
            path,
            name=self.name,
            graphs={},
            tensors={_PREFIX + name: tensor for name, tensor in tensors.items()},
            understanding={
                "width": self.weights.table.shape[1],
                "intents": list(self.intents),
                "out_of_scope": self.weights.intent.shape[1] > len(self.intents),
                "slots": list(self.slots),
                "number_slots": sorted(self.number_slots),
                "confidence": [*self.calibration.weights, self.calibration.bias],
            },
            metadata=self.metadata,
        )

    @classmethod
    def load(cls, path: Path | str) -> StatisticalModel:
        """Read a model.

        Args:
            path: A `.ear` file that `earshot understand train` made.

        Returns:
            The model.

        Raises:
            ModelFileError: The file is absent or damaged, or is no such model.
        """
        file = ModelFile(Path(path))
        settings = file.header.get("understanding")
        if not isinstance(settings, dict):
            raise ModelFileError(
                path,
                "this model does not understand sentences",
                remedy="Name a file that `earshot understand train` made",
            )
        try:
            return _from_file(file, settings)
        except (KeyError, TypeError, ValueError) as err:
            problem = f"the parts of the model do not fit together ({err})"
            raise ModelFileError(path, problem, remedy=_RETRAIN) from None


def table_codes(table: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Round each row to whole steps of its own size.

    Args:
        table: (R, D).

    Returns:
        Codes (R, D) in -7..7 and steps (R,), >= 0.
    """
    scale = (np.abs(table).max(axis=1) / TABLE_TOP).astype(np.float16)
    divisor = np.where(scale > 0, scale, 1).astype(np.float32)[:, None]
    codes = np.clip(np.rint(table / divisor), -TABLE_TOP, TABLE_TOP)
    return np.where(scale[:, None] > 0, codes, 0).astype(np.int8), scale


def rounded(table: Floats) -> Floats:
    """The values that a table has after it was written and read."""
    codes, scale = table_codes(table)
    return codes * scale.astype(np.float32)[:, None]


def packed(codes: npt.NDArray[np.int8]) -> bytes:
    """Two codes a byte, each plus 8: the even column below, the odd one above."""
    nibbles = (codes + 8).astype(np.uint8)
    return (nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).tobytes()


def unpacked(data: bytes, width: int) -> npt.NDArray[np.int8]:
    """The reverse of `packed`.

    Args:
        data: Whole rows of `width` / 2 bytes.
        width: Codes a row, even.

    Returns:
        Shape (R, width).

    Raises:
        ValueError: The bytes are no whole rows.
    """
    pairs = np.frombuffer(data, np.uint8).reshape(-1, width // 2)
    codes = np.empty((len(pairs), width), np.int8)
    codes[:, 0::2] = (pairs & 15).astype(np.int8) - 8
    codes[:, 1::2] = (pairs >> 4).astype(np.int8) - 8
    return codes


def row_bytes(width: int) -> int:
    """What a feature takes in a file: its key, its step and its codes."""
    return 4 + 2 + width // 2


def file_bytes(weights: Weights, *, rows: int, has_slots: bool, names: int) -> int:
    """About what a model takes in a file, never less.

    Args:
        weights: Of the model.
        rows: Of the table.
        has_slots: Whether the weights of labels are written.
        names: Bytes of the names of intents and slots.

    Returns:
        Bytes.
    """
    total = _HEADER_BYTES + names + rows * row_bytes(weights.table.shape[1])
    for name in (*_MATRICES, *_BIASES, "transition"):
        shape = getattr(weights, name).shape
        if name in _MATRICES and (has_slots or name != "label"):
            total += section_bytes("i8_r16x4", shape[::-1]) + ALIGNMENT
        elif name not in _MATRICES and (has_slots or name not in ("label_bias", "transition")):
            total += section_bytes("f32", shape) + ALIGNMENT
    return total


def _from_file(file: ModelFile, settings: Mapping[str, Any]) -> StatisticalModel:
    intents, slots, number_slots = (
        _names(settings[key]) for key in ("intents", "slots", "number_slots")
    )
    if not intents:
        raise ValueError("there are no intents")
    width, confidence = settings["width"], settings["confidence"]
    if not isinstance(width, int) or not 2 <= width <= 1024 or width % 2:
        raise ValueError(f"width is {width!r}")
    if len(confidence) != EVIDENCE + 1:
        raise ValueError(f"confidence has {len(confidence)} numbers, not {EVIDENCE + 1}")
    keys = np.frombuffer(file.tensor_bytes(_PREFIX + "keys"), "<u4").astype(np.uint32)
    if (keys[1:] <= keys[:-1]).any():
        raise ValueError("the keys do not increase")
    scale = np.frombuffer(file.tensor_bytes(_PREFIX + "table_scale"), "<f2").astype(np.float32)
    if scale.shape != keys.shape or not np.isfinite(scale).all():
        raise ValueError(f"{len(scale)} steps for {len(keys)} rows, or one that is not finite")
    codes = unpacked(file.tensor_bytes(_PREFIX + "table"), width)
    hidden = file.dequantise(_PREFIX + "first").shape[0]
    labels = 2 * len(slots) + 1
    count = len(intents) + bool(settings["out_of_scope"])
    shapes = {
        "table": (len(keys), width),
        "first": (5 * width, hidden),
        "first_bias": (hidden,),
        "second": (3 * hidden, hidden),
        "second_context": (hidden, hidden),
        "second_bias": (hidden,),
        "intent": (2 * width + 2 * hidden, count),
        "intent_bias": (count,),
        "label": (2 * hidden, labels),
        "label_bias": (labels,),
        "transition": (labels + 1, labels),
    }
    parts: dict[str, Floats] = {"table": codes * scale[:, None]}
    for name in (*_MATRICES, *_BIASES, "transition"):
        if not slots and name in ("label", "label_bias", "transition"):
            parts[name] = np.zeros(shapes[name], np.float32)
            continue
        values = file.dequantise(_PREFIX + name)
        parts[name] = np.ascontiguousarray(values.T) if name in _MATRICES else values
    for name, shape in shapes.items():
        if parts[name].shape != shape:
            raise ValueError(f"'{name}' has shape {parts[name].shape}, not {shape}")
    parts["transition"] = np.where(
        allowed_moves(slots), parts["transition"], np.float32(IMPOSSIBLE)
    )
    return StatisticalModel(
        Vocabulary(keys),
        Weights(**parts),
        intents=intents,
        slots=slots,
        number_slots=number_slots,
        calibration=Calibration(tuple(map(float, confidence[:-1])), float(confidence[-1])),
        name=str(file.header["name"]),
        metadata=cast("dict[str, str]", file.header.get("metadata", {})),
    )


def _names(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{json.dumps(value)[:60]} is no list of names")
    if len(set(value)) < len(value):
        raise ValueError("a name appears twice")
    return value
