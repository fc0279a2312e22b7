"""Where things go in the report's drawings: scales, ticks, colours, the map. Plain numbers only.

Drawings are SVG and boxes that the template writes; nothing here makes markup, so nothing here
can forget to escape a name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from earshot.audit.results import Results

MAP_WIDTH = 480.0
_MAP_LEFT, _MAP_BOTTOM = 36.0, 26.0  # room for "62.5°N" and for a line of degrees
_GRID = 48  # cells along the map: positions are shown as counts in cells, never exactly
# Light to dark, told apart by lightness alone, so also by eyes that see few colours.
_SCALE = ((255, 236, 190), (247, 178, 103), (224, 107, 73), (160, 42, 77), (84, 18, 72))


def ticks(high: float, *, most: int = 6) -> list[float]:
    """Round numbers from 0 that reach `high`, at most `most` + 1 of them."""
    if not high > 0:
        return [0.0, 0.1]
    rough = high / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    count = math.ceil(high / step - 1e-9)
    return [round(at * step, 10) for at in range(count + 1)]


def colour(share: float) -> str:
    """A colour of the scale; 0 is the lightest, 1 the darkest."""
    at = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    low = min(int(at), len(_SCALE) - 2)
    mixed = [a + (b - a) * (at - low) for a, b in zip(_SCALE[low], _SCALE[low + 1], strict=True)]
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


def ink(share: float) -> str:
    """Black or white, whichever is read better on that colour."""
    return "#1b1b1b" if share < 0.55 else "#ffffff"


def map_of(
    results: Results, regions: Sequence[Mapping[str, Any]], cohorts: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The map of regions in a plate carree projection, stretched for its middle latitude.

    Args:
        results: Whose positions are shown.
        regions: Every region with `name`, `lat_min`, `lat_max`, `lon_min`, `lon_max`.
        cohorts: Those that were measured, as in the JSON.

    Returns:
        Boxes, dots, graticule and legend in the units of the drawing; None without regions.
    """
    if not regions or results.lat is None or results.lon is None:
        return None
    south = min(float(r["lat_min"]) for r in regions)
    north = max(float(r["lat_max"]) for r in regions)
    west = min(float(r["lon_min"]) for r in regions)
    east = max(float(r["lon_max"]) for r in regions)
    pad = max((north - south) * 0.03, (east - west) * 0.03, 0.2)
    south, north, west, east = south - pad, north + pad, west - pad, east + pad
    inner = MAP_WIDTH - _MAP_LEFT - 8.0
    stretch = max(0.2, math.cos(math.radians((south + north) / 2)))
    scale_x = inner / (east - west)
    scale_y = scale_x / stretch
    scale_y = min(max(scale_y * (north - south), 140.0), 420.0) / (north - south)
    height = (north - south) * scale_y + _MAP_BOTTOM + 8.0

    def x(lon: float) -> float:
        return round(_MAP_LEFT + (lon - west) * scale_x, 2)

    def y(lat: float) -> float:
        return round(8.0 + (north - lat) * scale_y, 2)

    measured = {str(cohort["name"]): cohort for cohort in cohorts}
    rates = [float(cohort["wer"]) for cohort in cohorts] or [0.0]
    low, high = min(rates), max(rates)
    boxes = []
    for region in regions:
        cohort = measured.get(str(region["name"]))
        share = 0.0
        if cohort is not None and high > low:
            share = (float(cohort["wer"]) - low) / (high - low)
        left, right = x(float(region["lon_min"])), x(float(region["lon_max"]))
        top, bottom = y(float(region["lat_max"])), y(float(region["lat_min"]))
        boxes.append(
            {
                "name": region["name"],
                "cohort": cohort,
                "x": left,
                "y": top,
                "width": round(max(right - left, 0.5), 2),
                "height": round(max(bottom - top, 0.5), 2),
                "fill": "none" if cohort is None else colour(share),
                "ink": ink(share) if cohort is not None else "currentColor",
                "labelled": right - left > 44 and bottom - top > 24,
            }
        )
    return {
        "width": MAP_WIDTH,
        "height": round(height, 1),
        "left": _MAP_LEFT,
        "boxes": boxes,
        "dots": _dots(results, west, x, y, (south, north, west, east)),
        "meridians": [
            {"at": x(lon), "label": _degrees(lon, "E", "W")} for lon in _graticule(west, east)
        ],
        "parallels": [
            {"at": y(lat), "label": _degrees(lat, "N", "S")} for lat in _graticule(south, north)
        ],
        "legend": [
            {"fill": colour(at / 10), "wer": low + (high - low) * at / 10} for at in range(11)
        ],
        "low": low,
        "high": high,
    }


def _graticule(low: float, high: float) -> list[float]:
    step = next((s for s in (0.5, 1, 2, 5, 10, 15, 30, 45, 60) if (high - low) / s <= 7), 90)
    first = math.ceil(low / step)
    return [first * step + at * step for at in range(int((high - first * step) // step) + 1)]


def _degrees(value: float, positive: str, negative: str) -> str:
    value = (value + 180.0) % 360.0 - 180.0 if positive == "E" else value
    return f"{abs(value):g}°{'' if value == 0 else positive if value > 0 else negative}"


def _dots(
    results: Results, west: float, x: Any, y: Any, bounds: tuple[float, float, float, float]
) -> list[dict[str, float]]:
    """How many speakers there are in each cell of a coarse grid."""
    assert results.lat is not None and results.lon is not None
    unit = results.unit_codes
    known = np.isfinite(results.lat) & np.isfinite(results.lon)
    _, first = np.unique(unit[known], return_index=True)
    lat = results.lat[known][first]
    lon = west + np.mod(results.lon[known][first] - west, 360.0)
    south, north, _, east = bounds
    size = max((north - south), (east - west)) / _GRID
    row, column = ((lat - south) // size).astype(int), ((lon - west) // size).astype(int)
    cells, counts = np.unique(np.stack([row, column]), axis=1, return_counts=True)
    most = counts.max(initial=1)
    return [
        {
            "x": x(west + (c + 0.5) * size),
            "y": y(south + (r + 0.5) * size),
            "r": round(0.9 + 2.6 * math.sqrt(n / most), 2),
            "n": int(n),
        }
        for (r, c), n in zip(cells.T.tolist(), counts.tolist(), strict=True)
    ]
