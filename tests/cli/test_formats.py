"""Written forms of transcripts, against exact strings and against what captions promise."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.cli import formats
from earshot.core.transcript import Transcript, Word

LIGHTS = (
    Word("turn", 0.24, 0.4, 0.991234),
    Word("on", 0.4, 0.52, 0.5),
    Word("the", 0.52, 0.6, 1.0),
    Word("lights", 0.6004, 1.08, 0.875),
)


@st.composite
def timed_words(draw: st.DrawFn) -> list[Word]:
    words, now = [], 0.0
    for _ in range(draw(st.integers(0, 60))):
        now += draw(st.sampled_from([0.0, 0.0, 0.04, 0.2, 0.64, 1.4]))
        length = draw(st.sampled_from([0.04, 0.2, 0.48, 2.0]))
        text = draw(st.text("abc'é<&", min_size=1, max_size=14))
        words.append(Word(text, now, now + length, 0.5))
        now += length
    return words


def test_srt_is_exactly_this() -> None:
    assert formats.srt(LIGHTS) == "1\n00:00:00,240 --> 00:00:01,080\nturn on the lights\n\n"


def test_srt_numbers_cues_and_counts_hours() -> None:
    words = [Word("one", 3599.9996, 3600.5, 1.0), Word("two", 7325.25, 7326.0, 1.0)]
    assert formats.srt(words) == (
        "1\n01:00:00,000 --> 01:00:00,500\none\n\n2\n02:02:05,250 --> 02:02:06,000\ntwo\n\n"
    )


def test_vtt_is_exactly_this() -> None:
    words = [Word("rock", 0.0, 0.4, 1.0), Word("&", 0.4, 0.5, 1.0), Word("<roll>", 0.5, 1.0, 1.0)]
    assert formats.vtt(words) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nrock &amp; &lt;roll&gt;\n\n"
    )


def test_ctm_is_exactly_this() -> None:
    assert formats.ctm(LIGHTS, recording="rec 1") == (
        "rec_1 0 0.24 0.16 turn 0.99\n"
        "rec_1 0 0.40 0.12 on 0.50\n"
        "rec_1 0 0.52 0.08 the 1.00\n"
        "rec_1 0 0.60 0.48 lights 0.88\n"
    )


def test_json_object_is_exactly_this() -> None:
    transcript = Transcript(LIGHTS[:1], duration_s=1.66)
    value = formats.transcript_object(transcript, processing_s=0.01234, model="assistant-en")
    assert formats.json_line(value) == (
        '{"text": "turn", "words": [{"word": "turn", "start_s": 0.24, "end_s": 0.4, '
        '"confidence": 0.9912}], "duration_s": 1.66, "processing_s": 0.012, '
        '"model": "assistant-en"}\n'
    )


def test_json_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError):
        formats.json_line({"confidence": float("nan")})


def test_no_words_give_valid_empty_files() -> None:
    assert formats.srt(()) == ""
    assert formats.vtt(()) == "WEBVTT\n\n"
    assert formats.ctm((), recording="a") == ""
    value = formats.transcript_object(Transcript(()), processing_s=0.0, model="m")
    assert json.loads(formats.json_line(value))["words"] == []


def test_a_cue_is_cut_where_the_speaker_paused() -> None:
    words = [Word(f"w{i}", i * 0.5, i * 0.5 + 0.45, 1.0) for i in range(20)]
    late = [Word(w.word, w.start_s + 0.3, w.end_s + 0.3, 1.0) for w in words[10:]]
    first, second = formats.cues([*words[:10], *late])
    assert first.text == "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9"
    assert second.start_s == pytest.approx(5.3)


def test_long_text_breaks_into_two_lines_near_the_middle() -> None:
    words = [Word("abcdefgh", i * 0.5, i * 0.5 + 0.5, 1.0) for i in range(9)]
    lines = formats.srt(words).split("\n")[2:4]
    assert [len(line) for line in lines] == [44, 35]


def test_a_word_too_long_for_a_cue_stands_alone() -> None:
    words = [Word("a", 0.0, 0.2, 1.0), Word("b" * 100, 0.2, 0.6, 1.0), Word("c", 0.6, 0.8, 1.0)]
    assert [cue.text for cue in formats.cues(words)] == ["a", "b" * 100, "c"]


@given(words=timed_words())
def test_cues_hold_every_word_once_and_keep_the_limits(words: list[Word]) -> None:
    cues = formats.cues(words)
    assert " ".join(cue.text for cue in cues) == " ".join(word.word for word in words)
    for cue in cues:
        if " " in cue.text:
            assert len(cue.text) <= formats.MAX_CUE_CHARS
            assert cue.end_s - cue.start_s <= formats.MAX_CUE_S
    for before, after in itertools.pairwise(cues):
        assert before.end_s <= after.start_s


@given(words=timed_words())
def test_ctm_can_be_read_back(words: list[Word]) -> None:
    rows = [line.split() for line in formats.ctm(words, recording="r").splitlines()]
    assert [row[4] for row in rows] == [word.word for word in words]
    for row, word in zip(rows, words, strict=True):
        assert len(row) == 6
        assert float(row[2]) == pytest.approx(word.start_s, abs=0.0051)
        assert float(row[2]) + float(row[3]) == pytest.approx(word.end_s, abs=0.0051)


@given(words=timed_words())
def test_captions_parse_by_their_grammar(words: list[Word]) -> None:
    time = r"\d{2,}:[0-5]\d:[0-5]\d"
    body = r"(?:[^\n]+\n){1,2}\n"
    assert re.fullmatch(rf"(?:\d+\n{time},\d{{3}} --> {time},\d{{3}}\n{body})*", formats.srt(words))
    assert re.fullmatch(
        rf"WEBVTT\n\n(?:{time}\.\d{{3}} --> {time}\.\d{{3}}\n{body})*", formats.vtt(words)
    )
