"""Limits that a report must keep, such as `max_gap>0.2`, for continuous integration.

A limit on something that was not measured is an error, never a pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from earshot.audit.config import METHODS
from earshot.audit.run import Audit
from earshot.core.errors import ConfigError, EarshotError

METRICS = {
    "wer": "word error rate of everybody",
    "wer_low": "lower end of its interval",
    "wer_high": "upper end of its interval",
    "max_gap": "largest WER gap of the discoveries",
    "max_gap_low": "largest lower end of the intervals of gaps",
    "worst_wer": "word error rate of the worst cohort",
    "worst_wer_low": "largest lower end of the cohorts' intervals",
    "num_worse": "cohorts that are worse than the rest, adjusted for all",
}
_FORM = re.compile(r"\s*(?:([a-z]+)\.)?([a-z_]+)\s*(>=|<=|>|<)\s*([-+0-9.eE]+)\s*")


@dataclass(frozen=True, slots=True)
class Threshold:
    """A condition under which a command fails.

    Args:
        text: As it was written.
        method: Only this discovery; "" is all.
        metric: One of `METRICS`.
        relation: One of > >= < <=.
        limit: The number.
    """

    text: str
    method: str
    metric: str
    relation: str
    limit: float

    def value(self, audit: Audit) -> float:
        """What is compared with the limit.

        Raises:
            EarshotError: It was not measured.
        """
        chosen = [d for d in audit.discoveries if self.method in ("", d.method)]
        gaps = [d.gap for d in chosen if d.gap is not None]
        cohorts = [cohort for d in chosen for cohort in d.cohorts]
        values: list[float | None]
        if self.metric in ("wer", "wer_low", "wer_high"):
            overall = audit.overall
            ends = {"wer": overall.wer, "wer_low": overall.ci_low, "wer_high": overall.ci_high}
            values = [ends[self.metric]]
        elif self.metric == "max_gap":
            values = [gap.value for gap in gaps]
        elif self.metric == "max_gap_low":
            values = [gap.low for gap in gaps]
        elif self.metric == "worst_wer":
            values = [cohort.wer for cohort in cohorts]
        elif self.metric == "worst_wer_low":
            values = [cohort.ci_low for cohort in cohorts]
        else:
            values = [float(sum(c.is_worse for c in cohorts))] if cohorts else []
        measured = [value for value in values if value is not None]
        if not measured:
            raise EarshotError(
                f"--fail-if {self.text}: '{self.metric}' was not measured, there are too few "
                "speakers or columns. Give more data, or drop the limit."
            )
        return max(measured)

    def is_crossed(self, audit: Audit) -> bool:
        """Whether the condition holds; `value` says what can go wrong."""
        value = self.value(audit)
        return {
            ">": value > self.limit,
            ">=": value >= self.limit,
            "<": value < self.limit,
            "<=": value <= self.limit,
        }[self.relation]


def parse_threshold(text: str) -> Threshold:
    """Read `METRIC>NUMBER` or `METHOD.METRIC>NUMBER`.

    Raises:
        ConfigError: It has another form, or names no metric or method.
    """
    match = _FORM.fullmatch(text)
    try:
        limit = float(match[4]) if match else 0.0
    except ValueError:
        match = None
    if match is None:
        raise ConfigError(f"--fail-if '{text}': it must read like 'max_gap>0.2'.")
    method, metric = match[1] or "", match[2]
    if metric not in METRICS:
        raise ConfigError(f"--fail-if '{text}': metrics are {', '.join(METRICS)}.")
    if method and (method not in METHODS or metric.startswith("wer")):
        raise ConfigError(
            f"--fail-if '{text}': before the dot stands one of {', '.join(METHODS)}, "
            "and not before wer."
        )
    return Threshold(text, method, metric, match[3], limit)
