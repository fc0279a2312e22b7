"""Regions: a tree over latitude and longitude whose leaves differ in word error rate.

One half of the speakers grows the tree and prunes it, the other half is measured in its leaves. A
tree that is grown and measured on the same speakers always finds bad regions, also where there
are none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from earshot.audit.cohorts import (
    Gap,
    Partition,
    extremes,
    gap_of,
    halves,
    measure,
    pair_ratio,
    relative_gap,
)
from earshot.audit.config import AuditConfig
from earshot.audit.discovery import Discovery, adjusted_rand, jaccard, share_of
from earshot.audit.intervals import Floats, Ints
from earshot.audit.results import Bools, Cells, Results, cells

PERMUTATIONS = 99
PRUNING_LEVEL = 0.2  # a split too many costs precision and no truth: the other half is measured
_SCAN_VALUES = 1 << 20  # numbers of one block of permutations: bounds memory, not results
_EULER = 0.5772156649015329


@dataclass(slots=True)
class Node:
    """A rectangle of the map; a leaf has no threshold."""

    low: tuple[float, float]
    high: tuple[float, float]
    members: Ints
    axis: int = -1
    threshold: float = 0.0
    score: float = 0.0
    p_value: float = 1.0
    depth: int = 0
    children: tuple[Node, Node] | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """Rectangles that cover the map.

    Args:
        root: Over (latitude, turned longitude).
        west: Longitudes are counted east from here, so that no region is cut at 180 degrees.
    """

    root: Node
    west: float
    leaves: list[Node] = field(default_factory=list)

    def assign(self, lat: Floats, lon: Floats) -> Ints:
        """(n,) index into `leaves` of every place."""
        points = np.stack([lat, turned(lon, self.west)], axis=1)
        found = np.zeros(len(points), np.int64)
        number = {id(leaf): at for at, leaf in enumerate(self.leaves)}

        def descend(node: Node, inside: Ints) -> None:
            if node.children is None:
                found[inside] = number[id(node)]
                return
            left = points[inside, node.axis] <= node.threshold
            descend(node.children[0], inside[left])
            descend(node.children[1], inside[~left])

        descend(self.root, np.arange(len(points)))
        return found


def turned(lon: Floats, west: float) -> Floats:
    """Degrees east of a meridian, 0 to 360."""
    return np.mod(lon - west, 360.0)


def _emptiest_meridian(lon: Floats) -> float:
    """A longitude in the middle of the widest gap between places."""
    values = np.unique(np.mod(lon, 360.0))
    gaps = np.diff(values, append=values[0] + 360.0)
    widest = int(np.argmax(gaps))
    middle = values[widest] + gaps[widest] / 2.0
    return float((middle + 180.0) % 360.0 - 180.0)


def grow(
    lat: Floats,
    lon: Floats,
    errors: Floats,
    words: Floats,
    *,
    criterion: str = "variance",
    min_speakers: int = 10,
    min_words: int = 200,
    max_leaves: int = 16,
    level: float = PRUNING_LEVEL,
    prune: bool = True,
    seed: int = 0,
) -> Tree:
    """Grow a tree, best split first, and prune what chance explains.

    A split is tested by permutation: errors and words are dealt out anew over the places of its
    node, and the best split of the node is sought again. Its p-value is that of a Gumbel
    distribution fitted to the best scores of 99 deals. From the leaves up, a split goes unless
    its p-value is under its level or one below it stays. Levels add up to `level`: every depth
    of the tree gets the same share of it, every split of a depth the same share of that, so the
    first split, on which all others depend, has the most.

    Args:
        lat: (n,) degrees north, one place of one speaker each.
        lon: (n,) degrees east.
        errors: (n,) word errors there.
        words: (n,) reference words there.
        criterion: "gap" maximises the difference of rates, "variance" the weighted variance
            between the sides, w_l w_r / (w_l + w_r) (r_l - r_r)^2.
        min_speakers: Places on each side of a split, at least.
        min_words: Words on each side, at least.
        max_leaves: Rectangles, at most.
        level: Chance of keeping a split anywhere where all speakers fare alike.
        prune: Test splits at all.
        seed: Of the permutations.

    Returns:
        The tree.

    Source:
        Trinh et al., "Reducing geographic disparities in automatic speech recognition via
        elastic weight consolidation", Interspeech 2022, for a tree over positions; the two
        criteria, the test and the honest half are this project's. Gumbel tails of scan
        statistics: Abrams et al., "A Gumbel based p-value approximation for spatial scan
        statistics", International Journal of Health Geographics 9, 2010.
    """
    west = _emptiest_meridian(lon)
    points = np.stack([lat, turned(lon, west)], axis=1)
    scan = _Scan(points, errors, words, criterion, min_speakers, min_words)
    root = Node((-90.0, 0.0), (90.0, 360.0), np.arange(len(points)))
    leaves, splits = [root], []
    candidates = {id(root): scan.best(root.members)}
    while len(leaves) < max_leaves:
        scored = [(candidates[id(leaf)][0], -at) for at, leaf in enumerate(leaves)]
        score, minus_at = max(scored)
        if not score > 0.0:
            break
        node = leaves.pop(-minus_at)
        node.score, node.axis, node.threshold = candidates.pop(id(node))
        left = points[node.members, node.axis] <= node.threshold
        children = []
        for side, mask in ((0, left), (1, ~left)):
            low, high = list(node.low), list(node.high)
            (high if side == 0 else low)[node.axis] = node.threshold
            child = Node(
                (low[0], low[1]), (high[0], high[1]), node.members[mask], depth=node.depth + 1
            )
            candidates[id(child)] = scan.best(child.members)
            children.append(child)
        node.children = (children[0], children[1])
        leaves += children
        splits.append(node)
    if prune and splits:
        rng = np.random.default_rng([seed, 0x7EE])
        _, at_depth = np.unique([split.depth for split in splits], return_counts=True)
        _prune(root, scan, level / len(at_depth) / at_depth, rng)
    return Tree(root, west, _leaves_of(root))


def _leaves_of(node: Node) -> list[Node]:
    if node.children is None:
        return [node]
    return _leaves_of(node.children[0]) + _leaves_of(node.children[1])


def _prune(node: Node, scan: _Scan, levels: Floats, rng: np.random.Generator) -> None:
    if node.children is None:
        return
    for child in node.children:
        _prune(child, scan, levels, rng)
    if any(child.children is not None for child in node.children):
        return
    node.p_value = scan.p_value(node, rng)
    if node.p_value > levels[node.depth]:
        node.children, node.axis = None, -1


class _Scan:
    """Looks for the best split of a set of places."""

    def __init__(
        self,
        points: Floats,
        errors: Floats,
        words: Floats,
        criterion: str,
        min_speakers: int,
        min_words: int,
    ) -> None:
        self.points, self.errors, self.words = points, errors, words
        self.criterion = criterion
        self.min_speakers, self.min_words = min_speakers, min_words

    def best(self, members: Ints) -> tuple[float, int, float]:
        """Score, axis and threshold of the best split; score 0 where there is none."""
        found = (0.0, -1, 0.0)
        for axis in (0, 1):
            order, cuts = self._cuts(members, axis)
            if not len(cuts):
                continue
            scores = self._scores(self.errors[order], self.words[order], cuts)
            at = int(np.argmax(scores))
            if scores[at] > found[0]:
                values = self.points[order, axis]
                threshold = (values[cuts[at]] + values[cuts[at] + 1]) / 2.0
                found = (float(scores[at]), axis, float(threshold))
        return found

    def p_value(self, node: Node, rng: np.random.Generator) -> float:
        """How often a deal of the same speakers over the same places has as good a split."""
        size = len(node.members)
        ways = [self._cuts(node.members, axis) for axis in (0, 1)]
        # Only where a member stands in each order matters to a deal.
        position = np.empty(len(self.points), np.int64)
        position[node.members] = np.arange(size)
        places = [position[order] for order, _ in ways]
        errors, words = self.errors[node.members], self.words[node.members]
        best: list[Floats] = []
        batch = max(1, min(PERMUTATIONS, _SCAN_VALUES // size))
        for start in range(0, PERMUTATIONS, batch):
            deals = np.stack(
                [rng.permutation(size) for _ in range(min(batch, PERMUTATIONS - start))]
            )
            top = np.zeros(len(deals))
            for (_, cuts), place in zip(ways, places, strict=True):
                if len(cuts):
                    dealt = deals[:, place]
                    scores = self._scores(errors[dealt], words[dealt], cuts)
                    top = np.maximum(top, scores.max(axis=-1))
            best.append(top)
        tops = np.concatenate(best)
        scale = float(tops.std(ddof=1)) * 6.0**0.5 / np.pi
        if scale <= 0.0:
            return 1.0
        place = float(tops.mean()) - _EULER * scale
        return float(-np.expm1(-np.exp(-(node.score - place) / scale)))

    def _cuts(self, members: Ints, axis: int) -> tuple[Ints, Ints]:
        """Members along an axis, and after which of them a split may come."""
        values = self.points[members, axis]
        order = members[np.argsort(values, kind="stable")]
        values = self.points[order, axis]
        after = np.arange(self.min_speakers - 1, len(members) - self.min_speakers)
        return order, after[values[after] < values[after + 1]]

    def _scores(self, errors: Floats, words: Floats, cuts: Ints) -> Floats:
        """(..., cuts) scores; 0 where a side has too few words."""
        sum_e, sum_w = errors.cumsum(axis=-1), words.cumsum(axis=-1)
        left_e, left_w = sum_e[..., cuts], sum_w[..., cuts]
        right_e, right_w = sum_e[..., -1:] - left_e, sum_w[..., -1:] - left_w
        enough = (left_w >= self.min_words) & (right_w >= self.min_words)
        with np.errstate(divide="ignore", invalid="ignore"):
            difference = np.abs(left_e / left_w - right_e / right_w)
            if self.criterion == "variance":
                difference = left_w * right_w / (left_w + right_w) * difference**2
        return np.where(enough, difference, 0.0)


# ---------------------------------------------------------------- as a discovery


@dataclass(frozen=True, slots=True)
class _Found:
    tree: Tree
    partition: Partition
    discover: Bools  # of cells


def discover_regions(results: Results, config: AuditConfig) -> Discovery | None:
    """Find regions and measure them.

    Args:
        results: With latitudes and longitudes.
        config: Criterion, least sizes, honesty, pruning, seeds.

    Returns:
        The regions, or None where nothing is located. Sizes and rates are those of the half
        that did not grow the tree.
    """
    if results.lat is None or results.lon is None:
        return None
    located = np.isfinite(results.lat) & np.isfinite(results.lon)
    if not located.any():
        return None
    places = np.full(len(results), -1, np.int64)
    pairs = np.stack([results.lat[located], results.lon[located]], axis=1)
    where, inverse = np.unique(pairs, axis=0, return_inverse=True)
    places[located] = inverse.reshape(-1)
    base = cells(results, [places])
    found = _partition(base, where, config, config.seed, results.num_units)
    report = ~found.discover if config.honest else None
    cohorts, small = measure(found.partition, config, kept=report)
    pair = extremes(found.partition, config, kept=found.discover if config.honest else None)
    gap = None
    if pair is not None:
        chosen = pair_ratio(pair, found.discover)
        measured = pair_ratio(pair, report)
        if measured is not None and chosen is not None:
            value, low, high, p_value = gap_of([measured], config)
            selected = relative_gap(chosen.log_ratio, config.normaliser)
            gap = Gap(value, low, high, p_value, config.honest, selected)
    stability = None
    if config.num_seeds > 1 and config.honest:
        stability = _stability(base, where, config, found, pair, results.num_units)
    total = len(np.unique(base.unit[base.codes[0] >= 0]))
    return Discovery(
        method="regions",
        cohorts=cohorts,
        small=small,
        partitions={found.partition.column: found.partition},
        gap=gap,
        pair=pair if gap is not None else None,
        bottom_share=share_of(pair) if gap is not None and pair is not None else None,
        how=_how(config, len(found.tree.leaves), total),
        stability=stability,
        extra={
            "n_speakers_located": total,
            "criterion": config.criterion,
            "regions": [dict(extra) for extra in found.partition.extra],
        },
    )


def region_bounds(found: Discovery, index: int) -> tuple[float, float, float, float]:
    """South, north, west and east of a region, cut to where speakers are; degrees."""
    box = found.partitions["region"].extra[index]
    names = ("lat_min", "lat_max", "lon_min", "lon_max")
    south, north, west, east = (float(str(box[name])) for name in names)
    return south, north, west, east


def _how(config: AuditConfig, num_leaves: int, total: int) -> str:
    if not config.honest:
        return (
            f"A tree over positions (criterion {config.criterion}) was grown and measured on the "
            f"same {total} speakers: its figures are too good to be true."
        )
    pruned = ", pruned by permutation tests," if config.prune else ""
    return (
        f"A tree over positions (criterion {config.criterion}) was grown{pruned} on one half of "
        f"the {total} located speakers, which gave {num_leaves} "
        f"{'region' if num_leaves == 1 else 'regions'}; all figures come from the other half."
    )


def _partition(
    base: Cells, where: Floats, config: AuditConfig, seed: int, num_units: int
) -> _Found:
    located = base.codes[0] >= 0
    discover = (
        halves(num_units, seed)[base.unit] if config.honest else np.ones(len(base.unit), bool)
    )
    used = np.flatnonzero(located & discover)
    lat, lon = where[base.codes[0], 0], where[base.codes[0], 1]
    lat[~located], lon[~located] = 0.0, 0.0
    if len(used) < 2:
        root = Node((-90.0, 0.0), (90.0, 360.0), used)
        tree = Tree(root, _emptiest_meridian(where[:, 1]), [root])
    else:
        # Twice the least size, so that the other half's share of a leaf is rarely too small.
        tree = grow(
            lat[used],
            lon[used],
            base.errors[used],
            base.words[used],
            criterion=config.criterion,
            min_speakers=2 * config.min_speakers,
            min_words=2 * config.min_words,
            max_leaves=config.max_regions,
            prune=config.prune,
            seed=seed,
        )
    codes = tree.assign(lat, lon)
    codes[~located] = -1
    # Regions are numbered by the rate on the half that found them, worst first.
    size = len(tree.leaves)
    errors = np.bincount(codes[used], weights=base.errors[used], minlength=size)
    words = np.bincount(codes[used], weights=base.words[used], minlength=size)
    order = np.argsort(-errors / np.maximum(words, 1.0), kind="stable")
    rank = np.empty(size, np.int64)
    rank[order] = np.arange(size)
    tree = Tree(tree.root, tree.west, [tree.leaves[at] for at in order])
    codes = np.where(codes >= 0, rank[codes], -1)
    bounds = _bounds(where, tree.west)
    extra = [_box(leaf, tree.west, bounds) for leaf in tree.leaves]
    partition = Partition(
        base,
        codes,
        [f"Region {at + 1}" for at in range(size)],
        [_rule(leaf, tree.west) for leaf in tree.leaves],
        "region",
        extra,
    )
    return _Found(tree, partition, discover)


def _bounds(where: Floats, west: float) -> tuple[float, float, float, float]:
    east = turned(where[:, 1], west)
    return float(where[:, 0].min()), float(where[:, 0].max()), float(east.min()), float(east.max())


def _degrees(east: float, west: float) -> float:
    return (east + west + 180.0) % 360.0 - 180.0


def _rule(leaf: Node, west: float) -> str:
    """Bounds in degrees; sides without a bound are left out."""
    parts = []
    south, north = leaf.low[0], leaf.high[0]
    if south > -90.0 and north < 90.0:
        parts.append(f"latitude {south:.2f} to {north:.2f}")
    elif south > -90.0:
        parts.append(f"latitude over {south:.2f}")
    elif north < 90.0:
        parts.append(f"latitude up to {north:.2f}")
    left, right = leaf.low[1], leaf.high[1]
    if left > 0.0 and right < 360.0:
        parts.append(f"longitude {_degrees(left, west):.2f} to {_degrees(right, west):.2f}")
    elif left > 0.0:
        parts.append(f"east of longitude {_degrees(left, west):.2f}")
    elif right < 360.0:
        parts.append(f"west of longitude {_degrees(right, west):.2f}")
    return ", ".join(parts) or "everywhere"


def _box(leaf: Node, west: float, bounds: tuple[float, float, float, float]) -> dict[str, object]:
    """The rectangle, cut to where there are places, in degrees; `lon_max` may pass 180."""
    south, north = max(leaf.low[0], bounds[0]), min(leaf.high[0], bounds[1])
    left, right = max(leaf.low[1], bounds[2]), min(leaf.high[1], bounds[3])
    start = _degrees(left, west)
    return {
        "lat_min": south,
        "lat_max": north,
        "lon_min": start,
        "lon_max": start + (right - left),
    }


def _stability(
    base: Cells,
    where: Floats,
    config: AuditConfig,
    found: _Found,
    pair: object,
    num_units: int,
) -> dict[str, float]:
    """How alike the trees of other halves are: all cells by region, and the bottom region."""
    located = base.codes[0] >= 0
    bottom = _bottom(found, config)
    rand, overlap = [], []
    for step in range(1, config.num_seeds):
        other = _partition(base, where, config, config.seed + step, num_units)
        rand.append(adjusted_rand(found.partition.codes[located], other.partition.codes[located]))
        overlap.append(jaccard(bottom[located], _bottom(other, config)[located]))
    return {
        "seeds": config.num_seeds,
        "adjusted_rand": float(np.mean(rand)),
        "jaccard": float(np.mean(overlap)),
    }


def _bottom(found: _Found, config: AuditConfig) -> Bools:
    pair = extremes(found.partition, config, kept=found.discover)
    if pair is None:
        return np.zeros(len(found.partition.codes), bool)
    return np.isin(found.partition.codes, pair.bottom)
