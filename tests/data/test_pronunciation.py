"""Pronunciations: of the dictionary, of words put together or guessed, and of users' files."""

from __future__ import annotations

import itertools
import math
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earshot.core.errors import PronunciationsError
from earshot.data.letter_to_sound import LetterToSound, UnitTree, coarse_backoffs, coarse_log_probs
from earshot.data.phones import PHONES, phone_ids, phone_names
from earshot.data.pronunciation import LEXICON_PATH, Lexicon
from earshot.data.word_parts import singular

LEXICON = Lexicon.load()


def said(word: str) -> list[str]:
    return [phone_names(phones) for phones in LEXICON.pronounce(word)]


def test_phones_have_the_ids_that_models_carry() -> None:
    assert tuple(sorted(PHONES)) == PHONES and len(PHONES) == 39
    assert phone_ids("AA0 K AE1 T ZH") == (1, 20, 2, 31, 39)
    assert phone_names((1, 20, 2, 31, 39)) == "AA K AE T ZH"


def test_dictionary_words() -> None:
    assert said("kitchen") == ["K IH CH AH N"]
    assert said("o'clock") == ["AH K L AA K"]
    assert said("read") == ["R EH D", "R IY D"]
    assert LEXICON.knows("kitchen") and not LEXICON.is_guess("kitchen")
    assert LEXICON.pronunciations("roomba") == () and not LEXICON.knows("roomba")


def test_words_and_their_plurals_lend_each_other_what_cmudict_has_of_one_only() -> None:
    assert said("almond") == ["AA M AH N D", "AA L M AH N D"]  # its own first
    assert said("almonds") == ["AA L M AH N D Z", "AA M AH N D Z"]
    assert said("minutes") == ["M IH N AH T S"]  # one agrees: no tiny ones
    assert said("goods") == ["G UH D Z"]
    assert said("congress's") == ["K AA NG G R AH S IH Z"]


@pytest.mark.parametrize(
    ("phones", "own", "expected"),
    [
        ("AA L M AH N D Z", ["AA M AH N D"], "AA L M AH N D"),
        ("M EH S IH JH AH Z", ["M EH S AH JH"], "M EH S IH JH"),
        ("AE D AH L T S", ["AH D AH L T"], "AE D AH L T"),
        ("AE D AH L T Z", ["AH D AH L T"], None),  # not so after a voiceless phone
        ("F AO R S", ["F AO R TH"], None),  # the word does not end so
        ("Z", ["EY"], None),
    ],
)
def test_how_a_word_is_said_whose_plural_is_known(
    phones: str, own: list[str], expected: str | None
) -> None:
    found = singular(phone_ids(phones), [phone_ids(one) for one in own])
    assert (None if found is None else phone_names(found)) == expected


def test_every_line_of_the_dictionary_is_found() -> None:
    lines = LEXICON_PATH.read_bytes().splitlines()
    for line in [lines[0], *lines[::997], lines[-1]]:
        word, *phones = line.decode().split("\t")
        assert len(LEXICON.pronunciations(word)) == len(phones)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("rusks", "R AH S K S"),  # voiceless
        ("deteriorations", "D IH T IH R IY ER EY SH AH N Z"),
        ("discordantly", "D IH S K AO R D AH N T L IY"),
        ("blanched", "B L AE N CH T"),
        ("unmute", "AH N M Y UW T"),
        ("unplugging", "AH N P L AH G IH NG"),
        ("brewmaster", "B R UW M AE S T ER"),
        ("couldn't've", "K UH D AH N T AH V"),
        ("soundbar", "S AW N D B AA R"),
    ],
)
def test_words_of_known_parts_are_no_guesses(word: str, expected: str) -> None:
    assert not LEXICON.knows(word)
    assert said(word)[0] == expected
    assert not LEXICON.is_guess(word)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("roomba", "R UW M B AH"),
        ("roomba's", "R UW M B AH Z"),
        ("nespresso", "N EH S P R EH S OW"),
        ("macchiato", "M AE K IY AA T OW"),
        ("d'arby", "D AA R B IY"),
    ],
)
def test_other_words_are_guessed(word: str, expected: str) -> None:
    assert LEXICON.is_guess(word)
    assert said(word)[0] == expected


def test_initialisms_are_spelled() -> None:
    assert said("mqtt")[0] == "EH M K Y UW T IY T IY"
    assert "EY CH V IY EY S IY" in said("hvac")
    assert said("nvr")[0] == "EH N V IY AA R"
    assert "EH N EY EH S" not in said("nas")  # it can be said, so it is


def test_a_second_guess_comes_only_where_it_is_close() -> None:
    assert len(LEXICON.pronounce("govee")) == 2
    assert len(LEXICON.pronounce("kodi")) == 1


@given(st.text(string.ascii_lowercase + "'", min_size=1, max_size=30))
def test_any_word_has_phones(word: str) -> None:
    if not word.strip("'"):
        with pytest.raises(ValueError, match="not a word of a-z"):
            LEXICON.pronounce(word)
        return
    variants = LEXICON.pronounce(word)
    assert variants and len(set(variants)) == len(variants)
    for phones in variants:
        assert phones and all(1 <= phone <= len(PHONES) for phone in phones)


@pytest.mark.parametrize("word", ["café", "5ghz", "Kitchen", "living room", ""])
def test_other_signs_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="spoken_form"):
        LEXICON.pronounce(word)


# -- the n-gram model against a sum over all paths, written another way


def _tiny_tree() -> UnitTree:
    """Units a:AA, a:EY, b:B, b:(nothing), end, start; contexts of one unit."""
    unigrams = [-1.0, -1.5, -1.25, -2.0, -1.0, -15.0]
    # after the start: a:AA; after a:AA: b:B and b:nothing; after a:EY: the end
    bigrams = {5: {0: -0.25}, 0: {2: -0.5, 3: -0.75}, 1: {4: -0.5}}
    backoffs = [-0.5, -0.25, 0.0, 0.0, 0.0, -1.0]
    pairs = [(c, u) for c in range(6) for u in sorted(bigrams.get(c, {}))]
    return UnitTree(
        bytes([0, 0, 1, 1, 26, 27]),
        [b"\x01", b"\x0d", b"\x07", b"", b"", b""],
        units=np.array([0, *range(6), *(u for _, u in pairs)], np.uint16),
        num_children=np.array(
            [6, *(len(bigrams.get(c, {})) for c in range(6)), *[0] * len(pairs)], np.uint16
        ),
        log_probs=coarse_log_probs(np.array([0.0, *unigrams, *(bigrams[c][u] for c, u in pairs)])),
        backoffs=coarse_backoffs(np.array([0.0, *backoffs, *[0.0] * len(pairs)])),
    )


def _score(units: tuple[int, ...]) -> float:
    unigrams = [-1.0, -1.5, -1.25, -2.0, -1.0]
    bigrams = {(5, 0): -0.25, (0, 2): -0.5, (0, 3): -0.75, (1, 4): -0.5}
    backoffs = {5: -1.0, 0: -0.5, 1: -0.25}
    total, before = 0.0, 5
    for unit in (*units, 4):
        total += bigrams.get((before, unit), backoffs.get(before, 0.0) + unigrams[unit])
        before = unit
    return total


@given(st.text("ab", min_size=1, max_size=6))
def test_the_search_finds_the_likeliest_path(letters: str) -> None:
    phones = [b"\x01", b"\x0d", b"\x07", b""]
    choices = [(0, 1) if letter == "a" else (2, 3) for letter in letters]
    best: dict[bytes, float] = {}
    for units in itertools.product(*choices):
        spelled = b"".join(phones[u] for u in units)
        if spelled:
            best[spelled] = max(best.get(spelled, -math.inf), _score(units))
    tree = UnitTree.from_bytes(_tiny_tree().to_bytes())
    found = LetterToSound(tree).best(letters, count=1)
    (expected, score) = max(best.items(), key=lambda item: item[1])
    assert found[0][1] == pytest.approx(score, abs=1e-5)
    assert best[bytes(found[0][0])] == pytest.approx(score, abs=1e-5), expected


# -- users' files


def test_a_users_file_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(
        "# ours\nRoomba  R UH1 M B AH0\n\nroomba(2) R UW M B AH # as well\ntomato  t ah m aa t ow\n"
    )
    lexicon = LEXICON.extended(path)
    assert [phone_names(p) for p in lexicon.pronounce("roomba")] == ["R UH M B AH", "R UW M B AH"]
    assert lexicon.knows("roomba") and not lexicon.is_guess("roomba")
    assert [phone_names(p) for p in lexicon.pronounce("roombas")] == [
        "R UH M B AH Z",
        "R UW M B AH Z",
    ]
    tomato = [phone_names(p) for p in lexicon.pronounce("tomato")]
    assert tomato == ["T AH M AA T OW", "T AH M EY T OW"]
    assert not LEXICON.knows("roomba")
    again = tmp_path / "more.txt"
    again.write_text("roomba R OW M B AH\nqrio K R IY OW\n")
    twice = lexicon.extended(again)
    assert phone_names(twice.pronounce("roomba")[0]) == "R OW M B AH"
    assert twice.knows("qrio") and phone_names(twice.pronounce("tomato")[0]) == "T AH M AA T OW"


def test_all_problems_of_a_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("hue HH Y UW\n5ghz F AY V\nlamp\nroomba R UU M B AH\n\nliving room L IH V\n")
    with pytest.raises(PronunciationsError) as caught:
        LEXICON.extended(path)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4", "6"]
    assert "five ghz" in lines[0]
    assert "'lamp' has no phones" in lines[1]
    assert "'UU' is no phone" in lines[2] and "UH" in lines[2]
    assert "'room' is no phone" in lines[3]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PronunciationsError, match="No such file"):
        LEXICON.extended(tmp_path / "absent.txt")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PronunciationsError, match="not UTF-8"):
        LEXICON.extended(binary)
