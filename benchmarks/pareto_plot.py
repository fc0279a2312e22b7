"""Costs against errors as an SVG, with the points that no other beats marked.

Knows nothing of what the points are; `compression.py` says that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Point", "pareto", "svg"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 560, 56, 24, 64, 52
COLOURS = {
    "dense": "#222222",
    "ptq": "#c23b22",
    "qat": "#0b5fa5",
    "ste": "#4a9fd8",
    "gmp": "#2e7d32",
    "div": "#7b3fa0",
    "once": "#b8860b",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One system: its label, what it costs, its errors, and whether it lies on the front."""

    label: str
    cost: float
    errors: float
    on_front: bool


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each point, whether no other is at least as good in both and better in one.

    Args:
        points: Cost and errors of each; lower is better.
    """
    return [
        not any(c <= cost and e <= errors and (c < cost or e < errors) for c, e in points)
        for cost, errors in points
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, on a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    coarse, halves, fine = (1, 1.5, 2, 3, 5, 7), range(2, 20), range(20, 200)
    for leading in (coarse, [m / 2 for m in halves], [m / 20 for m in fine]):
        found = [m * 10.0**d for d in decades for m in leading if low <= m * 10.0**d <= high]
        if len(found) > 2:
            break
    return found


def _panel(points: Sequence[Point], across: str, left: float) -> list[str]:
    costs, errors = [p.cost for p in points], [p.errors for p in points]
    low_x, high_x = math.log(min(costs) * 0.85), math.log(max(costs) * 1.2)
    low_y, high_y = math.log(min(errors) * 0.97), math.log(max(errors) * 1.03)
    x0, x1, y0, y1 = left + LEFT, left + WIDTH - RIGHT, HEIGHT - BOTTOM, TOP

    def x(cost: float) -> float:
        return x0 + (x1 - x0) * (math.log(cost) - low_x) / (high_x - low_x)

    def y(error: float) -> float:
        return y0 + (y1 - y0) * (math.log(error) - low_y) / (high_y - low_y)

    lines = []
    for tick in _ticks(math.exp(low_x), math.exp(high_x)):
        lines += [
            f'<path d="M{x(tick):.1f} {y0}V{y1}" stroke="#e4e4e4"/>',
            f'<text x="{x(tick):.1f}" y="{y0 + 18}" text-anchor="middle">{tick:g}</text>',
        ]
    for tick in _ticks(math.exp(low_y), math.exp(high_y)) or [min(errors), max(errors)]:
        lines += [
            f'<path d="M{x0} {y(tick):.1f}H{x1}" stroke="#e4e4e4"/>',
            f'<text x="{x0 - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.3g}</text>',
        ]
    front = sorted((p for p in points if p.on_front), key=lambda p: p.cost)
    steps = " ".join(f"{x(p.cost):.1f},{y(p.errors):.1f}" for p in front)
    lines += [
        f'<rect x="{x0}" y="{y1}" width="{x1 - x0}" height="{y0 - y1}" fill="none" stroke="#333"/>',
        f'<text x="{(x0 + x1) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(across)}</text>',
        f'<polyline points="{steps}" fill="none" stroke="#999" stroke-dasharray="5 4"/>',
    ]
    for point in points:
        colour = COLOURS.get(point.label.split("-")[0], "#555555")
        px, py = x(point.cost), y(point.errors)
        near_edge = px > x1 - 110
        lines += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4.5" stroke="{colour}" stroke-width="2" '
            f'fill="{colour if point.on_front else "white"}"/>',
            f'<text x="{px + (-8 if near_edge else 8):.1f}" y="{py - 6:.1f}" font-size="10" '
            f'text-anchor="{"end" if near_edge else "start"}" fill="{colour}">'
            f"{escape(point.label)}</text>",
        ]
    return lines


def svg(panels: Sequence[tuple[str, Sequence[Point]]], *, title: str) -> str:
    """Panels side by side, both axes logarithmic.

    Args:
        panels: What a panel's cost is, and its points.
        title: Above them.

    Returns:
        The file's text.
    """
    width = WIDTH * len(panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{width / 2}" y="28" text-anchor="middle" font-size="14">{escape(title)}</text>',
    ]
    for number, (across, points) in enumerate(panels):
        lines += _panel(points, across, number * WIDTH)
    return "\n".join([*lines, "</svg>"]) + "\n"
