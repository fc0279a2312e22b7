"""Two recognisers on the same utterances, cohort by cohort.

Speakers are resampled for both at once, so that what is hard for both cancels. Cohorts come
from the discoveries on the first; where those used up half of the speakers, only the other half
is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from earshot.audit.config import AuditConfig
from earshot.audit.discovery import Discovery
from earshot.audit.geodemographic import Census
from earshot.audit.intervals import bootstrap_difference, difference, holm, summed
from earshot.audit.results import Bools, Results, exclusion
from earshot.audit.run import Audit, run_audit
from earshot.core.errors import ResultsError, ResultsProblem

FORMAT = "earshot-comparison-1"


@dataclass(slots=True, kw_only=True)
class Change:
    """How a cohort fares with both.

    Args:
        name: Of the cohort.
        rule: What puts an utterance into it.
        n_speakers: Speakers compared.
        n_words: Their reference words.
        wer_a: Rate of the first.
        wer_b: Rate of the second.
        change: `wer_b` minus `wer_a`.
        ci_low: Lower end of its interval; None where there is none.
        ci_high: Upper end.
        p_value: Two-sided, of no change.
        p_adjusted: Adjusted for all cohorts of the comparison (Holm).
    """

    name: str
    rule: str
    n_speakers: int
    n_words: int
    wer_a: float
    wer_b: float
    change: float
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    p_adjusted: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes.

    Args:
        first: Audit of the first.
        second: Audit of the second, over the same utterances.
        overall: Everybody.
        cohorts: By discovery of the first.
    """

    first: Audit
    second: Audit
    overall: Change
    cohorts: tuple[tuple[Discovery, tuple[Change, ...]], ...]

    def as_dict(self) -> dict[str, object]:
        """As JSON."""
        gaps = {
            side: {d.method: d.gap.value for d in audit.discoveries if d.gap is not None}
            for side, audit in (("a", self.first), ("b", self.second))
        }
        return {
            "format": FORMAT,
            "a": self.first.results.source,
            "b": self.second.results.source,
            "overall": asdict(self.overall),
            "discoveries": [
                {
                    "method": discovery.method,
                    "wer_gap_a": gaps["a"].get(discovery.method),
                    "wer_gap_b": gaps["b"].get(discovery.method),
                    "cohorts": [asdict(change) for change in changes],
                }
                for discovery, changes in self.cohorts
            ],
            "exclusions": [each.as_dict() for each in self.first.results.exclusions],
            "text": self.first.results.text_form,
            "settings": asdict(self.first.config),
        }


def compare(
    first: Results,
    second: Results,
    *,
    config: AuditConfig | None = None,
    census: Census | None = None,
    progress: Callable[[str, float, float], None] | None = None,
) -> Comparison:
    """Compare two recognisers on the utterances that both have.

    Args:
        first: Results of one; its columns make the cohorts.
        second: Results of the other, matched by id.
        config: Settings of the discoveries.
        census: For the geodemographic discovery.
        progress: As for `run_audit`.

    Returns:
        The changes, and both audits.

    Raises:
        ResultsError: No id is in both, or an id has different references.
    """
    config = config or AuditConfig()
    first, errors_b, counts_b = _matched(first, second)
    audit = run_audit(first, config=config, census=census, progress=progress)
    other = replace(audit.results, counts=counts_b, source=second.source, texts=None)
    second_audit = run_audit(other, config=config, census=census)
    everybody = np.ones(len(first), bool)
    overall = _change("everybody", "all utterances", everybody, first, errors_b, config)
    found = []
    for discovery in audit.discoveries:
        changes = []
        for cohort in discovery.cohorts:
            rows = audit.members(discovery, cohort) & _measured(discovery, first, config)
            changes.append(_change(cohort.name, cohort.rule, rows, first, errors_b, config))
        found.append((discovery, tuple(changes)))
    every = [change for _, changes in found for change in changes if change.p_value is not None]
    adjusted = holm(np.array([change.p_value for change in every], np.float64))
    for change, value in zip(every, adjusted.tolist(), strict=True):
        change.p_adjusted = value
    return Comparison(audit, second_audit, overall, tuple(found))


def _measured(discovery: Discovery, results: Results, config: AuditConfig) -> Bools:
    from earshot.audit.cohorts import halves

    if discovery.method in ("regions", "geodemographic") and config.honest:
        report: Bools = ~halves(results.num_units, config.seed)[results.unit_codes]
        return report
    return np.ones(len(results), bool)


def _matched(first: Results, second: Results) -> tuple[Results, np.ndarray, np.ndarray]:
    """The first, cut to ids that both have, and errors and counts of the second in its order."""
    row_of = {name: at for at, name in enumerate(second.ids)}
    there = np.array([row_of.get(name, -1) for name in first.ids], np.int64)
    keep = there >= 0
    if not keep.any():
        raise ResultsError(
            [
                ResultsProblem(
                    second.source,
                    f"none of its {len(second)} ids is among the {len(first)} of {first.source}",
                    "give results on the same utterances",
                )
            ]
        )
    excluded = list(first.exclusions)
    if not keep.all():
        excluded.append(
            exclusion(f"the id is not in {second.source}", "everything", first.lines[~keep])
        )
    only_second = len(second) - int(keep.sum())
    remarks = list(first.remarks)
    if only_second:
        remarks.append(f"{only_second} ids of {second.source} are not in {first.source}.")
    wrong = keep & (first.words != second.words[np.maximum(there, 0)])
    if wrong.any():
        raise ResultsError(
            [
                ResultsProblem(
                    f"{first.source}:{first.lines[at]}",
                    f"'{first.ids[at]}' has {first.words[at]} reference words here and "
                    f"{second.words[there[at]]} in {second.source}",
                    "compare results on the same references",
                )
                for at in np.flatnonzero(wrong).tolist()
            ]
        )
    cut = first if keep.all() else _cut(first, keep)
    cut = replace(cut, exclusions=tuple(excluded), remarks=tuple(remarks))
    counts = second.counts[there[keep]]
    return cut, counts[:, 1:].sum(axis=1, dtype=np.int64), counts


def _cut(results: Results, keep: Bools) -> Results:
    """Fewer utterances; speakers and groups keep their numbers."""
    from earshot.audit.results import Embeddings, Labels

    def labels(column: Labels | None) -> Labels | None:
        return None if column is None else Labels(column.codes[keep], column.names)

    def floats(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[keep]

    kept = np.flatnonzero(keep).tolist()
    voices = results.embeddings
    speakers = labels(results.speakers)
    if speakers is not None:
        used, codes = np.unique(speakers.codes, return_inverse=True)
        speakers = Labels(codes.astype(np.int32), [speakers.names[at] for at in used])
    return replace(
        results,
        lines=results.lines[keep],
        ids=[results.ids[at] for at in kept],
        counts=results.counts[keep],
        speakers=speakers,
        groups={name: Labels(c.codes[keep], c.names) for name, c in results.groups.items()},
        lat=floats(results.lat),
        lon=floats(results.lon),
        zips=labels(results.zips),
        embeddings=None
        if voices is None
        else Embeddings(voices.index[keep], voices.vectors, voices.source),
        audio=None if results.audio is None else [results.audio[at] for at in kept],
        offset_s=floats(results.offset_s),
        duration_s=floats(results.duration_s),
        texts=None,
    )


def _change(
    name: str,
    rule: str,
    rows: Bools,
    first: Results,
    errors_b: np.ndarray,
    config: AuditConfig,
) -> Change:
    units = first.unit_codes[rows]
    if first.num_units < 2:
        units = np.arange(len(units))
    everyone, inverse = np.unique(units, return_inverse=True)
    size = len(everyone)
    e_a = summed(first.errors[rows].astype(np.float64), inverse, size)
    e_b = summed(errors_b[rows].astype(np.float64), inverse, size)
    words = summed(first.words[rows].astype(np.float64), inverse, size)
    found = difference(e_b, e_a, words, level=config.level)
    low, high = found.low, found.high
    if config.interval == "bootstrap" and len(words) > 1:
        low, high = bootstrap_difference(
            e_b, e_a, words, level=config.level, resamples=config.resamples, seed=config.seed
        )
    return Change(
        name=name,
        rule=rule,
        n_speakers=len(words),
        n_words=int(words.sum()),
        wer_a=float(e_a.sum() / words.sum()),
        wer_b=float(e_b.sum() / words.sum()),
        change=found.value,
        ci_low=None if np.isnan(low) else low,
        ci_high=None if np.isnan(high) else high,
        p_value=None if np.isnan(found.p_value) else found.p_value,
    )
