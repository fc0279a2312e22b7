"""A page that shows which phrase each frame attended to: one heat map a recording.

HTML with drawings inside: it loads nothing, runs no script, and shows the same without a network.
Knows nothing of how the weights came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from earshot.core.transcript import Transcript
from earshot.decode.attention import AttentionMap

__all__ = ["attention_page"]

_ROW, _LABEL, _LEFT, _TOP, _WORDS = 20, 230, 12, 10, 46
_SHOWN = 0.02  # weights below it are not drawn
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:78rem;padding:0 1rem;
 color:#1b1f24;background:#fff}
h1{font-size:1.35rem;margin:0 0 .3rem}h2{font-size:1.02rem;margin:2.2rem 0 .1rem}
p{margin:.2rem 0 .6rem;color:#57606a}
svg{display:block;max-width:100%;height:auto}
text{font:12.5px system-ui,sans-serif;fill:#1b1f24}
.row{fill:#f3f5f7}.cell{fill:#1f5fbf}.none{fill:#8a939d}.tick{stroke:#c4cad1}
.axis{fill:#57606a;font-size:11px}.word{font-weight:600}.top{font-weight:600}
@media(prefers-color-scheme:dark){
 body{color:#e6e9ec;background:#14171a}p,.axis{color:#9aa4ae;fill:#9aa4ae}text{fill:#e6e9ec}
 .row{fill:#1f2429}.cell{fill:#6aa5ff}.none{fill:#78828c}.tick{stroke:#3b434b}}
"""


def attention_page(recordings: Sequence[tuple[str, Transcript, AttentionMap | None]]) -> str:
    """The whole page.

    Args:
        recordings: Name, words and map of each; None for a map where there was no list.

    Returns:
        HTML, with all text escaped.
    """
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Attention to phrases</title><style>{_STYLE}</style></head><body>",
        "<h1>Attention to phrases</h1>",
        "<p>Rows are the phrases of the list that were looked at most, columns frames of 40 ms; "
        "the darker, the more weight. Words stand where they were recognised.</p>",
    ]
    for name, transcript, found in recordings:
        parts.append(f"<h2>{escape(name)}</h2>")
        if found is None:
            parts.append("<p>No list of phrases.</p>")
            continue
        parts.append(
            f"<p>“{escape(transcript.text)}” · {found.listed:,} phrases on the list, "
            f"{len(found.phrases)} shown</p>"
        )
        parts.append(_drawing(transcript, found))
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _drawing(transcript: Transcript, found: AttentionMap) -> str:
    frames = len(found.no_bias)
    cell = min(16.0, max(3.0, 900.0 / max(1, frames)))
    x0 = _LEFT + _LABEL
    rows = [("no bias", found.no_bias, "none")]
    rows += [(p, w, "cell") for p, w in zip(found.phrases, found.weights, strict=True)]
    width = x0 + frames * cell + _LEFT
    bottom = _TOP + len(rows) * _ROW
    height = bottom + _WORDS
    out = [
        f"<svg viewBox='0 0 {width:.0f} {height}' width='{width:.0f}' height='{height}' role='img' "
        f"aria-label='Weights of {len(found.phrases)} phrases over {frames} frames'>"
    ]
    for index, (label, weights, kind) in enumerate(rows):
        y = _TOP + index * _ROW
        shown = label if len(label) <= 34 else f"{label[:33]}…"
        first = " class='top'" if index == 1 else ""
        out.append(
            f"<text x='{x0 - 8}' y='{y + 14}' text-anchor='end'{first}>{escape(shown)}</text>"
            f"<rect class='row' x='{x0}' y='{y + 1}' width='{frames * cell:.1f}' "
            f"height='{_ROW - 2}'/>"
        )
        for frame, weight in enumerate(weights.tolist()):
            if weight < _SHOWN:
                continue
            at = frame * found.frame_s
            out.append(
                f"<rect class='{kind}' x='{x0 + frame * cell:.1f}' y='{y + 1}' "
                f"width='{cell:.1f}' height='{_ROW - 2}' fill-opacity='{weight:.2f}'>"
                f"<title>{escape(label)}: {weight:.2f} at {at:.2f} s</title></rect>"
            )
    per_second = cell / found.frame_s
    step = 0.2 if frames * found.frame_s <= 4 else 1.0
    for tick in range(int(frames * found.frame_s / step) + 1):
        x = x0 + tick * step * per_second
        out.append(
            f"<line class='tick' x1='{x:.1f}' y1='{_TOP}' x2='{x:.1f}' y2='{bottom + 4}'/>"
            f"<text class='axis' x='{x:.1f}' y='{bottom + 16}' text-anchor='middle'>"
            f"{tick * step:.1f}</text>"
        )
    for word in transcript.words:
        x = x0 + word.start_s * per_second
        out.append(f"<text class='word' x='{x:.1f}' y='{bottom + 36}'>{escape(word.word)}</text>")
    out.append("</svg>")
    return "\n".join(out)
