"""The report: one HTML file that needs nothing else, not even a network.

Prepares what the template shows. Everything that comes from the user's file is escaped by the
template engine; the page's own script is the only one that its policy lets run. Knows nothing of
statistics.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from earshot.audit.drawing import map_of, ticks
from earshot.audit.run import Audit
from earshot.audit.words import WordCounts, examples
from earshot.core.errors import AudioError, MissingExtraError

if TYPE_CHECKING:
    from earshot.audit.compare import Comparison

SHOWN_COHORTS = 40
SHOWN_IN_DETAIL = 3
MAX_CLIP_S = 20.0
MAX_EMBEDDED_BYTES = 4_000_000
AUDIO_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm")

_METHOD_TITLES = {
    "groups": "Groups that the file gives",
    "regions": "Regions",
    "geodemographic": "Geodemographic cohorts",
    "clusters": "Voice clusters",
}


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("the HTML report", package="jinja2", extra="audit") from None
    source = resources.files("earshot.audit") / "templates"
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (source / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["percent"] = _percent
    found.filters["whole"] = lambda value: f"{value:,}".replace(",", "\u202f")
    found.filters["pvalue"] = _p_value
    return found


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _p_value(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _page(template: str, context: Mapping[str, Any]) -> str:
    source = resources.files("earshot.audit") / "templates"
    script = (source / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    from markupsafe import Markup

    page: str = (
        _environment()
        .get_template(template)
        .render(
            **context,
            # Files of the package, not of the user.
            script=Markup(script),
            style=Markup((source / "report.css").read_text(encoding="utf-8")),
            script_digest=digest,
        )
    )
    return page


def render_report(
    audit: Audit,
    *,
    title: str | None = None,
    caveats: Sequence[str] = (),
    folder: Path,
    mitigation: str,
    embed_audio: bool = False,
) -> str:
    """The page of an audit.

    Args:
        audit: What was found.
        title: Heading; by default the name of the file.
        caveats: What readers must know of the data.
        folder: Where the page will be: links to recordings start there.
        mitigation: The command that mends what was found.
        embed_audio: Put short clips into the page instead of linking them, up to 4 MB.

    Returns:
        HTML.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    report = audit.as_dict()
    overall = audit.overall
    discoveries = []
    for discovery in audit.discoveries:
        cohorts = discovery.cohorts[:SHOWN_COHORTS]
        highest = max([c.ci_high if c.ci_high is not None else c.wer for c in cohorts] or [0.1])
        # One wide interval must not press all others into a corner: it is cut, and shows it.
        cap = max(2.5 * max([c.wer for c in cohorts] or [0.1]), 1.2 * overall.wer)
        axis = ticks(min(highest, cap))
        regions = discovery.extra.get("regions")
        named = []
        if isinstance(regions, list):
            named = [{"name": f"Region {at + 1}", **box} for at, box in enumerate(regions)]
        discoveries.append(
            {
                "method": discovery.method,
                "title": _METHOD_TITLES[discovery.method],
                "how": discovery.how,
                "cohorts": cohorts,
                "hidden": len(discovery.cohorts) - len(cohorts),
                "small": discovery.small,
                "gap": discovery.gap,
                "bottom_share": discovery.bottom_share,
                "bottom": discovery.bottom_names(),
                "top": discovery.top_names(),
                "stability": discovery.stability,
                "extra": discovery.extra,
                "axis": axis,
                "scale": axis[-1],
                "map": map_of(audit.results, named, [c.as_dict() for c in discovery.cohorts])
                if named
                else None,
            }
        )
    return _page(
        "report.html",
        {
            "title": title or f"Audit of {Path(audit.results.source).name}",
            "audit": audit,
            "report": report,
            "overall": overall,
            "discoveries": discoveries,
            "worse": audit.worse(),
            "caveats": list(caveats),
            "details": _details(audit, folder, embed_audio=embed_audio),
            "mitigation": mitigation,
            "unit": "speakers" if audit.results.speakers is not None else "utterances",
        },
    )


def render_comparison(found: Comparison) -> str:
    """The page of a comparison of two recognisers."""
    changes = [found.overall, *(c for _, part in found.cohorts for c in part)]
    ends = [abs(end) for c in changes for end in (c.ci_low, c.ci_high, c.change) if end is not None]
    scale = ticks(min(max(ends or [0.1]), 3 * max([abs(c.change) for c in changes] + [0.02])))
    return _page(
        "comparison.html",
        {
            "title": f"{Path(found.first.results.source).name} and "
            f"{Path(found.second.results.source).name}",
            "found": found,
            "parts": [
                {"title": _METHOD_TITLES[d.method], "method": d.method, "changes": part}
                for d, part in found.cohorts
            ],
            "axis": sorted({sign * tick for tick in scale for sign in (-1, 1)}),
            "scale": scale[-1],
            "level": found.first.config.level,
        },
    )


def _details(audit: Audit, folder: Path, *, embed_audio: bool) -> list[dict[str, Any]]:
    """Failing words and examples: of everybody, then of the worst cohorts."""
    results = audit.results
    if results.texts is None:
        return []
    counts = WordCounts(results.texts)
    everybody = np.ones(len(results), bool)
    chosen: list[tuple[str, str, Any]] = [("Everybody", "", None)]
    seen: list[Any] = []
    for discovery, cohort in audit.worse() or _worst(audit):
        rows = audit.members(discovery, cohort)
        # An intersection that holds nearly the same utterances as its column says nothing new.
        if any((rows & other).sum() > 0.8 * (rows | other).sum() for other in seen):
            continue
        seen.append(rows)
        chosen.append((cohort.name, cohort.rule, rows))
        if len(seen) == SHOWN_IN_DETAIL:
            break
    clips = _Clips(audit, folder, embed=embed_audio)
    return [
        {
            "name": name,
            "rule": rule,
            "words": counts.failing(rows),
            "examples": [
                {
                    "id": results.ids[example.row],
                    "line": int(results.lines[example.row]),
                    "steps": example.steps,
                    "audio": clips.source(example.row),
                }
                for example in examples(
                    results, everybody if rows is None else rows, seed=audit.config.seed
                )
            ],
        }
        for name, rule, rows in chosen
    ]


def _worst(audit: Audit) -> list[tuple[Any, Any]]:
    """The worst cohort of each discovery, where none is worse beyond chance."""
    return [(d, d.cohorts[0]) for d in audit.discoveries if d.cohorts]


class _Clips:
    """Sources of audio players: links to files that are there, or the sound itself."""

    def __init__(self, audit: Audit, folder: Path, *, embed: bool) -> None:
        self._results, self._folder, self._embed = audit.results, folder, embed
        self._base = Path(audit.results.source).absolute()
        self._base = self._base if self._base.is_dir() else self._base.parent
        self._left = MAX_EMBEDDED_BYTES

    def source(self, row: int) -> str | None:
        """A relative URL or a data URL; None where there is no file."""
        results = self._results
        name = results.audio[row] if results.audio is not None else ""
        if not name or not name.lower().endswith(AUDIO_ENDINGS):
            return None
        path = self._base / name
        if not path.is_file():
            return None
        offset = 0.0 if results.offset_s is None else float(np.nan_to_num(results.offset_s[row]))
        length = None
        if results.duration_s is not None and np.isfinite(results.duration_s[row]):
            length = float(results.duration_s[row])
        if self._embed:
            return self._sound(path, offset, length)
        link = quote(os.path.relpath(path, self._folder))
        if offset > 0 or (results.offset_s is not None and length is not None):
            end = "" if length is None else f",{offset + length:.3f}"
            link += f"#t={offset:.3f}{end}"
        return link

    def _sound(self, path: Path, offset: float, length: float | None) -> str | None:
        import soundfile

        from earshot.core.features import SAMPLE_RATE_HZ
        from earshot.data.audio import read_audio

        try:
            samples = read_audio(path)
        except AudioError:
            return None
        start = round(offset * SAMPLE_RATE_HZ)
        kept = round(min(length or MAX_CLIP_S, MAX_CLIP_S) * SAMPLE_RATE_HZ)
        file = io.BytesIO()
        soundfile.write(file, samples[start : start + kept], SAMPLE_RATE_HZ, format="FLAC")
        text = base64.b64encode(file.getvalue()).decode()
        if len(text) > self._left:
            return None
        self._left -= len(text)
        return f"data:audio/flac;base64,{text}"
