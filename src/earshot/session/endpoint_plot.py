"""Draws how cut-offs go with latency, as one SVG file. Knows traces and settings; no audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

from earshot.decode.endpoint import EndpointConfig
from earshot.session.endpoint_tuning import EndpointFigures, Trace, evaluate, trade_off

__all__ = ["Curve", "curves_svg", "endpoint_svg"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 460, 70, 50, 210, 60
_COLOURS = ("#0b5fa5", "#c23b22", "#2e7d32", "#7b3fa0", "#b8860b", "#555555")


@dataclass(frozen=True, slots=True)
class Curve:
    """One system.

    Args:
        name: For the legend.
        points: (cut-off share, median latency in seconds), in the order of its setting.
        mark: The point that it runs at; None if it has none.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    mark: tuple[float, float] | None = None


def endpoint_svg(traces: Sequence[Trace], *, before: EndpointConfig, after: EndpointConfig) -> str:
    """The trade-off of two settings and of rules alone.

    Args:
        traces: Labelled audio.
        before: One setting.
        after: Another.

    Returns:
        An SVG document.
    """

    def points(rows: Sequence[tuple[float, EndpointFigures]]) -> tuple[tuple[float, float], ...]:
        return tuple((f.cut_off, f.latency_s) for _, f in rows if np.isfinite(f.latency_s))

    def at(config: EndpointConfig) -> tuple[float, float]:
        figures = evaluate(traces, config)
        return figures.cut_off, figures.latency_s

    return curves_svg(
        [
            Curve("after tuning", points(trade_off(traces, after)), at(after)),
            Curve("before", points(trade_off(traces, before)), at(before)),
            Curve("rule 2 alone", points(trade_off(traces, after, rules_only=True))),
        ],
        title=f"{sum(bool(trace.frames) for trace in traces)} utterances",
    )


def curves_svg(curves: Sequence[Curve], *, title: str) -> str:
    """Cut-offs upwards on a root scale, median latency across.

    Args:
        curves: At most six.
        title: Above the plot.

    Returns:
        An SVG document that needs nothing else.
    """
    every = [p for curve in curves for p in (*curve.points, *([curve.mark] if curve.mark else []))]
    every = [p for p in every if np.isfinite(p[1])]
    most_s = max([0.8, *(min(latency, 2.0) for _, latency in every)])
    most = max([0.1, *(cut for cut, _ in every)])
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(latency_s: float) -> float:
        return _LEFT + inner_width * min(max(latency_s, 0.0), most_s) / most_s

    def y(cut: float) -> float:
        return float(_TOP + inner_height * (1 - np.sqrt(cut / most)))

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for latency_s in np.arange(0, most_s + 1e-9, 0.1 if most_s <= 1.2 else 0.2):
        out.append(
            f'<line x1="{x(latency_s):.1f}" x2="{x(latency_s):.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}" stroke="#e4e4e4"/>'
            f'<text x="{x(latency_s):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{1000 * latency_s:.0f}</text>"
        )
    for cut in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
        if cut <= most:
            strong = "#9a9a9a" if cut == 0.02 else "#e4e4e4"
            out.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(cut):.1f}" y2="{y(cut):.1f}" '
                f'stroke="{strong}"/>'
                f'<text x="{_LEFT - 6}" y="{y(cut) + 4:.1f}" text-anchor="end">{cut:.0%}</text>'
            )
    out.append(
        f'<text x="{_LEFT + inner_width / 2}" y="{_HEIGHT - 16}" text-anchor="middle">'
        "median latency of the final end-point, ms after the end of speech</text>"
        f'<text transform="translate(18 {_TOP + inner_height / 2}) rotate(-90)" '
        'text-anchor="middle">utterances cut off (root scale)</text>'
    )
    for n, curve in enumerate(curves):
        colour = _COLOURS[n % len(_COLOURS)]
        path = " ".join(f"{x(latency):.1f},{y(cut):.1f}" for cut, latency in curve.points)
        if path:
            out.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        for cut, latency in curve.points:
            out.append(f'<circle cx="{x(latency):.1f}" cy="{y(cut):.1f}" r="2.5" fill="{colour}"/>')
        if curve.mark is not None and np.isfinite(curve.mark[1]):
            out.append(
                f'<circle cx="{x(curve.mark[1]):.1f}" cy="{y(curve.mark[0]):.1f}" r="6" '
                f'fill="none" stroke="{colour}" stroke-width="2.5"/>'
            )
        at = _TOP + 10 + 20 * n
        out.append(
            f'<rect x="{_WIDTH - _RIGHT + 16}" y="{at - 9}" width="14" height="4" fill="{colour}"/>'
            f'<text x="{_WIDTH - _RIGHT + 36}" y="{at - 3}">{escape(curve.name)}</text>'
        )
    out.append("</svg>")
    return "\n".join(out) + "\n"
