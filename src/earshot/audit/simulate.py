"""Speech that nobody spoke: results with planted cohorts whose error rates are known.

What an audit should find is decided here first, so that finding it, and finding nothing where
nothing is, can be tested. Errors are drawn per utterance from each speaker's own rate; speakers
differ inside every cohort, as people do. Knows nothing of how cohorts are found.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earshot.audit.results import Embeddings, Labels, Results
from earshot.core.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EMBEDDING_SIZE = 32
_VOCABULARY = tuple(
    f"{first}{last}" for first in "bdfgklmnprst" for last in ("ale", "ine", "ock", "ush", "eed")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is planted.

    Args:
        speakers: S.
        utterances: Of each speaker, on average.
        words: Of each utterance, on average.
        wer: Rate where nothing is planted.
        region_wer: Rates of five regions that tile the map; None plants no regions.
        zip_wer: Rate of speakers in ZIP codes with the planted majority; None plants none.
        zip_share: Share of ZIP codes that have it.
        cluster_wer: Rate of the planted voice cluster; None plants none.
        num_clusters: Voice clusters, whether one is planted or not.
        group_wer: Rate of speakers of the planted group; None plants none.
        group_share: Share of speakers in it.
        spread: How much speakers of one cohort differ: standard deviation of the logarithm of
            their rates.
        seed: Of everything.
    """

    speakers: int = 400
    utterances: float = 8.0
    words: float = 9.0
    wer: float = 0.1
    region_wer: tuple[float, ...] | None = (0.08, 0.32, 0.12, 0.2, 0.05)
    zip_wer: float | None = 0.22
    zip_share: float = 0.15
    cluster_wer: float | None = 0.3
    num_clusters: int = 5
    group_wer: float | None = 0.25
    group_share: float = 0.25
    spread: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        if self.speakers < 2 or self.num_clusters < 1:
            raise ConfigError(
                f"simulate: {self.speakers} speakers and {self.num_clusters} clusters; there must "
                "be at least 2 and 1."
            )
        if self.region_wer is not None and len(self.region_wer) != 5:
            raise ConfigError(f"simulate: {len(self.region_wer)} rates of regions; there are 5.")


NULL = World(region_wer=None, zip_wer=None, cluster_wer=None, group_wer=None)


@dataclass(frozen=True, slots=True)
class Planted:
    """S speakers, N utterances, and the truth about them.

    Args:
        world: What was planted.
        lat: (S,) degrees.
        lon: (S,) degrees.
        region: (S,) which of the five rectangles of the map.
        zip: (S,) ZIP code as a number.
        has_majority: (S,) lives where the planted majority is.
        cluster: (S,) voice cluster; 0 is the planted one.
        in_group: (S,) is in the planted group.
        gender: (S,) 0 or 1, without any effect.
        rate: (S,) expected errors per word of each speaker.
        expected: (S,) the same without the speaker's own part: the truth of its cohort.
        speaker: (N,) of each utterance.
        words: (N,) reference words.
        errors: (N,) word errors.
    """

    world: World
    lat: Floats
    lon: Floats
    region: Ints
    zip: Ints
    has_majority: npt.NDArray[np.bool_]
    cluster: Ints
    in_group: npt.NDArray[np.bool_]
    gender: Ints
    rate: Floats
    expected: Floats
    speaker: Ints
    words: Ints
    errors: Ints
    centres: Floats = field(repr=False)


def region_of(lat: Floats, lon: Floats) -> Ints:
    """Which of five rectangles, made by four cuts of the map, a place is in."""
    west = lon < -5.0
    return np.where(
        west,
        np.where(lat < 44.0, 0, np.where(lon < -12.0, 1, 2)),
        np.where(lat < 50.0, 3, 4),
    ).astype(np.int64)


def plant(world: World | None = None) -> Planted:
    """Draw speakers and utterances.

    The largest of the rates that apply to a speaker is the speaker's: effects do not add up,
    so each planted cohort's rate is what it was given, or that of a worse cohort it overlaps.

    Args:
        world: What to plant.

    Returns:
        Speakers, utterances and truth; the same for the same world.
    """
    world = world or World()
    rng = np.random.default_rng([world.seed, 0x51A])
    size = world.speakers
    lat, lon = rng.uniform(38.0, 56.0, size), rng.uniform(-20.0, 10.0, size)
    region = region_of(lat, lon)
    num_zips = max(20, size // 8)
    zips = rng.integers(0, num_zips, size)
    majority_zips = np.arange(num_zips) < max(1, round(world.zip_share * num_zips))
    has_majority = majority_zips[zips]
    cluster = rng.integers(0, world.num_clusters, size)
    in_group = rng.random(size) < world.group_share
    gender = rng.integers(0, 2, size)
    expected = np.full(size, world.wer)
    if world.region_wer is not None:
        expected = np.array(world.region_wer)[region]
    for planted_rate, members in (
        (world.zip_wer, has_majority),
        (world.cluster_wer, cluster == 0),
        (world.group_wer, in_group),
    ):
        if planted_rate is not None:
            expected = np.where(members, np.maximum(expected, planted_rate), expected)
    # A log-normal factor with mean 1: a cohort's expected rate is the planted one.
    factor = np.exp(rng.normal(-0.5 * world.spread**2, world.spread, size))
    rate = expected * factor
    per_speaker = 1 + rng.poisson(max(world.utterances - 1.0, 0.0), size)
    speaker = np.repeat(np.arange(size), per_speaker)
    words = 1 + rng.poisson(world.words - 1.0, len(speaker))
    errors = np.asarray(rng.poisson(rate[speaker] * words), np.int64)
    centres = rng.normal(size=(world.num_clusters, EMBEDDING_SIZE))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return Planted(
        world,
        lat,
        lon,
        region,
        zips,
        has_majority,
        cluster,
        in_group,
        gender,
        rate,
        expected,
        speaker,
        words,
        errors,
        centres,
    )


def embeddings_of(planted: Planted, *, noise: float = 0.1) -> npt.NDArray[np.float16]:
    """(N, 32) voice embeddings: the centre of the speaker's cluster, with noise."""
    rng = np.random.default_rng([planted.world.seed, 0xE3B])
    per_speaker = planted.centres[planted.cluster]
    per_speaker = per_speaker + rng.normal(0.0, noise, per_speaker.shape)
    rows = per_speaker[planted.speaker] + rng.normal(
        0.0, noise, (len(planted.speaker), EMBEDDING_SIZE)
    )
    return rows.astype(np.float16)


def census_of(planted: Planted) -> tuple[list[str], list[list[float]]]:
    """Categories, and shares of each in every ZIP code: (zips, 3); "a" is the planted one."""
    size = int(planted.zip.max()) + 1
    limit = planted.zip[planted.has_majority].max(initial=-1)
    shares = []
    for number in range(size):
        major = 0 if number <= limit else 1 + number % 2
        shares.append([0.7 if at == major else 0.15 for at in range(3)])
    return ["a", "b", "c"], shares


def as_results(planted: Planted, *, noise: float = 0.1) -> Results:
    """The results as columns, without texts and without a file."""
    hits = np.maximum(planted.words - planted.errors, 0)
    substitutions = planted.words - hits
    counts = np.stack(
        [hits, substitutions, np.zeros_like(hits), planted.errors - substitutions], axis=1
    )
    speakers = planted.world.speakers
    who = planted.speaker

    def labels(codes: Ints, names: list[str]) -> Labels:
        return Labels(codes[who].astype(np.int32), names)

    return Results(
        source="simulated",
        lines=np.arange(1, len(who) + 1),
        ids=[f"u{at:07d}" for at in range(len(who))],
        counts=counts.astype(np.int32),
        speakers=labels(np.arange(speakers), [f"s{at:05d}" for at in range(speakers)]),
        groups={
            "accent": labels(planted.in_group.astype(np.int64), ["other", "planted"]),
            "gender": labels(planted.gender, ["female", "male"]),
        },
        lat=planted.lat[who],
        lon=planted.lon[who],
        zips=labels(planted.zip, [f"{10000 + at}" for at in range(int(planted.zip.max()) + 1)]),
        embeddings=Embeddings(
            np.arange(len(who)), embeddings_of(planted, noise=noise), "simulated"
        ),
        num_rows=len(who),
    )


def write_planted(planted: Planted, folder: Path) -> dict[str, Path]:
    """Write results as a recogniser's user would have them, and the truth beside them.

    Args:
        planted: From `plant`.
        folder: Made if need be.

    Returns:
        Paths by what they are: `results` (JSONL), `embeddings` (.npy), `census` (CSV) and
        `truth` (CSV, a line a speaker).
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "results": folder / "results.jsonl",
        "embeddings": folder / "embeddings.npy",
        "census": folder / "census.csv",
        "truth": folder / "truth.csv",
    }
    rng = np.random.default_rng([planted.world.seed, 0x3E7])
    with open(paths["results"], "w", encoding="utf-8") as file:
        for at, who in enumerate(planted.speaker.tolist()):
            ref, hyp = _spoken(int(planted.words[at]), int(planted.errors[at]), rng)
            row = {
                "id": f"u{at:07d}",
                "ref": ref,
                "hyp": hyp,
                "speaker": f"s{who:05d}",
                "lat": round(float(planted.lat[who]), 4),
                "lon": round(float(planted.lon[who]), 4),
                "zip": f"{10000 + int(planted.zip[who])}",
                "accent": "planted" if planted.in_group[who] else "other",
                "gender": ("female", "male")[planted.gender[who]],
            }
            file.write(json.dumps(row) + "\n")
    np.save(paths["embeddings"], embeddings_of(planted))
    with open(paths["census"], "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        names, shares = census_of(planted)
        table.writerow(["zip", *(f"background:{name}" for name in names)])
        table.writerows([f"{10000 + at}", *row] for at, row in enumerate(shares))
    with open(paths["truth"], "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["speaker", "region", "has_majority", "cluster", "in_group", "expected_wer"])
        for who in range(planted.world.speakers):
            table.writerow(
                [
                    f"s{who:05d}",
                    int(planted.region[who]),
                    int(planted.has_majority[who]),
                    int(planted.cluster[who]),
                    int(planted.in_group[who]),
                    round(float(planted.expected[who]), 6),
                ]
            )
    return paths


def _spoken(num_words: int, num_errors: int, rng: np.random.Generator) -> tuple[str, str]:
    """A reference, and a hypothesis with exactly that many errors.

    Wrong words are ones that no reference holds, so that no better alignment undoes them;
    errors beyond the number of words are insertions.
    """
    ref = [_VOCABULARY[at] for at in rng.integers(0, len(_VOCABULARY), num_words)]
    hyp = list(ref)
    wrong = rng.permutation(num_words)[: min(num_errors, num_words)]
    for at in wrong.tolist():
        # With insertions nothing is left out: the two would make one substitution.
        is_left_out = num_errors <= num_words and rng.random() < 0.3
        hyp[at] = "" if is_left_out else f"x{rng.integers(100)}"
    extra = [f"y{rng.integers(100)}" for _ in range(num_errors - len(wrong))]
    return " ".join(ref), " ".join(word for word in (*hyp, *extra) if word)
