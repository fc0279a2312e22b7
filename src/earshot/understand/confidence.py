"""How sure it is that a command was spoken and understood right.

Speech that is no command also has a best path through a grammar. What tells the two apart is how
much worse that path is than free speech, how far the next interpretation is behind, and whether
the free words look alike. Knows numbers only; see `understand.decision` for who takes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from earshot.core.errors import ConfigError

__all__ = [
    "EVIDENCE_SIGNS",
    "NEAR_SIGNS",
    "CommandConfig",
    "Evidence",
    "NearEvidence",
    "command_confidence",
    "near_confidence",
]

# Whether a feature may only speak for a command (1), or either way (0): the two of each gap
# together make a curve, and say together what speaks against it.
EVIDENCE_SIGNS = (0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 1)
NEAR_SIGNS = (1, 0, 1)
_CLEAR_GAIN = 3.5  # nats a phone over silence; more says no more about whether it was speech
_NO_GAIN = -1.0  # and less says no more about whether it was not
MAX_LOOKS = 4
MAX_MARGIN = 10.0  # nats; also the margin where there is no other interpretation


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for and against the best interpretation of a grammar search.

    Args:
        transducer_gap: Log-probability of the best free path less that of the command, nats.
        ctc_gap: The same of CTC, whose free score is a bound; 0 where the model has no CTC head.
        margin: Score of the interpretation less that of the next other one, nats, >= 0.
        num_words: Words of the command, >= 1.
        num_pieces: Word pieces of the command, >= 1.
        likeness: Of the letters of the free words and of the command, 0..1.
        least_confidence: Of the command's words, in [0, 1].
        phones_gap: As `ctc_gap`, over phones; 0 where the search does not go by them.
        num_phones: Of the command, >= 1; of no importance where the search does not go by them.
        phones_gain: Log-probability of the command's phones less that of none at all, nats: noise
            in which the search found a command gives a phone hardly more than silence. 0 where the
            search does not go by phones.
    """

    transducer_gap: float
    ctc_gap: float
    margin: float
    num_words: int
    num_pieces: int
    likeness: float
    least_confidence: float
    phones_gap: float = 0.0
    num_phones: int = 1
    phones_gain: float = 0.0

    def features(self) -> tuple[float, ...]:
        """The numbers that `CommandConfig.weights` weigh, in that order, each of order one.

        Gaps grow with the length of what was not in the grammar, so they count as a whole and
        for each piece; roots and bounds keep one bad word from outweighing all the rest.
        """
        return (
            *_gap_features(self.transducer_gap, self.num_pieces),
            *_gap_features(self.ctc_gap, self.num_pieces),
            math.log1p(min(max(0.0, self.margin), MAX_MARGIN)),
            math.log(self.num_words),
            self.likeness,
            self.least_confidence,
            *_gap_features(self.phones_gap, self.num_phones),
            min(max(_NO_GAIN, self.phones_gain / self.num_phones), _CLEAR_GAIN) / 2,
        )


def _gap_features(gap: float, symbols: int) -> tuple[float, float]:
    gap = max(0.0, gap)
    return math.sqrt(gap) / 4, min(gap / symbols, 8.0) / 4


@dataclass(frozen=True, slots=True)
class NearEvidence:
    """What speaks for a command that is like the free words.

    Args:
        similarity: Of the free words and the command, 0..1.
        num_words: Free words, >= 1.
        word_confidence: Mean of the free words' confidences, in [0, 1].
    """

    similarity: float
    num_words: int
    word_confidence: float

    def features(self) -> tuple[float, ...]:
        """The numbers that `CommandConfig.near_weights` weigh, in that order."""
        return (self.similarity, math.log(self.num_words), self.word_confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandConfig:
    """How commands are searched for, and when one is believed.

    Args:
        ctc_weight: Share of CTC in the score of a path, 0..1; the rest is the transducer's.
        grammar_blank_penalty: Nats taken off the blank's score in the grammar search.
        ctc_blank_penalty: The same of CTC's blank.
        language_weight: Share of the network's own language model that is taken off, 0..2: the
            grammar says what may be said, and counting both would favour what training texts said.
        word_penalty: Nats taken off for every word of a command.
        phone_blank_penalty: Nats taken off the blank's score in the search by phones, which models
            with phones do instead of the grammar search.
        phone_paths: Histories that it keeps, 1..1024.
        phone_beam: Nats, above 0: histories further behind the best are dropped.
        transducer_weight: How much the transducer's score of a command found by phones counts
            beside that of its phones, 0..100.
        piece_ctc_weight: The same of CTC over pieces.
        second_pass_share: How much the second pass counts in the phones of an utterance that is
            over, 0..1, where a model has one (`models.second_pass`).
        looks: What a sound that is not understood for sure is heard at once more, each in 0.5..2:
            0.9 makes everything a tenth slower and every voice a tenth lower. The surest answer
            counts. At most four; none leaves it at the first.
        sure: From this confidence on the first answer is enough, 0..1.
        grammar_paths: Histories that the grammar search keeps, 1..64.
        grammar_beam: Nats, above 0: histories further behind the best are dropped.
        threshold: A command is accepted from this confidence on, 0..1.
        bias: Of the logistic function over `Evidence.features`.
        weights: Of the same, one for each feature.
        near_bias: Of the logistic function over `NearEvidence.features`.
        near_weights: Of the same, one for each feature.

    Raises:
        ConfigError: A value is out of its range.
    """

    # On development data only. Weights and threshold are those that
    # `benchmarks/calibrate_commands.py --keep-search` prints; without
    # --keep-search it compares search settings. Less of the language model is taken off, and CTC
    # counts for more, than is best there: adapted models in noise want both.
    ctc_weight: float = 0.2
    grammar_blank_penalty: float = 0.0
    ctc_blank_penalty: float = 2.0
    language_weight: float = 0.6
    word_penalty: float = 0.0
    grammar_paths: int = 32
    grammar_beam: float = 6.0
    phone_blank_penalty: float = 2.0
    phone_paths: int = 512
    phone_beam: float = 16.0
    transducer_weight: float = 0.3
    piece_ctc_weight: float = 0.0
    second_pass_share: float = 0.5
    looks: tuple[float, ...] = (0.9, 1.1)
    sure: float = 0.95
    threshold: float = 0.6858
    bias: float = -0.842
    weights: tuple[float, ...] = (
        *(1.197, -3.003, 0.851, -1.696, 2.307, -0.706, 0.303, 0.094),
        *(-0.412, -1.965, 0.0),  # of phones; the last, which is newer than the fit, counts nothing
    )
    near_bias: float = -0.721
    near_weights: tuple[float, ...] = (0.747, -0.848, 1.811)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("ctc_weight", 0.0, 1.0),
            ("grammar_blank_penalty", -100.0, 100.0),
            ("ctc_blank_penalty", -100.0, 100.0),
            ("language_weight", 0.0, 2.0),
            ("word_penalty", -100.0, 100.0),
            ("grammar_paths", 1, 64),
            ("grammar_beam", 1e-3, 1e3),
            ("phone_blank_penalty", -100.0, 100.0),
            ("phone_paths", 1, 1024),
            ("phone_beam", 1e-3, 1e3),
            ("transducer_weight", 0.0, 100.0),
            ("piece_ctc_weight", 0.0, 100.0),
            ("second_pass_share", 0.0, 1.0),
            ("sure", 0.0, 1.0),
            ("threshold", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"commands.{name} is {value}; it must lie in {low}..{high}.")
        if len(self.looks) > MAX_LOOKS or not all(0.5 <= look <= 2.0 for look in self.looks):
            raise ConfigError(
                f"commands.looks is {self.looks}; it must be at most {MAX_LOOKS} numbers in 0.5..2."
            )

    def search_settings(self) -> dict[str, Any]:
        """What the engine's recogniser is told beside the words."""
        return {
            name: getattr(self, name)
            for name in (
                "grammar_paths",
                "grammar_beam",
                "ctc_weight",
                "grammar_blank_penalty",
                "ctc_blank_penalty",
                "language_weight",
                "word_penalty",
                "phone_paths",
                "phone_beam",
                "phone_blank_penalty",
                "transducer_weight",
                "piece_ctc_weight",
                "second_pass_share",
            )
        }


def command_confidence(evidence: Evidence, config: CommandConfig) -> float:
    """Probability that intent and all slots are right and that it was a command at all.

    Args:
        evidence: Of the best interpretation.
        config: Bias and weights.

    Returns:
        In [0, 1].
    """
    return _logistic(evidence.features(), config.weights, config.bias)


def near_confidence(evidence: NearEvidence, config: CommandConfig) -> float:
    """The same for a command that was found by its likeness to the free words.

    Args:
        evidence: Of the nearest command.
        config: Bias and weights.

    Returns:
        In [0, 1].
    """
    return _logistic(evidence.features(), config.near_weights, config.near_bias)


def _logistic(features: tuple[float, ...], weights: tuple[float, ...], bias: float) -> float:
    total = bias + sum(w * x for w, x in zip(weights, features, strict=True))
    # Beyond 700 the exponential overflows.
    return 1.0 / (1.0 + math.exp(-min(max(total, -700.0), 700.0)))
