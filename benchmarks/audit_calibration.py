"""Whether an audit's intervals and tests hold, on planted speech where the truth is known.

Three tables: how often intervals of 95 % hold the true rate of few speakers, for the audit's own
and for bootstraps; false alarms where nothing is planted; and regions, found honestly and by a
raw-gap tree that is measured on the speakers who grew it. Knows nothing of files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from earshot.audit.cohorts import adjust
from earshot.audit.config import AuditConfig
from earshot.audit.discovery import adjusted_rand
from earshot.audit.geodemographic import Census, discover_geodemographic
from earshot.audit.groups import discover_groups
from earshot.audit.intervals import bootstrap_intervals, intervals, rates
from earshot.audit.regions import discover_regions, region_bounds
from earshot.audit.results import Labels
from earshot.audit.simulate import NULL, Planted, World, as_results, census_of, plant, region_of

HONEST = AuditConfig(num_seeds=1)
RAW = AuditConfig(num_seeds=1, criterion="gap", honest=False, prune=False)
TRUTH = 0.15
SPREADS = {"alike": 0.2, "unlike": 0.6}  # standard deviation of the logarithm of rates
REGIONS = World(utterances=4, zip_wer=None, cluster_wer=None, group_wer=None)


def few_speakers(rng: np.random.Generator, runs: int, size: int, kind: str) -> Any:
    """Errors and words, (runs, size) each, of speakers whose expected rate is TRUTH."""
    spread = SPREADS[kind]
    rate = TRUTH * np.exp(rng.normal(-(spread**2) / 2, spread, (runs, size)))
    words = 1 + rng.poisson(np.exp(rng.normal(4.5, 0.7, (runs, size))))
    return rng.poisson(rate * words).astype(float), words.astype(float)


def covered(
    errors: np.ndarray, words: np.ndarray, method: str, *, resamples: int = 400
) -> np.ndarray:
    """(runs,) whether each interval of 95 % holds TRUTH."""
    runs, size = errors.shape
    run = np.repeat(np.arange(runs), size)
    if method == "t":
        low, high = intervals(rates(errors.ravel(), words.ravel(), run, runs))
    elif method == "studentised bootstrap":
        low, high = bootstrap_intervals(
            errors.ravel(), words.ravel(), run, runs, resamples=resamples
        )
    else:
        rng = np.random.default_rng(1)
        draws = rng.multinomial(size, np.full(size, 1 / size), size=(runs, resamples))
        drawn = np.einsum("rbs,rs->rb", draws, errors) / np.einsum("rbs,rs->rb", draws, words)
        low, high = np.percentile(drawn, [2.5, 97.5], axis=1)
    return np.asarray((low <= TRUTH) & (high >= TRUTH))


def census(planted: Planted) -> Census:
    """The simulator's census as a table."""
    names, shares = census_of(planted)
    codes = np.argmax(shares, axis=1).astype(np.int32)
    return Census(
        {f"{10000 + at}": at for at in range(len(shares))},
        {"background": Labels(codes, names)},
        {"background": "the largest of a, b, c"},
    )


def false_alarms(runs: int, config: AuditConfig, speakers: int) -> Iterator[bool]:
    """Whether a report of groups, regions and ZIP codes calls any cohort worse; nothing is."""
    for seed in range(runs):
        planted = plant(replace(NULL, speakers=speakers, utterances=4, seed=seed))
        results, settings = as_results(planted), replace(config, seed=seed)
        found = [
            discover_groups(results, settings),
            discover_regions(results, settings),
            discover_geodemographic(results, census(planted), settings)[0],
        ]
        cohorts = []
        for discovery in found:
            for cohort in discovery.cohorts if discovery is not None else ():
                cohort.hypothesis = f"{discovery.method} {cohort.hypothesis}"  # type: ignore[union-attr]
                cohorts.append(cohort)
        adjust(cohorts, settings.false_alarms)
        yield any(cohort.is_worse for cohort in cohorts)


def true_rate(box: tuple[float, float, float, float]) -> float:
    """Rate of a rectangle of the map, speakers being spread evenly: means over a fine grid."""
    south, north, west, east = box
    lat = np.linspace(max(south, 38.0), min(north, 56.0), 401)
    lon = np.linspace(max(west, -20.0), min(east, 10.0), 401)
    grid = np.meshgrid((lat[1:] + lat[:-1]) / 2, (lon[1:] + lon[:-1]) / 2, indexing="ij")
    return float(np.array(REGIONS.region_wer)[region_of(grid[0], grid[1])].mean())


def planted_regions(
    runs: int, config: AuditConfig, speakers: int
) -> Iterator[tuple[bool | None, float]]:
    """Does the interval of the region that looked worst hold its rate, and is the tree right?

    Yields:
        True or False, None where that region was too small to measure; and the adjusted Rand
        index of the tree with the planted regions.
    """
    for seed in range(runs):
        planted = plant(replace(REGIONS, speakers=speakers, seed=seed))
        found = discover_regions(as_results(planted), replace(config, seed=seed))
        assert found is not None
        partition = found.partitions["region"]
        alike = adjusted_rand(partition.codes, planted.region[partition.cells.unit])
        worst = next((cohort for cohort in found.cohorts if cohort.index == 0), None)
        if worst is None or worst.ci_low is None or worst.ci_high is None:
            yield None, alike
        else:
            yield worst.ci_low <= true_rate(region_bounds(found, 0)) <= worst.ci_high, alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--raw-runs", type=int, default=200, help="of the tree that fails")
    parser.add_argument("--speakers", type=int, default=400, help="in the tables of whole audits")
    options = parser.parse_args()
    runs, figures = options.runs, {}
    print(f"intervals of 95 %, {runs} runs: share that holds the true rate, %")
    for kind in SPREADS:
        for size in (5, 8, 12, 20, 40):
            errors, words = few_speakers(np.random.default_rng(size), runs, size, kind)
            row = {
                method: float(covered(errors, words, method).mean())
                for method in ("t", "studentised bootstrap", "percentile bootstrap")
            }
            figures[f"{kind}, {size} speakers"] = row
            cells = ", ".join(f"{name} {100 * share:.1f}" for name, share in row.items())
            print(f"  speakers {kind}, {size}: {cells}", flush=True)
    for name, config, times in (("honest", HONEST, runs), ("raw gap", RAW, options.raw_runs)):
        alarms = list(false_alarms(times, config, options.speakers))
        found = list(planted_regions(times, config, options.speakers))
        held = [hit for hit, _ in found if hit is not None]
        row = {
            "false alarms": sum(alarms) / times,
            "intervals of the worst region that hold": float(np.mean(held)),
            "runs with such an interval": len(held) / times,
            "adjusted Rand": float(np.mean([alike for _, alike in found])),
        }
        figures[name] = row
        print(
            f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()), flush=True
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
