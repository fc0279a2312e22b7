"""Says new sentences in the voices of people, from recordings of other sentences.

Speech engines have few voices, and people do not sound like them. What a person was recorded
saying is cut into halves of phones, and a new sentence is put together from halves of one person:
the longest stretches that there are, cut where they join best (unit selection). Joins are heard;
a network that learns which phones were said learns from real voices, in the words that it will
need. The same, in voices that nothing is trained on, is the nearest thing to a test by people.

Knows nothing of networks and of where the sentences come from.

Source:
    Hunt and Black, "Unit selection in a concatenative speech synthesis system using a large
    speech database", 1996.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from earshot import _native
from earshot.core.features import SAMPLE_RATE_HZ
from earshot.data.phones import PHONES, phone_ids
from earshot.data.pronunciation import Lexicon
from earshot.train.corpora import Row, RowReader, training_rows
from earshot.train.cuts import file_cut, write_cuts, write_json, write_wav
from earshot.train.forced_alignment import Aligned, align
from earshot.train.text import TextItem, load_texts

__all__ = ["Speaker", "SplicingConfig", "prepare", "say"]

logger = logging.getLogger(__name__)

Samples = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]

_FRAME = SAMPLE_RATE_HZ // 100  # samples
_KINDS = frozenset({"read", "spelled", "digit_strings"})
_BINS = 40
_CEPSTRA = 13
_SHORTEST, _LONGEST = 3, 40  # frames of a phone that is used: others were not aligned well
_FADE = 80  # samples over which two stretches blend
_LEVEL_DB = -23.0
_CLIPS_A_TASK = 25
_COMMON_PRONUNCIATIONS = 0.8  # of the words take their first one
_TRIES = 20  # of a clip: texts may have words that nobody can say
_TASKS_IN_VAIN = 12  # in a row, after which no clip can be expected any more
_ROWS_BETWEEN_NOTES = 240  # that are aligned before what is known is written down

# Costs, in one unit. A half that was said beside another phone than here, of the same class or
# not; a cut within a phone, where it is steady, and one between phones, where it changes fast; and
# how unlike the spectra at a cut are, for each nat of each cepstrum.
_OTHER_PHONE, _OTHER_CLASS = 1.0, 2.5
_CUT_WITHIN, _CUT_BETWEEN = 0.8, 2.5
_UNLIKE = 0.12
_CANDIDATES = 28  # halves of a phone that were said beside the phone before it here; and after
_RANDOM = 0.9  # spread of what candidates and paths are changed by, so that no two clips are alike

_CLASSES = (
    "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW", "B P", "D T", "G K", "M N NG", "F V", "TH DH",
    "S Z", "SH ZH CH JH", "HH", "L R", "W", "Y",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SplicingConfig:
    """How much is said in the voices of people.

    Args:
        hours: Of training speech; 0 makes none.
        dev_clips: In the voices of speakers of the development split.
        least_minutes: Of aligned recordings that a speaker must have.
        most_minutes: Of a speaker's recordings, as many as are aligned.
        most_speakers: Of all, as many as are aligned; each takes a minute of a core.
    """

    hours: float = 0.0
    dev_clips: int = 150
    least_minutes: float = 3.0
    most_minutes: float = 10.0
    most_speakers: int = 30

    def __post_init__(self) -> None:
        if (
            min(self.hours, self.dev_clips, self.most_speakers) < 0
            or not 0 < self.least_minutes <= self.most_minutes
        ):
            raise ValueError(
                f"splicing: hours is {self.hours}, dev_clips {self.dev_clips}, most_speakers "
                f"{self.most_speakers}, least_minutes {self.least_minutes} and most_minutes "
                f"{self.most_minutes}; hours, clips and speakers must be at least 0, and the "
                "minutes positive and rising"
            )


def _context_costs() -> npt.NDArray[np.float32]:
    """(phones + 1)²: what it costs to have been said beside one phone instead of another."""
    costs = np.full((len(PHONES) + 1,) * 2, _OTHER_CLASS, np.float32)
    for names in _CLASSES:
        members = np.array(phone_ids(names))
        costs[np.ix_(members, members)] = _OTHER_PHONE
    np.fill_diagonal(costs, 0.0)
    return costs


_CONTEXT_COSTS = _context_costs()


class Speaker:
    """The phones that one person was recorded saying.

    Args:
        name: Of the speaker.
        recordings: Samples, shape (N,), and phones of each.
    """

    def __init__(self, name: str, recordings: Iterable[tuple[Samples, Aligned]]) -> None:
        self.name = name
        self._sounds: list[Samples] = []
        self._pauses: list[tuple[int, int, int]] = []  # sound, first and last frame
        columns: list[list[int]] = []  # phone, sound, start, end, phone before, phone after
        edges: list[_Floats] = []  # spectra at start, middle and end
        for samples, said in recordings:
            sound = len(self._sounds)
            self._sounds.append(samples)
            cepstra = _cepstra(samples)
            times = (0, *said.ends), (*said.starts, len(cepstra))
            self._pauses += [
                (sound, first, last)
                for first, last in zip(*times, strict=True)
                if last - first > 12
            ]
            for i, (phone, start, end) in enumerate(
                zip(said.phones, said.starts, said.ends, strict=True)
            ):
                if not _SHORTEST <= end - start <= _LONGEST:
                    continue
                joined_before = i > 0 and said.ends[i - 1] >= start - 2
                joined_after = i + 1 < len(said.phones) and said.starts[i + 1] <= end + 2
                before = said.phones[i - 1] if joined_before else 0
                after = said.phones[i + 1] if joined_after else 0
                columns.append([phone, sound, start, end, before, after])
                places = np.minimum([start, (start + end) // 2, end], len(cepstra) - 1)
                edges.append(cepstra[places])
        table = np.array(columns, np.int64).reshape(-1, 6)
        self._phone, self._sound, self._start, self._end, self._before, self._after = table.T
        self._middle = (self._start + self._end) // 2
        self._edges = np.array(edges).reshape(-1, 3, _CEPSTRA)
        self._with = {p: np.flatnonzero(self._phone == p) for p in range(1, len(PHONES) + 1)}

    def select(
        self, phones: Sequence[int], rng: np.random.Generator
    ) -> list[tuple[int, int, int]] | None:
        """The stretches of recordings that say some phones best.

        Args:
            phones: Ids, at least one.
            rng: Makes each choice a little different.

        Returns:
            Sound, first frame and frame behind the last of each; None where the speaker never says
            one of the phones.
        """
        around = [0, *phones, 0]
        halves: list[_Ints] = []  # candidates of each half
        costs: list[_Floats] = []
        for i, phone in enumerate(phones, start=1):
            units = self._with[phone]
            if units.size == 0:
                return None
            left = _CONTEXT_COSTS[around[i - 1], self._before[units]]
            right = _CONTEXT_COSTS[around[i + 1], self._after[units]]
            best = [
                np.argsort(cost + _RANDOM * rng.random(units.size))[:_CANDIDATES]
                for cost in (left, right)
            ]
            chosen = np.unique(np.concatenate(best))
            halves += [units[chosen]] * 2
            costs += [left[chosen].astype(np.float64), right[chosen].astype(np.float64)]
        total = costs[0] + _RANDOM * rng.random(costs[0].size)
        steps: list[_Ints] = []
        for i in range(1, len(halves)):
            ways = total[:, None] + self._joins(halves[i - 1], halves[i], within=i % 2 == 1)
            steps.append(ways.argmin(axis=0))
            total = ways.min(axis=0) + costs[i]
        at = int(total.argmin())
        path = [at]
        for step in reversed(steps):
            at = int(step[at])
            path.append(at)
        path.reverse()
        return self._stretches([int(units[k]) for units, k in zip(halves, path, strict=True)])

    def _joins(self, first: _Ints, then: _Ints, *, within: bool) -> _Floats:
        """What it costs to go from each half of `first` to each of `then`: (N, M)."""
        place = (1, 1) if within else (2, 0)
        gap = self._edges[first, place[0]][:, None] - self._edges[then, place[1]][None]
        costs = (_CUT_WITHIN if within else _CUT_BETWEEN) + _UNLIKE * np.abs(gap).sum(axis=2)
        if within:
            costs[first[:, None] == then[None]] = 0.0
        else:
            follows = (
                (self._sound[first][:, None] == self._sound[then][None])
                & (self._end[first][:, None] == self._start[then][None])
            )  # fmt: skip
            costs[follows] = 0.0
        return np.asarray(costs)

    def _stretches(self, units: Sequence[int]) -> list[tuple[int, int, int]]:
        out: list[tuple[int, int, int]] = []
        for i, unit in enumerate(units):
            middle = int(self._middle[unit])
            first, last = (
                (int(self._start[unit]), middle) if i % 2 == 0 else (middle, int(self._end[unit]))
            )
            sound = int(self._sound[unit])
            if out and out[-1][0] == sound and out[-1][2] == first:
                out[-1] = (sound, out[-1][1], last)
            else:
                out.append((sound, first, last))
        return out

    def sound_of(
        self, stretches: Sequence[tuple[int, int, int]], lead_s: float, tail_s: float,
        rng: np.random.Generator,
    ) -> Samples:  # fmt: skip
        """Stretches one after the other, with the speaker's own pauses around them.

        Args:
            stretches: As of `select`.
            lead_s: Seconds of pause before.
            tail_s: And after.
            rng: Chooses the pauses.

        Returns:
            Shape (N,), at a root mean square of -23 dB.
        """
        parts = [
            self._pause(lead_s, rng), *map(self._cut, stretches), self._pause(tail_s, rng)
        ]  # fmt: skip
        out = parts[0]
        fade = np.linspace(0.0, 1.0, _FADE, dtype=np.float32)
        for part in parts[1:]:
            if min(len(out), len(part)) >= _FADE:
                blend = out[-_FADE:] * (1 - fade) + part[:_FADE] * fade
                out = np.concatenate([out[:-_FADE], blend, part[_FADE:]])
            else:
                out = np.concatenate([out, part])
        power = float(np.mean(np.square(out))) + 1e-12
        return np.clip(out * np.float32(10 ** (_LEVEL_DB / 20) / np.sqrt(power)), -1, 1)

    def _cut(self, stretch: tuple[int, int, int]) -> Samples:
        sound, first, last = stretch
        samples = self._sounds[sound]
        return samples[max(0, first * _FRAME - _FADE // 2) : last * _FRAME + _FADE // 2]

    def _pause(self, seconds: float, rng: np.random.Generator) -> Samples:
        count = round(seconds * SAMPLE_RATE_HZ)
        if not self._pauses:
            return np.zeros(count, np.float32)
        sound, first, last = self._pauses[int(rng.integers(len(self._pauses)))]
        piece = self._cut((sound, first + 3, last - 3))
        return np.resize(np.concatenate([piece, piece[::-1]]), count)


def _cepstra(samples: Samples) -> _Floats:
    """(frames of 10 ms, 13); loudness counts half."""
    floor = np.float32(1e-4) * np.random.default_rng(0).standard_normal(len(samples))
    mel = _native.fbank((samples + floor).astype(np.float32), _BINS)
    cepstra = np.asarray(fft.dct(mel, axis=1, norm="ortho")[:, :_CEPSTRA], np.float64)
    cepstra[:, 0] *= 0.5
    return cepstra


def say(speaker: Speaker, text: str, lexicon: Lexicon, rng: np.random.Generator) -> Samples | None:
    """A sentence in somebody's voice.

    Args:
        speaker: Whose.
        text: Words.
        lexicon: How they are said; now and then in a rarer way.
        rng: Of pronunciation, choice and pauses.

    Returns:
        Shape (N,) at 16 kHz; None where the speaker never says one of its sounds, or nobody can say
        a word.
    """
    try:
        phones = lexicon.draw(text, rng, common=_COMMON_PRONUNCIATIONS)
    except ValueError:
        return None
    stretches = speaker.select(phones, rng) if phones else None
    if stretches is None:
        return None
    lead_s, tail_s = rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.4)
    return speaker.sound_of(stretches, lead_s, tail_s, rng)


# ---------------------------------------------------------------- the stage


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a process needs to make a `Speaker`."""

    name: str
    rows: tuple[Row, ...]
    said: tuple[Aligned, ...]


_speakers: list[Speaker] = []  # of this process
_lexicon = Lexicon(b"")


def _load(recorded: Sequence[_Recorded], lexicon: Lexicon) -> None:
    """Make the speakers of this process."""
    global _lexicon
    _lexicon = lexicon
    reader = RowReader()
    _speakers[:] = [
        Speaker(
            one.name,
            ((reader.read(row), said) for row, said in zip(one.rows, one.said, strict=True)),
        )
        for one in recorded
    ]


def _say_some(
    numbers: Sequence[int], texts: Sequence[TextItem], folder: Path, seed: int
) -> list[dict[str, Any]]:
    """Clips by number, as cuts."""
    rows = []
    for number in numbers:
        rng = np.random.default_rng((seed, len(folder.name), number))
        speaker = _speakers[number % len(_speakers)]
        for _ in range(_TRIES):
            item = texts[int(rng.integers(len(texts)))]
            samples = say(speaker, item.text, _lexicon, rng)
            if samples is not None:
                cut_id = f"spliced-{folder.name}-{number:05d}"
                path = folder / f"{cut_id}.wav"
                write_wav(path, samples)
                custom = {"kind": item.kind, "template": item.template, "engine": "spliced"}
                rows.append(
                    file_cut(
                        cut_id, path, samples.size,
                        text=item.text, speaker=speaker.name, custom={**custom, "synthetic": True},
                    )
                )  # fmt: skip
                break
    return rows


def prepare(
    out_dir: Path,
    *,
    seed: int,
    root: Path,
    config: SplicingConfig,
    source: str,
    pronunciations: Path | None = None,
    processes: int = 1,
    progress: Callable[[float, float], None] = lambda *_: None,
) -> dict[str, float]:
    """Write `cuts/spliced_train.jsonl.gz` and `cuts/spliced_dev.jsonl.gz`, and their clips.

    No speaker of one split is in the other. Alignments are kept in `spliced/alignment.json`, so
    that other sentences in the same voices take no more of them; a run that was stopped goes on
    aligning where it was, and says its clips anew.

    Args:
        out_dir: Experiment folder, with `text/<source>_train.jsonl` and `_heldout.jsonl`.
        seed: Of the choice of sentences and of how they are said.
        root: Folder of the corpora.
        config: Amounts.
        source: What is said: `commands`, or `synthetic` for general sentences.
        pronunciations: The user's own, see `Lexicon.extended`.
        processes: That work at the same time.
        progress: Called with (done, of all); aligning and saying count half each.

    Returns:
        Hours by split; nothing where there are no recordings. What another request left is gone
        then.
    """
    folder, cuts = out_dir / "spliced", out_dir / "cuts"
    paths = {split: cuts / f"spliced_{split}.jsonl.gz" for split in ("train", "dev")}
    summary = folder / "summary.json"
    rows = _rows(root, config) if config.hours else []
    if not rows:
        for path in (summary, *paths.values()):
            path.unlink(missing_ok=True)
        return {}
    prefix = "" if source == "synthetic" else f"{source}_"
    texts = {
        split: load_texts(out_dir / "text" / f"{prefix}{name}.jsonl")
        for split, name in (("train", "train"), ("dev", "heldout"))
    }
    own = pronunciations.read_bytes() if pronunciations else b""
    said = "\n".join(item.text for some in texts.values() for item in some)
    recordings = "\n".join(map(_key, rows))
    voices = {"root": str(root.resolve()), "rows": _digest(recordings), "own": _digest(own)}
    settings = json.loads(
        json.dumps({"seed": seed, **asdict(config), "texts": _digest(said), **voices})
    )
    if summary.is_file() and all(path.is_file() for path in paths.values()):
        made = json.loads(summary.read_text())
        if made["settings"] == settings:
            return dict(made["hours"])
    for path in (summary, *paths.values()):  # of the clips that are about to go
        path.unlink(missing_ok=True)
    lexicon = Lexicon.load()
    lexicon = lexicon.extended(pronunciations) if pronunciations else lexicon
    recorded = _recorded(
        folder / "alignment.json",
        rows,
        lexicon,
        config,
        voices={name: voices[name] for name in ("root", "own")},
        processes=processes,
        progress=lambda done, total: progress(done, 2 * total),
    )
    hours = {}
    for split, path in paths.items():
        speakers = [one for one in recorded if one.rows[0].split == split]
        wanted_s = config.hours * 3600 if split == "train" else float("inf")
        most = config.dev_clips if split == "dev" else None

        def hear(made_s: float, *, wanted_s: float = wanted_s) -> None:
            if wanted_s < float("inf"):
                progress(wanted_s + min(made_s, wanted_s), 2 * wanted_s)

        clips = _clips(
            _said(speakers, lexicon, texts[split], folder / split, seed, processes),
            wanted_s=wanted_s,
            most=most,
            hear=hear,
        )
        write_cuts(clips, path)
        hours[split] = round(sum(cut["duration"] for cut in clips) / 3600, 3)
    write_json({"settings": settings, "hours": hours}, summary)
    return hours


def _rows(root: Path, config: SplicingConfig) -> list[Row]:
    """Rows of the speakers who have enough, not more of each than is wanted."""
    rows = [
        row
        for row in training_rows(root)
        if row.kind in _KINDS and not row.synthetic and 0 < row.duration_s < 20
    ]
    trained = {_speaker(row) for row in rows if row.split == "train"}
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    kept = []
    for row in rows:
        if row.split == "dev" and _speaker(row) in trained:
            continue
        if seconds[_speaker(row)] < 60 * config.most_minutes:
            kept.append(row)
            seconds[_speaker(row)] += row.duration_s
    enough = [name for name, known_s in seconds.items() if known_s >= 60 * config.least_minutes]
    chosen = set(enough[: config.most_speakers])
    return [row for row in kept if _speaker(row) in chosen]


def _speaker(row: Row) -> tuple[str, str]:
    return row.corpus, row.speaker


def _key(row: Row) -> str:
    """What an alignment is of: another transcript or other seconds of it are another row."""
    said = f"{row.offset_s} {row.duration_s} {row.text}"
    return f"{row.corpus}/{row.id}/{_digest(said)}"


def _digest(content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(raw, digest_size=10).hexdigest()


def _recorded(
    path: Path,
    rows: Sequence[Row],
    lexicon: Lexicon,
    config: SplicingConfig,
    *,
    voices: Mapping[str, str],
    processes: int,
    progress: Callable[[int, int], None],
) -> list[_Recorded]:
    """Speakers with their rows and phones; those that were aligned before are not aligned again."""
    known: dict[str, Any] = {}
    if path.is_file():
        there = json.loads(path.read_text())
        known = there["rows"] if there["voices"] == dict(voices) else {}
    missing = [row for row in rows if _key(row) not in known]
    for first in range(0, len(missing), _ROWS_BETWEEN_NOTES):
        some = missing[first : first + _ROWS_BETWEEN_NOTES]

        def hear(done: int, _: int, *, before: int = first) -> None:
            progress(len(rows) - len(missing) + before + done, len(rows))

        for row, said in zip(
            some, align(some, lexicon, processes=processes, progress=hear), strict=True
        ):
            known[_key(row)] = None if said is None else asdict(said)
        write_json({"voices": dict(voices), "rows": known}, path)
    by_speaker: defaultdict[tuple[str, str], list[tuple[Row, Aligned]]] = defaultdict(list)
    for row in rows:
        times = known[_key(row)]
        if times is not None:
            said = Aligned(**{name: tuple(column) for name, column in times.items()})
            by_speaker[_speaker(row)].append((row, said))
    return [
        _Recorded(name, *(tuple(column) for column in zip(*pairs, strict=True)))
        for (_, name), pairs in sorted(by_speaker.items())
        if sum(row.duration_s for row, _ in pairs) >= 60 * config.least_minutes / 2
    ]


def _said(
    speakers: Sequence[_Recorded],
    lexicon: Lexicon,
    texts: Sequence[TextItem],
    folder: Path,
    seed: int,
    processes: int,
) -> Iterator[list[dict[str, Any]]]:
    """Cuts without end, some at a time; the same whatever the number of processes."""
    if not speakers or not texts:
        return
    with ProcessPoolExecutor(processes, initializer=_load, initargs=(speakers, lexicon)) as pool:
        for first in itertools.count(0, processes * _CLIPS_A_TASK):
            tasks = [
                pool.submit(_say_some, range(start, start + _CLIPS_A_TASK), texts, folder, seed)
                for start in range(first, first + processes * _CLIPS_A_TASK, _CLIPS_A_TASK)
            ]
            for task in tasks:
                yield task.result()


def _clips(
    said: Iterator[list[dict[str, Any]]],
    *,
    wanted_s: float,
    most: int | None,
    hear: Callable[[float], None],
) -> list[dict[str, Any]]:
    """As many as are wanted, or as can be said."""
    clips: list[dict[str, Any]] = []
    made_s, in_vain = 0.0, 0
    for some in said:
        clips += some
        made_s += sum(cut["duration"] for cut in some)
        hear(made_s)
        in_vain = 0 if some else in_vain + 1
        if made_s >= wanted_s or (most is not None and len(clips) >= most):
            break
        if in_vain >= _TASKS_IN_VAIN:
            logger.warning("splicing: the recorded voices lack sounds of nearly all sentences")
            break
    return clips[:most]
