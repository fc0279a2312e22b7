"""From what the searches found to one understanding: which command, how sure, or none.

The paths of the grammar search are parsed; those that mean the same add up, and the best meaning
wins. Where no path is believed, the command nearest to the free words may be. Knows nothing of
audio, and nothing of how paths or commands are found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from rapidfuzz import fuzz

from earshot.core.understanding import Understanding
from earshot.understand.confidence import (
    MAX_MARGIN,
    CommandConfig,
    Evidence,
    NearEvidence,
    command_confidence,
    near_confidence,
)
from earshot.understand.exactness import negated

if TYPE_CHECKING:
    from earshot._native import CommandPath, CommandResult, StreamResult, WordResult

__all__ = [
    "Decision",
    "Interpreter",
    "Reading",
    "decide",
    "meaning_key",
    "read_nearest",
    "read_paths",
]

_NEGATED_LIKENESS = 0.5  # of free words and the command's, letters


class Interpreter(Protocol):
    """What a decision asks of compiled commands; `understand.graph.CommandGraph` has it."""

    def interpret(self, words: Sequence[str]) -> Understanding | None:
        """What exactly these words mean, or None."""
        ...

    def nearest(self, text: str) -> Understanding | None:
        """The command most like a text, its confidence the likeness; or None."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """What the paths of a grammar search mean.

    Args:
        understanding: The best meaning; its confidence is the interpreter's.
        words: Of the best path that has this meaning.
        evidence: What the confidence is computed from.
    """

    understanding: Understanding
    words: tuple[WordResult, ...]
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Decision:
    """What is believed.

    Args:
        understanding: Intent None and no slots where nothing is believed; the confidence is
            that of the likeliest command then, too, and 0 where there is none.
        words: Of the command; None where the free words stand.
    """

    understanding: Understanding
    words: tuple[WordResult, ...] | None


def decide(
    result: CommandResult,
    free: StreamResult,
    commands: Interpreter,
    *,
    config: CommandConfig,
    nearest: bool = True,
    again: Callable[[], Sequence[tuple[CommandResult, StreamResult]]] | None = None,
) -> Decision:
    """Choose between the command of the grammar search, the one nearest to free speech, and none.

    Which of the two is likelier does not depend on the threshold, which only accepts or rejects.

    Args:
        result: Of the grammar search.
        free: Of the free search over the same sound.
        commands: What words mean.
        config: Weights and threshold.
        nearest: Whether to ask for the nearest command at all: it takes a while, and while
            someone still speaks the words are not all there.
        again: Hears the sound once more, as `session.looks` does; asked where the first look is
            less than `config.sure`, and the surest look counts.

    Returns:
        The decision.
    """
    look_at = partial(_look, commands=commands, config=config, nearest=nearest)
    best, words, confidence, is_negated = look_at(result, free, is_negated=False)
    if again is not None and confidence < config.sure:
        for further, free_again in again():
            look = look_at(further, free_again, is_negated=is_negated)
            is_negated = look[3]
            if look[2] > confidence:
                best, words, confidence, _ = look
    if best is None or confidence < config.threshold:
        return Decision(Understanding(None, {}, confidence), None)
    return Decision(replace(best, confidence=confidence), words)


def _look(
    result: CommandResult,
    free: StreamResult,
    *,
    commands: Interpreter,
    config: CommandConfig,
    is_negated: bool,
    nearest: bool,
) -> tuple[Understanding | None, tuple[WordResult, ...] | None, float, bool]:
    """The likeliest command of one look, its words if the grammar search has them, how sure.

    And whether this look or one before it heard a negation before what is like the command. Free
    speech that is like nothing has negations by chance.
    """
    best: Understanding | None = None
    words: tuple[WordResult, ...] | None = None
    confidence = 0.0
    reading = read_paths(result, free, commands)
    heard = [word["word"] for word in free["words"]]
    said: list[str] = []
    if reading is not None:
        said = [word["word"] for word in reading.words]
        is_alike = reading.evidence.likeness >= _NEGATED_LIKENESS
        is_negated = is_negated or (is_alike and negated(heard))
        if not is_negated or negated(said):
            best, words = reading.understanding, reading.words
            confidence = command_confidence(reading.evidence, config)
    if nearest and not is_negated and said != heard:
        near = read_nearest(free, commands)
        if near is not None and near_confidence(near[1], config) > confidence:
            best, words = near[0], None
            confidence = near_confidence(near[1], config)
    return best, words, confidence, is_negated


def read_paths(result: CommandResult, free: StreamResult, commands: Interpreter) -> Reading | None:
    """The likeliest meaning of the complete paths, and what speaks for it.

    Args:
        result: Of the grammar search.
        free: Of the free search over the same sound.
        commands: What words mean.

    Returns:
        The reading; None where no path is complete, or where so much was heard that paths were
        not scored: no command is a minute long.
    """
    if not result["rescored"]:
        return None
    by_meaning: dict[str, list[tuple[CommandPath, Understanding]]] = {}
    for path in result["paths"]:
        meaning = commands.interpret([word["word"] for word in path["words"]])
        if path["words"] and meaning is not None:
            by_meaning.setdefault(meaning_key(meaning), []).append((path, meaning))
    if not by_meaning:
        return None
    totals = {
        key: float(np.logaddexp.reduce([path["score"] for path, _ in members]))
        for key, members in by_meaning.items()
    }
    ranked = sorted(totals, key=lambda key: totals[key], reverse=True)
    path, meaning = by_meaning[ranked[0]][0]  # paths come best first
    words = path["words"]
    margin = totals[ranked[0]] - totals[ranked[1]] if len(ranked) > 1 else MAX_MARGIN
    spoken = " ".join(word["word"] for word in words)
    evidence = Evidence(
        transducer_gap=result["free_transducer"] - path["transducer"],
        ctc_gap=result["free_ctc"] - path["ctc"],
        margin=margin,
        num_words=len(words),
        num_pieces=len(path["pieces"]),
        likeness=fuzz.ratio(spoken, free["text"]) / 100,
        least_confidence=min(word["confidence"] for word in words),
        phones_gap=result["free_phones"] - path["phones"],
        phones_gain=path["phones"] - result["silent_phones"],
        num_phones=len(path["tokens"]),
    )
    return Reading(meaning, tuple(words), evidence)


def read_nearest(
    free: StreamResult, commands: Interpreter
) -> tuple[Understanding, NearEvidence] | None:
    """The command most like the free words, and what speaks for it.

    Args:
        free: Of the free search.
        commands: What words mean.

    Returns:
        The command with its evidence; None where nothing was heard or nothing is near.
    """
    if not free["words"]:
        return None
    nearest = commands.nearest(free["text"])
    if nearest is None:
        return None
    confidences = [word["confidence"] for word in free["words"]]
    return nearest, NearEvidence(
        similarity=nearest.confidence,
        num_words=len(confidences),
        word_confidence=sum(confidences) / len(confidences),
    )


def meaning_key(meaning: Understanding) -> str:
    """A text that is equal for equal intents and values, however they were said."""
    values = {name: slot.value for name, slot in meaning.slots.items()}
    return json.dumps([meaning.intent, values], sort_keys=True, default=repr)
