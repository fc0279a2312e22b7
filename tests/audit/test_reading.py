"""Results from files: every form, and every way a file can be wrong, with its line."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot import _native
from earshot.audit import reading
from earshot.audit.reading import ReadingConfig, read_results, zip_name
from earshot.audit.results import Labels, banded, cells
from earshot.audit.tokens import WordTable
from earshot.audit.words import WordCounts, examples, replay
from earshot.core.errors import ConfigError, ResultsError
from earshot.data.text import normalise

ROWS: list[dict[str, object]] = [
    {
        "id": "a",
        "ref": "turn on the light",
        "hyp": "Turn on the light!",
        "speaker": "s1",
        "who": "x",
    },
    {"id": "b", "ref": "turn it off", "hyp": "turn off"},
    {"id": "c", "ref": "good morning", "hyp": "a good warning"},
]
for _row, _speaker, _who in zip(ROWS, ("s1", "s1", "s2"), "xxy", strict=True):
    _row |= {"speaker": _speaker, "who": _who}


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv_of(path: Path, rows: list[dict[str, object]]) -> Path:
    lines = [",".join(rows[0])] + [",".join(map(str, row.values())) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


COUNTS = [[4, 0, 0, 0], [2, 0, 1, 0], [1, 1, 0, 1]]


@pytest.mark.parametrize("form", ["jsonl", "csv", "json", "jsonl.gz", "csv.gz", "crlf"])
def test_every_form_gives_the_same_counts(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"r.{'csv' if form == 'crlf' else form}"
    if form == "jsonl":
        jsonl(path, ROWS)
    elif form == "json":
        path.write_text(json.dumps(ROWS))
    elif form in ("csv", "crlf"):
        csv_of(path, ROWS)
        if form == "crlf":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    else:
        plain = (jsonl if "jsonl" in form else csv_of)(tmp_path / "plain", ROWS)
        path.write_bytes(gzip.compress(plain.read_bytes()))
    results = read_results(path)
    assert results.counts.tolist() == COUNTS
    assert results.speakers is not None and results.speakers.names == ["s1", "s2"]
    assert list(results.groups) == ["who"]
    assert results.lines.tolist() == ([1, 2, 3] if "json" in form else [2, 3, 4])


def test_kaldi_folder_with_hypotheses_beside_or_apart(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a turn on the light\nb turn it off\n")
    (tmp_path / "utt2spk").write_text("a s1\nb s2\n")
    (tmp_path / "spk2gender").write_text("s1 f\ns2 m\n")
    hyp = tmp_path / "decoded.txt"
    hyp.write_text("a turn on the light\nb turn off\n")
    results = read_results(tmp_path, config=ReadingConfig(hypotheses=hyp))
    assert results.counts.tolist() == COUNTS[:2]
    assert results.groups["gender"].names == ["f", "m"]
    hyp.rename(tmp_path / "hyp")
    assert read_results(tmp_path).counts.tolist() == COUNTS[:2]


def test_lhotse_cuts_with_hypotheses(tmp_path: Path) -> None:
    cut = {
        "id": "a",
        "start": 0,
        "duration": 1.0,
        "channel": 0,
        "type": "MonoCut",
        "recording": {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}]},
        "supervisions": [
            {
                "id": "a",
                "text": "turn it off",
                "speaker": "s1",
                "gender": "F",
                "custom": {"room": "k"},
            }
        ],
    }
    second = {**cut, "id": "b"}
    path = jsonl(tmp_path / "cuts.jsonl", [cut, second])
    hyp = jsonl(tmp_path / "h.jsonl", [{"id": "a", "text": "turn off"}, {"id": "b", "text": "x"}])
    results = read_results(path, config=ReadingConfig(hypotheses=hyp))
    assert results.counts.tolist() == [[2, 0, 1, 0], [0, 1, 2, 0]]
    assert "room" in results.left_out_columns  # one value tells nobody apart


def test_own_manifest_and_own_transcripts(tmp_path: Path) -> None:
    """`earshot transcribe --manifest` and its output fit together without a map."""
    manifest = jsonl(
        tmp_path / "m.jsonl",
        [
            {"id": r["id"], "audio": "x.wav", "text": r["ref"], "speaker": r["speaker"]}
            for r in ROWS
        ],
    )
    hyp = jsonl(tmp_path / "h.jsonl", [{"id": r["id"], "text": r["hyp"]} for r in ROWS])
    assert read_results(manifest, config=ReadingConfig(hypotheses=hyp)).counts.tolist() == COUNTS


def test_columns_are_mapped_and_missing_ones_are_named(tmp_path: Path) -> None:
    other = [
        {"utt": r["id"], "reference_text": r["ref"], "prediction": r["hyp"], "spk": r["speaker"]}
        for r in ROWS
    ]
    path = jsonl(tmp_path / "r.jsonl", other)
    with pytest.raises(ResultsError, match=r"no column 'ref'.*--map ref=reference_text"):
        read_results(path)
    columns = {"id": "utt", "ref": "reference_text", "hyp": "prediction", "speaker": "spk"}
    assert read_results(path, config=ReadingConfig(columns=columns)).counts.tolist() == COUNTS
    with pytest.raises(ConfigError, match="Did you mean 'prediction'"):
        read_results(path, config=ReadingConfig(columns={**columns, "hyp": "predicton"}))
    with pytest.raises(ConfigError, match="Did you mean 'speaker'"):
        ReadingConfig(columns={"speakr": "spk"})


def test_given_counts_need_no_texts(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "words": 4, "substitutions": 1, "deletions": 0, "insertions": 2},
        {"id": "b", "words": 3, "substitutions": 0, "deletions": 1, "insertions": 0},
    ]
    results = read_results(jsonl(tmp_path / "r.jsonl", rows))
    assert results.counts.tolist() == [[3, 1, 0, 2], [2, 0, 1, 0]]
    assert results.texts is None
    totals = [{"id": "a", "words": 4, "errors": 6}, {"id": "b", "words": 3, "errors": 1}]
    results = read_results(csv_of(tmp_path / "t.csv", totals))
    assert results.errors.tolist() == [6, 1] and results.words.tolist() == [4, 3]
    wrong = [
        {"id": "a", "words": 4, "hits": 4, "substitutions": 1, "deletions": 0, "insertions": 0}
    ]
    with pytest.raises(ResultsError, match=r"r\.jsonl:1: its counts contradict each other"):
        read_results(jsonl(tmp_path / "r.jsonl", wrong))
    with pytest.raises(ResultsError, match="a count is -1"):
        read_results(jsonl(tmp_path / "r.jsonl", [{"id": "a", "words": 4, "errors": -1}]))


# ---------------------------------------------------------------- bad input


def test_duplicated_ids_name_both_lines_or_are_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", [*ROWS, {**ROWS[0], "hyp": "no"}])
    with pytest.raises(ResultsError, match=r"r\.jsonl:4: the id 'a' stands on line 1 already"):
        read_results(path)
    results = read_results(path, config=ReadingConfig(bad_rows="skip"))
    assert results.counts.tolist() == COUNTS and results.num_rows == 4
    assert [(e.reason, e.count, e.lines) for e in results.exclusions] == [
        ("the id came before", 1, (4,))
    ]


def test_empty_references_missing_texts_and_speakers_are_counted_with_lines(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        {"id": "d", "ref": " ... ", "hyp": "hallo there", "speaker": "s1"},
        {"id": "e", "ref": None, "hyp": "x", "speaker": "s1"},
        {"id": "f", "ref": "x", "hyp": None, "speaker": "s1"},
        {"id": "g", "ref": "x", "hyp": "x", "speaker": ""},
        {"id": "h", "ref": "x", "hyp": "", "speaker": "s2"},
    ]
    results = read_results(jsonl(tmp_path / "r.jsonl", rows))
    assert {e.reason: (e.scope, e.lines) for e in results.exclusions} == {
        "the reference has no words": ("everything", (4,)),
        "the reference is missing": ("everything", (5,)),
        "the hypothesis is missing": ("everything", (6,)),
        "the speaker is missing": ("everything", (7,)),
    }
    assert results.counts.tolist() == [*COUNTS, [0, 0, 1, 0]]  # heard nothing: a deletion
    assert any("2 words were heard where the reference has none" in r for r in results.remarks)
    assert len(results) + sum(e.count for e in results.exclusions) == results.num_rows == 8


def test_coordinates_that_are_none_leave_regions_only(tmp_path: Path) -> None:
    where = [("1.5", "200"), (float("nan"), 2), (3, 4), (None, None), ("north", 1)]
    rows = [
        {"id": str(at), "ref": "x", "hyp": "x", "speaker": str(at), "lat": lat, "lon": lon}
        for at, (lat, lon) in enumerate(where)
    ]
    results = read_results(jsonl(tmp_path / "r.jsonl", rows))
    assert len(results) == 5 and results.lat is not None and results.lon is not None
    assert np.isfinite(results.lat).tolist() == [True, False, True, False, False]
    found = {e.reason: e.lines for e in results.exclusions}
    assert found["'lat' is no number from -90 to 90"] == (2, 5)
    assert found["'lon' is no number from -180 to 180"] == (1,)
    assert all(e.scope == "regions" for e in results.exclusions)


def test_a_broken_line_costs_itself_and_no_other(tmp_path: Path) -> None:
    lines = ["id,ref,hyp,speaker"]
    lines += [f"u{at},one two,one two,s{at % 7}" for at in range(5000)]
    lines[100] = 'u99,"an open quote,one two,s1'
    lines[2000] = "u1999,one two"
    lines[3000] = 'u2999,"quoted, with a comma","one ""two""",s3'
    path = tmp_path / "r.csv"
    data = "\n".join(lines).encode()
    path.write_bytes(data.replace(b"u4000,one", b"u4000,\xff\xfe"))
    with pytest.raises(ResultsError) as caught:
        read_results(path)
    assert [problem.where for problem in caught.value.problems] == [
        f"{path}:{line}" for line in (101, 2001, 4002)
    ]
    results = read_results(path, config=ReadingConfig(bad_rows="skip"))
    assert len(results) == 4997 and results.num_rows == 5000
    assert results.exclusions[0].lines == (101, 2001, 4002)


def test_an_open_quote_on_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('id,ref,hyp\na,x,x\nb,x,"x\n')
    with pytest.raises(ResultsError, match=r"r\.csv:3: a quote is left open"):
        read_results(path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "z", "ref": 1, "hyp": "x", "speaker": "s"}', "is not text"),
        ('{"ref": "x", "hyp": "x", "speaker": "s"}', "it has no id"),
        ("[1]", "it is a list, not an object"),
        ('{"id": "z"', "it is not JSON"),
    ],
)
def test_broken_json_lines(tmp_path: Path, line: str, problem: str) -> None:
    path = jsonl(tmp_path / "r.jsonl", ROWS)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ResultsError, match=rf"r\.jsonl:4: .*{problem}"):
        read_results(path)
    assert len(read_results(path, config=ReadingConfig(bad_rows="skip"))) == 3


@pytest.mark.parametrize("text", ["", "\n\n", '{"id": "a", "ref": "", "hyp": ""}\n'])
def test_files_without_anything_to_score(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(ResultsError):
        read_results(path)


def test_a_damaged_archive(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS * 2000).encode())
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultsError, match="cannot be read"):
        read_results(path)


@given(size=st.integers(60, 900))
def test_where_a_file_is_cut_into_parts_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    if not path.exists():
        rows = [{**ROWS[at % 3], "id": f"u{at}", "n": at % 5, "lat": at % 50} for at in range(40)]
        jsonl(path, [*rows, {"id": "late", "ref": "", "hyp": "x", "speaker": "s9"}])
    with pytest.MonkeyPatch.context() as patch:
        whole = read_results(path)
        patch.setattr(reading, "PART_BYTES", size)
        parts = read_results(path)
    np.testing.assert_array_equal(parts.counts, whole.counts)
    assert parts.ids == whole.ids and parts.lines.tolist() == whole.lines.tolist()
    assert parts.exclusions == whole.exclusions
    assert parts.groups["n"].names == whole.groups["n"].names
    assert parts.texts is not None and whole.texts is not None
    for row in range(len(whole)):
        assert parts.texts.reference(row) == whole.texts.reference(row)
    np.testing.assert_array_equal(parts.texts.error_row, whole.texts.error_row)


# ---------------------------------------------------------------- words


@given(st.text())
def test_word_by_word_gives_the_words_of_the_whole_text(text: str) -> None:
    table = WordTable()
    numbers, ends = table.encode([text, text])
    words = [table.words[at] for at in numbers]
    assert words == normalise(text).split() * 2
    assert ends.tolist() == [len(words) // 2, len(words)]


def test_characters_and_texts_as_they_are() -> None:
    table = WordTable("normalised", "characters")
    numbers, _ = table.encode(["Ab c!"])
    assert [table.words[at] for at in numbers] == ["a", "b", "c"]
    table = WordTable("as-is")
    numbers, _ = table.encode(["Ab c!"])
    assert [table.words[at] for at in numbers] == ["Ab", "c!"]


TOKENS = st.lists(st.integers(0, 3), max_size=12)


def flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([token for each in lists for token in each], np.int32),
        np.cumsum([len(each) for each in lists], dtype=np.int64),
    )


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=5))
def test_batches_align_like_single_utterances_and_their_errors_rebuild_them(
    pairs: list[tuple[list[int], list[int]]],
) -> None:
    refs, hyps = [ref for ref, _ in pairs], [hyp for _, hyp in pairs]
    counts, rows, errors = _native.align_batch(*flat(refs), *flat(hyps))
    for at, (ref, hyp) in enumerate(pairs):
        one = _native.align_counts(np.array(ref, np.int32), np.array(hyp, np.int32))
        assert tuple(counts[at].tolist()) == one
        steps = replay(ref, hyp, errors[rows == at].tolist())
        assert [r for _, r, _ in steps if r >= 0] == ref
        assert [h for _, _, h in steps if h >= 0] == hyp
        kinds = [kind for kind, _, _ in steps]
        assert (
            kinds.count("hit"),
            kinds.count("sub"),
            kinds.count("del"),
            kinds.count("ins"),
        ) == one


def test_long_texts_align_in_halves_with_the_same_counts() -> None:
    """More cells than the table may have: Hirschberg's way, against counts that keep no path."""
    rng = np.random.default_rng(0)
    ref = rng.integers(0, 50, 5000).astype(np.int32)
    hyp = np.delete(ref, rng.choice(5000, 400, replace=False))
    hyp[rng.choice(len(hyp), 500, replace=False)] = 99
    ends = [np.array([len(x)], np.int64) for x in (ref, hyp)]
    counts, rows, errors = _native.align_batch(ref, ends[0], hyp, ends[1])
    assert tuple(counts[0].tolist()) == _native.align_counts(ref, hyp)
    assert len(rows) == len(errors) == counts[0, 1:].sum()


@pytest.mark.parametrize("ends", [[3], [1, 3], [2, 1], [-1, 2]])
def test_ends_that_do_not_fit_are_refused(ends: list[int]) -> None:
    tokens = np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="align_batch"):
        _native.align_batch(tokens, np.array(ends), tokens, np.full(len(ends), 2))


def test_words_that_fail_and_examples(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"u{at}",
            "ref": "the lamp",
            "hyp": "the lamb" if at % 2 else "the",
            "speaker": f"s{at % 4}",
        }
        for at in range(12)
    ]
    results = read_results(jsonl(tmp_path / "r.jsonl", rows))
    assert results.texts is not None
    found = WordCounts(results.texts).failing()
    assert [(w.word, w.said, w.wrong) for w in found] == [("lamp", 12, 12)]
    assert dict(found[0].heard_as) == {"lamb": 6, "": 6}
    inside = np.arange(12) < 6
    part = WordCounts(results.texts).failing(inside)
    assert (part[0].said, part[0].elsewhere) == (6, 1.0)
    drawn = examples(results, inside, most=3)
    assert len({results.unit_codes[e.row] for e in drawn}) == 3
    assert drawn[0].steps[0] == ("hit", "the", "the")


# ---------------------------------------------------------------- columns


def test_zip_codes_come_back_whole() -> None:
    assert [
        zip_name(z) for z in (2139, "02139", "2139.0", "02139-1234", 2139.0, " sw1a 1aa", None)
    ] == [
        *["02139"] * 5,
        "SW1A 1AA",
        "",
    ]


def test_numbers_become_bands_and_few_values_stay() -> None:
    codes = np.arange(100, dtype=np.int32)
    bands = banded(Labels(codes, [str(at) for at in range(100)]))
    assert bands.names == ["0 to 24", "25 to 49", "50 to 74", "75 to 99"]
    few = Labels(codes % 3, ["1", "2", "3"])
    assert banded(few) is few


def test_cells_keep_every_count(tmp_path: Path) -> None:
    rows = [
        {"id": str(at), "ref": "a b c", "hyp": "a b", "speaker": f"s{at % 5}", "g": "uv"[at % 2]}
        for at in range(37)
    ]
    results = read_results(jsonl(tmp_path / "r.jsonl", rows))
    table = cells(results, [results.groups["g"].codes])
    assert table.counts.sum(axis=0).tolist() == results.counts.sum(axis=0).tolist()
    assert len(table.unit) == 10 and table.utterances.sum() == 37
    for row in range(37):
        at = table.of_row[row]
        assert table.unit[at] == results.unit_codes[row]
        assert table.codes[0, at] == results.groups["g"].codes[row]


def test_embeddings_by_order_by_number_and_in_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.eye(4, 3, dtype=np.float16))
    rows = [*ROWS, {"id": "d", "ref": "", "hyp": "", "speaker": "s1"}]
    path = jsonl(tmp_path / "r.jsonl", rows)
    found = read_results(path, embeddings=tmp_path / "e.npy").embeddings
    assert found is not None and found.index.tolist() == [0, 1, 2]
    named = jsonl(tmp_path / "n.jsonl", [{**r, "embedding": 3 - at} for at, r in enumerate(ROWS)])
    found = read_results(named, embeddings=tmp_path / "e.npy").embeddings
    assert found is not None and found.index.tolist() == [3, 2, 1]
    own = jsonl(tmp_path / "o.jsonl", [{**r, "embedding": [1.0, 2.0]} for r in ROWS])
    found = read_results(own).embeddings
    assert found is not None and found.vectors.shape == (3, 2)
    with pytest.raises(ResultsError, match="4 vectors for 3 rows"):
        read_results(jsonl(tmp_path / "s.jsonl", ROWS), embeddings=tmp_path / "e.npy")
    bad = jsonl(tmp_path / "b.jsonl", [{**r, "embedding": 9} for r in ROWS])
    with pytest.raises(ResultsError, match=r"embedding 9 is no row"):
        read_results(bad, embeddings=tmp_path / "e.npy")


ON_RAY = """
import json, sys
from pathlib import Path
from earshot.audit import reading
from earshot.audit.cluster import mapped_on_ray
from earshot.audit.run import run_audit
reading.PART_BYTES = 20_000
here = run_audit(reading.read_results(Path(sys.argv[1]))).as_dict()
with mapped_on_ray("local") as map_parts:
    there = run_audit(reading.read_results(Path(sys.argv[1]), map_parts=map_parts)).as_dict()
assert json.dumps(here) == json.dumps(there)
print(there["overall"]["n_words"])
"""


def test_two_ray_workers_give_the_same_audit(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed ([cluster])")
    pytest.importorskip("scipy", reason="scipy is not installed ([audit])")
    from earshot.audit.simulate import World, plant, write_planted

    paths = write_planted(plant(World(speakers=60, seed=3)), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, str(paths["results"])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 0
