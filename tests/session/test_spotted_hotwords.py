"""Hotwords that are heard by their sounds, in real speech and by the embedded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import earshot
from earshot.decode.lattice import best_path, nbest

CLIPS = Path(__file__).parents[2] / "examples"
CLIP = CLIPS / "turn-on-the-lights.flac"
SOUNDS_ALIKE = "ternon the lytes"  # no dictionary has it, and no word piece search would write it


@pytest.fixture(scope="module")
def recognizer() -> earshot.Recognizer:
    return earshot.Recognizer.load()


def decoded(
    recognizer: earshot.Recognizer, blocks: list[np.ndarray], **options: object
) -> earshot.Stream:
    stream = recognizer.create_stream(**options)  # type: ignore[arg-type]
    for block in blocks:
        stream.accept_waveform(16_000, block)
        stream.decode()
    stream.input_finished()
    stream.decode()
    return stream


def samples() -> np.ndarray:
    found, rate = soundfile.read(CLIP, dtype="float32")
    assert rate == 16_000
    return np.asarray(found)


def test_a_phrase_that_sounds_so_is_heard_and_nothing_else_is(
    recognizer: earshot.Recognizer,
) -> None:
    plain = decoded(recognizer, [samples()]).result()
    assert plain.text == "turn on the lights"
    heard = decoded(recognizer, [samples()], hotwords=[SOUNDS_ALIKE]).result()
    assert heard.text == SOUNDS_ALIKE
    wrong = ["anna karenina", "kitchen radio", "bill murray", "off the record"]
    assert decoded(recognizer, [samples()], hotwords=wrong).result() == plain
    # A score of nothing changes nothing.
    silent = decoded(recognizer, [samples()], hotwords=[SOUNDS_ALIKE], hotwords_score=0.0)
    assert silent.result() == plain


def test_words_sound_as_their_owner_says(recognizer: earshot.Recognizer, tmp_path: Path) -> None:
    own = tmp_path / "own.dict"
    own.write_text("siobhan  T ER1 N AA1 N\n", encoding="utf-8")
    told = earshot.Recognizer.load(pronunciations=own)
    assert decoded(told, [samples()], hotwords=["siobhan the lights"]).result().text == (
        "siobhan the lights"
    )
    assert decoded(recognizer, [samples()], hotwords=["siobhan the lights"]).result().text == (
        "turn on the lights"
    )


def test_words_have_the_times_of_their_sounds(recognizer: earshot.Recognizer) -> None:
    plain = decoded(recognizer, [samples()]).result()
    heard = decoded(recognizer, [samples()], hotwords=[SOUNDS_ALIKE]).result()
    assert [word.word for word in heard.words] == SOUNDS_ALIKE.split()
    assert all(0 < word.confidence <= 1 for word in heard.words)
    starts = [word.start_s for word in heard.words]
    assert starts == sorted(starts) and len(set(starts)) == 3
    assert all(word.end_s > word.start_s for word in heard.words)
    assert heard.words[0].start_s < plain.words[1].start_s
    assert heard.words[-1].end_s == pytest.approx(plain.words[-1].end_s, abs=0.3)


@pytest.mark.parametrize("size", [160, 1600, 7001])
@pytest.mark.parametrize("lattice", [False, True])
def test_it_does_not_matter_how_sound_arrives(
    recognizer: earshot.Recognizer, size: int, lattice: bool
) -> None:
    options = {"hotwords": [SOUNDS_ALIKE, "turn it"], "lattice": lattice}
    whole = samples()
    blocks = [whole[at : at + size] for at in range(0, len(whole), size)]
    expected = decoded(recognizer, [whole], **options).result()
    found = decoded(recognizer, blocks, **options).result()
    assert found.text == expected.text == SOUNDS_ALIKE
    assert found.words == expected.words


def test_the_lattice_has_it_as_its_best_path_and_the_rest_too(
    recognizer: earshot.Recognizer,
) -> None:
    stream = decoded(recognizer, [samples()], hotwords=[SOUNDS_ALIKE], lattice=True)
    lattice = stream.lattice()
    assert best_path(lattice).text == stream.result().text == SOUNDS_ALIKE
    texts = [path.text for path in nbest(lattice, 100)]
    assert len(set(texts)) == len(texts)
    assert "turn on the lights" in texts  # what it took the place of


def test_speech_goes_on_after_it_and_the_next_utterance_knows_nothing_of_it(
    recognizer: earshot.Recognizer,
) -> None:
    both = np.concatenate([samples(), np.zeros(8000, np.float32), samples()])
    stream = decoded(recognizer, [both], hotwords=["on the lytes"])
    assert stream.result().text == "turn on the lytes turn on the lytes"
    stream.set_hotwords([])
    stream.reset()
    stream.accept_waveform(16_000, samples())
    stream.input_finished()
    stream.decode()
    assert stream.result().text == "turn on the lights"
