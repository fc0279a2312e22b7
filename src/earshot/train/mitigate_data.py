"""Who is failed, and who may be learnt from: an audit's report, its results, and parts of speakers.

Rows of the results become utterances with a cohort each. Speakers, never single rows, are dealt
into those that are trained on, those that stop training and choose, and those that evaluate. Knows
nothing of networks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from earshot.audit.reading import ReadingConfig, read_results
from earshot.core.errors import ConfigError, ManifestError
from earshot.core.features import SAMPLE_RATE_HZ
from earshot.core.utterance import Utterance
from earshot.data.audio import read_audio
from earshot.data.manifest import read_manifest
from earshot.train.batches import LONGEST_S, SHORTEST_S
from earshot.train.cuts import file_cut, write_wav
from earshot.train.mitigate_config import MitigateConfig

logger = logging.getLogger(__name__)

__all__ = [
    "Cohort",
    "Discovery",
    "Row",
    "Speakers",
    "assigned",
    "deal_speakers",
    "general_rows",
    "read_discovery",
    "read_rows",
    "target_cohorts",
    "trainable",
    "training_cut",
]

_SHOWN = 5  # rows that a message names
_PIECES_A_FRAME = 0.6  # of 40 ms: faster speech cannot be learnt, with room for a change of speed


@dataclass(frozen=True, slots=True)
class Cohort:
    """A group of an audit's report.

    Args:
        name: Of the group.
        rule: Who belongs to it, such as `lat < 43.5 and lon >= 7`.
        wer: Its word error rate there.
        speakers: Who belongs to it, where the report lists them; else None.
    """

    name: str
    rule: str
    wer: float
    speakers: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """One way in which an audit grouped the speakers.

    Args:
        method: groups, regions, geodemographic or clusters.
        cohorts: Worst first.
        results: The file of results that was audited.
        members: The file beside the report that says which cohorts each utterance is in; None
            where there is none, and rules decide.
    """

    method: str
    cohorts: tuple[Cohort, ...]
    results: Path
    members: Path | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An utterance of the results.

    Args:
        number: Line of the file, from 1.
        utterance: What was said, by whom, and where the sound is.
        hyp: What was recognised; None where the row does not say.
        values: All columns.
    """

    number: int
    utterance: Utterance
    hyp: str | None
    values: Mapping[str, Any]


def read_discovery(
    report: Path, *, method: str | None = None, results: Path | None = None
) -> Discovery:
    """Cohorts from an audit's report.

    Args:
        report: The JSON file.
        method: Which discovery; None takes the first one.
        results: The file of results, where the report's own name of it does not hold.

    Returns:
        The discovery, worst cohort first.

    Raises:
        ConfigError: It is no report, has no such discovery, or names no results that are there.
    """
    try:
        tree = json.loads(report.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(
            f"{report}: cannot be read ({err.strerror}). Name the JSON file of `earshot audit run`."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as err:
        raise ConfigError(
            f"{report}: is not JSON ({err}). Name the JSON file of `earshot audit run`."
        ) from None
    found = tree.get("discoveries") if isinstance(tree, dict) else None
    if not isinstance(found, list):
        raise ConfigError(
            f"{report}: has no 'discoveries'; an audit's report has them. Name the JSON file of "
            "`earshot audit run`."
        )
    usable = [d for d in found if isinstance(d, dict) and d.get("cohorts")]
    chosen = [d for d in usable if method in (None, d.get("method"))]
    if not chosen:
        have = ", ".join(str(d.get("method")) for d in usable) or "none"
        wanted = f"of method '{method}'" if method else "with cohorts"
        raise ConfigError(
            f"{report}: has no discovery {wanted}; it has {have}. Name one of these with "
            "--discovery, or audit with more."
        )
    try:
        cohorts = [
            Cohort(
                name=str(c["name"]),
                rule=str(c.get("rule") or c["name"]),
                wer=float(c["wer"]),
                speakers=frozenset(map(str, c["speakers"])) if c.get("speakers") else None,
            )
            for c in chosen[0]["cohorts"]
        ]
    except (KeyError, TypeError, ValueError) as err:
        raise ConfigError(
            f"{report}: a cohort lacks {err}; each needs name, rule and wer. Audit again."
        ) from None
    cohorts.sort(key=lambda cohort: -cohort.wer)
    return Discovery(
        str(chosen[0].get("method", "")),
        tuple(cohorts),
        _results_of(tree, report, results),
        _members_of(tree, report),
    )


def _results_of(tree: Mapping[str, Any], report: Path, named: Path | None) -> Path:
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: no such file; name the results that were audited.")
        return named
    said = tree.get("results") or tree.get("source")
    said = said.get("path") if isinstance(said, dict) else said
    if not isinstance(said, str) or not said:
        raise ConfigError(f"{report}: does not say which results it is of. Name them: --results.")
    for path in (Path(said), report.parent / said, report.parent / Path(said).name):
        if path.is_file():
            return path
    raise ConfigError(
        f"{report}: is of the results {said}, which are not there. Name them with --results."
    )


def _members_of(tree: Mapping[str, Any], report: Path) -> Path | None:
    name = tree.get("members")
    if not isinstance(name, str):
        return None
    path = report.parent / name
    if not path.is_file():
        raise ConfigError(
            f"{path}: is not there; it says which cohorts each utterance is in. Keep it beside the "
            "report, or audit again."
        )
    return path


def target_cohorts(discovery: Discovery, config: MitigateConfig) -> list[int]:
    """Which cohorts are mended: the worst ones, by number or by word error rate.

    Args:
        discovery: Worst first.
        config: `top` and `above`.

    Returns:
        Indices of cohorts.

    Raises:
        ConfigError: None is so bad, or there would be no others.
    """
    cohorts = discovery.cohorts
    if config.above > 0:
        found = [n for n, cohort in enumerate(cohorts) if cohort.wer > config.above]
        if not found:
            raise ConfigError(
                f"mitigate.above is {config.above}; no cohort is worse, the worst has "
                f"{cohorts[0].wer:.3f}. Set it lower, or take `top`."
            )
    else:
        found = list(range(min(config.top, len(cohorts))))
    if len(found) == len(cohorts):
        raise ConfigError(
            f"mitigate: all {len(cohorts)} cohorts would be mended; at least one must be left to "
            "compare with. Lower mitigate.top or raise mitigate.above."
        )
    return found


def read_rows(path: Path, *, columns: Mapping[str, str] | None = None) -> list[Row]:
    """Rows of results with sound, read as an audit reads them.

    Args:
        path: Results in any form of `earshot audit run`, with transcripts, speakers and sound.
            Paths of sound are relative to the file, or to the working directory.
        columns: Column by field, as of `earshot audit run --map`.

    Returns:
        The rows that an audit would score, in order.

    Raises:
        ResultsError: Rows cannot be read.
        ManifestError: There are no transcripts, speakers or sound, or some are missing.
    """
    results = read_results(path, config=ReadingConfig(columns=columns or {}))
    for what, found in (
        ("transcripts", results.texts),
        ("speakers", results.speakers),
        ("audio", results.audio),
    ):
        if found is None:
            raise ManifestError(
                path,
                f"has no {what}",
                remedy="A model is mended by sound and transcripts of known speakers: add the "
                "column, or name it with --map",
            )
    for exclusion in results.exclusions:
        if exclusion.scope == "everything":
            logger.warning(
                "%s: %d rows are left out, as by the audit: %s (lines %s)",
                path, exclusion.count, exclusion.reason, ", ".join(map(str, exclusion.lines)),
            )  # fmt: skip
    texts, speakers, audio = results.texts, results.speakers, results.audio
    assert texts is not None and speakers is not None and audio is not None
    rows = []
    absent: list[str] = []
    for n, line in enumerate(results.lines.tolist()):
        sound = next(
            (p for p in (path.parent / audio[n], Path(audio[n])) if audio[n] and p.is_file()), None
        )
        if sound is None:
            absent.append(f"line {line} ({audio[n] or 'no path'})")
            continue
        values: dict[str, Any] = {
            name: labels.names[labels.codes[n]]
            for name, labels in results.groups.items()
            if labels.codes[n] >= 0
        }
        for name, numbers in (("lat", results.lat), ("lon", results.lon)):
            if numbers is not None and np.isfinite(numbers[n]):
                values[name] = float(numbers[n])
        offset = 0.0 if results.offset_s is None else float(results.offset_s[n])
        duration = None if results.duration_s is None else float(results.duration_s[n])
        utterance = Utterance(
            id=str(results.ids[n]),
            audio=sound,
            text=" ".join(texts.reference(n)),
            speaker=speakers.names[speakers.codes[n]],
            offset_s=offset if np.isfinite(offset) else 0.0,
            duration_s=duration if duration is not None and np.isfinite(duration) else None,
        )
        rows.append(Row(line, utterance, " ".join(texts.hypothesis(n)), values))
    if absent:
        raise ManifestError(
            path,
            f"the sound of {len(absent)} of {len(results)} rows is not there: {_some(absent)}",
            remedy="Bring the files back, or take these rows out of the results and audit again",
        )
    return rows


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _lines(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise ValueError("no object")
            except ValueError as err:
                raise ManifestError(
                    f"{path}:{number}", f"this is not a row ({err})", remedy="Mend this line"
                ) from None
            yield number, values


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_SIGNS = {"≤": "<=", "≥": ">=", "≠": "!=", "−": "-", "°": ""}
_CLAUSE = re.compile(r"^\s*(.+?)\s*(<=|>=|!=|==|<|>|=)\s*(.+?)\s*$")
_BETWEEN = re.compile(r"^\s*(\S+)\s*(<=|<)\s*([^<>=!]+?)\s*(<=|<)\s*(\S+)\s*$")


def _clauses(rule: str) -> list[tuple[str, str, str]] | None:
    """Column, sign and value of each part of a rule; None where it cannot be read."""
    for sign, plain in _SIGNS.items():
        rule = rule.replace(sign, plain)
    found = []
    for part in re.split(r"\s+(?:and|&)\s+|\s*[,;]\s+(?=\S+\s*[<>=!])", rule):
        if match := _BETWEEN.match(part):
            low, first, column, second, high = match.groups()
            found += [(column, {"<": ">", "<=": ">="}[first], low), (column, second, high)]
        elif match := _CLAUSE.match(part):
            found.append((match[1], match[2], match[3].strip("'\"")))
        else:
            return None
    return found


def _holds(clauses: Iterable[tuple[str, str, str]], values: Mapping[str, Any]) -> bool:
    for column, sign, wanted in clauses:
        value = values.get(column)
        if value is None or value == "":
            return False
        try:
            sides: tuple[Any, Any] = (float(value), float(wanted))
        except (TypeError, ValueError):
            sides = (str(value), wanted)
        if not _OPERATORS[sign](*sides):
            return False
    return True


def assigned(discovery: Discovery, rows: Sequence[Row]) -> list[int]:
    """The cohort of every row.

    Args:
        discovery: Its cohorts; where several hold, the worst one does.
        rows: Of the results.

    Returns:
        Index of the cohort; -1 for rows of none.

    Raises:
        ConfigError: The list of members lacks rows; or without one, a rule cannot be read or
            holds for no row.
    """
    if discovery.members is not None:
        return _listed(discovery, discovery.members, rows)
    rules = [None if c.speakers is not None else _clauses(c.rule) for c in discovery.cohorts]
    for cohort, rule in zip(discovery.cohorts, rules, strict=True):
        if rule is None and cohort.speakers is None:
            raise ConfigError(
                f"cohort '{cohort.name}': its rule '{cohort.rule}' cannot be read; a rule reads "
                "`column < value and ...`. Audit by groups or regions, or list its speakers."
            )
    found = []
    for row in rows:
        for n, (cohort, rule) in enumerate(zip(discovery.cohorts, rules, strict=True)):
            inside = (
                row.utterance.speaker in cohort.speakers
                if cohort.speakers is not None
                else _holds(rule or (), row.values)
            )
            if inside:
                found.append(n)
                break
        else:
            found.append(-1)
    for n, cohort in enumerate(discovery.cohorts):
        if n not in found:
            raise ConfigError(
                f"cohort '{cohort.name}': its rule '{cohort.rule}' holds for none of {len(rows)} "
                "rows. The report is of other results: name the right ones with --results."
            )
    return found


def _listed(discovery: Discovery, members: Path, rows: Sequence[Row]) -> list[int]:
    """Cohorts as the audit wrote them down; where an utterance is in several, the worst one."""
    number = {cohort.name: n for n, cohort in enumerate(discovery.cohorts)}
    home: dict[str, int] = {}
    for where, values in _lines(members):
        names = values.get("cohorts", {}).get(discovery.method, [])
        found = [number[name] for name in names if name in number]
        if "id" not in values:
            raise ManifestError(f"{members}:{where}", "this row has no 'id'", remedy="Audit again")
        home[str(values["id"])] = min(found, default=-1)
    unknown = [row.number for row in rows if row.utterance.id not in home]
    if unknown:
        raise ConfigError(
            f"{members}: lacks {len(unknown)} of {len(rows)} rows of {discovery.results}: "
            f"{_some([f'line {n}' for n in unknown])}. The results have changed since: audit again."
        )
    return [home[row.utterance.id] for row in rows]


@dataclass(frozen=True, slots=True)
class Speakers:
    """Indices of rows by what their speakers are for.

    Args:
        adapt: Trained on.
        dev: Stop training, and choose.
        evaluation: Never seen before the end.
        counts: Speakers of each part, in the cohorts that are mended and in the others.
    """

    adapt: tuple[int, ...]
    dev: tuple[int, ...]
    evaluation: tuple[int, ...]
    counts: Mapping[str, Mapping[str, int]]


def deal_speakers(
    rows: Sequence[Row],
    cohorts: Sequence[int],
    targets: Sequence[int],
    config: MitigateConfig,
    *,
    seed: int,
) -> Speakers:
    """Deal speakers into parts, each cohort's evenly.

    Args:
        rows: Of the results.
        cohorts: Of each row.
        targets: Cohorts that are mended.
        config: `folds`, `fold`, `dev_share`, `least_speakers`.
        seed: Of the order of speakers.

    Raises:
        ConfigError: There are too few.
    """
    home: dict[str, int] = {}
    for row, cohort in zip(rows, cohorts, strict=True):
        home.setdefault(row.utterance.speaker or "", cohort)

    def order(speaker: str) -> tuple[bool, int, bytes]:
        key = hashlib.blake2b(f"{seed}:{speaker}".encode(), digest_size=8).digest()
        return home[speaker] not in targets, home[speaker], key

    part_of: dict[str, str] = {}
    trained = {True: 0, False: 0}
    for place, speaker in enumerate(sorted(home, key=order)):
        if place % config.folds == config.fold:
            part_of[speaker] = "evaluation"
            continue
        is_target = home[speaker] in targets
        n, share = trained[is_target], config.dev_share
        # Starts with half a share, so that the first development speaker comes early.
        is_dev = int((n + 1.5) * share + 0.5) > int((n + 0.5) * share + 0.5)
        part_of[speaker] = "dev" if is_dev else "adapt"
        trained[is_target] += 1
    counts: dict[str, dict[str, int]] = {}
    for label, wanted in (("target", True), ("rest", False)):
        inside = [s for s in home if (home[s] in targets) == wanted]
        counts[label] = {
            part: sum(part_of[s] == part for s in inside) for part in ("adapt", "dev", "evaluation")
        }
        name = "the cohorts that are mended" if wanted else "the others"
        least = {"adapt": 2, "dev": 1, "evaluation": 1}
        if len(inside) < config.least_speakers or any(
            counts[label][part] < number for part, number in least.items()
        ):
            dealt = ", ".join(f"{number} to {part}" for part, number in counts[label].items())
            raise ConfigError(
                f"mitigate: {name} have {len(inside)} speakers ({dealt}); there must be at least "
                f"{config.least_speakers} (mitigate.least_speakers), of them 2 to adapt, 1 for "
                "development and 1 to evaluate. Record more, or mend more cohorts at once "
                "(mitigate.top)."
            )
    parts: dict[str, list[int]] = {"adapt": [], "dev": [], "evaluation": []}
    for n, row in enumerate(rows):
        parts[part_of[row.utterance.speaker or ""]].append(n)
    return Speakers(tuple(parts["adapt"]), tuple(parts["dev"]), tuple(parts["evaluation"]), counts)


def general_rows(path: Path, *, heard: Iterable[str]) -> list[Row]:
    """Utterances that shall not be forgotten, from a manifest.

    Args:
        path: Any manifest of the package.
        heard: Speakers that evaluate or choose: their utterances are left out.

    Raises:
        ManifestError: It cannot be read, its sound is absent, or nothing is left.
    """
    kept_out = frozenset(heard)
    utterances = read_manifest(path)
    absent = [u.id for u in utterances if not u.audio.is_file()]
    if absent:
        raise ManifestError(
            path,
            f"the sound of {len(absent)} of {len(utterances)} utterances is not there: "
            f"{_some(absent)}",
            remedy="Bring the files back, or take these lines out",
        )
    rows = [
        Row(number, utterance, None, {})
        for number, utterance in enumerate(utterances, start=1)
        if utterance.text and utterance.speaker not in kept_out
    ]
    if not rows:
        raise ManifestError(
            path,
            f"none of {len(utterances)} utterances has a transcript and a speaker who does not "
            "evaluate",
            remedy="Name other general data with --general, or none",
        )
    return rows


def trainable(row: Row, pieces: int) -> bool:
    """Whether an utterance can be trained on: 0.2 s to 17 s, spoken no faster than is learnable."""
    seconds = _duration_s(row.utterance)
    return SHORTEST_S <= seconds <= LONGEST_S and pieces <= _PIECES_A_FRAME * seconds / 0.04


def _duration_s(utterance: Utterance) -> float:
    if utterance.duration_s:
        return utterance.duration_s
    info = soundfile.info(str(utterance.audio))
    return float(info.frames / info.samplerate) - (utterance.offset_s or 0.0)


def training_cut(row: Row, cohort: int, folder: Path) -> dict[str, Any]:
    """A Lhotse cut of an utterance, whose kind is its cohort.

    Args:
        row: The utterance.
        cohort: Its cohort, or -1.
        folder: Gets a copy at 16 kHz of sound that has another rate, more channels or a container
            that cannot be cut.
    """
    utterance = row.utterance
    info = soundfile.info(str(utterance.audio))
    path, start_s = utterance.audio, utterance.offset_s or 0.0
    duration_s = _duration_s(utterance)
    plain = info.format in ("WAV", "FLAC", "WAVEX")
    if info.samplerate != SAMPLE_RATE_HZ or info.channels != 1 or not plain:
        key = f"{utterance.audio.resolve()}:{start_s}:{duration_s}:{info.frames}"
        path = folder / f"{hashlib.blake2b(key.encode(), digest_size=10).hexdigest()}.wav"
        if not path.is_file():
            samples = read_audio(
                str(utterance.audio), offset_s=start_s, duration_s=utterance.duration_s
            )
            write_wav(path, samples)
        start_s = 0.0
        duration_s = soundfile.info(str(path)).frames / SAMPLE_RATE_HZ
    cut = file_cut(
        utterance.id,
        path,
        soundfile.info(str(path)).frames,
        text=utterance.text or "",
        speaker=utterance.speaker or "",
        custom={"kind": str(cohort)},
    )
    if start_s or cut["duration"] > duration_s + 1 / SAMPLE_RATE_HZ:
        cut |= {"start": start_s, "duration": duration_s}
        cut["supervisions"][0]["duration"] = duration_s
    return cut
