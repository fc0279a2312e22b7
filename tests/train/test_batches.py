"""Batches: what becomes of a clip's text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lhotse")
sentencepiece = pytest.importorskip("sentencepiece")

from lhotse import CutSet
from lhotse.cut import MonoCut

from earshot.data.phones import phone_ids
from earshot.data.pronunciation import Lexicon
from earshot.modelfile.reader import ModelFile
from earshot.session.recognizer import embedded_model_path
from earshot.train.augment import Augmenter
from earshot.train.batches import Batch, ClipTexts, PlacedClips, Progress, TrainingClips
from earshot.train.cuts import file_cut, write_wav
from earshot.train.recipe import AugmentConfig
from earshot.train.resident import Resident, clip_key, read_resident

pytestmark = pytest.mark.train


def _texts(
    lexicon: Lexicon, rivals: Callable[[str, np.random.Generator], list[str]] | None = None
) -> ClipTexts:
    pieces = ModelFile(embedded_model_path()).tensor_bytes("tokenizer")
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=bytes(pieces))
    return ClipTexts(tokenizer, lexicon, stack=4, rivals=rivals)


def _clips(lexicon: Lexicon) -> TrainingClips:
    return TrainingClips(_texts(lexicon), None, Progress(), num_bins=80, seed=1)


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
    own = _texts(Lexicon.load().extended(words))
    drawn = {
        tuple(text.phones)
        for seed in range(40)
        if (text := own.of(cuts[2], 200, np.random.default_rng(seed))) is not None
    }
    assert drawn == {phone_ids("HH Y UW Z"), phone_ids("HH Y UW")}


def test_rivals_say_the_words_that_they_share_with_the_truth_alike(tmp_path: Path) -> None:
    lexicon = Lexicon.load()

    def other(text: str, _: np.random.Generator) -> list[str]:
        return [text.replace("tomato", "potato")] if "tomato" in text else []

    clips = TrainingClips(_texts(lexicon, other), None, Progress(), num_bins=80, seed=1)
    cuts = [_cut(tmp_path, name, text) for name, text in (("a", "stop"), ("b", "either tomato"))]
    said = set()
    for _ in range(20):
        batch = clips[CutSet.from_cuts(cuts)].to(torch.device("cpu"))
        assert batch.rivals is not None and batch.rivals.clips.tolist() == [1]
        count = int(batch.phone_lengths[1])
        spoken, rival = batch.phones[1, :count].tolist(), batch.rivals.phones[0].tolist()
        assert tuple(spoken[:3]) in lexicon.pronounce("either")
        assert rival[:3] == spoken[:3] and rival != spoken
        assert tuple(rival[3:]) in lexicon.pronounce("potato")
        said.add(tuple(rival[:3]))
    assert len(said) == 2
    assert clips[CutSet.from_cuts(cuts[:1])].rivals is None


def test_clips_of_a_batch_wait_for_each_other(tmp_path: Path) -> None:
    config = AugmentConfig(
        padding_max_s=0.0, cut_tail_share=0.0, speed=0.0, wait_share=1.0, wait_max_s=5.0
    )
    augmenter = Augmenter(config, None, ())
    clips = TrainingClips(_texts(Lexicon.load()), augmenter, Progress(), num_bins=80, seed=1)
    cuts = CutSet.from_cuts([_cut(tmp_path, name, "stop") for name in "abcd"])
    lengths = [clips[cuts].feature_lengths.tolist() for _ in range(5)]
    assert all(len(set(of_batch)) == 1 for of_batch in lengths)
    assert len({of_batch[0] for of_batch in lengths}) == 5


def test_clips_of_manifests_become_batches(tmp_path: Path) -> None:
    both = np.random.default_rng(1).standard_normal(48_000).astype(np.float32) * 0.1
    write_wav(tmp_path / "both.wav", both)
    fields = file_cut("a", tmp_path / "both.wav", 48000, text="turn on", speaker="s", custom={})
    whole = MonoCut.from_dict(fields)
    parts = [whole.truncate(duration=1.0), whole.truncate(offset=1.0, duration=2.0)]
    cuts = [part.with_id(name) for name, part in zip("ab", parts, strict=True)]
    audio = read_resident({"read": cuts})
    assert [audio.places[clip_key(c)][:2] for c in cuts] == [(0, 16000), (16000, 32000)]
    np.testing.assert_allclose(audio.track / 32768.0, both, atol=1e-4)
    placed = PlacedClips(_texts(Lexicon.load()), audio.places, speed=0.1, seed=1)[
        CutSet.from_cuts(cuts)
    ]
    assert placed is not None
    cpu = torch.device("cpu")
    r = Resident(AugmentConfig(), audio, None, (), num_bins=80, device=cpu, seed=1)
    batch = placed.to(cpu).heard(*r.features(placed.clips, 1.0))
    assert isinstance(batch, Batch)
    assert len(batch.features) == len(batch.texts) == 2
    assert batch.texts == ("turn on", "turn on")
    assert batch.labels.shape == (2, int(batch.label_lengths.max()))


def test_speech_too_fast_for_its_clip_is_left_out(tmp_path: Path) -> None:
    cuts = [_cut(tmp_path, "a", "every light in the kitchen and in the living room " * 4)]
    places = read_resident({"read": cuts}).places
    clips = PlacedClips(_texts(Lexicon.load()), places, speed=0.1, seed=1)
    assert clips[CutSet.from_cuts(cuts)] is None
