"""Draws false accepts against false rejects for every threshold, from recorded answers.

    python benchmarks/det_plot.py --commands coffee.jsonl --others others.jsonl \
        --output docs/images/commands-det.svg

Both files are what `commands.py --records` wrote, the second with `--out-of-grammar`; several of
each are pooled. Axes are in normal deviates, as is usual for such curves, so that two Gaussians
make a straight line. A mark is the threshold that the system ran with, filled for clean. A system
without confidences, such as pocketsphinx, is its mark alone. Prints a table, and JSON last.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from command_scoring import CLEAN, Record
from commands import JournalError, read_journal
from wer import print_aligned

from earshot.data.atomic import replaced_file

TICKS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
LIMITS = (0.001, 0.8)
MAX_POINTS = 160
COLOURS = ("#0b5fa5", "#c23b22", "#2e7d32", "#7b3fa0", "#b8860b", "#555555")
WIDTH, HEIGHT, MARGIN, LEGEND = 920, 560, 64, 220

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Shares of one system in one condition; the arrays are empty without confidences."""

    system: str
    condition: str
    commands: int
    others: int
    false_accepts: Shares  # of the clips without a command, falling
    false_rejects: Shares  # of the clips with one, rising
    at: tuple[float, float]  # (false accepts, false rejects) at the threshold of the run

    @property
    def equal_error_rate(self) -> float | None:
        """Where both shares are nearest to each other, their mean."""
        if not len(self.false_accepts):
            return None
        nearest = np.argmin(np.abs(self.false_accepts - self.false_rejects))
        return float(self.false_accepts[nearest] + self.false_rejects[nearest]) / 2


def shares(commands: Shares, others: Shares) -> tuple[Shares, Shares]:
    """False accepts and false rejects for every threshold that changes one of them.

    Args:
        commands: Shape (n,), n >= 1: confidences of clips that hold a command.
        others: Shape (m,), m >= 1: confidences of clips that hold none.

    Returns:
        (share of `others` at or above, share of `commands` below), by rising threshold; the
        last accepts nothing.
    """
    thresholds = np.append(np.unique(np.concatenate([commands, others])), np.inf)
    above = len(others) - np.searchsorted(np.sort(others), thresholds, side="left")
    below = np.searchsorted(np.sort(commands), thresholds, side="left")
    return above / len(others), below / len(commands)


def curves(commands: Sequence[Record], others: Sequence[Record]) -> list[Curve]:
    """One curve for each system and condition that both lists have.

    Raises:
        JournalError: They have none in common.
    """
    keys = dict.fromkeys((record.system, record.condition) for record in others)
    found = []
    for system, condition in sorted(keys, key=lambda key: (key[0], key[1] != CLEAN, key[1])):
        inside, outside = (
            [r for r in records if (r.system, r.condition) == (system, condition)]
            for records in (commands, others)
        )
        if not inside:
            continue
        accepts, rejects = np.empty(0), np.empty(0)
        known = [r.confidence for r in [*inside, *outside]]
        if None not in known:
            confidences = np.array(known, dtype=np.float64)
            accepts, rejects = shares(confidences[: len(inside)], confidences[len(inside) :])
        at = (
            sum(r.accepted for r in outside) / len(outside),
            sum(not r.accepted for r in inside) / len(inside),
        )
        found.append(Curve(system, condition, len(inside), len(outside), accepts, rejects, at))
    if not found:
        raise JournalError("the files have no system and condition in common")
    return found


def _deviate(share: float) -> float:
    low, high = LIMITS
    return NormalDist().inv_cdf(min(max(share, low), high))


def _across(share: float) -> float:
    low, high = (_deviate(limit) for limit in LIMITS)
    return MARGIN + (WIDTH - LEGEND - 2 * MARGIN) * (_deviate(share) - low) / (high - low)


def _up(share: float) -> float:
    low, high = (_deviate(limit) for limit in LIMITS)
    return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (_deviate(share) - low) / (high - low)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def svg(found: Sequence[Curve]) -> str:
    """The plot as an SVG file's text; clean is drawn through, noise dashed."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    left, right, top, bottom = MARGIN, WIDTH - LEGEND - MARGIN, MARGIN, HEIGHT - MARGIN
    middle = (left + right) / 2
    for tick in TICKS:
        x, y = _across(tick), _up(tick)
        lines += [
            f'<path d="M{x:.1f} {top}V{bottom}M{left} {y:.1f}H{right}" stroke="#ddd"/>',
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_percent(tick)}</text>',
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_percent(tick)}</text>',
        ]
    lines += [
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" '
        'fill="none" stroke="#333"/>',
        f'<text x="{middle}" y="{HEIGHT - 16}" text-anchor="middle">'
        "speech without a command, accepted</text>",
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "commands rejected</text>",
        f'<text x="{middle}" y="24" text-anchor="middle" font-size="14">'
        "Commands: false accepts and false rejects, marks at the threshold of the run</text>",
        f'<text x="{middle}" y="44" text-anchor="middle" fill="#555">'
        f"shares beyond {_percent(LIMITS[0])} and {_percent(LIMITS[1])} lie on the edge</text>",
    ]
    systems = list(dict.fromkeys(curve.system for curve in found))
    for number, curve in enumerate(found):
        colour = COLOURS[systems.index(curve.system) % len(COLOURS)]
        dash = "" if curve.condition == CLEAN else ' stroke-dasharray="6 4"'
        x, y = right + 20, top + 12 + 20 * number
        if len(curve.false_accepts):
            last = len(curve.false_accepts) - 1
            keep = np.unique(np.linspace(0, last, MAX_POINTS).round().astype(int))
            points = " ".join(
                f"{_across(curve.false_accepts[i]):.1f},{_up(curve.false_rejects[i]):.1f}"
                for i in keep
            )
            stroke = f'fill="none" stroke="{colour}" stroke-width="1.8"{dash}'
            lines += [
                f'<polyline points="{points}" {stroke}/>',
                f'<path d="M{x} {y}h30" {stroke}/>',
            ]
        fill = colour if curve.condition == CLEAN else "white"
        for mark_x, mark_y in ((_across(curve.at[0]), _up(curve.at[1])), (x + 15, y)):
            lines.append(
                f'<circle cx="{mark_x:.1f}" cy="{mark_y:.1f}" r="4.5" fill="{fill}" '
                f'stroke="{colour}" stroke-width="2"/>'
            )
        title = escape(f"{curve.system}, {curve.condition}")
        lines.append(f'<text x="{x + 38}" y="{y + 4}">{title}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the plot. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commands", nargs="+", type=Path, required=True, metavar="RECORDS")
    parser.add_argument("--others", nargs="+", type=Path, required=True, metavar="RECORDS")
    parser.add_argument("--output", type=Path, required=True, metavar="SVG")
    options = parser.parse_args(argv)
    try:
        inside, outside = (
            [record for path in paths for record in read_journal(path)[1]]
            for paths in (options.commands, options.others)
        )
        found = curves(inside, outside)
    except JournalError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(options.output) as file:
        file.write(svg(found).encode())
    rows: list[dict[str, Any]] = [
        {
            "system": curve.system,
            "condition": curve.condition,
            "commands": curve.commands,
            "others": curve.others,
            "false_accepts": curve.at[0],
            "false_rejects": curve.at[1],
            "equal_error_rate": curve.equal_error_rate,
        }
        for curve in found
    ]
    lines: list[tuple[str, ...]] = [
        ("system", "condition", "commands", "others", "accepted %", "rejected %", "equal error %")
    ]
    for row in rows:
        equal = row["equal_error_rate"]
        lines.append(
            (
                row["system"],
                row["condition"],
                str(row["commands"]),
                str(row["others"]),
                f"{100 * row['false_accepts']:.2f}",
                f"{100 * row['false_rejects']:.2f}",
                "-" if equal is None else f"{100 * equal:.2f}",
            )
        )
    print_aligned(lines)
    print(json.dumps({"benchmark": "det", "output": str(options.output), "rows": rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
