"""Batches: what becomes of a clip's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lhotse")
sentencepiece = pytest.importorskip("sentencepiece")

from lhotse import CutSet
from lhotse.cut import MonoCut

from earshot.data.phones import phone_ids
from earshot.data.pronunciation import Lexicon
from earshot.modelfile.reader import ModelFile
from earshot.session.recognizer import embedded_model_path
from earshot.train.batches import Progress, TrainingClips
from earshot.train.cuts import file_cut, write_wav

pytestmark = pytest.mark.train


def _clips(lexicon: Lexicon) -> TrainingClips:
    pieces = ModelFile(embedded_model_path()).tensor_bytes("tokenizer")
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=bytes(pieces))
    return TrainingClips(tokenizer, None, Progress(), lexicon=lexicon, num_bins=80, stack=4, seed=1)


def _cut(folder: Path, name: str, text: str) -> MonoCut:
    samples = np.random.default_rng(1).standard_normal(32_000).astype(np.float32) * 0.01
    write_wav(folder / f"{name}.wav", samples)
    fields = file_cut(name, folder / f"{name}.wav", 32_000, text=text, speaker="s", custom={})
    return MonoCut.from_dict(fields)


def test_every_text_has_phones(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("hue HH Y UW Z\n")
    cuts = [_cut(tmp_path, "a", "roomba stop"), _cut(tmp_path, "b", ""), _cut(tmp_path, "c", "hue")]
    batch = _clips(Lexicon.load())[CutSet.from_cuts(cuts)]
    roomba = phone_ids("R UW M B AH S T AA P")
    assert batch.phones[0].tolist() == list(roomba)
    assert batch.phone_lengths.tolist() == [len(roomba), 0, 3]
    assert batch.phones[2].tolist() == [*phone_ids("HH Y UW"), *[0] * (len(roomba) - 3)]
    own = _clips(Lexicon.load().extended(words))
    drawn = {tuple(own._phones("hue", np.random.default_rng(seed))) for seed in range(40)}
    assert drawn == {phone_ids("HH Y UW Z"), phone_ids("HH Y UW")}
