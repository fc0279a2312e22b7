"""An audit from results to figures: overall, discoveries, and what they mean together.

Knows the JSON of a report; knows nothing of files and of how a report looks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from earshot.audit.clusters import discover_clusters
from earshot.audit.cohorts import Cohort, adjust, finite
from earshot.audit.config import AuditConfig
from earshot.audit.discovery import Discovery
from earshot.audit.geodemographic import Census, discover_geodemographic
from earshot.audit.groups import discover_groups
from earshot.audit.intervals import bootstrap_intervals, intervals, rates
from earshot.audit.regions import discover_regions
from earshot.audit.results import Results, cells

FORMAT = "earshot-audit-1"
FEW_SPEAKERS = 20  # under this, a report says that it cannot speak for a population

Progress = Callable[[str, float, float], None]


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Args:
        results: What was audited; rows left out by discoveries are among its exclusions.
        config: The settings.
        overall: Everybody together.
        interval_over: What `overall`'s interval resamples: "speaker" or "utterance".
        discoveries: In the order of `config.METHODS`.
        num_tests: Hypotheses that p-values were adjusted for.
        skipped: Discoveries that were not made, with the reason.
        warnings: What limits the whole report.
    """

    results: Results
    config: AuditConfig
    overall: Cohort
    interval_over: str
    discoveries: tuple[Discovery, ...]
    num_tests: int
    skipped: dict[str, str]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """The report's JSON."""
        results = self.results
        return {
            "format": FORMAT,
            "source": results.source,
            "overall": {
                **{
                    name: getattr(self.overall, name)
                    for name in (
                        "wer",
                        "ci_low",
                        "ci_high",
                        "n_speakers",
                        "n_words",
                        "n_utterances",
                        "substitutions",
                        "deletions",
                        "insertions",
                    )
                },
                "interval_over": self.interval_over,
            },
            "discoveries": [_discovery_dict(discovery) for discovery in self.discoveries],
            "table": self.table(),
            "skipped": self.skipped,
            "num_tests": self.num_tests,
            "text": results.text_form,
            "rows": {
                "read": results.num_rows,
                "scored": len(results),
                "exclusions": [each.as_dict() for each in results.exclusions],
            },
            "columns_left_out": dict(results.left_out_columns),
            "warnings": list(self.warnings),
            "remarks": list(results.remarks),
            "settings": asdict(self.config),
        }

    def table(self) -> list[dict[str, object]]:
        """Gap and bottom share of every discovery, one row each."""
        return [
            {
                "method": each.method,
                "wer_gap": finite(each.gap.value),
                "wer_gap_low": each.gap.low,
                "wer_gap_high": each.gap.high,
                "held_out": each.gap.held_out,
                "bottom_share": each.bottom_share,
                "bottom": each.bottom_names(),
                "top": each.top_names(),
            }
            for each in self.discoveries
            if each.gap is not None
        ]

    def worse(self) -> list[tuple[Discovery, Cohort]]:
        """Cohorts that are worse than the rest, worst first."""
        found = [(d, c) for d in self.discoveries for c in d.cohorts if c.is_worse]
        return sorted(found, key=lambda each: -each[1].wer)

    def members(self, discovery: Discovery, cohort: Cohort) -> npt.NDArray[np.bool_]:
        """(N,) which utterances a cohort holds, also those that were not measured."""
        partition = discovery.partitions[cohort.column]
        found: npt.NDArray[np.bool_] = (partition.codes == cohort.index)[partition.cells.of_row]
        return found


def _discovery_dict(discovery: Discovery) -> dict[str, object]:
    gap = discovery.gap
    return {
        "method": discovery.method,
        "wer_gap": None if gap is None else finite(gap.value),
        "wer_gap_low": None if gap is None else gap.low,
        "wer_gap_high": None if gap is None else gap.high,
        "wer_gap_p_value": None if gap is None else gap.p_value,
        "wer_gap_held_out": None if gap is None else gap.held_out,
        "wer_gap_selected": None if gap is None else finite(gap.selected),
        "bottom_share": discovery.bottom_share,
        "bottom": discovery.bottom_names(),
        "top": discovery.top_names(),
        "how": discovery.how,
        "stability": discovery.stability,
        "cohorts": [cohort.as_dict() for cohort in discovery.cohorts],
        "too_small": [asdict(small) for small in discovery.small],
        **discovery.extra,
    }


def run_audit(
    results: Results,
    *,
    config: AuditConfig | None = None,
    census: Census | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Measure a recogniser's results, and find cohorts that it fails.

    Args:
        results: From `reading.read_results`.
        config: Settings.
        census: Attributes of ZIP codes, for the geodemographic discovery.
        progress: Called with a stage, how much is done, and how much there is.

    Returns:
        The audit. Under one seed it is always the same.

    Raises:
        ConfigError: A group that was asked for cannot be used.
        MissingExtraError: scipy or scikit-learn is not installed.
    """
    config = config or AuditConfig()
    said = progress or (lambda stage, done, total: None)
    overall, interval_over = _overall(results, config)
    found: list[Discovery] = []
    skipped: dict[str, str] = {}
    for step, method in enumerate(config.methods):
        said("discovering", step, len(config.methods))
        discovery: Discovery | None
        if method == "groups":
            discovery = discover_groups(results, config)
            reason = "there is no column of groups"
        elif method == "regions":
            discovery = discover_regions(results, config)
            reason = "there are no latitudes and longitudes"
        elif method == "geodemographic":
            discovery, reason = None, "it needs ZIP codes and a census table (`--census FILE`)"
            if census is not None:
                discovery, results = discover_geodemographic(results, census, config)
                reason = (
                    "there are no ZIP codes"
                    if results.zips is None
                    else "no partition of an attribute has two sides of enough speakers"
                )
        else:
            discovery = discover_clusters(results, config)
            reason = (
                "there are no embeddings"
                if results.embeddings is None
                else "there are too few speakers with embeddings"
            )
        if discovery is None:
            skipped[method] = reason
        else:
            found.append(discovery)
    for discovery in found:
        for cohort in discovery.cohorts:
            # Both sides of a test share a name only within one discovery.
            cohort.hypothesis = f"{discovery.method}\0{cohort.hypothesis}"
    num_tests = adjust([c for d in found for c in d.cohorts], config.false_alarms)
    said("discovering", len(config.methods), len(config.methods))
    return Audit(
        results,
        config,
        overall,
        interval_over,
        tuple(found),
        num_tests,
        skipped,
        _warnings(results, interval_over),
    )


def _overall(results: Results, config: AuditConfig) -> tuple[Cohort, str]:
    base = cells(results, [])
    unit, errors, words = base.unit, base.errors, base.words
    interval_over = results.unit
    if results.num_units < 2:  # one speaker: what can be said is said about the utterances
        unit = np.arange(len(results))
        errors, words = results.errors.astype(np.float64), results.words.astype(np.float64)
        interval_over = "utterance"
    together = np.zeros(len(unit), np.int64)
    found = rates(errors, words, together, 1)
    low, high = intervals(found, level=config.level)
    if config.interval == "bootstrap":
        low, high = bootstrap_intervals(
            errors,
            words,
            together,
            1,
            level=config.level,
            resamples=config.resamples,
            seed=config.seed,
        )
    kinds = results.counts.sum(axis=0, dtype=np.int64) / found.words[0]
    return (
        Cohort(
            name="everybody",
            rule="all utterances",
            n_speakers=results.num_units,
            n_utterances=len(results),
            n_words=int(found.words[0]),
            wer=float(found.rate[0]),
            ci_low=float(low[0]) if np.isfinite(low[0]) else None,
            ci_high=float(high[0]) if np.isfinite(high[0]) else None,
            substitutions=float(kinds[1]),
            deletions=float(kinds[2]),
            insertions=float(kinds[3]),
        ),
        interval_over,
    )


def _warnings(results: Results, interval_over: str) -> tuple[str, ...]:
    found = []
    if results.speakers is None:
        found.append(
            "The file does not say who speaks, so utterances take the place of speakers: "
            "intervals are too narrow where speakers have several, and say nothing about "
            "other speakers."
        )
    elif interval_over == "utterance":
        found.append(
            "There is one speaker: the interval is over utterances and says nothing about other "
            "speakers, and there are no cohorts to compare."
        )
    elif results.num_units < FEW_SPEAKERS:
        found.append(
            f"There are {results.num_units} speakers: too few to speak for any population."
        )
    return tuple(found)


def write_members(audit: Audit, file: BinaryIO) -> None:
    """Write which cohorts each utterance is in, one JSON object a line.

    `{"id", "line", "speaker", "cohorts": {method: [names]}, "bottom": [methods]}`; `bottom`
    names the discoveries whose bottom cohort the utterance is in.

    Args:
        audit: N utterances.
        file: Gets N lines.
    """
    results = audit.results
    kind, endings = _memberships(audit)
    speakers = results.speakers
    names = None if speakers is None else [json.dumps(name) for name in speakers.names]
    kinds, lines = kind.tolist(), results.lines.tolist()
    codes = [] if speakers is None else speakers.codes.tolist()
    block: list[str] = []
    for at, name in enumerate(results.ids):
        who = "" if names is None else f'"speaker": {names[codes[at]]}, '
        block.append(
            f'{{"id": {json.dumps(name)}, "line": {lines[at]}, {who}{endings[kinds[at]]}}}\n'
        )
        if len(block) == 50_000:
            file.write("".join(block).encode())
            block.clear()
    file.write("".join(block).encode())


def _memberships(audit: Audit) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Utterances by what they are members of, and what that is: the rest of their JSON object."""
    columns: list[tuple[str, list[str | None], npt.NDArray[np.int64]]] = []
    for discovery in audit.discoveries:
        for column, partition in discovery.partitions.items():
            measured = {c.index: c.name for c in discovery.cohorts if c.column == column}
            if measured:
                names = [measured.get(at) for at in range(len(partition.names))]
                columns.append(
                    (discovery.method, [*names, None], partition.codes[partition.cells.of_row])
                )
    bottoms = []
    for discovery in audit.discoveries:
        if discovery.pair is not None:
            partition = discovery.pair.partition
            inside = np.isin(partition.codes, discovery.pair.bottom)[partition.cells.of_row]
            bottoms.append((discovery.method, inside))
    kind = np.zeros(len(audit.results), np.int64)
    first = np.zeros(1, np.int64)
    for codes in (*(each[2] for each in columns), *(inside for _, inside in bottoms)):
        values = codes.astype(np.int64) + 1
        _, first, kind = np.unique(
            kind * (int(values.max()) + 1) + values, return_index=True, return_inverse=True
        )
    endings = []
    for row in first.tolist():
        cohorts: dict[str, list[str]] = {}
        for method, names, codes in columns:
            name = names[codes[row]]
            if name is not None:
                cohorts.setdefault(method, []).append(name)
        worst = [method for method, inside in bottoms if inside[row]]
        endings.append(json.dumps({"cohorts": cohorts, "bottom": worst})[1:-1])
    return kind, endings


def mitigation_command(report: Path) -> str:
    """The command that fine-tunes a model on the worst cohorts of a report."""
    import shlex

    return f"earshot train mitigate {shlex.quote(str(report))}"
