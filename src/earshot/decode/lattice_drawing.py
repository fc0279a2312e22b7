"""A lattice as a picture: SVG that needs nothing else.

Time goes to the right, stretched where words need room. The best path is one straight line; every
other arc has a lane above or below it, the likelier the nearer. Knows nothing of files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from earshot.core.features import ENCODER_CLOCK
from earshot.decode.lattice import (
    NOTHING,
    Lattice,
    arc_posteriors,
    best_path,
    pruned,
    word_confidences,
)
from earshot.decode.lattice_formats import state_frames

__all__ = ["MAX_DRAWN_ARCS", "draw_lattice"]

MAX_DRAWN_ARCS = 60
_LETTER = 7.3  # pixels, of the font below
_LANE = 34
_MARGIN = 36
_BEND = 22  # how far from a state an arc is in its lane
_TICKS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_TICK_GAP = 60  # pixels between labels of the axis
_STYLE = (
    "text{font:12px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1c2733}"
    ".axis{fill:#66727f;font-size:11px}.best{font-weight:bold;fill:#0b5d3b}"
    ".nothing{font-style:italic;fill:#66727f}"
)


@dataclass(slots=True)
class _Drawn:
    """Where things are, in pixels; lanes are counted from the best path, up is negative."""

    x: list[float]
    lane_of_state: list[int]
    lane_of_arc: list[int]


def draw_lattice(lattice: Lattice, *, max_arcs: int = MAX_DRAWN_ARCS, title: str = "") -> str:
    """Draw a lattice.

    Args:
        lattice: A lattice.
        max_arcs: How many arcs a picture has at most; the arcs furthest behind go.
        title: Above the picture.

    Returns:
        An SVG document. Thickness and colour of an arc are its posterior in all of `lattice`,
        which also stands behind its word; the best path is green.
    """
    drawn = pruned(lattice, max_arcs=max_arcs)
    # Posteriors given all arcs, also those that are not drawn: pruning keeps the order.
    posteriors = _posteriors_of(lattice, drawn)
    best = best_path(drawn)
    place = _laid_out(drawn, set(best.arcs), posteriors)
    lanes = [*place.lane_of_arc, 0]
    top = _MARGIN + (26 if title else 0) + 24
    middle = top - min(lanes) * _LANE

    def y(lane: float) -> float:
        return middle + lane * _LANE

    height = y(max(lanes)) + 64
    width = max(place.x) + 2 * _MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{escape(title or best.text or 'nothing was said')}</title>",
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    if title:
        out.append(f'<text x="{_MARGIN}" y="26" class="best">{escape(title)}</text>')
    out += _axis(drawn, place, height)
    order = sorted(range(drawn.num_arcs), key=lambda arc: posteriors[arc])
    for arc in order:
        out += _arc(drawn, arc, place, posteriors[arc], y, on_best=arc in best.arcs)
    for state, x in enumerate(place.x):
        on_end = state in (0, drawn.num_states - 1)
        out.append(
            f'<circle cx="{x + _MARGIN:.1f}" cy="{y(place.lane_of_state[state]):.1f}" '
            f'r="{5 if on_end else 3}" fill="{"#1c2733" if on_end else "#fff"}" '
            'stroke="#1c2733" stroke-width="1.2"/>'
        )
    left_out = lattice.num_arcs - drawn.num_arcs
    note = f"{drawn.num_arcs} arcs" + (f"; {left_out} less likely ones left out" * (left_out > 0))
    sure = word_confidences(lattice)
    if sure:
        note += f"; least sure word {min(sure):.2f}"
    out.append(f'<text x="{_MARGIN}" y="{height - 10:.0f}" class="axis">{note}</text>')
    return "\n".join([*out, "</svg>", ""])


def _posteriors_of(lattice: Lattice, drawn: Lattice) -> list[float]:
    """Of the arcs of a pruned lattice: those that they have in the whole one."""
    whole = arc_posteriors(lattice)
    if drawn is lattice:
        return [float(p) for p in whole]
    # Pruned arcs keep their order, fields and float32 scores.
    out: list[float] = []
    at = 0
    for arc in range(drawn.num_arcs):
        while not (
            lattice.word_at(at) == drawn.word_at(arc)
            and lattice.acoustic[at] == drawn.acoustic[arc]
            and lattice.prior[at] == drawn.prior[arc]
            and lattice.start_frame[at] == drawn.start_frame[arc]
            and lattice.end_frame[at] == drawn.end_frame[arc]
        ):
            at += 1
        out.append(float(whole[at]))
        at += 1
    return out


def _label(lattice: Lattice, arc: int, posterior: float) -> str:
    word = lattice.word_at(arc)
    return f"{'(nothing)' if word == NOTHING else word} {posterior:.2f}".replace(" 0.", " .")


def _laid_out(lattice: Lattice, best: set[int], posteriors: list[float]) -> _Drawn:
    frames = state_frames(lattice)
    x = [0.0] * lattice.num_states
    entering: list[list[int]] = [[] for _ in x]
    for arc, dst in enumerate(lattice.dst.tolist()):
        entering[dst].append(arc)
    src, dst = lattice.src.tolist(), lattice.dst.tolist()
    # Later states are further right, and every arc is long enough for its label.
    reached, frame = 0.0, 0
    for state in sorted(range(1, lattice.num_states), key=lambda s: (frames[s], s)):
        least = reached + (6.0 if frames[state] > frame else 0.0)
        for arc in entering[state]:
            room = _LETTER * len(_label(lattice, arc, posteriors[arc])) + 2 * _BEND + 8
            least = max(least, x[src[arc]] + room)
        x[state] = least
        reached, frame = max(reached, least), frames[state]
    x[-1] = max(x)
    lane_of_state = [0] * lattice.num_states
    lane_of_arc = [0] * lattice.num_arcs
    placed = {0, lattice.num_states - 1}
    taken: dict[int, list[tuple[float, float]]] = {0: [(-1.0, max(x) + 1.0)]}
    for arc in best:
        placed |= {src[arc], dst[arc]}
    for arc in sorted(range(lattice.num_arcs), key=lambda arc: (-posteriors[arc], arc)):
        if arc in best:
            continue
        span = (x[src[arc]] + 2, x[dst[arc]] - 2)
        near = lane_of_state[src[arc]] or lane_of_state[dst[arc]]
        for lane in sorted(
            (lane for lane in range(-len(posteriors), len(posteriors) + 1) if lane),
            key=lambda lane: (abs(lane - near) if near else abs(lane), abs(lane), lane),
        ):
            others = taken.setdefault(lane, [])
            if all(span[1] <= start or end <= span[0] for start, end in others):
                others.append(span)
                break
        lane_of_arc[arc] = lane
        for state in (src[arc], dst[arc]):
            if state not in placed:
                placed.add(state)
                lane_of_state[state] = lane
    return _Drawn(x, lane_of_state, lane_of_arc)


def _arc(
    lattice: Lattice,
    arc: int,
    place: _Drawn,
    posterior: float,
    y: Callable[[float], float],
    *,
    on_best: bool,
) -> list[str]:
    src, dst = int(lattice.src[arc]), int(lattice.dst[arc])
    x0, x1 = place.x[src] + _MARGIN, place.x[dst] + _MARGIN
    y0, y1 = y(place.lane_of_state[src]), y(place.lane_of_state[dst])
    lane = y(place.lane_of_arc[arc])
    half = _BEND / 2
    line = (
        f"M{x0:.1f} {y0:.1f}C{x0 + half:.1f} {y0:.1f} {x0 + half:.1f} {lane:.1f} "
        f"{x0 + _BEND:.1f} {lane:.1f}H{x1 - _BEND:.1f}"
        f"C{x1 - half:.1f} {lane:.1f} {x1 - half:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    )
    # From light grey to dark blue; the best path has a colour of its own.
    shade = math.sqrt(posterior)
    red, green, blue = (
        round(light + (dark - light) * shade) for light, dark in ((201, 31), (208, 78), (215, 138))
    )
    colour = "#159a61" if on_best else f"#{red:02x}{green:02x}{blue:02x}"
    start_s, end_s = (
        ENCODER_CLOCK.start_s(int(frame[arc])) for frame in (lattice.start_frame, lattice.end_frame)
    )
    word = lattice.word_at(arc)
    tip = (
        f"{word or 'nothing said'}: {start_s:.2f} to {end_s:.2f} s, posterior {posterior:.4f}, "
        f"acoustic {lattice.acoustic[arc]:.2f}, prior {lattice.prior[arc]:.2f}"
    )
    kind = "best" if on_best else "nothing" if word == NOTHING else "other"
    return [
        f'<g class="arc"><title>{escape(tip)}</title><path d="{line}" fill="none" '
        f'stroke="{colour}" stroke-width="{1 + 4.5 * posterior:.2f}" stroke-linecap="round"/>',
        f'<text class="{kind}" x="{(x0 + x1) / 2:.1f}" y="{lane - 6:.1f}" '
        f'text-anchor="middle">{escape(_label(lattice, arc, posterior))}</text></g>',
    ]


def _axis(lattice: Lattice, place: _Drawn, height: float) -> list[str]:
    """Seconds, where states are; between them the axis is stretched evenly."""
    frames = state_frames(lattice)
    points: list[tuple[float, float]] = []
    for frame, x in sorted(zip(frames, place.x, strict=True)):
        second = ENCODER_CLOCK.start_s(frame)
        if points and points[-1][0] == second:
            points[-1] = (second, max(points[-1][1], x))
        else:
            points.append((second, x))
    last = points[-1][0]
    step = next(
        (s for s in _TICKS_S if last / s * _TICK_GAP <= max(place.x) + _TICK_GAP), _TICKS_S[-1]
    )
    at = height - 34
    right = max(place.x) + _MARGIN
    out = [f'<line x1="{_MARGIN}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}" stroke="#b9c2cb"/>']
    before = -math.inf
    for tick in range(math.floor(last / step + 1e-9) + 1):
        second = tick * step
        x = _interpolated(points, second) + _MARGIN
        if x - before < _TICK_GAP / 1.6:
            continue
        before = x
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{at:.1f}" y2="{at + 5:.1f}" stroke="#b9c2cb"/>'
            f'<text x="{x:.1f}" y="{at - 5:.1f}" class="axis" text-anchor="middle">'
            f"{second:.1f} s</text>"
        )
    return out


def _interpolated(points: list[tuple[float, float]], second: float) -> float:
    for (s0, x0), (s1, x1) in itertools.pairwise(points):
        if second <= s1:
            return x0 + (x1 - x0) * max(0.0, second - s0) / (s1 - s0)
    return points[-1][1]
