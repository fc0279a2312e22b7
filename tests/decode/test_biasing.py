"""Lists of hotwords: what files may say, how phrases are spelled, what a stream makes of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import earshot
from earshot import _native
from earshot.core.errors import ConfigError, HotwordsError
from earshot.decode.biasing import (
    DEFAULT_SCORE,
    PIECE_SHARE,
    SCORE_OF_PIECES_ALONE,
    Hotword,
    HotwordCompiler,
    hotwords_of,
    read_hotwords,
    usual_score,
)
from earshot.session.recognizer import embedded_model_path
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def compiler() -> HotwordCompiler:
    return HotwordCompiler(_native.Model(str(embedded_model_path())))


def written(folder: Path, text: str) -> Path:
    path = folder / "hotwords.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_as_sherpa_onnx_defines_it(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffHELLO WORLD :2.0\n\n  anna   lee\nkitchen :.5\r\nbob :0\n")
    found = read_hotwords(path)
    assert [(h.phrase, h.score) for h in found] == [
        ("HELLO WORLD", 2.0),
        ("anna lee", None),
        ("kitchen", 0.5),
        ("bob", 0.0),
    ]
    assert [h.where for h in found] == [f"{path}:{n}" for n in (1, 3, 4, 5)]


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ":2.0 hello\nfine\nhello :two\nhello :21\nhello :1 :2\nhello :1 world\n"
        "hello #0.4\nhello @HELLO\nhello :nan\nhello :-1\n",
    )
    with pytest.raises(HotwordsError) as caught:
        read_hotwords(path)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", *map(str, range(3, 11))]
    for line, said in zip(
        lines,
        (
            "before the words",
            "score is :two",
            "in :0 .. :20",
            "second score",
            "after the score",
            "threshold #0.4",
            "display form @HELLO",
            "score is :nan",
            "score is :-1",
        ),
        strict=True,
    ):
        assert said in line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(HotwordsError, match="no such file"):
        read_hotwords(tmp_path / "absent.txt")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(HotwordsError, match="UTF-8"):
        read_hotwords(tmp_path / "latin")


@settings(max_examples=200)
@given(text=st.text(max_size=60))
def test_any_text_is_read_or_refused_by_line(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("hotwords") / "h.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        named = [hotword.where for hotword in read_hotwords(path)]
    except HotwordsError as err:
        named = [problem.where for problem in err.problems]
    lines = 1 + len(re.findall("\r\n|\r|\n", text))
    for where in named:
        line = where.removeprefix(f"{path}:")
        assert where == str(path) or 1 <= int(line) <= lines


def test_lists_from_programs() -> None:
    want = [("anna", None), ("bob lee", 2.0)]
    for source in (["anna", ("bob lee", 2)], [Hotword("anna"), Hotword("bob lee", 2.0)]):
        assert [(h.phrase, h.score) for h in hotwords_of(source)] == want
    assert [(h.phrase, h.score) for h in hotwords_of({"anna": 1.0})] == [("anna", 1.0)]
    with pytest.raises(HotwordsError, match=r"hotword 'anna': its score is 21.*0\.\.20"):
        hotwords_of({"anna": 21.0})
    with pytest.raises(TypeError, match="an entry is 3"):
        hotwords_of([3])


def test_case_punctuation_accents_and_numerals(compiler: HotwordCompiler) -> None:
    for phrase, spoken in (
        ("Anna", "anna"),
        ("ANNA-LEE", "anna lee"),
        ("Siobhan O'Reilly", "siobhan o'reilly"),
        ("“Zoë”", "zoe"),
        ("Room 5", "room five"),
        ("AC/DC", "ac dc"),
        ("Mr. Smith!", "mr smith"),
        ("李雷", ""),
        ("?!", ""),
        ("", ""),
    ):
        assert compiler.spoken(phrase) == spoken
    assert "".join(compiler.pieces("anna lee")) == "▁anna▁lee"


def test_what_cannot_be_spelled_is_named_and_the_rest_counts(
    compiler: HotwordCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = compiler.compile(["anna", "李雷", "...", "x" * 1100, "bob"])
    assert len(compiled) == 2
    assert compiled.spoken == ("anna", "", "", "", "bob")
    problems = [str(problem) for problem in compiled.problems]
    assert ["李 雷" in problems[0], "no letters" in problems[1], "too long" in problems[2]] == [
        True
    ] * 3
    assert [record.message for record in caplog.records] == problems


def test_a_score_is_for_each_piece(compiler: HotwordCompiler) -> None:
    pieces = compiler.pieces("anna")
    names = list(_native.Model(str(embedded_model_path())).pieces)
    ids = np.array([names.index(piece) for piece in pieces], np.int32)
    for source, default, each in (
        (["anna"], None, DEFAULT_SCORE),
        (["anna"], 2.0, 2.0),
        ([("anna", 3.0)], 2.0, 3.0),
        ([("anna", 3.0), "ANNA"], 1.0, 3.0),  # of two the higher
        ([("anna", 0.0)], 2.0, 0.0),
    ):
        worth = compiler.compile(source, default_score=default).native.walk(ids)[-1]
        assert worth == each * PIECE_SHARE * len(pieces)
    with pytest.raises(ConfigError, match=r"0\.\.20"):
        compiler.compile(["anna"], default_score=-1.0)


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    recognizer = earshot.Recognizer.load(write_tiny_model(tmp_path / "tiny.ear"))
    with pytest.raises(ConfigError, match="no SentencePiece model"):
        recognizer.create_stream(hotwords=["turn"])


def test_ten_thousand_phrases(compiler: HotwordCompiler) -> None:
    rng = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    phrases = ["".join(rng.choice(letters, 8)) for _ in range(10_000)]
    compiled = compiler.compile(phrases)
    assert len(compiled) == 10_000 and compiled.native.size_bytes < 10_000_000


CLIP = Path(__file__).parents[2] / "examples" / "turn-on-the-lights.flac"


def heard(recognizer: earshot.Recognizer, **kwargs: object) -> str:
    import soundfile

    samples, rate = soundfile.read(CLIP, dtype="float32")
    stream = recognizer.create_stream(**kwargs)  # type: ignore[arg-type]
    stream.accept_waveform(rate, samples)
    stream.input_finished()
    stream.decode()
    return stream.result().text


def test_hotwords_are_heard_and_replaced_between_utterances() -> None:
    """A phrase that sounds alike takes over at a high score, and only while it is listed."""
    import soundfile

    samples, rate = soundfile.read(CLIP, dtype="float32")
    recognizer = earshot.Recognizer.load(max_active_paths=16)
    plain = heard(recognizer)
    wrong = "turn on the light"
    assert plain == "turn on the lights"
    assert heard(recognizer, hotwords=[wrong], hotwords_score=0.0) == plain
    assert heard(recognizer, hotwords=["washington"], hotwords_score=1.5) == plain
    assert heard(recognizer, hotwords=[wrong], hotwords_score=6.0) == wrong
    own = earshot.Recognizer.load(max_active_paths=16, hotwords=[wrong], hotwords_score=6.0)
    assert heard(own) == wrong
    assert heard(own, hotwords=[]) == plain

    stream = recognizer.create_stream(hotwords=[wrong], hotwords_score=6.0)
    texts = []
    for change in (None, [], [wrong]):
        for start in range(0, len(samples), 1600):
            stream.accept_waveform(rate, samples[start : start + 1600])
            stream.decode()
            if start == 8000 and change is not None:
                stream.set_hotwords(change, score=6.0)  # from the next utterance on
        stream.input_finished()
        stream.decode()
        texts.append(stream.result().text)
        stream.reset()
    assert texts == [wrong, wrong, plain]


def test_pieces_alone_are_lent_more() -> None:
    assert usual_score(language_model=False, phones=False) == SCORE_OF_PIECES_ALONE
    assert usual_score(language_model=True, phones=False) == DEFAULT_SCORE < SCORE_OF_PIECES_ALONE
    assert usual_score(language_model=False, phones=True) == DEFAULT_SCORE


def test_a_recognisers_score_is_that_of_its_phrases(compiler: HotwordCompiler) -> None:
    names = list(_native.Model(str(embedded_model_path())).pieces)
    ids = np.array([names.index(piece) for piece in compiler.pieces("anna")], np.int32)
    for options, each in (
        ({}, DEFAULT_SCORE),
        ({"lm_weight": 0.0}, DEFAULT_SCORE),
        ({"hotwords_score": 0.5}, 0.5),
    ):
        found = earshot.Recognizer.load(**options).compile_hotwords(["anna"])
        assert found.native.walk(ids)[-1] == each * PIECE_SHARE * len(ids)
