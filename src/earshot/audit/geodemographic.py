"""Geodemographic cohorts: the majority of a ZIP code's people stands for the speaker.

That is a guess about persons made from where they live, and reports say so. A census table
gives each ZIP code attributes; the binary partition of one of them with the largest gap in word
error rate is looked for on one half of the speakers and measured on the other.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from earshot.audit.cohorts import (
    Gap,
    Pair,
    Partition,
    gap_of,
    halves,
    measure,
    pair_ratio,
    relative_gap,
)
from earshot.audit.config import AuditConfig
from earshot.audit.discovery import Discovery, jaccard, share_of
from earshot.audit.intervals import rates
from earshot.audit.reading import zip_name
from earshot.audit.results import Bools, Labels, Results, banded, cells, exclusion
from earshot.core.errors import ResultsError, ResultsProblem

_ZIP_NAMES = ("zip", "zipcode", "zip_code", "zcta", "postcode", "postal_code")
_NOT_SHARES = ("population", "pop", "total", "households", "income", "age", "lat", "lon", "density")


@dataclass(frozen=True, slots=True)
class Census:
    """Attributes of ZIP codes.

    Args:
        zips: Row by ZIP code.
        attributes: Value of each row, by attribute.
        how: What each attribute is made of.
    """

    zips: dict[str, int]
    attributes: dict[str, Labels]
    how: dict[str, str]


def read_census(path: Path) -> Census:
    """Read a table of ZIP codes and attributes.

    The first line names columns. One is the ZIP code (`zip`, `zcta`, `zipcode`, ...). A column
    of texts is an attribute. Numeric columns named `attribute:category` give, row by row, the
    category with the largest number; so do two or more other numeric columns that look like
    counts or shares of groups. Any other numeric column is cut into bands at its quartiles.

    Args:
        path: CSV, may end in .gz.

    Returns:
        The attributes.

    Raises:
        ResultsError: The file cannot be read, has no ZIP column or no attribute, or has a ZIP
            code twice.
    """
    rows, header = _rows(path)
    lowered = [name.lower() for name in header]
    zip_at = next((lowered.index(name) for name in _ZIP_NAMES if name in lowered), None)
    if zip_at is None:
        raise _wrong(
            f"{path}:1", f"there is no column of ZIP codes in {', '.join(header)}", "name one `zip`"
        )
    zips: dict[str, int] = {}
    for at, (number, row) in enumerate(rows):
        name = zip_name(row[zip_at])
        if not name or name in zips:
            problem = f"the ZIP code '{name}' comes twice" if name else "the ZIP code is missing"
            raise _wrong(f"{path}:{number}", problem, "keep one row for each")
        zips[name] = at
    numeric: dict[str, np.ndarray] = {}
    attributes: dict[str, Labels] = {}
    how: dict[str, str] = {}
    for at, name in enumerate(header):
        if at == zip_at:
            continue
        values = [row[at].strip() for _, row in rows]
        numbers = _numbers(values)
        if numbers is not None:
            numeric[name] = numbers
            continue
        attributes[name] = _labels(values)
        how[name] = f"column '{name}' of the table"
    for attribute, members in _families(list(numeric)).items():
        shares = np.stack([numeric[name] for name in members], axis=1)
        known = np.isfinite(shares).any(axis=1)
        codes = np.full(len(rows), -1, np.int32)
        codes[known] = np.nanargmax(shares[known], axis=1)
        names = [name.partition(":")[2] or name for name in members]
        attributes[attribute] = Labels(codes, names)
        how[attribute] = f"the largest of {', '.join(names)} in the ZIP code"
        for name in members:
            del numeric[name]
    for name, numbers in numeric.items():
        values = ["" if np.isnan(number) else repr(float(number)) for number in numbers]
        attributes[name] = banded(_labels(values))
        how[name] = f"column '{name}' of the table, in bands"
    attributes = {name: labels for name, labels in attributes.items() if len(labels.names) > 1}
    if not attributes:
        raise _wrong(path, "no column tells ZIP codes apart", "add an attribute")
    return Census(zips, attributes, how)


def _rows(path: Path) -> tuple[list[tuple[int, list[str]]], list[str]]:
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8-sig", newline="") as file
        ):
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise _wrong(path, "there is no such file", "check the path") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as err:
        raise _wrong(path, f"it cannot be read ({err})", "it must be CSV in UTF-8") from None
    for number, row in rows:
        if len(row) != len(header):
            raise _wrong(
                f"{path}:{number}",
                f"it has {len(row)} fields; the header has {len(header)}",
                "repair the line",
            )
    return rows, header


def _wrong(where: Path | str, problem: str, remedy: str) -> ResultsError:
    return ResultsError([ResultsProblem(str(where), problem, remedy)])


def _numbers(values: list[str]) -> np.ndarray | None:
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None


def _labels(values: list[str]) -> Labels:
    table: dict[str, int] = {}
    codes = [table.setdefault(value, len(table)) if value else -1 for value in values]
    return Labels(np.array(codes, np.int32), list(table))


def _families(names: list[str]) -> dict[str, list[str]]:
    """Numeric columns whose largest names the majority."""
    found: dict[str, list[str]] = {}
    plain = []
    for name in names:
        attribute, colon, _ = name.partition(":")
        if colon:
            found.setdefault(attribute.strip(), []).append(name)
        elif not any(word in _NOT_SHARES for word in name.lower().replace("-", "_").split("_")):
            plain.append(name)
    if len(plain) > 1:
        found["majority"] = plain
    return found


# ---------------------------------------------------------------- as a discovery


def discover_geodemographic(
    results: Results, census: Census, config: AuditConfig
) -> tuple[Discovery | None, Results]:
    """Find the two-way partition of a ZIP attribute with the largest gap, and measure it.

    Args:
        results: With ZIP codes.
        census: Their attributes.
        config: Least sizes, honesty, seeds.

    Returns:
        The two cohorts, or None where no partition has two large enough sides; and the results
        with the rows counted whose ZIP code the table lacks.
    """
    if results.zips is None:
        return None, results
    row_of = np.array([census.zips.get(name, -1) for name in results.zips.names] + [-1], np.int64)
    row = row_of[results.zips.codes]
    missing = results.zips.codes < 0
    excluded = list(results.exclusions)
    for mask, reason in (
        (missing, "the ZIP code is missing"),
        (~missing & (row < 0), "the ZIP code is not in the census table"),
    ):
        if mask.any():
            excluded.append(exclusion(reason, "geodemographic", results.lines[mask].tolist()))
    results = replace(results, exclusions=tuple(excluded))
    columns = [np.append(labels.codes, -1)[row] for labels in census.attributes.values()]
    base = cells(results, columns)
    by_value = [
        Partition(base, base.codes[at], labels.names, labels.names, name)
        for at, (name, labels) in enumerate(census.attributes.items())
    ]
    first = halves(results.num_units, config.seed)
    discover = first if config.honest else np.ones_like(first)
    chosen = _best_split(by_value, discover, config)
    if chosen is None:
        return None, results
    partition, selected = chosen
    report = ~discover[base.unit] if config.honest else None
    pair = Pair(partition, (0,), (1,))
    cohorts, small = measure(partition, config, kept=report)
    measured = pair_ratio(pair, report) if len(cohorts) == 2 else None
    gap = None
    if measured is not None:
        value, low, high, p_value = gap_of([measured], config)
        gap = Gap(
            value,
            low,
            high,
            p_value,
            config.honest,
            relative_gap(selected, config.normaliser),
        )
    stability = None
    if config.num_seeds > 1 and config.honest:
        overlaps = []
        for step in range(1, config.num_seeds):
            other = _best_split(by_value, halves(results.num_units, config.seed + step), config)
            bottom = np.zeros(len(base.unit), bool) if other is None else other[0].codes == 0
            overlaps.append(jaccard(partition.codes == 0, bottom))
        stability = {"seeds": config.num_seeds, "jaccard": float(np.mean(overlaps))}
    name = partition.column
    half = (
        "on one half of the speakers and measured on the other"
        if config.honest
        else "and measured on the same speakers: its gap is too good to be true"
    )
    return (
        Discovery(
            method="geodemographic",
            cohorts=cohorts,
            small=small,
            partitions={name: partition},
            gap=gap,
            pair=pair if gap is not None else None,
            bottom_share=share_of(pair) if gap is not None else None,
            how=f"'{name}' is {census.how[name]}. Among all two-way partitions of "
            f"{len(by_value)} attributes this one had the largest gap; it was chosen {half}.",
            stability=stability,
            extra={"attribute": name},
        ),
        results,
    )


def _best_split(
    by_value: list[Partition], units: Bools, config: AuditConfig
) -> tuple[Partition, float] | None:
    """The worst values of an attribute against its others, where the gap is largest.

    For any number of values on the worse side the largest gap has the worst ones there, so only the
    orders by rate need be looked at.

    Returns:
        A partition with the worse side as cohort 0, and the logarithm of its ratio as it was
        chosen.
    """
    best: tuple[float, Partition] | None = None
    for attribute in by_value:
        kept = units[attribute.cells.unit]
        errors, words, codes, _ = attribute.sums(kept)
        found = rates(errors, words, codes, len(attribute.names))
        order = [int(at) for at in np.argsort(-found.rate, kind="stable") if found.words[at] > 0]
        for cut in range(1, len(order)):
            worse, better = order[:cut], order[cut:]
            sides = [(found.speakers[s].sum(), found.words[s].sum()) for s in (worse, better)]
            if any(n < config.min_speakers or w < config.min_words for n, w in sides):
                continue
            rate = [found.errors[s].sum() / found.words[s].sum() for s in (worse, better)]
            if rate[1] <= 0:
                continue
            log_ratio = float(np.log(rate[0] / rate[1])) if rate[0] > 0 else -np.inf
            if best is None or log_ratio > best[0]:
                best = (log_ratio, _two_way(attribute, worse))
    return None if best is None else (best[1], best[0])


def _two_way(attribute: Partition, worse: list[int]) -> Partition:
    side = np.ones(len(attribute.names) + 1, np.int64)
    side[worse] = 0
    side[-1] = -1
    inside = sorted(attribute.names[at] for at in worse)
    others = sorted(name for at, name in enumerate(attribute.names) if at not in worse)
    names = [" or ".join(part) for part in (inside, others)]
    if len(others) > 3:
        names[1] = "all others"
    return Partition(
        attribute.cells,
        side[attribute.codes],
        [f"{attribute.column}: {name}" for name in names],
        [f"{attribute.column} of the ZIP code is {' or '.join(part)}" for part in (inside, others)],
        attribute.column,
    )
