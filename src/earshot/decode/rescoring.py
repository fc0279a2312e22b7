"""Ranks the paths of a lattice anew, with what a language model makes of their words.

A path scores `first pass + language * log P(words) + word * number of words`, and what is chosen
is the path with the highest score, or that with the fewest word errors expected under these scores.
The lattice is walked once, state by state in order of depth; histories that agree in their last
words are one, which a model that hears more of them makes an approximation (METHODS: push-forward
rescoring). What the language model is asked for comes out of a generator, so that a server can
answer many lattices with one call of the model. Knows nothing of networks; see `rescoring_client`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from earshot.core.errors import ConfigError, ModelFileError
from earshot.core.transcript import Rescoring
from earshot.decode.language import EarScorer, LanguageScorer
from earshot.decode.lattice import (
    NOTHING,
    Lattice,
    LatticePath,
    arcs_behind,
    ways_on,
)
from earshot.decode.risk import edit_distances, expected_word_errors
from earshot.modelfile.reader import ModelFile

__all__ = [
    "COMPARED",
    "METADATA_KEY",
    "Hypothesis",
    "LocalRescorer",
    "Rescored",
    "Rescorer",
    "RescoringConfig",
    "answer_together",
    "rank_paths",
    "rescore",
    "rescoring_steps",
    "stored_config",
]

METADATA_KEY = "rescoring"

COMPARED = 256
"""Readings, the best by score, among which the fewest word errors are looked for."""

Wanted = tuple[Any, str | None]
"""A state of the language model, and the word to score after it; None asks for the end."""

Steps = Generator[list[Wanted], list[tuple[float, Any]], tuple["Hypothesis", ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoringConfig:
    """How much the language model counts, and how much of a lattice it is asked about.

    Args:
        language: Weight of the model's nats, 0..10.
        word: Nats added for every word, -10..10: makes up for the model's dislike of long
            sentences.
        risk: Scale of the scores in the posteriors under which the reading with the fewest
            expected word errors is the best, 0..10; with 0 that with the highest score is.
        order: Histories whose last `order - 1` words are equal are one, 2..100.
        beam: Nats of the first pass within which arcs are looked at, and nats behind the best
            of a depth within which histories are kept; above 0.
        max_histories: Histories kept at one depth, 1..1000.
        max_moves: Steps from these over one arc that the model is asked about, the best by the
            first pass, 1..100,000: bounds work and memory whatever the lattice.

    Raises:
        ConfigError: A value is out of its range.
    """

    language: float = 0.3
    word: float = 0.0
    risk: float = 0.0
    order: int = 6
    beam: float = 12.0
    max_histories: int = 64
    max_moves: int = 1024

    def __post_init__(self) -> None:
        for name, low, high in (
            ("language", 0.0, 10.0),
            ("word", -10.0, 10.0),
            ("risk", 0.0, 10.0),
            ("order", 2, 100),
            ("beam", 1e-3, 1e6),
            ("max_histories", 1, 1000),
            ("max_moves", 1, 100_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"rescoring.{name} is {value}; it must lie in {low}..{high}.")

    def as_metadata(self) -> dict[str, str]:
        """What a model file carries of it, see `stored_config`."""
        return {METADATA_KEY: json.dumps(asdict(self))}


def stored_config(path: str | Path) -> RescoringConfig | None:
    """The settings that a language model's file carries.

    Args:
        path: A `.ear` file.

    Returns:
        None for a file without them.

    Raises:
        ModelFileError: The file is broken, or its settings cannot be used.
    """
    metadata = ModelFile(Path(path)).header.get("metadata", {})
    stored = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if stored is None:
        return None
    kinds = {
        field.name: (int if field.type == "int" else float) for field in fields(RescoringConfig)
    }
    try:
        values = json.loads(stored)
        if not isinstance(values, dict) or not values.keys() <= kinds.keys():
            raise ValueError("keys")
        for name, value in values.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole or (kinds[name] is float and isinstance(value, float))):
                raise ValueError(name)
        return RescoringConfig(**values)
    except (ValueError, ConfigError) as err:
        raise ModelFileError(
            path,
            f"its metadata '{METADATA_KEY}' cannot be used ({err})",
            remedy="Make the model again with `earshot train run recipes/rescoring-lm.toml`",
        ) from None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One way to read a lattice.

    Args:
        words: What it says.
        arcs: The arcs of the lattice that say it.
        score: Nats, all parts together.
        first: Nats of the first pass.
        language: Nats of the language model, unweighted, the sentence's end included.
        errors: Word errors expected of it, if readings were chosen by them, else 0.
    """

    words: tuple[str, ...]
    arcs: tuple[int, ...]
    score: float
    first: float
    language: float
    errors: float = 0.0

    @property
    def text(self) -> str:
        """The words, separated by one space."""
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Rescored:
    """What came of an attempt to rescore; without hypotheses the first pass stands.

    Args:
        note: What happened, as results carry it on.
        lattice: The lattice that the arcs of the hypotheses are of: what was sent, which may
            have fewer arcs than what there was.
        hypotheses: Best first; empty where nothing came.
    """

    note: Rescoring
    lattice: Lattice
    hypotheses: tuple[Hypothesis, ...] = ()


class Rescorer(Protocol):
    """Whatever ranks a lattice; never raises for what is the other side's fault."""

    def rescore(self, lattice: Lattice) -> Rescored:
        """Rank the readings of a lattice, or say why they were not."""
        ...


class _History(NamedTuple):
    score: float  # all parts so far
    language: float
    state: Any  # of the language model
    recent: tuple[str, ...]
    before: Any  # (_History, arc) or None


def rescoring_steps(
    lattice: Lattice, start: Any, config: RescoringConfig, *, nbest: int = 10
) -> Steps:
    """Rescore a lattice, asking for what the language model says step by step.

    Args:
        lattice: A lattice.
        start: State of the language model before the first word.
        config: Weights and limits.
        nbest: Hypotheses wanted at most, >= 1.

    Yields:
        What is to be scored, each pair once; expects scores and states back.

    Returns:
        Different word sequences, best first; at least one.
    """
    if nbest < 1:
        raise ValueError(f"rescoring: {nbest} hypotheses are asked for; it must be at least 1.")
    behind = arcs_behind(lattice)
    looked_at = (behind <= config.beam).tolist()
    ahead, _ = ways_on(lattice)
    src, dst, word = lattice.src.tolist(), lattice.dst.tolist(), lattice.word.tolist()
    scores = lattice.score.tolist()
    last = lattice.num_states - 1
    depth = [0] * (last + 1)
    for s, d in zip(src, dst, strict=True):
        depth[d] = max(depth[d], depth[s] + 1)
    by_depth: list[list[int]] = [[] for _ in range(depth[last])]
    for arc, s in enumerate(src):
        if looked_at[arc]:
            by_depth[depth[s]].append(arc)
    # Histories at each state, by their last words.
    at: dict[int, dict[tuple[str, ...], _History]] = {0: {(): _History(0.0, 0.0, start, (), None)}}
    ends: list[_History] = []
    for arcs in by_depth:
        kept = _kept_histories(at, {src[arc] for arc in arcs}, ahead, config)
        moves = [(history, arc) for arc in arcs for history in kept.get(src[arc], ())]
        if len(moves) > config.max_moves:
            moves.sort(key=lambda m: -(m[0].score + scores[m[1]] + ahead[dst[m[1]]]))
            del moves[config.max_moves :]
        wanted: dict[tuple[int, str], Wanted] = {}
        for history, arc in moves:
            said = lattice.words[word[arc]]
            if said != NOTHING:
                wanted.setdefault((id(history.state), said), (history.state, said))
        answers = dict(zip(wanted, (yield list(wanted.values())), strict=True)) if wanted else {}
        for history, arc in moves:
            said = lattice.words[word[arc]]
            if said == NOTHING:
                moved = history._replace(score=history.score + scores[arc], before=(history, arc))
            else:
                language, state = answers[id(history.state), said]
                moved = _History(
                    history.score + scores[arc] + config.language * language + config.word,
                    history.language + language,
                    state,
                    (*history.recent, said)[-(config.order - 1) :],
                    (history, arc),
                )
            if dst[arc] == last:
                ends.append(moved)
                continue
            there = at.setdefault(dst[arc], {})
            known = there.get(moved.recent)
            if known is None or moved.score > known.score:
                there[moved.recent] = moved
        for state_number in {src[arc] for arc in arcs}:
            at.pop(state_number, None)  # and with it states of the model that nothing needs
    states = {id(history.state): (history.state, None) for history in ends}
    finished = dict(zip(states, (yield list(states.values())), strict=True))
    found: dict[tuple[str, ...], Hypothesis] = {}
    for history in ends:
        end = finished[id(history.state)][0]
        arcs_of = _arcs(history)
        words = tuple(w for w in (lattice.word_at(arc) for arc in arcs_of) if w != NOTHING)
        hypothesis = Hypothesis(
            words,
            arcs_of,
            history.score + config.language * end,
            sum(scores[arc] for arc in arcs_of),
            history.language + end,
        )
        if words not in found or hypothesis.score > found[words].score:
            found[words] = hypothesis
    return _ranked(found.values(), config)[:nbest]


def _ranked(found: Iterable[Hypothesis], config: RescoringConfig) -> tuple[Hypothesis, ...]:
    """Readings, the best first; chosen by risk, the best `COMPARED` by score alone are left."""
    ranked = sorted(found, key=lambda h: (-h.score, h.arcs))
    if config.risk == 0:
        return tuple(ranked)
    del ranked[COMPARED:]
    errors = expected_word_errors(
        edit_distances([h.words for h in ranked]),
        np.array([h.score for h in ranked]),
        scale=config.risk,
    )
    ranked = [replace(h, errors=e) for h, e in zip(ranked, errors.tolist(), strict=True)]
    return tuple(sorted(ranked, key=lambda h: (h.errors, -h.score)))


def _kept_histories(
    at: Mapping[int, Mapping[tuple[str, ...], _History]],
    states: Iterable[int],
    ahead: Sequence[float],
    config: RescoringConfig,
) -> dict[int, list[_History]]:
    """The histories at some states that are worth going on from, by state."""
    ranked = sorted(
        (
            (history.score + ahead[state], state, history)
            for state in states
            for history in at.get(state, {}).values()
        ),
        key=lambda entry: (-entry[0], entry[1], entry[2].recent),
    )
    kept: dict[int, list[_History]] = {}
    for score, state, history in ranked[: config.max_histories]:
        if score >= ranked[0][0] - config.beam:
            kept.setdefault(state, []).append(history)
    return kept


def _arcs(history: _History) -> tuple[int, ...]:
    arcs: list[int] = []
    while history.before is not None:
        history, arc = history.before
        arcs.append(arc)
    return tuple(reversed(arcs))


def answer_together(
    scorer: LanguageScorer, wanted: Sequence[Sequence[Wanted]]
) -> list[list[tuple[float, Any]]]:
    """Score what several generators of `rescoring_steps` ask for, in one call of the model.

    Args:
        scorer: The language model.
        wanted: What each asks for.

    Returns:
        What to send to each.
    """
    words = [(state, said) for rows in wanted for state, said in rows if said is not None]
    ends = [state for rows in wanted for state, said in rows if said is None]
    word_answers = iter(scorer.extend(words) if words else ())
    end_answers = iter(scorer.finish(ends) if ends else ())
    return [
        [(next(end_answers), None) if said is None else next(word_answers) for _, said in rows]
        for rows in wanted
    ]


def rescore(
    lattices: Sequence[Lattice],
    scorer: LanguageScorer,
    config: RescoringConfig,
    *,
    nbest: int = 10,
) -> list[tuple[Hypothesis, ...]]:
    """Rescore lattices together.

    Args:
        lattices: Any number.
        scorer: The language model.
        config: Weights and limits.
        nbest: Hypotheses wanted of each at most.

    Returns:
        For each lattice its hypotheses, best first.
    """
    running = {
        i: rescoring_steps(lattice, scorer.start(), config, nbest=nbest)
        for i, lattice in enumerate(lattices)
    }
    done: dict[int, tuple[Hypothesis, ...]] = {}
    waiting = {i: next(steps) for i, steps in running.items()}
    while waiting:
        answers = answer_together(scorer, list(waiting.values()))
        following = {}
        for i, answer in zip(waiting, answers, strict=True):
            try:
                following[i] = running[i].send(answer)
            except StopIteration as stop:
                done[i] = stop.value
        waiting = following
    return [done[i] for i in range(len(lattices))]


def rank_paths(
    paths: Sequence[LatticePath], languages: Sequence[float], config: RescoringConfig
) -> tuple[Hypothesis, ...]:
    """Rank single paths, such as an n-best list, by the same rule.

    Args:
        paths: Of one lattice.
        languages: Nats of the language model for each, as `sentence_scores` gives them.
        config: Weights.

    Returns:
        Best first: all of them, or `COMPARED` if they are chosen by risk.
    """
    found = [
        Hypothesis(
            path.words,
            path.arcs,
            path.score + config.language * language + config.word * len(path.words),
            path.score,
            language,
        )
        for path, language in zip(paths, languages, strict=True)
    ]
    return _ranked(found, config)


class LocalRescorer:
    """A language model in this process as a `Rescorer`.

    Args:
        scorer: The model, or a `.ear` file of one.
        config: Weights and limits; None takes what the file carries, else the defaults.
        nbest: Hypotheses that a result has at most.
    """

    def __init__(
        self,
        scorer: LanguageScorer | str | Path,
        config: RescoringConfig | None = None,
        *,
        nbest: int = 10,
    ) -> None:
        if isinstance(scorer, str | Path):
            if config is None:
                config = stored_config(scorer)
            scorer = EarScorer(scorer)
        self._scorer = scorer
        self._config = config or RescoringConfig()
        self._nbest = nbest

    def rescore(self, lattice: Lattice) -> Rescored:
        """Rank the readings of a lattice."""
        began = time.perf_counter()
        found = rescore([lattice], self._scorer, self._config, nbest=self._nbest)[0]
        took_ms = 1000 * (time.perf_counter() - began)
        note = Rescoring("rescored", model=self._scorer.name, took_ms=took_ms)
        return Rescored(note, lattice, found)
