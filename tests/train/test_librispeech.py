"""LibriSpeech's own folder layout, made small, through Lhotse into cuts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

pytest.importorskip("lhotse", reason="needs lhotse; install earshot[train]")

from lhotse import CutSet

from earshot.train import librispeech


def _part(corpus: Path, part: str, chapters: dict[str, list[str]]) -> None:
    rng = np.random.default_rng(0)
    for chapter, sentences in chapters.items():
        speaker, number = chapter.split("-")
        folder = corpus / part / speaker / number
        folder.mkdir(parents=True)
        lines = []
        for n, sentence in enumerate(sentences):
            name = f"{chapter}-{n:04d}"
            seconds = 25 if "LONG" in sentence else 1 + n
            samples = 0.1 * rng.standard_normal(16000 * seconds)
            sf.write(folder / f"{name}.flac", samples.astype(np.float32), 16000)
            lines.append(f"{name} {sentence}\n")
        (folder / f"{chapter}.trans.txt").write_text("".join(lines))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "LibriSpeech"
    _part(
        folder,
        "train-clean-100",
        {
            "121-121726": ["ALSO A POPULAR CONTRIVANCE", "MISTER QUILTER'S MANNER"],
            "237-134500": ["FRANK READ ENGLISH SLOWLY", "TOO LONG A SENTENCE"],
        },
    )
    _part(folder, "dev-clean", {"84-121123": ["GO DO YOU HEAR"]})
    _part(folder, "test-clean", {"61-70968": ["HE BEGAN A CONFUSED COMPLAINT"]})
    return folder


def test_parts_become_cuts_in_the_recognisers_spelling(corpus: Path, tmp_path: Path) -> None:
    hours = librispeech.prepare(tmp_path / "exp", root=corpus.parent)
    cuts = tmp_path / "exp" / "cuts"
    train = list(CutSet.from_file(cuts / "librispeech_train_train-clean-100.jsonl.gz"))
    assert [cut.supervisions[0].text for cut in train] == [
        "also a popular contrivance",
        "mister quilter's manner",
        "frank read english slowly",
    ]
    assert {cut.supervisions[0].speaker for cut in train} == {"121", "237"}
    assert all(cut.supervisions[0].custom["kind"] == "read" for cut in train)
    assert train[1].load_audio().shape == (1, 32000)
    dev = list(CutSet.from_file(cuts / "librispeech_dev.jsonl.gz"))
    assert [cut.supervisions[0].text for cut in dev] == ["go do you hear"]
    assert hours == {"train-clean-100": round(4 / 3600, 4), "dev-clean": round(1 / 3600, 4)}
    texts = [
        json.loads(line)
        for line in (tmp_path / "exp" / "text" / "train.jsonl").read_text().splitlines()
    ]
    assert [t["text"] for t in texts] == [cut.supervisions[0].text for cut in train]


def test_test_parts_are_never_written(corpus: Path, tmp_path: Path) -> None:
    librispeech.prepare(tmp_path / "exp", root=corpus)
    said = {
        cut.supervisions[0].text
        for path in (tmp_path / "exp" / "cuts").glob("*.jsonl.gz")
        for cut in CutSet.from_file(path)
    }
    assert said
    assert "he began a confused complaint" not in said
    with pytest.raises(ValueError, match="test-clean"):
        librispeech.LibriSpeechConfig(train_parts=("train-clean-100", "test-clean"))


def test_prepared_parts_are_not_read_again(corpus: Path, tmp_path: Path) -> None:
    first = librispeech.prepare(tmp_path / "exp", root=corpus)
    path = tmp_path / "exp" / "cuts" / "librispeech_train_train-clean-100.jsonl.gz"
    before = path.stat().st_mtime_ns
    assert librispeech.prepare(tmp_path / "exp", root=corpus) == first
    assert path.stat().st_mtime_ns == before


def test_a_folder_without_librispeech_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="lhotse download librispeech"):
        librispeech.prepare(tmp_path / "exp", root=tmp_path)


def test_without_training_parts_it_says_so(corpus: Path, tmp_path: Path) -> None:
    config = librispeech.LibriSpeechConfig(train_parts=("train-other-500",))
    with pytest.raises(FileNotFoundError, match="none of the training parts"):
        librispeech.prepare(tmp_path / "exp", root=corpus, config=config)
