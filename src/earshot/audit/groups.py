"""Cohorts that the file gives: its columns, and their intersections.

They were made without looking at errors, so all speakers may be measured.
"""

from __future__ import annotations

import itertools

import numpy as np

from earshot.audit.cohorts import Partition, measure
from earshot.audit.config import AuditConfig
from earshot.audit.discovery import Discovery, chooser, cross_fitted, share_of
from earshot.audit.results import Cells, Results, cells
from earshot.core.errors import ConfigError

MAX_CROSSED_COLUMNS = 12  # 66 pairs: more would bury what there is to see
MAX_CROSSED_VALUES = 40  # columns with more values leave nothing of a crossing but crumbs


def discover_groups(results: Results, config: AuditConfig) -> Discovery | None:
    """Measure the given groups and their intersections.

    Args:
        results: With at least one group column.
        config: Which columns, how many are crossed, least sizes.

    Returns:
        The cohorts, or None where there are no groups.

    Raises:
        ConfigError: A column that was asked for is no group.
    """
    names = list(config.groups) or list(results.groups)
    for name in names:
        if name not in results.groups:
            why = results.left_out_columns.get(name)
            raise ConfigError(
                f"groups: '{name}' cannot be used"
                + (f": {why}." if why else f"; groups are {', '.join(results.groups) or 'none'}.")
            )
    if not names:
        return None
    columns = [results.groups[name] for name in names]
    base = cells(results, [column.codes for column in columns])
    given = [
        Partition(
            base,
            base.codes[at],
            [f"{name}={value}" for value in column.names],
            [f"{name} is {value}" for value in column.names],
            name,
        )
        for at, (name, column) in enumerate(zip(names, columns, strict=True))
    ]
    few = [part for part in given if len(part.names) <= MAX_CROSSED_VALUES][:MAX_CROSSED_COLUMNS]
    crossed = [
        _crossed(base, list(parts))
        for depth in range(2, config.intersections + 1)
        for parts in itertools.combinations(few, depth)
    ]
    not_crossed = (
        [part.column for part in given if all(part is not other for other in few)]
        if crossed
        else []
    )
    cohorts, small = [], []
    for at, partition in enumerate((*given, *crossed)):
        measured, too_small = measure(partition, config)
        cohorts += measured
        if at < len(given):  # of intersections only those that are large enough are worth a line
            small += too_small
    cohorts.sort(key=lambda cohort: (-cohort.wer, cohort.name))
    found = cross_fitted(chooser(given, config), config, results.num_units)
    how = "Groups are the columns of the file" + (
        f" and their intersections of up to {config.intersections} columns." if crossed else "."
    )
    if not_crossed:
        how += f" Not crossed, for their many values or as one too many: {', '.join(not_crossed)}."
    return Discovery(
        method="groups",
        cohorts=cohorts,
        small=small,
        partitions={partition.column: partition for partition in (*given, *crossed)},
        gap=None if found is None else found[0],
        pair=None if found is None else found[1],
        bottom_share=None if found is None else share_of(found[1]),
        how=how,
    )


def _crossed(base: Cells, parts: list[Partition]) -> Partition:
    key = np.zeros(len(base.unit), np.int64)
    known = np.ones(len(base.unit), bool)
    for part in parts:
        known &= part.codes >= 0
        key = key * len(part.names) + np.maximum(part.codes, 0)
    used, codes = np.unique(key[known], return_inverse=True)
    all_codes = np.full(len(base.unit), -1, np.int64)
    all_codes[known] = codes
    names, rules = [], []
    for value in used.tolist():
        picked = []
        for part in reversed(parts):
            value, at = divmod(value, len(part.names))
            picked.append((part.names[at], part.rules[at]))
        names.append(" & ".join(name for name, _ in reversed(picked)))
        rules.append(" and ".join(rule for _, rule in reversed(picked)))
    return Partition(base, all_codes, names, rules, " & ".join(part.column for part in parts))
