"""Voice clusters: speakers whose embeddings are alike, found without labels and without errors.

Clusters are places in the space of an embedding; they are no identities and may follow the
microphone as much as the speaker. Because errors had no part in making them, all speakers may
be measured; only the choice of the worst ones needs care, see `audit.discovery`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from earshot.audit.cohorts import Pair, Partition, measure, relative_gap
from earshot.audit.config import AuditConfig
from earshot.audit.discovery import (
    Discovery,
    adjusted_rand,
    chooser,
    cross_fitted,
    jaccard,
    share_of,
)
from earshot.audit.results import Cells, Embeddings, Results, cells
from earshot.core.errors import MissingExtraError

Vectors = npt.NDArray[np.float32]

AS_STABLE = 0.95  # of the best index: from here on a number of clusters is as stable as the best
DOUBTFUL = 0.8  # index under which there may be no clusters at all
_STABILITY_SPEAKERS = 3000  # more do not change which number of clusters is stable
_BLOCK_BYTES = 1 << 25
RANDOM_PARTITIONS = 200


def speaker_vectors(
    results: Results, embeddings: Embeddings
) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """Mean direction of each speaker's utterances.

    Args:
        results: N utterances of S speakers.
        embeddings: Their vectors; read block by block.

    Returns:
        (S, D) of length 1, and (S,) which speakers have one. Vectors of zeros or with values
        that are not finite count as missing.
    """
    size, width = results.num_units, embeddings.vectors.shape[1]
    total = np.zeros((size, width), np.float32)
    unit = results.unit_codes
    present = np.flatnonzero(embeddings.index >= 0)
    # In the order of the file, so that a memory map is read once from front to back.
    present = present[np.argsort(embeddings.index[present], kind="stable")]
    step = max(1, _BLOCK_BYTES // (4 * width))
    for start in range(0, len(present), step):
        rows = present[start : start + step]
        block = np.asarray(embeddings.vectors[embeddings.index[rows]], np.float32)
        length = np.linalg.norm(block, axis=1)
        usable = np.isfinite(length) & (length > 0)
        block = block[usable] / length[usable, None]
        owners = unit[rows[usable]]
        order = np.argsort(owners, kind="stable")
        who, first = np.unique(owners[order], return_index=True)
        if len(who):
            total[who] += np.add.reduceat(block[order], first, axis=0)
    length = np.linalg.norm(total, axis=1)
    has = length > 0
    total[has] /= length[has, None]
    return total, has


def _kmeans(vectors: Vectors, k: int, *, seed: int, restarts: int = 3) -> Any:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise MissingExtraError("voice clusters", package="scikit-learn", extra="audit") from None
    # Small sets in double precision: converting float32 block by block costs more than the work.
    exact = vectors.astype(np.float64) if vectors.size < 1 << 20 else vectors
    return KMeans(n_clusters=k, n_init=restarts, max_iter=50, random_state=seed).fit(exact)


def _nearest(vectors: Vectors, centres: Vectors) -> npt.NDArray[np.int64]:
    distance = (centres * centres).sum(axis=1) - 2.0 * vectors @ centres.T
    return np.asarray(distance.argmin(axis=1), np.int64)


def choose_number(
    vectors: Vectors, *, largest: int, seed: int, repeats: int = 3
) -> tuple[int, dict[int, float]]:
    """How many clusters there are: the most that two halves of the speakers agree on.

    Both halves are clustered, everybody is given to the nearest centre of each, and the two
    labellings are compared. Among numbers whose mean adjusted Rand index is at least 0.95 of the
    best one's, the largest wins: fewer clusters are often as stable and say less.

    Args:
        vectors: (S, D) of length 1.
        largest: Most clusters to try, at least 2.
        seed: Of halves and k-means.
        repeats: Pairs of halves.

    Returns:
        The number, and the mean index of every number tried.

    Source:
        Lange et al., "Stability-based validation of clustering solutions", Neural Computation
        16(6), 2004, with another rule for the choice.
    """
    rng = np.random.default_rng([seed, 0xC105])
    sample = vectors
    if len(vectors) > _STABILITY_SPEAKERS:
        sample = vectors[rng.choice(len(vectors), _STABILITY_SPEAKERS, replace=False)]
    found: dict[int, list[float]] = {}
    for _ in range(repeats):
        order = rng.permutation(len(sample))
        middle = len(order) // 2
        for k in range(2, largest + 1):
            labels = [
                _nearest(sample, _kmeans(sample[part], k, seed=seed).cluster_centers_)
                for part in (order[:middle], order[middle:])
            ]
            found.setdefault(k, []).append(adjusted_rand(labels[0], labels[1]))
    means = {k: float(np.mean(values)) for k, values in found.items()}
    best = max(means.values())
    return max(k for k, value in means.items() if value >= AS_STABLE * best), means


def discover_clusters(results: Results, config: AuditConfig) -> Discovery | None:
    """Cluster speakers by their voices and measure the clusters.

    Args:
        results: With embeddings.
        config: Most clusters, share of the bottom cohort, seeds.

    Returns:
        The clusters, or None where there are no embeddings or too few speakers to form two.
    """
    if results.embeddings is None:
        return None
    vectors, has = speaker_vectors(results, results.embeddings)
    used = np.flatnonzero(has)
    largest = min(config.max_clusters, len(used) // (2 * config.min_speakers))
    if largest < 2:
        return None
    inside = vectors[used]
    k, tried = choose_number(inside, largest=largest, seed=config.seed)
    centres = _kmeans(inside, k, seed=config.seed, restarts=5).cluster_centers_
    codes_of_unit = np.full(results.num_units, -1, np.int64)
    codes_of_unit[used] = _nearest(inside, centres)
    base = cells(results, [])
    codes = codes_of_unit[base.unit]
    about = _about(results, codes_of_unit, k)
    partition = Partition(
        base,
        codes,
        [f"Cluster {at + 1}" for at in range(k)],
        [f"voice nearest to centre {at + 1} of {k}" for at in range(k)],
        "cluster",
        [{"described_by": text} for text in about],
    )
    cohorts, small = measure(partition, config)
    pick = chooser([partition], config, share=config.bottom_share)
    found = cross_fitted(pick, config, results.num_units)
    stability = None
    if config.num_seeds > 1:
        stability = _stability(inside, codes_of_unit[used], k, found, config)
    extra: dict[str, object] = {
        "k": k,
        "k_stability": {str(number): value for number, value in tried.items()},
    }
    if found is not None:
        extra["random_gap"] = _random_gap(base, codes, k, config, results.num_units)
    agree = tried[k]
    doubt = (
        ""
        if agree >= DOUBTFUL
        else (" Halves of the speakers hardly agree on any number of clusters: there may be none.")
    )
    return Discovery(
        method="clusters",
        cohorts=cohorts,
        small=small,
        partitions={"cluster": partition},
        gap=None if found is None else found[0],
        pair=None if found is None else found[1],
        bottom_share=None if found is None else share_of(found[1]),
        how=f"k-means over mean voice embeddings of {len(used)} speakers; {k} clusters, the most "
        f"that halves of the speakers agree on (adjusted Rand index {agree:.2f}).{doubt}",
        stability=stability,
        extra=extra,
    )


def _about(results: Results, codes_of_unit: npt.NDArray[np.int64], k: int) -> list[str]:
    """Which given group is over-represented in each cluster, if any."""
    best: list[tuple[float, str]] = [(1.5, "")] * k  # under 1.5 times as common says nothing
    cluster = codes_of_unit[results.unit_codes]
    for name, labels in results.groups.items():
        known = (labels.codes >= 0) & (cluster >= 0)
        table = np.zeros((k, len(labels.names)))
        np.add.at(table, (cluster[known], labels.codes[known]), 1.0)
        overall = table.sum(axis=0) / max(table.sum(), 1.0)
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
        for at in range(k):
            value = int(np.argmax(share[at]))
            lift = share[at, value] / max(overall[value], 1e-12)
            if lift > best[at][0] and share[at, value] >= 0.3:
                text = f"{100 * share[at, value]:.0f} % {name}={labels.names[value]}"
                best[at] = (float(lift), f"{text} (everywhere {100 * overall[value]:.0f} %)")
    return [text for _, text in best]


def _stability(
    vectors: Vectors,
    labels: npt.NDArray[np.int64],
    k: int,
    found: tuple[object, Pair] | None,
    config: AuditConfig,
) -> dict[str, float]:
    rand, overlap = [], []
    bottom = None if found is None else np.isin(labels, found[1].bottom)
    for step in range(1, config.num_seeds):
        model = _kmeans(vectors, k, seed=config.seed + step, restarts=1)
        other = np.asarray(model.labels_, np.int64)
        rand.append(adjusted_rand(labels, other))
        if bottom is not None:
            # The clusters of the other run that lie mostly inside the bottom one.
            mostly = [c for c in range(k) if bottom[other == c].mean() > 0.5]
            overlap.append(jaccard(bottom, np.isin(other, mostly)))
    stability = {"seeds": config.num_seeds, "adjusted_rand": float(np.mean(rand))}
    if overlap:
        stability["jaccard"] = float(np.mean(overlap))
    return stability


def _random_gap(
    base: Cells, codes: npt.NDArray[np.int64], k: int, config: AuditConfig, num_units: int
) -> dict[str, float]:
    """Gaps of clusters of the same sizes with speakers dealt at random: what chance selects.

    `selected` is chosen and measured on the same speakers, `held_out` on other ones.
    """
    rng = np.random.default_rng([config.seed, 0xDEA1])
    inside = codes >= 0
    code, errors, words = codes[inside], base.errors[inside], base.words[inside]
    selected: list[float] = []
    held_out: list[float] = []
    for _ in range(RANDOM_PARTITIONS):
        dealt = rng.permutation(code)
        half = rng.random(len(code)) < 0.5
        rate = [
            np.bincount(dealt[m], weights=errors[m], minlength=k)
            / np.maximum(np.bincount(dealt[m], weights=words[m], minlength=k), 1.0)
            for m in (half, ~half)
        ]
        size = np.bincount(dealt, minlength=k)
        order = np.argsort(-rate[0], kind="stable")
        enough = size.sum() * config.bottom_share
        bottom = order[: int(np.searchsorted(np.cumsum(size[order]), enough)) + 1]
        top = order[::-1][: int(np.searchsorted(np.cumsum(size[order[::-1]]), enough)) + 1]
        for which, into in ((0, selected), (1, held_out)):
            mask = half if which == 0 else ~half
            pair = [
                errors[mask & np.isin(dealt, side)].sum()
                / max(words[mask & np.isin(dealt, side)].sum(), 1.0)
                for side in (bottom, top)
            ]
            if pair[0] > 0 and pair[1] > 0:
                into.append(relative_gap(float(np.log(pair[0] / pair[1])), config.normaliser))
    return {
        "selected_mean": float(np.mean(selected)) if selected else 0.0,
        "selected_95": float(np.quantile(selected, 0.95)) if selected else 0.0,
        "held_out_mean": float(np.mean(held_out)) if held_out else 0.0,
        "held_out_95": float(np.quantile(held_out, 0.95)) if held_out else 0.0,
    }
