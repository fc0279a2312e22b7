"""LibriSpeech as training and validation cuts, from the folder that Lhotse downloads.

Expects the corpus' own layout, `<part>/<speaker>/<chapter>/*.flac` with `*.trans.txt`, below the
data folder or its `LibriSpeech/`. Reading the transcripts is Lhotse's; this file chooses parts,
brings the text into the recogniser's spelling and writes the manifests that training reads.

The test parts are never touched. Knows nothing of downloading: see `lhotse download librispeech`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from earshot.data.spoken import spoken_form
from earshot.train.text import TextItem, data_root

__all__ = ["LibriSpeechConfig", "find_corpus", "prepare"]

_TRAIN_PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "train-clean-5")
_DEV_PARTS = ("dev-clean", "dev-other", "dev-clean-2")


@dataclass(frozen=True, slots=True, kw_only=True)
class LibriSpeechConfig:
    """Which parts serve for what. Parts that are absent are passed over."""

    train_parts: tuple[str, ...] = _TRAIN_PARTS
    dev_parts: tuple[str, ...] = _DEV_PARTS
    shortest_s: float = 0.5
    longest_s: float = 20.0
    jobs: int = 2  # threads that read the headers of the recordings

    def __post_init__(self) -> None:
        tests = [p for p in (*self.train_parts, *self.dev_parts) if p.startswith("test")]
        if tests:
            raise ValueError(
                f"librispeech: {', '.join(tests)} would be trained on or validated with; test "
                "parts may not be. Remove them from train_parts and dev_parts"
            )


def find_corpus(root: Path) -> Path:
    """The folder that holds the parts: `root` itself, or `LibriSpeech` below it.

    Raises:
        FileNotFoundError: Neither has any part of LibriSpeech.
    """
    for folder in (root, root / "LibriSpeech"):
        if any((folder / part).is_dir() for part in (*_TRAIN_PARTS, *_DEV_PARTS)):
            return folder
    raise FileNotFoundError(
        f"librispeech: neither {root} nor {root / 'LibriSpeech'} has a part of LibriSpeech such "
        "as train-clean-100 or dev-clean. Run: lhotse download librispeech --full FOLDER"
    )


def prepare(
    out_dir: Path,
    *,
    seed: int = 0,
    root: Path | None = None,
    config: LibriSpeechConfig | None = None,
) -> dict[str, float]:
    """Write `cuts/librispeech_train_<part>.jsonl.gz`, `cuts/librispeech_dev.jsonl.gz` and texts.

    The transcripts of the training parts go to `text/train.jsonl`, from which word pieces are
    made. Parts whose manifest is there are not read again.

    Args:
        out_dir: Experiment folder.
        seed: Not used; every stage takes one.
        root: Folder with the corpus; `data_root()` if not given.
        config: Parts and lengths.

    Returns:
        Hours by part.

    Raises:
        FileNotFoundError: There is no LibriSpeech, or none of the training parts.
        ImportError: Lhotse is missing.
    """
    del seed
    config = config or LibriSpeechConfig()
    corpus = find_corpus(root or data_root())
    cuts_folder = out_dir / "cuts"
    cuts_folder.mkdir(parents=True, exist_ok=True)
    parts = {part: (corpus / part).is_dir() for part in (*config.train_parts, *config.dev_parts)}
    train = [p for p in config.train_parts if parts[p]]
    dev = [p for p in config.dev_parts if parts[p]]
    if not train:
        raise FileNotFoundError(
            f"librispeech: {corpus} has none of the training parts "
            f"{', '.join(config.train_parts)}; at least one is needed. Name the ones that you "
            "have, or download one: lhotse download librispeech --full FOLDER"
        )
    summary_path = cuts_folder / "librispeech.json"
    settings = json.loads(
        json.dumps({"corpus": str(corpus.resolve()), "parts": train + dev, **asdict(config)})
    )
    if summary_path.is_file():
        summary = json.loads(summary_path.read_text())
        if summary["settings"] == settings:
            return dict(summary["hours"])
    hours: dict[str, float] = {}
    texts: list[TextItem] = []
    for part in train:
        cuts = _cuts(corpus, part, config)
        _write(cuts, cuts_folder / f"librispeech_train_{part}.jsonl.gz")
        hours[part] = round(sum(cut.duration for cut in cuts) / 3600, 4)
        texts.extend(
            TextItem(cut.supervisions[0].text, "read", f"librispeech:{cut.id}") for cut in cuts
        )
    if dev:
        dev_cuts = []
        for part in dev:
            some = _cuts(corpus, part, config)
            hours[part] = round(sum(cut.duration for cut in some) / 3600, 4)
            dev_cuts.extend(some)
        _write(dev_cuts, cuts_folder / "librispeech_dev.jsonl.gz")
    text_path = out_dir / "text" / "train.jsonl"
    text_path.parent.mkdir(parents=True, exist_ok=True)
    text_path.write_text("".join(json.dumps(asdict(t)) + "\n" for t in texts), encoding="utf-8")
    summary_path.write_text(json.dumps({"settings": settings, "hours": hours}, indent=1))
    return hours


def _cuts(corpus: Path, part: str, config: LibriSpeechConfig) -> list[Any]:
    """Cuts of one part, in the order of their names."""
    try:
        from lhotse import CutSet
        from lhotse.recipes.librispeech import prepare_librispeech
    except ImportError as err:
        raise ImportError(
            "librispeech: lhotse is not installed; it reads the corpus. "
            "Install the extra: pip install 'earshot[train]'"
        ) from err
    manifests: Mapping[str, Any] = prepare_librispeech(
        corpus, dataset_parts=[part], num_jobs=config.jobs
    )[part]
    cuts = []
    for cut in CutSet.from_manifests(
        recordings=manifests["recordings"], supervisions=manifests["supervisions"]
    ):
        supervision = cut.supervisions[0]
        supervision.text = spoken_form(supervision.text)
        supervision.custom = {**(supervision.custom or {}), "kind": "read", "corpus": part}
        if supervision.text and config.shortest_s <= cut.duration <= config.longest_s:
            cuts.append(cut)
    return sorted(cuts, key=lambda cut: str(cut.supervisions[0].id))


def _write(cuts: list[Any], path: Path) -> None:
    from lhotse import CutSet

    # Lhotse looks at the end of the name for the format, so the mark of the part comes first.
    part = path.with_name(f".part_{path.name}")
    CutSet.from_cuts(cuts).to_file(part)
    part.replace(path)
