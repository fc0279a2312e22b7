"""The page of attention: text is escaped, nothing is loaded, and what was looked at is drawn."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from earshot.cli.attention_page import attention_page
from earshot.core.transcript import Transcript, Word
from earshot.decode.attention import AttentionMap

EVIL = "<script>alert('x')</script> & \"anna\""


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(name: str = "clip.wav") -> _Elements:
    weights = np.zeros((2, 50), np.float32)
    weights[0, 20:23] = 0.9
    weights[1, 5] = 0.01  # too little to be drawn
    found = AttentionMap((EVIL, "otto"), weights, 1 - weights[0], 0.04, 5000)
    transcript = Transcript((Word(EVIL, 0.8, 1.0, 0.9), Word("please", 1.2, 1.5, 0.8)), 2.0)
    elements = _Elements()
    elements.feed(attention_page([(name, transcript, found), ("other", Transcript(()), None)]))
    return elements


def test_text_of_users_stays_text() -> None:
    elements = page(name=EVIL)
    assert not [tag for tag, _ in elements.found if tag == "script"]
    assert elements.texts.count(EVIL) >= 2  # the heading and the word


def test_nothing_is_loaded_and_nothing_runs() -> None:
    elements = page()
    policy = [a["content"] for t, a in elements.found if t == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    for _, attributes in elements.found:
        assert not {"src", "href", "onload", "onclick", "srcset"} & attributes.keys()


def test_frames_with_weight_are_drawn_where_they_are() -> None:
    elements = page()
    cells = [a for t, a in elements.found if t == "rect" and a.get("class") == "cell"]
    assert len(cells) == 3
    steps = np.diff([float(a["x"] or 0) for a in cells])
    np.testing.assert_allclose(steps, float(cells[0]["width"] or 0), atol=0.2)
    words = [a for t, a in elements.found if t == "text" and a.get("class") == "word"]
    # The word that starts at frame 20 stands under the first cell.
    assert abs(float(words[0]["x"] or 0) - float(cells[0]["x"] or 0)) < 0.2
    assert "5,000 phrases on the list, 2 shown" in " ".join(elements.texts)
