"""The page that shows a sweep: who gains and who pays, by method and strength.

One HTML file with everything inside. Draws what `mitigate` reports, and computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["curve_page"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 420, 62, 20, 40, 52
_COLOURS = {
    "plain": "#c23b22",
    "average": "#b8860b",
    "ewc": "#0b5fa5",
    "l2": "#4a9fd8",
    "mixed": "#2e7d32",
    "oversample": "#7b3fa0",
    "cohort": "#00838f",
}
_MEANINGS = {
    "plain": "fine-tuning on the cohorts alone; strength: steps",
    "average": "the longest plain run mixed into the start; strength: its share",
    "ewc": "elastic weight consolidation; strength: lambda, mean importance 1",
    "l2": "the same pull for all weights; strength: lambda",
    "mixed": "cohorts and others in one batch; strength: share of the cohorts",
    "oversample": "everybody, the cohorts more often; strength: how much",
    "cohort": "one vector for each cohort, all else kept; strength: steps",
}
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1c;--soft:#666;--line:#ddd;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#eee;--soft:#aaa;--line:#444;--paper:#181818}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
max-width:1180px;padding:1rem;overflow-wrap:anywhere}
.panels{display:flex;flex-wrap:wrap;gap:1rem}.panels svg{flex:1 1 340px;max-width:100%;height:auto}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}tr.chosen td{font-weight:700}
.soft{color:var(--soft)}text{fill:var(--ink)}
"""


def curve_page(report: Mapping[str, Any]) -> str:
    """A self-contained page.

    Args:
        report: As `mitigate` makes it.

    Returns:
        HTML.
    """
    mended = [c["name"] for c in report["cohorts"] if c["mended"]]
    speakers = report["speakers"]
    panels = "".join(
        _panel(report, part, title)
        for part, title in (
            ("dev", "Development speakers: these chose"),
            ("evaluation", "Evaluation speakers: these only measure"),
        )
    )
    used = [m for m in _COLOURS if any(c["method"] == m for c in report["candidates"])]
    legend = "".join(
        f'<li><b style="color:{_COLOURS[m]}">{m}</b> {escape(_MEANINGS[m])}</li>' for m in used
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Mitigation of {escape(", ".join(mended))}</title><style>{_STYLE}</style></head><body>
<h1>Who gains, and who pays</h1>
<p>{escape(_first_up(report["why"]))}.</p>
<p class="soft">Mended: {escape(", ".join(mended))}. Model: {escape(report["model"])}.
Speakers in the cohorts: {_dealt(speakers["target"])}; others: {_dealt(speakers["rest"])}.
Seed {report["seed"]}.</p>
<div class="panels">{panels}</div>
<p class="soft">Below and left of the cross both are better off than at the start. Filled: no other
model is at least as good for both and better for one. Ringed: chosen.</p>
<ul>{legend}</ul>
<h2>Every model, on the evaluation speakers</h2>
<p class="soft">Word error rates in percent; mean, highest and variance (of percents) are over
{len(report["cohorts"])} cohorts. Changes are relative to the start, with 95&nbsp;% intervals of the
paired bootstrap over speakers (over utterances where there are fewer than 8). The chosen model was
chosen by other speakers; the others in this table were not chosen at all, and to pick one by this
table is to choose by the speakers who evaluate.</p>
<div class="scroll">{_table(report)}</div>
</body></html>
"""


def _first_up(text: str) -> str:
    return text[:1].upper() + text[1:]


def _dealt(counts: Mapping[str, int]) -> str:
    return (
        f"{counts['adapt']} to train on, {counts['dev']} for development, "
        f"{counts['evaluation']} to evaluate"
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two ends."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), 0.01 * high, 0.1)
    return low - margin, high + margin


def _panel(report: Mapping[str, Any], part: str, title: str) -> str:
    points = [(c, 100 * c[part]["rest"], 100 * c[part]["target"]) for c in report["candidates"]]
    start = report["start"][part]
    x_start, y_start = 100 * start["rest"], 100 * start["target"]
    low_x, high_x = _range([x_start, *(x for _, x, _ in points)])
    low_y, high_y = _range([y_start, *(y for _, _, y in points)])

    def across(x: float) -> float:
        return _LEFT + (x - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM)

    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-family="inherit" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<text x="{_LEFT}" y="20" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    for tick in _ticks(low_x, high_x):
        lines += [
            f'<path d="M{across(tick):.1f} {bottom}V{_TOP}" stroke="var(--line)"/>',
            f'<text x="{across(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{tick:g}</text>',
        ]
    for tick in _ticks(low_y, high_y):
        lines += [
            f'<path d="M{_LEFT} {up(tick):.1f}H{right}" stroke="var(--line)"/>',
            f'<text x="{_LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>',
        ]
    middle = (_LEFT + right) / 2
    lines += [
        f'<text x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">word errors of the others, '
        "%</text>",
        f'<text transform="translate(16 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        "word errors of the cohorts, %</text>",
        # Left of and below this cross both are better than at the start.
        f'<path d="M{across(x_start):.1f} {bottom}V{_TOP}M{_LEFT} {up(y_start):.1f}H{right}" '
        'stroke="var(--soft)" stroke-dasharray="4 4"/>',
    ]
    for method in _COLOURS:
        own = [(c, x, y) for c, x, y in points if c["method"] == method]
        own.sort(key=lambda point: point[0]["strength"])
        colour = _COLOURS[method]
        trace = " ".join(f"{across(x):.1f},{up(y):.1f}" for _, x, y in own)
        lines.append(
            f'<polyline points="{trace}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>'
        )
        for c, x, y in own:
            on_front = c["on_front"][part]
            if c["chosen"]:
                lines.append(
                    f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="10" fill="none" '
                    f'stroke="{colour}" stroke-width="2"/>'
                )
            lines.append(
                f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="4.5" stroke="{colour}" '
                f'stroke-width="2" fill="{colour if on_front else "var(--paper)"}">'
                f"<title>{escape(c['name'])}: cohorts {y:.2f} %, others {x:.2f} %, overall "
                f"{100 * c[part]['overall']:.2f} %</title></circle>"
            )
            if on_front or c["chosen"]:
                near_edge = across(x) > right - 90
                lines.append(
                    f'<text x="{across(x) + (-9 if near_edge else 9):.1f}" y="{up(y) - 7:.1f}" '
                    f'font-size="11" text-anchor="{"end" if near_edge else "start"}">'
                    f"{escape(c['name'])}</text>"
                )
    lines += [
        f'<path d="M{across(x_start) - 5:.1f} {up(y_start) - 5:.1f}l10 10m0 -10l-10 10" '
        'stroke="var(--ink)" stroke-width="2.5"><title>start</title></path>',
        f'<text x="{across(x_start) + 8:.1f}" y="{up(y_start) - 8:.1f}">start</text>',
        "</svg>",
    ]
    return "\n".join(lines)


def _change(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "no errors before"
    return f"{100 * found['value']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def _table(report: Mapping[str, Any]) -> str:
    head = (
        "model", "steps", "overall", "cohorts", "others", "mean", "highest", "variance",
        "overall, change %", "cohorts, change %", "others, change %",
    )  # fmt: skip
    lines = ["<table><thead><tr>", *(f"<th>{h}</th>" for h in head), "</tr></thead><tbody>"]

    def cells(found: Mapping[str, Any]) -> list[str]:
        rates = [
            f"{100 * found[key]:.2f}" for key in ("overall", "target", "rest", "mean", "worst")
        ]
        return [*rates, f"{1e4 * found['variance']:.2f}"]

    rows = [("", ["start", "0", *cells(report["start"]["evaluation"]), "", "", ""])]
    for c in report["candidates"]:
        shown = [_change(c["change"][name]) for name in ("overall", "target", "rest")]
        name = c["name"] + (" (chosen)" if c["chosen"] else "")
        rows.append(
            (
                ' class="chosen"' if c["chosen"] else "",
                [name, str(c["steps"]), *cells(c["evaluation"]), *shown],
            )
        )
    for attributes, values in rows:
        body = "".join(f"<td>{escape(value)}</td>" for value in values)
        lines.append(f"<tr{attributes}>{body}</tr>")
    return "".join([*lines, "</tbody></table>"])
