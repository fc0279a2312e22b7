"""Real recordings as training and validation cuts.

Reads the folders of `EARSHOT_DATA` (`audio/` plus `manifest.jsonl` each), converts what is wanted
to 16 kHz WAV once, because compressed files cost more to decode than to train on, and writes
Lhotse cuts. Rows of the test split never get here, nor does the coffee benchmark, nor do neural
clones of the speakers whose voices speak the synthetic test: the three rules are in one function,
`training_rows`, and tested.

Knows nothing of networks, tokenizers or augmentation.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf

from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.audio import read_audio
from earshot.data.spoken import spoken_form
from earshot.train.cuts import file_cut, write_cuts, write_json, write_wav
from earshot.train.synthesis import HELD_OUT_VOICES
from earshot.train.text import data_root

__all__ = ["CorporaConfig", "Row", "RowReader", "join_digits", "prepare", "training_rows"]

Samples = npt.NDArray[np.float32]

# Folder -> kind of its clips. Test-only folders are not here on purpose.
_KINDS: Mapping[str, str] = {
    "librispeech_dev_clean_half": "read",
    "common_voice_sample": "read",
    "alphanumeric_accents": "spelled",
    "spoken_digits": "digit",
    "wake_words": "wake",
    "mycroft_wake_words": "wake",
    "neural_voices_sample": "paragraph",
}
_NEVER = frozenset({"coffee_commands", "librispeech_speakers"})
# Names of the people behind the held-out voices: other engines have voices of the same people.
_HELD_OUT_SPEAKERS = frozenset(voice.rpartition("-")[2] for voice in HELD_OUT_VOICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorporaConfig:
    """Which clips are used, and how digit strings are joined."""

    longest_s: float = 20.0
    joined_train: int = 4000  # digit strings of the training speakers
    joined_dev: int = 150
    digits: tuple[int, int] = (3, 7)
    pause_s: tuple[float, float] = (0.0, 0.6)

    def __post_init__(self) -> None:
        if not 0 < self.digits[0] <= self.digits[1]:
            raise ValueError(
                f"corpora.digits is {self.digits}; it must be a range of at least one digit"
            )


@dataclass(frozen=True, slots=True)
class Row:
    """One recording of a manifest that may be used."""

    id: str
    corpus: str
    kind: str
    split: str  # train or dev
    text: str
    speaker: str
    audio: Path
    offset_s: float
    duration_s: float
    synthetic: bool = False


def _is_held_out_speaker(name: str) -> bool:
    """Whether a speaker such as `mimic3-cmu-arctic_low-awb` is one of the held-out voices."""
    return re.split(r"[^a-z0-9]+", name.lower())[-1] in _HELD_OUT_SPEAKERS


def training_rows(root: Path, *, splits: Sequence[str] = ("train", "dev")) -> Iterator[Row]:
    """Rows that may be trained on or validated with.

    Never one of a test split, and never a synthetic voice cloned from a speaker whose voice is
    held out (`synthesis.HELD_OUT_VOICES`).

    Args:
        root: Folder of the corpora; those that are absent are passed over.
        splits: Out of `train` and `dev`.

    Returns:
        Rows with a transcript, in English, in the order of the manifests.

    Raises:
        ValueError: Another split was asked for.
    """
    if not set(splits) <= {"train", "dev"}:
        raise ValueError(
            f"corpora: splits {tuple(splits)} were asked for; only train and dev may be used. "
            "Test rows are for benchmarks"
        )
    for corpus, usual_kind in _KINDS.items():
        assert corpus not in _NEVER
        manifest = root / corpus / "manifest.jsonl"
        if not manifest.is_file():
            continue
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("split") not in splits or row.get("lang", "en") != "en":
                continue
            synthetic = corpus == "neural_voices_sample"
            if synthetic and any(
                _is_held_out_speaker(row.get(key) or "") for key in ("speaker", "id")
            ):
                continue
            text = spoken_form(row.get("text") or "")
            if not text:
                continue
            kind = usual_kind
            if row.get("prompt_type") == "phone_number":
                kind = "digit_strings"
            yield Row(
                id=row["id"],
                corpus=corpus,
                kind=kind,
                split=row["split"],
                text=text,
                # Where no speaker is known every clip counts as a speaker of its own.
                speaker=row.get("speaker") or row["id"],
                audio=manifest.parent / row["audio"],
                offset_s=float(row.get("offset", 0.0)),
                duration_s=float(row["duration"]),
                synthetic=synthetic,
            )


# ---------------------------------------------------------------- audio


class RowReader:
    """Clips at 16 kHz mono; keeps the last file, since one file can hold many clips."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._samples: Samples = np.zeros(0, np.float32)

    def read(self, row: Row) -> Samples:
        """Samples of a row, shape (N,)."""
        if self._path != row.audio:
            self._samples = read_audio(row.audio)
            self._path = row.audio
        start = round(row.offset_s * SAMPLE_RATE_HZ)
        return self._samples[start : start + round(row.duration_s * SAMPLE_RATE_HZ)]


def join_digits(
    clips: Sequence[tuple[Samples, str]],
    rng: np.random.Generator,
    *,
    pause_s: tuple[float, float] = (0.0, 0.6),
) -> tuple[Samples, str]:
    """One utterance of single words of one speaker, with pauses of low noise between.

    Args:
        clips: (samples, text) each, at 16 kHz, in the order to be said.
        rng: Of the pauses and their noise.
        pause_s: Shortest and longest pause.

    Returns:
        (samples, text). The noise lies 45 to 60 dB under the clips.

    Raises:
        ValueError: No clips.
    """
    if not clips:
        raise ValueError("join_digits: got no clips; at least one is needed")
    power = float(np.mean([np.mean(np.square(samples)) for samples, _ in clips]))
    floor = np.sqrt(power) * 10 ** (-rng.uniform(45.0, 60.0) / 20)
    parts: list[Samples] = []
    for i, (samples, _) in enumerate(clips):
        if i:
            parts.append(np.zeros(round(rng.uniform(*pause_s) * SAMPLE_RATE_HZ), np.float32))
        parts.append(samples)
    joined = np.concatenate(parts)
    joined += (floor * rng.standard_normal(joined.size)).astype(np.float32)
    return joined, " ".join(text for _, text in clips)


# ---------------------------------------------------------------- cuts


def _joined_cuts(
    digits: Mapping[str, list[tuple[Samples, str]]],
    folder: Path,
    config: CorporaConfig,
    *,
    count: int,
    split: str,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Random digit strings, each of one speaker."""
    speakers = sorted(digits)
    low, high = config.digits
    for n in range(count if speakers else 0):
        rng = np.random.default_rng((seed, len(split), n))
        speaker = speakers[int(rng.integers(len(speakers)))]
        clips = digits[speaker]
        chosen = rng.integers(len(clips), size=int(rng.integers(low, high + 1)))
        # Half of the strings have short pauses only: people say known numbers fluently.
        longest = config.pause_s[1] if rng.random() < 0.5 else min(0.15, config.pause_s[1])
        samples, text = join_digits(
            [clips[i] for i in chosen], rng, pause_s=(config.pause_s[0], longest)
        )
        cut_id = f"joined-{split}-{n:05d}"
        path = folder / "joined" / split / f"{cut_id}.wav"
        if not path.is_file():
            write_wav(path, samples)
        custom = {"kind": "digit_strings", "corpus": "spoken_digits", "synthetic": False}
        yield file_cut(cut_id, path, samples.size, text=text, speaker=speaker, custom=custom)


def prepare(
    out_dir: Path,
    *,
    seed: int,
    config: CorporaConfig | None = None,
    root: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Write `real/*.wav`, `cuts/real_train.jsonl.gz` and `cuts/real_dev.jsonl.gz`.

    Every supervision carries `custom.kind`: `read`, `spelled`, `digit` (one digit alone),
    `digit_strings`, `wake`, `paragraph`. Does nothing when both manifests are there.

    Args:
        out_dir: Experiment folder.
        seed: Of the digit strings.
        config: Amounts.
        root: Folder of the corpora; `data_root()` if not given. Where it is absent the manifests
            are not written and the result is empty.
        progress: Called with (rows done, rows) now and then.

    Returns:
        Hours by `train/<kind>` and `dev/<kind>`.
    """
    config = config or CorporaConfig()
    root = root or data_root()
    cuts_folder, real = out_dir / "cuts", out_dir / "real"
    summary_path = real / "summary.json"
    # The rows left out count as a setting: cuts made under another rule are made again.
    left_out = {"speakers_left_out": sorted(_HELD_OUT_SPEAKERS)}
    settings = json.loads(json.dumps({"seed": seed, **asdict(config), **left_out}))
    paths = {split: cuts_folder / f"real_{split}.jsonl.gz" for split in ("train", "dev")}
    if summary_path.is_file() and all(path.is_file() for path in paths.values()):
        summary = json.loads(summary_path.read_text())
        if summary["settings"] == settings:
            return dict(summary["hours"])
    rows = list(training_rows(root))
    if not rows:
        return {}
    cuts: dict[str, list[dict[str, Any]]] = {"train": [], "dev": []}
    digits: dict[str, dict[str, list[tuple[Samples, str]]]] = {"train": {}, "dev": {}}
    reader = RowReader()
    for done, row in enumerate(rows):
        if progress is not None and done % 100 == 0:
            progress(done, len(rows))
        if row.duration_s > config.longest_s:
            continue
        path = real / row.corpus / row.split / f"{row.id}.wav"
        if row.kind == "digit" or not path.is_file():
            samples = reader.read(row)
            if samples.size == 0:
                continue
            if row.kind == "digit":
                digits[row.split].setdefault(row.speaker, []).append((samples, row.text))
            if not path.is_file():
                write_wav(path, samples)
        custom = {"kind": row.kind, "corpus": row.corpus, "synthetic": row.synthetic}
        cuts[row.split].append(
            file_cut(
                row.id, path, sf.info(str(path)).frames,
                text=row.text, speaker=row.speaker, custom=custom,
            )
        )  # fmt: skip
    for split, count in (("train", config.joined_train), ("dev", config.joined_dev)):
        cuts[split].extend(
            _joined_cuts(digits[split], real, config, count=count, split=split, seed=seed)
        )
        write_cuts(cuts[split], paths[split])
    hours: dict[str, float] = defaultdict(float)
    for split, some in cuts.items():
        for cut in some:
            kind = cut["supervisions"][0]["custom"]["kind"]
            hours[f"{split}/{kind}"] += cut["duration"] / 3600
    rounded: dict[str, float] = {name: round(value, 3) for name, value in sorted(hours.items())}
    write_json({"settings": settings, "hours": rounded}, summary_path)
    return rounded
