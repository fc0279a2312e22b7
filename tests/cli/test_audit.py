"""`earshot audit`: options, exit codes, and a report that nothing in a user's file can break."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import Result

pytest.importorskip("scipy", reason="scipy is not installed ([audit])")
pytest.importorskip("sklearn", reason="scikit-learn is not installed ([audit])")
pytest.importorskip("jinja2", reason="jinja2 is not installed ([audit])")

Earshot = Callable[..., Result]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from earshot.audit.simulate import World, plant, write_planted

    return write_planted(plant(World(speakers=200, seed=4)), tmp_path_factory.mktemp("planted"))


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_two_commands_from_nothing_to_a_report(
    earshot: Earshot, planted: dict[str, Path], tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    options = ["--census", planted["census"], "--embeddings", planted["embeddings"], "--seeds", 2]
    result = earshot("audit", "run", planted["results"], "-o", report, *options)
    assert result.exit_code == 0, result.output
    assert "accent=planted" in result.stdout and "WER gap %" in result.stdout
    found = json.loads(report.with_suffix(".json").read_text())
    assert [row["method"] for row in found["table"]] == [d["method"] for d in found["discoveries"]]
    assert found["mitigation"] == f"earshot train mitigate {report.with_suffix('.json')}"
    members = (tmp_path / found["members"]).read_text().splitlines()
    assert len(members) == found["rows"]["scored"]
    page = Page(report.read_text())
    assert "svg" in page.tags and "Region 1" in page.text
    assert found["mitigation"] in page.text


def test_a_report_asks_for_nothing_from_anywhere(
    earshot: Earshot, planted: dict[str, Path], tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    assert earshot("audit", "run", planted["results"], "-o", report, "--seeds", 1).exit_code == 0
    text = report.read_text()
    assert "http:" not in text and "https:" not in text and "@import" not in text
    page = Page(text)
    assert {"link", "iframe", "img", "object", "embed"}.isdisjoint(page.tags)
    assert page.tags.count("script") == 1
    assert len(text) < 150_000


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; alert(1); '",
    "</style><svg onload=alert(1)>",
    "{{ 7 * 7 }}",
]


def test_nothing_in_the_file_becomes_markup(earshot: Earshot, tmp_path: Path) -> None:
    """Names, words, columns, ids, titles and paths that try to be HTML stay text."""
    rng = np.random.default_rng(0)
    path = tmp_path / "evil <b>.jsonl"
    with open(path, "w") as file:
        for at in range(400):
            evil = HOSTILE[at % len(HOSTILE)]
            row = {
                "id": f"{evil}{at}",
                "ref": "one two three four five six",
                "hyp": f"one {evil} {'three' if at % 2 else '<i>'} four five six",
                "speaker": f"{evil}{at % 40}",
                "lat": rng.uniform(0, 9) + at % 2,
                "lon": rng.uniform(0, 9),
                f"<u onclick=alert(1)>{evil}": HOSTILE[at % 40 % len(HOSTILE)],
                "audio": f"javascript:alert({at}).wav",
            }
            file.write(json.dumps(row) + "\n")
    report = tmp_path / "r.html"
    done = earshot(
        *("audit", "run", path, "-o", report, "--seeds", 1, "--text", "as-is"),
        *("--title", HOSTILE[0], "--caveat", HOSTILE[1]),
    )
    assert done.exit_code == 0, done.output
    text = report.read_text()
    page = Page(text)
    assert page.tags.count("script") == 1 and "img" not in page.tags and "u" not in page.tags
    assert page.tags.count("svg") == 1  # the map
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    linked = [value or "" for name, value in page.attributes if name in ("src", "href")]
    assert not linked
    assert HOSTILE[0] in page.text and "{{ 7 * 7 }}" in page.text


def test_examples_have_players_where_recordings_are(earshot: Earshot, tmp_path: Path) -> None:
    (tmp_path / "audio dir").mkdir()
    soundfile.write(tmp_path / "audio dir" / "a#1.wav", np.zeros(8000), 16000)
    with open(tmp_path / "r.jsonl", "w") as file:
        for at in range(40):
            row = {"id": str(at), "ref": "one two three", "hyp": "one", "speaker": f"s{at % 10}"}
            row["audio"] = "audio dir/a#1.wav" if at % 2 else "gone.wav"
            row |= {"offset": 0.1, "duration": 0.2} if at % 2 else {}
            file.write(json.dumps(row) + "\n")
    report = tmp_path / "r.html"
    assert earshot("audit", "run", tmp_path / "r.jsonl", "-o", report).exit_code == 0
    sources = [v for name, v in Page(report.read_text()).attributes if name == "src"]
    assert sources and set(sources) == {"audio%20dir/a%231.wav#t=0.100,0.300"}
    earshot("audit", "run", tmp_path / "r.jsonl", "-o", report, "--embed-audio")
    sources = [v for name, v in Page(report.read_text()).attributes if name == "src"]
    assert sources and all(v is not None and v.startswith("data:audio/flac;") for v in sources)


def test_limits_leave_with_three(earshot: Earshot, planted: dict[str, Path]) -> None:
    run = ("audit", "run", planted["results"], "--discover", "groups", "--json")
    crossed = earshot(*run, "--fail-if", "max_gap>0.01")
    assert crossed.exit_code == 3
    assert json.loads(crossed.stdout)["crossed"] == ["max_gap>0.01"]
    assert "limit crossed: max_gap>0.01" in crossed.stderr
    assert earshot(*run, "--fail-if", "max_gap>99").exit_code == 0
    assert earshot(*run, "--fail-if", "gap>1").exit_code == 2
    not_there = earshot(*run, "--min-speakers", 5000, "--fail-if", "max_gap>1")
    assert not_there.exit_code == 1 and "was not measured" in not_there.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--map", "ref"], 2, "FIELD=COLUMN"),
        (["--map", "rof=x"], 2, "Did you mean 'ref'?"),
        (["--discover", "moods"], 2, "'moods' is none of"),
        (["--criterion", "x"], 2, "criterion"),
        (["-o", "r.pdf"], 2, "a report is .html or .json"),
        (["--group", "nose"], 1, "'nose' cannot be used"),
        (["--map", "ref=nose"], 1, "there is no column 'nose'"),
        (["--census", "gone.csv"], 1, "there is no such file"),
        (["--embeddings", "gone.npy"], 1, "there is no such file"),
    ],
)
def test_wrong_options(
    earshot: Earshot, planted: dict[str, Path], options: list[str], code: int, said: str
) -> None:
    result = earshot("audit", "run", planted["results"], *options)
    assert result.exit_code == code, result.output
    assert said in result.stderr and len(result.stderr.splitlines()) == 1


def test_bad_rows_are_shown_with_their_lines_and_counted_when_skipped(
    earshot: Earshot, planted: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(planted["results"].read_text() + "broken\n" * 30)
    lines = len(path.read_text().splitlines())
    stopped = earshot("audit", "run", path)
    assert stopped.exit_code == 1
    assert f"{path}:{lines - 29}: it is not JSON" in stopped.stderr
    assert "and 10 more rows" in stopped.stderr
    run = earshot("audit", "run", path, "--bad-rows", "skip", "--discover", "groups")
    assert run.exit_code == 0 and "the row cannot be read: 30 rows" in run.stderr


def test_comparison_and_simulation(earshot: Earshot, tmp_path: Path) -> None:
    made = earshot("audit", "simulate", tmp_path / "s", "--speakers", 80, "--json")
    results = Path(json.loads(made.stdout)["results"])
    better = tmp_path / "b.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    for row in rows[::2]:
        row["hyp"] = row["ref"]
    better.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tmp_path / "c.html"
    run = ("audit", "compare", results, better, "-o", report, "--discover", "groups", "--json")
    found = json.loads(earshot(*run).stdout)
    assert found["overall"]["ci_high"] < 0
    assert found["discoveries"][0]["method"] == "groups"
    assert "everybody" in Page(report.read_text()).text
    assert json.loads(report.with_suffix(".json").read_text()) == found
    assert "B - A" in earshot("audit", "compare", results, better).stdout
