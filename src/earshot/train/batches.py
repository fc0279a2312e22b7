"""Batches: weighted sources of Lhotse cuts, bucketed by duration, augmented on a curriculum.

Sources are mixed with shares that move over the run (`Mixture`), Lhotse's dynamic bucketing
sampler groups cuts of like duration, and `TrainingClips` turns a group into padded tensors.
Knows nothing of networks or losses.
"""

from __future__ import annotations

import json
import logging
import multiprocessing as mp
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece
import soundfile
import torch
from lhotse import CutSet
from lhotse.cut import MonoCut
from lhotse.dataset.sampling import DynamicBucketingSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from earshot import _native
from earshot.core.errors import ConfigError, ManifestError
from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.pronunciation import Lexicon
from earshot.models.rival_loss import RivalBatch
from earshot.train.augment import Augmenter, NoisePool, Samples, strength_at
from earshot.train.phrase_text import phrase_in
from earshot.train.recipe import Recipe, SourceConfig
from earshot.train.resident import ClipKey, Place, clip_key
from earshot.train.rivals import RivalsOf

logger = logging.getLogger(__name__)

SHORTEST_S = 0.2
LONGEST_S = 17.0
_MOST_REFUSED = 1000
_WORKER_SEEDS = 1_000_003  # between those of the loader's processes
COMMON_PRONUNCIATION_SHARE = 0.6  # of words take their first one; the others draw from all


class Progress:
    """Share of the run that is done, in [0, 1], visible in the loader's processes too."""

    def __init__(self) -> None:
        self._value = mp.Value("d", 0.0, lock=False)

    def get(self) -> float:
        """The share, 0 at first."""
        return float(self._value.value)

    def set(self, share: float) -> None:
        """Publish a new share."""
        self._value.value = min(1.0, max(0.0, share))


@dataclass(frozen=True, slots=True)
class Batch:
    """One padded batch.

    features (B, T, num_bins) log-mel, padded by repeating the last frame; feature_lengths (B,);
    labels (B, U) int64 padded with 0; label_lengths (B,); phones (B, P) int64 padded with 0;
    phone_lengths (B,); texts and kinds, B each; phrases: what each clip is about, None where that
    is not known, for lists to train biasing with; rivals: what could have been said instead.
    """

    features: Tensor
    feature_lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    phones: Tensor
    phone_lengths: Tensor
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    phrases: tuple[str | None, ...] = ()
    rivals: RivalBatch | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device` (the signature is torch's own)."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in (
                "features",
                "feature_lengths",
                "labels",
                "label_lengths",
                "phones",
                "phone_lengths",
            )
        }
        rivals = _moved(self.rivals, device, non_blocking=non_blocking)
        return replace(self, **moved, rivals=rivals)


def _moved(
    rivals: RivalBatch | None, device: torch.device, *, non_blocking: bool
) -> RivalBatch | None:
    if rivals is None:
        return None
    parts = (getattr(rivals, f.name) for f in fields(rivals))
    return RivalBatch(*(part.to(device, non_blocking=non_blocking) for part in parts))


class Mixture:
    """An endless stream of cuts: draw a source by its present share, then its next cut.

    Every source is shuffled anew each time it runs out, so small ones repeat and large ones
    do not starve.
    """

    def __init__(
        self,
        sources: Mapping[str, list[MonoCut]],
        shares: Mapping[str, SourceConfig],
        progress: Progress,
        *,
        seed: int,
    ) -> None:
        self._sources = sources
        self._shares = shares
        self._progress = progress
        self._seed = seed

    def __iter__(self) -> Iterator[MonoCut]:
        rng = np.random.default_rng(self._seed)
        queues: dict[str, list[int]] = {name: [] for name in self._sources}
        names = list(self._sources)
        while True:
            done = self._progress.get()
            weights = np.array(
                [
                    self._shares[n].first + done * (self._shares[n].last - self._shares[n].first)
                    for n in names
                ]
            )
            name = names[rng.choice(len(names), p=weights / weights.sum())]
            if not queues[name]:
                queues[name] = rng.permutation(len(self._sources[name])).tolist()
            yield self._sources[name][queues[name].pop()]


def read_cuts(path: Path) -> list[MonoCut]:
    """All cuts of a manifest that can be trained on: one supervision, 0.2 s to 17 s."""
    return [
        cut
        for cut in CutSet.from_jsonl_lazy(path)
        if len(cut.supervisions) == 1 and SHORTEST_S <= cut.duration <= LONGEST_S
    ]


def read_sources(folder: Path, shares: Mapping[str, SourceConfig]) -> dict[str, list[MonoCut]]:
    """Sources by name from the training manifests below `folder`.

    A manifest `<source>_train*.jsonl.gz` feeds the source of that name, except `real_train`,
    whose cuts are sorted by the `kind` of their supervision.

    Args:
        folder: Holds the manifests that the preparation stages wrote.
        shares: The sources that the recipe names; others are left out.

    Returns:
        Source name to cuts, for the sources that have any.

    Raises:
        ManifestError: Nothing to train on.
    """
    sources: dict[str, list[MonoCut]] = {}
    for path in sorted(folder.glob("*_train*.jsonl.gz")):
        label = path.name.split("_train")[0]
        for cut in read_cuts(path):
            name = kind_of(cut) if label == "real" else label
            if name in shares:
                sources.setdefault(name, []).append(cut)
    if not sources:
        raise ManifestError(
            folder,
            f"has no cuts for the sources {', '.join(shares)}",
            remedy="Run the preparation stages first: earshot train run RECIPE",
        )
    for name in shares:
        if name not in sources:
            logger.warning("source '%s': has no cuts; its share goes to the others", name)
    return sources


def kind_of(cut: MonoCut) -> str:
    """The `kind` its supervision carries, or `speech`."""
    custom = cut.supervisions[0].custom or {}
    return str(custom.get("kind", "speech"))


def load_audio(cut: MonoCut) -> Samples:
    """Samples of a cut whose recording is one local 16 kHz file."""
    source = cut.recording.sources[0].source
    rate = cut.recording.sampling_rate
    first = round(cut.start * rate)
    samples, _ = soundfile.read(
        source, start=first, frames=round(cut.duration * rate), dtype="float32", always_2d=True
    )
    return np.ascontiguousarray(samples[:, 0])


@dataclass(frozen=True, slots=True)
class PlacedBatch:
    """A batch without its audio: where each clip lies in `train.resident`, and what was said.

    clips (B, 3) int64, a `Place` each; all else as in `Batch`.
    """

    clips: Tensor
    labels: Tensor
    label_lengths: Tensor
    phones: Tensor
    phone_lengths: Tensor
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    phrases: tuple[str | None, ...]
    rivals: RivalBatch | None

    def to(self, device: torch.device, non_blocking: bool = False) -> PlacedBatch:
        """The same batch with its texts on `device`; clips stay where they are, on the CPU."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("labels", "label_lengths", "phones", "phone_lengths")
        }
        rivals = _moved(self.rivals, device, non_blocking=non_blocking)
        return replace(self, **moved, rivals=rivals)

    def heard(self, features: Tensor, frames: Tensor) -> Batch:
        """The batch with the features that its clips became."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "clips"}
        return Batch(features=features, feature_lengths=frames, **said)


class ClipTexts:
    """What is said in a clip, as pieces and as phones.

    Args:
        tokenizer: Word pieces.
        lexicon: How words are said.
        stack: Frames of 10 ms in a frame of the network.
        rivals: Draws what could have been said instead; None for nothing.
    """

    def __init__(
        self,
        tokenizer: sentencepiece.SentencePieceProcessor,
        lexicon: Lexicon,
        *,
        stack: int,
        rivals: Callable[[str, np.random.Generator], Sequence[str]] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._lexicon = lexicon
        self._stack = stack
        self._rivals = rivals

    def of(self, cut: MonoCut, frames: float, rng: np.random.Generator) -> _ClipText | None:
        """The text of a cut; None if it is said too fast to be learnt.

        Args:
            cut: With one supervision.
            frames: Of 10 ms, that the clip has.
            rng: Now and then a word gets a rarer pronunciation.
        """
        text = cut.supervisions[0].text or ""
        labels = self._tokenizer.encode(text)
        # A frame of 40 ms emits one piece at most: faster speech cannot be learnt.
        if len(labels) > 0.8 * frames / self._stack:
            return None
        template = str((cut.supervisions[0].custom or {}).get("template", ""))
        phrase = phrase_in(text, template)
        others = [] if self._rivals is None else self._rivals(text, rng)
        # Words that a rival shares with the truth are said alike, or the network would learn to
        # tell pronunciations apart.
        said: dict[str, tuple[int, ...]] | None = {} if others else None
        phones, *rivals = (
            self._lexicon.draw(way, rng, common=COMMON_PRONUNCIATION_SHARE, said=said)
            for way in (text, *others)
        )
        distinct = tuple(rival for rival in rivals if rival != phones)
        return _ClipText(labels, phones, text, kind_of(cut), phrase, distinct)


@dataclass(frozen=True, slots=True)
class _ClipText:
    labels: list[int]
    phones: list[int]
    text: str
    kind: str
    phrase: str | None = None
    rivals: tuple[list[int], ...] = ()


class TrainingClips(Dataset[Batch]):
    """Turns a CutSet into a `Batch`; with `augmenter` None the clips stay as they are."""

    def __init__(
        self,
        texts: ClipTexts,
        augmenter: Augmenter | None,
        progress: Progress,
        *,
        num_bins: int,
        seed: int,
    ) -> None:
        self._texts = texts
        self._augmenter = augmenter
        self._progress = progress
        self._num_bins = num_bins
        self._seed = seed
        self._drawn = 0

    def __getitem__(self, cuts: CutSet) -> Batch:  # type: ignore[override]
        self._drawn += 1
        rng = _rng_of(cuts, self._seed, self._drawn)
        until = 0
        if self._augmenter is not None:
            longest = max(cut.duration for cut in cuts)
            until = self._augmenter.draw_wait(round(longest * SAMPLE_RATE_HZ), rng)
        clips = []
        for cut in cuts:
            features = self._features(load_audio(cut), until, rng)
            text = self._texts.of(cut, len(features), rng)
            if text is not None:
                clips.append((features, text))
        if not clips:  # every device must get a batch: one second of near silence will do
            floor = rng.standard_normal(16000, dtype=np.float32) * np.float32(1e-4)
            clips.append((_native.fbank(floor, self._num_bins), _ClipText([], [], "", "noise")))
        return _collate(clips, self._num_bins)

    def _features(
        self, samples: Samples, until: int, rng: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        if self._augmenter is None:
            return _native.fbank(samples, self._num_bins)
        strength = strength_at(self._progress.get(), self._augmenter.config)
        samples = self._augmenter.perturb_audio(samples, strength, rng, until=until)
        features = _native.fbank(samples, self._num_bins)
        return self._augmenter.perturb_features(features, strength, rng)


class PlacedClips(Dataset[PlacedBatch]):
    """Turns a CutSet into a `PlacedBatch`.

    Args:
        texts: What is said.
        places: Of all cuts.
        speed: The most that augmentation may speed clips up.
        seed: Of pronunciations.
    """

    def __init__(
        self, texts: ClipTexts, places: Mapping[ClipKey, Place], *, speed: float, seed: int
    ) -> None:
        self._texts = texts
        self._places = places
        self._speed = speed
        self._seed = seed
        self._drawn = 0

    def __getitem__(self, cuts: CutSet) -> PlacedBatch | None:  # type: ignore[override]
        self._drawn += 1
        rng = _rng_of(cuts, self._seed, self._drawn)
        clips = []
        for cut in cuts:
            place = self._places[clip_key(cut)]
            text = self._texts.of(cut, place[2] / 160 / (1 + self._speed), rng)  # of its speech
            if text is not None:
                clips.append((place, text))
        if not clips:
            return None
        places = torch.tensor([place for place, _ in clips])
        return PlacedBatch(clips=places, **_columns([text for _, text in clips]))


def _rng_of(cuts: CutSet, seed: int, drawn: int) -> np.random.Generator:
    return np.random.default_rng(
        (seed, drawn, *(zlib.crc32(cut.id.encode()) for cut in list(cuts)[:2]))
    )


def _collate(clips: Sequence[tuple[npt.NDArray[np.float32], _ClipText]], num_bins: int) -> Batch:
    lengths = [len(features) for features, _ in clips]
    # Multiples of 64 frames (16 at 40 ms): few distinct shapes, so kernels are planned once.
    longest = -(-max(lengths, default=4) // 64) * 64
    padded = np.zeros((len(clips), longest, num_bins), dtype=np.float32)
    for row, (features, _) in enumerate(clips):
        padded[row, : len(features)] = features
        padded[row, len(features) :] = features[-1]
    return Batch(
        features=torch.from_numpy(padded),
        feature_lengths=torch.tensor(lengths, dtype=torch.int64),
        **_columns([text for _, text in clips]),
    )


def _columns(texts: Sequence[_ClipText]) -> dict[str, Any]:
    """What a batch of either kind says of its texts."""
    labels, label_lengths = _padded([text.labels for text in texts])
    phones, phone_lengths = _padded([text.phones for text in texts])
    rivals = None
    if clips := [n for n, text in enumerate(texts) for _ in text.rivals]:
        rows = _padded([rival for text in texts for rival in text.rivals])
        rivals = RivalBatch(*rows, clips=torch.tensor(clips))
    return {
        "labels": labels,
        "label_lengths": label_lengths,
        "phones": phones,
        "phone_lengths": phone_lengths,
        "texts": tuple(text.text for text in texts),
        "kinds": tuple(text.kind for text in texts),
        "phrases": tuple(text.phrase for text in texts),
        "rivals": rivals,
    }


def _padded(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids (B, U) padded with 0, and how many of each row count."""
    lengths = [len(row) for row in rows]
    table = torch.zeros((len(rows), max(lengths)), dtype=torch.int64)
    for n, row in enumerate(rows):
        table[n, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return table, torch.tensor(lengths, dtype=torch.int64)


def training_loader(
    recipe: Recipe,
    folder: Path,
    tokenizer: sentencepiece.SentencePieceProcessor,
    progress: Progress,
    *,
    seed: int,
    sources: Mapping[str, list[MonoCut]],
    places: Mapping[ClipKey, Place] | None = None,
) -> DataLoader[Any]:
    """An endless loader over the recipe's sources.

    Args:
        recipe: Shares, batch size, augmentation.
        folder: Holds `noise/` and `rooms/`, and `text/` where commands have rivals.
        tokenizer: Word pieces.
        progress: Where in the run we are; read for shares and augmentation strength.
        seed: Differs between devices, and between a run and its resumption.
        sources: What `read_sources` gave.
        places: Where the clips lie that are resident; None reads and augments them here.

    Returns:
        A loader of `Batch`, already batched; of `PlacedBatch` with `places`.
    """
    lexicon, rivals = _lexicon(recipe), None
    if recipe.commands.rivals:
        rivals = RivalsOf(
            recipe.commands.files,
            folder / "text" / "commands_train.jsonl",
            lexicon,
            count=recipe.commands.rivals,
        )
    texts = ClipTexts(tokenizer, lexicon, stack=recipe.model.encoder.stack, rivals=rivals)
    clips: Callable[..., TrainingClips | PlacedClips]
    if places is not None:
        clips = partial(PlacedClips, texts, places, speed=recipe.augment.speed)
    else:
        augmenter = Augmenter(recipe.augment, read_noise(folder), read_rooms(folder))
        num_bins = recipe.model.encoder.num_bins
        clips = partial(TrainingClips, texts, augmenter, progress, num_bins=num_bins)
    stream = _TrainingStream(recipe, sources, clips, progress, seed=seed)
    workers = recipe.train.workers
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        worker_init_fn=_quiet_worker,
    )


class _TrainingStream(IterableDataset[Any]):
    """Batches without end; each of the loader's processes draws its own."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Mapping[str, list[MonoCut]],
        clips: Callable[..., TrainingClips | PlacedClips],
        progress: Progress,
        *,
        seed: int,
    ) -> None:
        self._recipe = recipe
        self._sources = sources
        self._clips = clips
        self._progress = progress
        self._seed = seed

    def __iter__(self) -> Iterator[Batch | PlacedBatch]:
        worker = get_worker_info()
        seed = self._seed + _WORKER_SEEDS * (worker.id if worker else 0)
        sampler = DynamicBucketingSampler(
            CutSet(Mixture(self._sources, self._recipe.sources, self._progress, seed=seed)),
            max_duration=self._recipe.train.batch_s,
            num_buckets=self._recipe.train.buckets,
            num_cuts_for_bins_estimate=2000,
            buffer_size=max(2000, round(5 * self._recipe.train.batch_s)),  # cuts; 20 batches
            shuffle=True,
            seed=seed,
            world_size=1,
            rank=0,
        )
        clips = self._clips(seed=seed)
        refused = 0
        for cuts in sampler:
            batch = clips[cuts]
            refused = 0 if batch is not None else refused + 1
            if batch is not None:
                yield batch
            elif refused == _MOST_REFUSED:
                raise ConfigError(
                    f"train.resident: {refused} batches in a row have no clip that is long enough "
                    "for the word pieces of its text. Check the tokenizer and the texts of cuts/."
                )


def validation_loader(
    recipe: Recipe, folder: Path, tokenizer: sentencepiece.SentencePieceProcessor
) -> DataLoader[Batch]:
    """Up to `validation_clips` clips of each dev manifest, one clip a batch, never augmented."""
    cuts: list[MonoCut] = []
    for path in sorted((folder / "cuts").glob("*_dev.jsonl.gz")):
        label = path.name.split("_dev")[0]
        by_kind: dict[str, list[MonoCut]] = {}
        for cut in read_cuts(path):
            name = kind_of(cut) if label == "real" else label
            by_kind.setdefault(name, []).append(cut)
        for name in sorted(by_kind):
            chosen = sorted(by_kind[name], key=lambda cut: zlib.crc32(cut.id.encode()))
            for cut in chosen[: recipe.train.validation_clips]:
                cut.supervisions[0].custom = {"kind": name}
                cuts.append(cut)
    texts = ClipTexts(tokenizer, _lexicon(recipe), stack=recipe.model.encoder.stack)
    num_bins = recipe.model.encoder.num_bins
    clips = TrainingClips(texts, None, Progress(), num_bins=num_bins, seed=0)
    batches = [CutSet.from_cuts([cut]) for cut in cuts]
    return DataLoader(clips, sampler=batches, batch_size=None)


def _lexicon(recipe: Recipe) -> Lexicon:
    own = recipe.data.own_pronunciations
    return Lexicon.load() if own is None else Lexicon.load().extended(own)


def _quiet_worker(_: int) -> None:
    torch.set_num_threads(1)


def read_noise(folder: Path) -> NoisePool | None:
    """The noise pool of an experiment folder; None where it has none."""
    track = folder / "noise" / "pool.npy"
    if not track.exists():
        return None
    offsets = json.loads((folder / "noise" / "offsets.json").read_text(encoding="utf-8"))
    return NoisePool(np.load(track, mmap_mode="r"), np.asarray(offsets, dtype=np.int64))


def read_rooms(folder: Path) -> tuple[Samples, ...]:
    """The impulse responses of an experiment folder; none where it has none."""
    path = folder / "rooms" / "rirs.npz"
    if not path.exists():
        return ()
    with np.load(path) as archive:
        return tuple(np.asarray(archive[name], dtype=np.float32) for name in archive.files)
