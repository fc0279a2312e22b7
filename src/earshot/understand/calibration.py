"""Fits the confidence of commands to a model, and keeps the values in the model's file.

What a model heard, commands and other speech, becomes two logistic regressions and the lowest
threshold that keeps other speech out. `benchmarks/calibrate_commands.py` does so for the embedded
model, `earshot adapt` for each model it makes. Knows nothing of where recordings come from.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from earshot.core.errors import ConfigError, ModelFileError
from earshot.core.understanding import Understanding
from earshot.modelfile.reader import ModelFile
from earshot.understand.confidence import (
    EVIDENCE_SIGNS,
    NEAR_SIGNS,
    CommandConfig,
    Evidence,
    NearEvidence,
    command_confidence,
    near_confidence,
)
from earshot.understand.decision import Interpreter, read_nearest, read_paths

if TYPE_CHECKING:
    from earshot._native import CommandResult, StreamResult

__all__ = [
    "METADATA_KEY",
    "Heard",
    "acceptance",
    "as_metadata",
    "balanced_weights",
    "calibrated",
    "choose_threshold",
    "confidence_of",
    "fit_logistic",
    "stored_config",
    "weigh",
]

METADATA_KEY = "commands"  # of a model file's metadata

_LEAST_RIGHT = 10  # rows of either kind; fewer tell nothing
_LEAST_NEAR = 100  # the same of commands found by likeness: what is left in doubt is noisy
_NEWTON_STEPS = 50
_FEWER = (8, 10)  # weights, of files from before phones and from before what they gain
_FITTED = ("threshold", "bias", "weights", "near_bias", "near_weights")


@dataclass(frozen=True, slots=True)
class Heard:
    """What came out of one recording, as numbers.

    Args:
        kind: What was said, such as "commands in noise"; kinds weigh alike.
        grammar: What it was heard with; only reports tell them apart.
        is_command: Whether it is a sentence of that grammar, or nearly.
        evidence: Of the best path; None where no path is complete.
        right: Whether that path has the right meaning.
        near: Of the command nearest to the free words; None where nothing is near.
        near_right: Whether that command is the right one.
        looks: The same of the further looks at it, in the order of `CommandConfig.looks`.
    """

    kind: str
    grammar: str
    is_command: bool
    evidence: Evidence | None
    right: bool
    near: NearEvidence | None
    near_right: bool
    looks: tuple[Heard, ...] = ()


def weigh(
    looks: Sequence[tuple[CommandResult, StreamResult]],
    commands: Interpreter,
    *,
    kind: str,
    grammar: str = "",
    is_command: bool,
    is_right: Callable[[Understanding], bool],
    nearest: bool = True,
) -> Heard:
    """The evidence that a recording gave.

    Args:
        looks: At least one: of the grammar search, and of the free search over the same sound.
        commands: What words mean.
        kind: As of `Heard`.
        grammar: As of `Heard`.
        is_command: As of `Heard`.
        is_right: Whether a meaning is the one that was spoken; asked for commands only.
        nearest: Whether to look for the nearest command, which takes a while.

    Returns:
        The evidence, with whether it speaks for what was said.
    """

    def weighed(found: CommandResult, free: StreamResult) -> Heard:
        reading = read_paths(found, free, commands)
        near = read_nearest(free, commands) if nearest else None
        return Heard(
            kind=kind,
            grammar=grammar,
            is_command=is_command,
            evidence=None if reading is None else reading.evidence,
            right=is_command and reading is not None and is_right(reading.understanding),
            near=None if near is None else near[1],
            near_right=is_command and near is not None and is_right(near[0]),
        )

    first, *further = (weighed(found, free) for found, free in looks)
    return replace(first, looks=tuple(further))


def fit_logistic(
    features: Sequence[Sequence[float]],
    right: Sequence[bool],
    weights: Sequence[float],
    *,
    penalty: float = 1.0,
    toward: tuple[float, tuple[float, ...]] | None = None,
    signs: Sequence[int] | None = None,
) -> tuple[float, tuple[float, ...]]:
    """Logistic regression by Newton steps.

    What speaks for a command must never count against it, however the features of few rows
    happen to go together: a weight of the wrong sign is left out, the worst first, and the others
    are fitted anew.

    Args:
        features: N rows of K numbers, each of order one.
        right: N answers, some of them true and some false.
        weights: N weights, > 0.
        penalty: Times half the sum of the squared weights of features; the bias is free.
        toward: Bias and K weights to penalise the distance from, the bias too, instead of that
            of the weights from zero: what holds until the rows say otherwise.
        signs: K numbers: 1 for a weight that may not be below 0, -1 for one that may not be above,
            0 for one that may be either; None leaves all free.

    Returns:
        Bias and K weights, rounded to three places: as they are kept.
    """
    x = np.column_stack([np.ones(len(features)), np.asarray(features, dtype=np.float64)])
    y = np.asarray(right, dtype=np.float64)
    share = np.asarray(weights, dtype=np.float64)
    ridge = np.full(x.shape[1], penalty)
    centre = np.zeros(x.shape[1])
    if toward is None:
        ridge[0] = 0.0
    else:
        centre[:] = toward[0], *toward[1]
    wanted = np.array([0, *(signs or (0,) * (x.shape[1] - 1))])
    free = np.ones(x.shape[1], dtype=bool)
    while True:
        solution = np.zeros(x.shape[1])
        solution[free] = _most_likely(x[:, free], y, share, ridge[free], centre[free])
        against = np.where(wanted * solution < 0, np.abs(solution) * x.std(axis=0), 0.0)
        if not against.any():
            break
        free[np.argmax(against)] = False
    return round(float(solution[0]), 3), tuple(round(float(w), 3) for w in solution[1:])


def _most_likely(
    x: np.ndarray, y: np.ndarray, share: np.ndarray, ridge: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """Weights of the highest penalised likelihood: `x` (N, K), `y`, `share` (N,), others (K,)."""

    def loss(at: np.ndarray) -> float:
        total = x @ at
        return float(
            share @ (np.logaddexp(0.0, total) - y * total) + 0.5 * ridge @ (at - centre) ** 2
        )

    solution = centre
    for _ in range(_NEWTON_STEPS):
        chance = np.exp(-np.logaddexp(0.0, -(x @ solution)))
        gradient = x.T @ (share * (chance - y)) + ridge * (solution - centre)
        curvature = (x.T * (share * chance * (1 - chance))) @ x + np.diag(ridge)
        # A trace of it for the bias, which no penalty holds, where all answers are certain.
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(ridge)), gradient)
        here, size = loss(solution), 1.0
        while loss(solution - size * step) > here and size > 1e-6:
            size /= 2
        solution = solution - size * step
        if float(np.abs(size * step).max()) < 1e-7:
            break
    return solution


def choose_threshold(confidences: Mapping[str, Sequence[float]], *, false_accepts: float) -> float:
    """The lowest threshold that keeps every kind of other speech out.

    Args:
        confidences: Kind to the confidences that other speech of it reaches, each in [0, 1].
        false_accepts: Share of each kind that may be accepted, 0..1.

    Returns:
        In [0, 1], of four places.
    """
    bound = 0.0
    for values in confidences.values():
        allowed = int(false_accepts * len(values))
        if allowed < len(values):
            bound = max(bound, sorted(values, reverse=True)[allowed])
    return min(1.0, (math.floor(bound * 10_000) + 1) / 10_000)


def balanced_weights(heard: Sequence[Heard]) -> list[float]:
    """Weights: commands weigh half, other speech half, and each kind within them the same."""
    counts: dict[str, int] = defaultdict(int)
    kinds: dict[bool, set[str]] = {True: set(), False: set()}
    for one in heard:
        counts[one.kind] += 1
        kinds[one.is_command].add(one.kind)
    return [len(heard) / (2 * len(kinds[one.is_command]) * counts[one.kind]) for one in heard]


def calibrated(
    config: CommandConfig, heard: Sequence[Heard], *, false_accepts: float
) -> CommandConfig:
    """Weights of both regressions, and the threshold, for what a model heard.

    Args:
        config: How it was heard. Its weights for near commands hold as far as too few near
            commands were heard to say otherwise.
        heard: Commands and other speech, kinds of either.
        false_accepts: Share of each kind of other speech that may be accepted, 0..1.

    Returns:
        `config` with the fitted values.

    Raises:
        ConfigError: Too few commands were heard right, or too little else was heard.
    """
    weighed = list(zip(heard, balanced_weights(heard), strict=True))
    paths = [(one.evidence, one.right, w) for one, w in weighed if one.evidence is not None]
    right = sum(right for _, right, _ in paths)
    if min(right, len(paths) - right) < _LEAST_RIGHT or all(one.is_command for one in heard):
        raise ConfigError(
            f"calibration: {right} of {len(paths)} recordings were understood right; at least "
            f"{_LEAST_RIGHT} must be, and {_LEAST_RIGHT} not. Give more commands and more other "
            "speech, or a better model."
        )
    bias, weights = fit_logistic(
        [evidence.features() for evidence, _, _ in paths],
        [right for _, right, _ in paths],
        [weight for _, _, weight in paths],
        signs=EVIDENCE_SIGNS,
    )
    config = replace(config, bias=bias, weights=weights)
    # The second is asked where the first is in doubt: it learns from those alone.
    doubted = [
        (one.near, one.near_right, weight)
        for one, weight in weighed
        if one.near is not None
        and (one.evidence is None or command_confidence(one.evidence, config) < 0.5)
    ]
    near_right = sum(right for _, right, _ in doubted)
    if doubted:
        enough = min(near_right, len(doubted) - near_right) >= _LEAST_NEAR
        near_bias, near_weights = fit_logistic(
            [near.features() for near, _, _ in doubted],
            [right for _, right, _ in doubted],
            [weight for _, _, weight in doubted],
            toward=None if enough else (config.near_bias, config.near_weights),
            signs=NEAR_SIGNS,
        )
        config = replace(config, near_bias=near_bias, near_weights=near_weights)
    by_kind: dict[str, list[float]] = defaultdict(list)
    for one in heard:
        if not one.is_command:
            by_kind[one.kind].append(confidence_of(one, config)[0])
    return replace(config, threshold=choose_threshold(by_kind, false_accepts=false_accepts))


def confidence_of(one: Heard, config: CommandConfig) -> tuple[float, bool]:
    """How sure a decision is, and whether it is right: as `understand.decision.decide` decides."""
    sure, right = _first_look(one, config)
    if sure < config.sure:
        for look in one.looks:
            again, again_right = _first_look(look, config)
            if again > sure:
                sure, right = again, again_right
    return sure, right


def _first_look(one: Heard, config: CommandConfig) -> tuple[float, bool]:
    sure, right = 0.0, False
    if one.evidence is not None:
        sure, right = command_confidence(one.evidence, config), one.right
    if one.near is not None and near_confidence(one.near, config) > sure:
        sure, right = near_confidence(one.near, config), one.near_right
    return sure, right


def acceptance(heard: Sequence[Heard], config: CommandConfig) -> list[dict[str, Any]]:
    """By kind and grammar: how often accepted, accepted and right, right without a threshold."""
    groups: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for one in heard:
        for grammar in {one.grammar, "all"}:
            groups[one.kind, grammar].append(confidence_of(one, config))
    rows = []
    for (kind, grammar), values in sorted(groups.items()):
        accepted = [(sure, right) for sure, right in values if sure >= config.threshold]
        rows.append(
            {
                "kind": kind,
                "grammar": grammar,
                "trials": len(values),
                "accepted": round(len(accepted) / len(values), 4),
                "accepted_right": round(sum(r for _, r in accepted) / len(values), 4),
                "right": round(sum(r for _, r in values) / len(values), 4),
            }
        )
    return rows


# ---------------------------------------------------------------- in a model's file


def as_metadata(config: CommandConfig) -> str:
    """The value of `METADATA_KEY`: all settings, since the weights fit this search alone.

    What is usual and newer than some readers, which refuse it, is left out: the share of the second
    pass, and the weight of what phones gain where that does not count.
    """
    values = asdict(config)
    if config.second_pass_share == CommandConfig().second_pass_share:
        del values["second_pass_share"]
    if config.weights[-1] == 0:
        values["weights"] = config.weights[:-1]
    return json.dumps(values)


def stored_config(file: ModelFile) -> CommandConfig | None:
    """The values that a model file carries.

    Args:
        file: The model.

    Returns:
        The values; None where it carries none.

    Raises:
        ModelFileError: They are not what `docs/formats/ear.md` says.
    """
    metadata = file.header.get("metadata")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if text is None:
        return None

    def fail(problem: str) -> NoReturn:
        raise ModelFileError(
            file.path,
            f"metadata.{METADATA_KEY} {problem}",
            remedy="Make the model again with `earshot adapt`, or update earshot",
        )

    try:
        values = json.loads(text)
    except ValueError:
        fail("is no JSON")
    if not isinstance(values, dict):
        fail("is no JSON object")
    values.setdefault("looks", [])  # files from before there were any were fitted without
    known = {field.name: field.default for field in fields(CommandConfig)}
    if unknown := sorted(set(values) - set(known)):
        fail(f"has the unknown value {unknown[0]!r}")
    if missing := [name for name in _FITTED if name not in values]:
        fail(f"lacks {missing[0]!r}")
    for name, value in values.items():
        default = known[name]
        if isinstance(default, tuple):
            if name == "weights" and isinstance(value, list) and len(value) in _FEWER:
                value = [*value, *[0.0] * (len(default) - len(value))]
            if not (
                isinstance(value, list)
                and (len(value) == len(default) or name == "looks")
                and all(_is_number(one) for one in value)
            ):
                fail(f"has {name} {value!r}, which must be {len(default)} finite numbers")
            values[name] = tuple(float(one) for one in value)
        elif isinstance(default, int):
            if type(value) is not int:
                fail(f"has {name} {value!r}, which must be a whole number")
        elif not _is_number(value):
            fail(f"has {name} {value!r}, which must be a finite number")
    try:
        return CommandConfig(**values)
    except ConfigError as err:
        fail(f"cannot be used ({str(err).rstrip('.')})")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
