"""Word lattices: a compact graph of competing hypotheses, and sums over it.

Arrays of fields, not objects with fields: the engine fills these buffers directly. States are
numbered so that every arc goes up (src < dst); state 0 starts, the last state ends, and every
state lies on a path from one to the other. Scores on a single arc mean little: only their sums
over whole paths do, and only those survive `determinised` or the wire.
Knows nothing of audio or models; `lattice_formats` and `lattice_wire` write it down.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from earshot.core.errors import LatticeError
from earshot.decode.risk import edit_distances

__all__ = [
    "MAX_ARCS",
    "NOTHING",
    "Arc",
    "Lattice",
    "LatticePath",
    "OraclePath",
    "arc_posteriors",
    "arcs_behind",
    "assembled",
    "best_path",
    "determinised",
    "expected_errors",
    "from_arcs",
    "from_json",
    "kept_arcs",
    "nbest",
    "oracle",
    "pruned",
    "state_posteriors",
    "time_conditioned",
    "to_json",
    "total_score",
    "ways_on",
    "word_confidences",
]

_I32 = npt.NDArray[np.int32]
_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]

NOTHING = ""
"""The word of the one arc that may say nothing: from the first state to the last."""

MAX_ARCS = 1_000_000
MAX_DETERMINISED_ARCS = 100_000
MAX_ROWS = 5_000  # distinct columns of edit distances that `expected_errors` keeps at a state
_RESIDUAL_STEPS = 4096.0  # residual scores that agree to 1/4096 nat are one
_MINUS_INFINITY = -math.inf
_AS_GOOD = 1e-3  # nats: rounding may turn what is so close around


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """A arcs over S states; arcs are sorted by `src`.

    Args:
        src: Shape (A,): the state that an arc leaves. A >= 1.
        dst: Shape (A,): the state it enters, > src.
        word: Shape (A,): index into `words`.
        start_frame: Shape (A,): encoder frame of the word's first piece.
        end_frame: Shape (A,): one past the frame of its last, >= start_frame.
        acoustic: Shape (A,): nats.
        prior: Shape (A,): nats: grammar, biasing, language model.
        words: The words, each once. `NOTHING` is no word: it stands only on arcs from state 0
            to the last, which say that nothing was said.

    Raises:
        LatticeError: The arrays do not belong together, an index is out of range, a state lies
            on no path, a score is not finite, or a word is empty or there twice.
    """

    src: _I32
    dst: _I32
    word: _I32
    start_frame: _I32
    end_frame: _I32
    acoustic: _F32
    prior: _F32
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        arcs = len(self.src)
        for name, dtype in (
            ("src", np.int32),
            ("dst", np.int32),
            ("word", np.int32),
            ("start_frame", np.int32),
            ("end_frame", np.int32),
            ("acoustic", np.float32),
            ("prior", np.float32),
        ):
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (arcs,):
                raise _broken(
                    f"{name} is {array.dtype} of shape {array.shape}; it must be "
                    f"{np.dtype(dtype)} of shape ({arcs},)"
                )
        if not 1 <= arcs <= MAX_ARCS:
            raise _broken(f"it has {arcs} arcs; it must have 1 to {MAX_ARCS}")
        if len(set(self.words)) != len(self.words):
            raise _broken("a word is in the table twice; each must be there once")
        for index, word in enumerate(self.words):
            if word != " ".join(word.split()):
                raise _broken(f"word {index} is {word!r}; it must not have spaces around it")
        if self.word.min() < 0 or self.word.max() >= len(self.words):
            raise _broken(
                f"words {self.word.min()}..{self.word.max()} are on arcs; the table has "
                f"{len(self.words)}"
            )
        self._check_states()
        for name in ("acoustic", "prior"):
            scores = getattr(self, name)
            bad = scores[~(np.abs(scores) < 1e9)]  # and what is not a number
            if len(bad):
                raise _broken(f"{name} holds {bad[0]}; scores must be finite and below 1e9")
        if self.start_frame.min() < 0 or (self.end_frame < self.start_frame).any():
            at = int(np.argmax((self.start_frame < 0) | (self.end_frame < self.start_frame)))
            raise _broken(
                f"arc {at} lasts from frame {self.start_frame[at]} to {self.end_frame[at]}; "
                "a word must not start before 0 nor end before its start"
            )

    def _check_states(self) -> None:
        if (self.src >= self.dst).any():
            at = int(np.argmax(self.src >= self.dst))
            raise _broken(f"arc {at} goes from state {self.src[at]} to {self.dst[at]}, not up")
        if self.src[0] != 0 or (np.diff(self.src) < 0).any():
            raise _broken("its arcs are not sorted by the state they leave, from state 0 on")
        last = int(self.dst.max())
        # Arcs go up, so a state with an arc in and an arc out lies on a whole path.
        if last > len(self.src):
            raise _broken(f"it has {last + 1} states and {len(self.src)} arcs; some lie on no path")
        leaves, enters = np.zeros(last + 1, bool), np.zeros(last + 1, bool)
        leaves[self.src] = True
        enters[self.dst] = True
        lost = np.flatnonzero(~(leaves | (np.arange(last + 1) == last)))
        lost = lost if len(lost) else np.flatnonzero(~(enters | (np.arange(last + 1) == 0)))
        if len(lost):
            raise _broken(
                f"state {lost[0]} of {last + 1} lies on no path from the first to the last"
            )
        if NOTHING in self.words:
            silent = self.word == self.words.index(NOTHING)
            if (silent & ((self.src != 0) | (self.dst != last))).any():
                raise _broken("an arc within it says nothing; only one past all words may")

    @property
    def num_arcs(self) -> int:
        """A."""
        return len(self.src)

    @property
    def num_states(self) -> int:
        """S; the last state is S - 1."""
        return int(self.dst.max()) + 1

    @property
    def num_frames(self) -> int:
        """One past the last frame of any word."""
        return int(self.end_frame.max())

    @property
    def score(self) -> _F64:
        """Shape (A,): acoustic and prior together, float64."""
        return self.acoustic.astype(np.float64) + self.prior

    def word_at(self, arc: int) -> str:
        """The word of an arc."""
        return self.words[int(self.word[arc])]


@dataclass(frozen=True, slots=True)
class LatticePath:
    """One way from the first state to the last.

    Args:
        words: What it says; none if it says nothing.
        arcs: The arcs that say it.
        score: Nats, `acoustic + prior`.
        acoustic: Nats.
        prior: Nats.
    """

    words: tuple[str, ...]
    arcs: tuple[int, ...]
    score: float
    acoustic: float
    prior: float

    @property
    def text(self) -> str:
        """The words, separated by one space."""
        return " ".join(self.words)


class OraclePath(NamedTuple):
    """The path of a lattice that is nearest to a reference."""

    errors: int
    path: LatticePath


class Arc(NamedTuple):
    """One arc of a graph whose states may have any names; `word` may be `NOTHING` anywhere."""

    src: int
    dst: int
    word: str
    start_frame: int
    end_frame: int
    acoustic: float
    prior: float


def _broken(problem: str) -> LatticeError:
    return LatticeError("lattice", problem, remedy="Make it again with `Stream.lattice()`")


def _path(lattice: Lattice, arcs: Iterable[int]) -> LatticePath:
    arcs = tuple(int(arc) for arc in arcs)
    words = (lattice.word_at(arc) for arc in arcs)
    acoustic = float(lattice.acoustic[list(arcs)].sum(dtype=np.float64))
    prior = float(lattice.prior[list(arcs)].sum(dtype=np.float64))
    return LatticePath(
        tuple(word for word in words if word != NOTHING), arcs, acoustic + prior, acoustic, prior
    )


def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == _MINUS_INFINITY else a + math.log1p(math.exp(b - a))


def _scores(lattice: Lattice, scale: float) -> list[float]:
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"lattice: scale is {scale}; it must be above 0.")
    scores: list[float] = (lattice.acoustic.astype(np.float64) * scale + lattice.prior).tolist()
    return scores


def _forward_backward(lattice: Lattice, scores: Sequence[float]) -> tuple[list[float], list[float]]:
    """Log-sums of what leads to each state, and of what leads on from it."""
    src, dst = lattice.src.tolist(), lattice.dst.tolist()
    forward = [_MINUS_INFINITY] * lattice.num_states
    backward = [_MINUS_INFINITY] * lattice.num_states
    forward[0] = backward[-1] = 0.0
    # Arcs are sorted by src: all that enters a state comes before all that leaves it.
    for arc, score in enumerate(scores):
        forward[dst[arc]] = _log_add(forward[dst[arc]], forward[src[arc]] + score)
    for arc in range(len(scores) - 1, -1, -1):
        backward[src[arc]] = _log_add(backward[src[arc]], backward[dst[arc]] + scores[arc])
    return forward, backward


def total_score(lattice: Lattice, *, scale: float = 1.0) -> float:
    """The log of the sum of all paths' exponentials: what their posteriors are taken from.

    Args:
        lattice: A lattice.
        scale: As in `arc_posteriors`.

    Returns:
        Nats; `exp(path.score - total_score(lattice))` is the probability of a path.
    """
    return _forward_backward(lattice, _scores(lattice, scale))[1][0]


def arc_posteriors(lattice: Lattice, *, scale: float = 1.0) -> _F64:
    """Probability that the spoken path crosses each arc, given the lattice.

    Forward-backward in the log semiring, one pass each way over sorted arcs.

    Args:
        lattice: A arcs over S states.
        scale: Multiplies the acoustic scores first; < 1 flattens an over-confident
            model. Must be > 0.

    Returns:
        Shape (A,), float64, each in [0, 1]. At every cut between states they sum to 1.

    Raises:
        ValueError: `scale` is not positive.

    Source:
        Wessel et al., "Confidence measures for large vocabulary continuous
        speech recognition", IEEE Trans. Speech Audio Process. 9(3), 2001.
    """
    scores = _scores(lattice, scale)
    forward, backward = _forward_backward(lattice, scores)
    through = np.array(forward)[lattice.src] + scores + np.array(backward)[lattice.dst]
    return np.asarray(np.minimum(np.exp(through - backward[0]), 1.0), np.float64)


def state_posteriors(lattice: Lattice, *, scale: float = 1.0) -> _F64:
    """Probability that the spoken path goes through each state.

    Args:
        lattice: A arcs over S states.
        scale: As in `arc_posteriors`.

    Returns:
        Shape (S,), float64; 1 for the first and the last.
    """
    arcs = arc_posteriors(lattice, scale=scale)
    out = np.bincount(lattice.dst, arcs, lattice.num_states).astype(np.float64)
    out[0] = 1.0
    return out


def _best_from(lattice: Lattice, scores: Sequence[float]) -> tuple[list[float], list[int]]:
    """The best score from each state to the end, and the arc that it begins with."""
    src, dst = lattice.src.tolist(), lattice.dst.tolist()
    best = [_MINUS_INFINITY] * lattice.num_states
    first = [-1] * lattice.num_states
    best[-1] = 0.0
    for arc in range(len(scores) - 1, -1, -1):
        through = scores[arc] + best[dst[arc]]
        if through >= best[src[arc]]:  # the first of equal ones: arcs are seen from the back
            best[src[arc]], first[src[arc]] = through, arc
    return best, first


def ways_on(lattice: Lattice) -> tuple[list[float], list[int]]:
    """The best way on from each state.

    Returns:
        S scores, 0 for the last state, and the S arcs that these ways begin with, -1 for it.
    """
    return _best_from(lattice, _scores(lattice, 1.0))


def best_path(lattice: Lattice, *, scale: float = 1.0) -> LatticePath:
    """The path with the highest score.

    Args:
        lattice: A lattice.
        scale: Multiplies the acoustic scores for the choice alone.

    Returns:
        The path; of equal ones the one whose arcs come first.
    """
    _, first = _best_from(lattice, _scores(lattice, scale))
    arcs, state = [], 0
    while first[state] >= 0:
        arcs.append(first[state])
        state = int(lattice.dst[first[state]])
    return _path(lattice, arcs)


def nbest(lattice: Lattice, n: int, *, scale: float = 1.0) -> tuple[LatticePath, ...]:
    """The best paths that say different things, best first.

    A* over sequences of words with the exact score of the best end as its guess: what is
    looked at is in proportion to what comes out.

    Args:
        lattice: A lattice.
        n: How many at most, >= 1.
        scale: Multiplies the acoustic scores for the order alone.

    Returns:
        At most `n` paths; fewer if the lattice says fewer things.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"lattice: {n} paths are asked for; it must be at least 1.")
    scores = _scores(lattice, scale)
    ahead, _ = _best_from(lattice, scores)
    begin = _begins(lattice)
    dst, word = lattice.dst.tolist(), lattice.word.tolist()
    last = lattice.num_states - 1
    # What has been said, as the best score and arcs to each state that it can lead to.
    Said = dict[int, tuple[float, tuple[Any, ...]]]
    order = itertools.count()
    start: Said = {0: (0.0, ())}
    queue: list[tuple[float, int, Said | tuple[Any, ...]]] = [(-ahead[0], next(order), start)]
    out: list[LatticePath] = []
    while queue and len(out) < n:
        _, _, item = heapq.heappop(queue)
        if isinstance(item, tuple):
            arcs: list[int] = []
            while item:
                arcs.append(item[1])
                item = item[0]
            out.append(_path(lattice, reversed(arcs)))
            continue
        following: dict[int, Said] = {}
        for state, (score, arcs_so_far) in item.items():
            for arc in range(begin[state], begin[state + 1]):
                said = following.setdefault(word[arc], {})
                there = score + scores[arc]
                if dst[arc] not in said or there > said[dst[arc]][0]:
                    said[dst[arc]] = (there, (arcs_so_far, arc))
        for said in following.values():
            if last in said:
                score, path = said.pop(last)
                heapq.heappush(queue, (-score, next(order), path))
            if said:
                bound = max(score + ahead[state] for state, (score, _) in said.items())
                heapq.heappush(queue, (-bound, next(order), said))
    return tuple(out)


def _begins(lattice: Lattice) -> list[int]:
    """State s has the arcs `begin[s]..begin[s + 1]`."""
    begins: list[int] = np.searchsorted(lattice.src, np.arange(lattice.num_states + 1)).tolist()
    return begins


def word_confidences(
    lattice: Lattice, path: LatticePath | None = None, *, scale: float = 1.0
) -> tuple[float, ...]:
    """How sure the lattice is of each word of a path.

    The posteriors of all arcs that say the word at one frame add up, whichever way they go on;
    the best frame of the word counts.

    Args:
        lattice: A lattice.
        path: Of this lattice; None takes the best.
        scale: As in `arc_posteriors`.

    Returns:
        One value a word of `path`, in [0, 1].

    Source:
        Wessel et al., IEEE Trans. Speech Audio Process. 9(3), 2001 (C_max).
    """
    path = best_path(lattice) if path is None else path
    posteriors = arc_posteriors(lattice, scale=scale)
    ends = np.maximum(lattice.end_frame, lattice.start_frame + 1)
    out = []
    for arc in path.arcs:
        if lattice.word_at(arc) == NOTHING:
            continue
        start, end = int(lattice.start_frame[arc]), int(ends[arc])
        at = (lattice.word == lattice.word[arc]) & (lattice.start_frame < end) & (ends > start)
        # The sum changes only where an arc begins.
        frames = {start, *np.clip(lattice.start_frame[at], start, None).tolist()}
        over = (
            posteriors[at & (lattice.start_frame <= frame) & (ends > frame)].sum()
            for frame in frames
        )
        out.append(min(1.0, float(max(over))))
    return tuple(out)


def oracle(lattice: Lattice, reference: Sequence[str]) -> OraclePath:
    """The path with the fewest word errors.

    Args:
        lattice: A lattice.
        reference: What was said, in the spelling of the lattice.

    Returns:
        Its word errors (substitutions, deletions and insertions), and the path; of paths with
        equally few the one with the highest score.
    """
    scores = _scores(lattice, 1.0)
    src, dst = lattice.src.tolist(), lattice.dst.tolist()
    length = len(reference)
    ids = {word: index for index, word in enumerate(lattice.words)}
    target = np.array([ids.get(word, -1) for word in reference], np.int64)
    # costs[s, j]: fewest errors, then most score, of what leads to s and accounts for j words.
    # Errors and score are one number: an error outweighs any score.
    span = 1.0 + 2.0 * sum(abs(score) for score in scores)
    steps = np.arange(length + 1) * span
    costs = np.full((lattice.num_states, length + 1), math.inf)
    costs[0] = steps
    came: list[npt.NDArray[np.int64]] = [np.full(length + 1, -1) for _ in range(lattice.num_states)]
    nothing = ids.get(NOTHING, -1)
    for arc, score in enumerate(scores):
        before = costs[src[arc]]
        row = before + (0.0 if lattice.word[arc] == nothing else span)  # an insertion
        if length:
            row[1:] = np.minimum(row[1:], before[:-1] + span * (target != lattice.word[arc]))
        row -= score
        row = np.minimum.accumulate(row - steps) + steps  # deletions
        better = row < costs[dst[arc]]
        costs[dst[arc]][better] = row[better]
        came[dst[arc]][better] = arc
    # Back along arcs: which reference position each began with is found again.
    arcs, state, j = [], lattice.num_states - 1, length
    while state:
        arc = int(came[state][j])
        arcs.append(arc)
        before = costs[src[arc]]
        insertion = 0.0 if lattice.word[arc] == nothing else span
        choices = [(before[j] + insertion, j)]
        for k in range(j):  # word k matched or replaced, then k + 1..j deleted
            if k:
                choices.append((before[k] + insertion + (j - k) * span, k))
            wrong = span * (target[k] != lattice.word[arc])
            choices.append((before[k] + wrong + (j - k - 1) * span, k))
        choices.append((before[0] + insertion + j * span, 0))
        _, j = min(choices)
        state = src[arc]
    path = _path(lattice, reversed(arcs))
    return OraclePath(int(edit_distances([reference, path.words])[0, 1]), path)


def expected_errors(lattice: Lattice, reference: Sequence[str], *, scale: float = 1.0) -> float:
    """Word errors of a path drawn from the lattice, on average.

    That is the sum over paths of probability times edit distance.
    Paths that reach a state with equal columns of edit distances are one from there on, so the
    sum is exact at a fraction of the paths. Where a state has more than `MAX_ROWS` columns the
    least likely are left out, and the average is over the others.

    Args:
        lattice: A lattice.
        reference: What was said, or any other sequence of words.
        scale: As in `arc_posteriors`.

    Returns:
        The expected edit distance.
    """
    scores = _scores(lattice, scale)
    _, backward = _forward_backward(lattice, scores)
    ids = {word: index for index, word in enumerate(lattice.words)}
    target = np.array([ids.get(word, -1) for word in reference], np.int64)
    nothing = ids.get(NOTHING, -1)
    steps = np.arange(len(reference) + 1)
    src, dst, word = lattice.src.tolist(), lattice.dst.tolist(), lattice.word.tolist()
    rows: list[dict[bytes, float]] = [{} for _ in range(lattice.num_states)]
    rows[0][steps.astype(np.int32).tobytes()] = 0.0
    done = -1
    for arc, score in enumerate(scores):
        state = src[arc]
        here = rows[state]
        if state != done:
            done = state
            if len(here) > MAX_ROWS:
                kept = heapq.nlargest(MAX_ROWS, here.items(), key=lambda item: item[1])
                here = rows[state] = dict(kept)
        # Conditional probability, so that nothing underflows on a long path.
        step = score + backward[dst[arc]] - backward[state]
        for packed, mass in here.items():
            before = np.frombuffer(packed, np.int32)
            if word[arc] == nothing:
                row = before
            else:
                row = before + 1
                if len(target):
                    row[1:] = np.minimum(row[1:], before[:-1] + (target != word[arc]))
                row = (np.minimum.accumulate(row - steps) + steps).astype(np.int32)
            key = row.tobytes()
            there = rows[dst[arc]]
            there[key] = _log_add(there.get(key, _MINUS_INFINITY), mass + step)
    end = rows[-1]
    masses = np.exp(np.array(list(end.values())))
    errors = np.array([np.frombuffer(packed, np.int32)[-1] for packed in end], np.float64)
    return float(masses @ errors / masses.sum())


def pruned(lattice: Lattice, *, beam: float | None = None, max_arcs: int | None = None) -> Lattice:
    """Leave out what is far behind the best path.

    An arc stays while the best path through it is within `beam` of the best of all, and as long
    as at most `max_arcs` are; the best path always stays.

    Args:
        lattice: A lattice.
        beam: Nats, >= 0; None takes no beam.
        max_arcs: >= 1; arcs that are exactly as good as each other stay or go together.

    Returns:
        A lattice with the scores it had.

    Raises:
        ValueError: A limit is out of its range.
    """
    if beam is not None and not beam >= 0:
        raise ValueError(f"lattice: beam is {beam}; it must be at least 0.")
    if max_arcs is not None and max_arcs < 1:
        raise ValueError(f"lattice: max_arcs is {max_arcs}; it must be at least 1.")
    behind = arcs_behind(lattice)
    limit = math.inf if beam is None else beam
    if max_arcs is not None and (behind <= limit).sum() > max_arcs:
        # The widest beam that leaves few enough; what ties with the first too many goes too.
        limit = float(np.nextafter(np.sort(behind)[max_arcs], -1.0))
    keep = behind <= max(limit, 0.0)
    if max_arcs is not None and keep.sum() > max_arcs:
        keep = np.zeros(lattice.num_arcs, bool)  # many best paths
        keep[list(best_path(lattice).arcs)] = True
    return kept_arcs(lattice, keep)


def arcs_behind(lattice: Lattice) -> _F64:
    """How far the best path through each arc is behind the best of all.

    Returns:
        Shape (A,), nats >= 0, and exactly 0 for the arcs of the best path.
    """
    scores = _scores(lattice, 1.0)
    ahead, first = _best_from(lattice, scores)
    dst = lattice.dst.tolist()
    # Sums of what each arc loses against the best way on: no large scores that cancel.
    lost = [
        max(0.0, ahead[s] - (scores[arc] + ahead[dst[arc]]))
        for arc, s in enumerate(lattice.src.tolist())
    ]
    for arc in first:
        if arc >= 0:
            lost[arc] = 0.0
    behind = [math.inf] * lattice.num_states
    behind[0] = 0.0
    out = np.empty(lattice.num_arcs)
    for arc, state in enumerate(lattice.src.tolist()):
        out[arc] = behind[state] + lost[arc]
        behind[dst[arc]] = min(behind[dst[arc]], out[arc])
    return out


def kept_arcs(lattice: Lattice, keep: npt.NDArray[np.bool_]) -> Lattice:
    """The lattice of some of the arcs.

    Args:
        lattice: A lattice.
        keep: Shape (A,): which arcs; each must lie on a path of such arcs.

    Returns:
        A lattice with its states numbered anew and only the words that it uses.
    """
    if keep.all():
        return lattice
    used = np.unique(np.concatenate([lattice.src[keep], lattice.dst[keep]]))
    state = np.zeros(lattice.num_states, np.int32)
    state[used] = np.arange(len(used), dtype=np.int32)
    words, index = np.unique(lattice.word[keep], return_inverse=True)
    return Lattice(
        state[lattice.src[keep]],
        state[lattice.dst[keep]],
        index.astype(np.int32),
        lattice.start_frame[keep],
        lattice.end_frame[keep],
        lattice.acoustic[keep],
        lattice.prior[keep],
        tuple(lattice.words[w] for w in words),
    )


def time_conditioned(lattice: Lattice) -> Lattice:
    """The lattice with states that are reached at the same time as one.

    A search keeps states apart that it goes on from differently. Where only their words count, as
    for somebody who will score them anew, most of these arcs say one word at one time several
    times. Joined, what any of them was followed by may follow all, so that fewer arcs say more.

    Every arc keeps the score of the best path that ended in it, so that no path becomes better
    than the best was. States that a better path leads to than the best path's own at that time
    stay apart from it, and so do those as good: the best path remains the best.

    Args:
        lattice: A lattice.

    Returns:
        One whose states are in the order of their times. Arcs to a state that is not later than
        the one they leave are gone, and one arc is left of those with equal states and word.

    Source:
        The word graphs of Ortmanns, Ney and Aubert, "A word graph algorithm for large vocabulary
        continuous speech recognition", Computer Speech and Language 1997.
    """
    scores = _scores(lattice, 1.0)
    src, dst, word = lattice.src.tolist(), lattice.dst.tolist(), lattice.word.tolist()
    ends = lattice.end_frame.tolist()
    last = lattice.num_states - 1
    best_arcs = set(best_path(lattice).arcs)
    on_best = {0}.union(dst[arc] for arc in best_arcs)
    # Of each state: the score of the best path to it, and when that ends. States of the best path
    # are entered by its own arcs.
    to = [_MINUS_INFINITY] * (last + 1)
    time = [0] * (last + 1)
    to[0] = 0.0
    for arc, state in enumerate(src):
        there = to[state] + scores[arc]
        better = there > to[dst[arc]]
        to[dst[arc]] = max(there, to[dst[arc]])
        if arc in best_arcs or (better and dst[arc] not in on_best):
            time[dst[arc]] = max(ends[arc], time[state] + 1)
    time[last] = max(time) + 1
    best_at = {time[state]: to[state] for state in on_best}
    joined = [
        (t, s not in on_best and to[s] > best_at.get(t, math.inf) - _AS_GOOD)
        for s, t in enumerate(time)
    ]
    kept: dict[tuple[tuple[int, bool], tuple[int, bool], int], tuple[float, int]] = {}
    for arc, state in enumerate(src):
        if time[state] >= time[dst[arc]]:
            continue
        arrival = to[state] + scores[arc]
        key = (joined[state], joined[dst[arc]], word[arc])
        if key not in kept or arrival > kept[key][0] or arc in best_arcs:
            kept[key] = (arrival, arc)
    # Of equal paths that whose arcs come first is the best.
    rows = sorted(
        ((a, b, w, arrival, arc) for (a, b, w), (arrival, arc) in kept.items()),
        key=lambda row: (row[0], row[4] not in best_arcs, row[1], row[2]),
    )
    forward, backward = {joined[0]}, {joined[last]}
    for a, b, *_ in rows:
        if a in forward:
            forward.add(b)
    for a, b, *_ in reversed(rows):
        if b in backward:
            backward.add(a)
    rows = [row for row in rows if row[0] in forward and row[1] in backward]
    number = {name: at for at, name in enumerate(sorted({n for row in rows for n in row[:2]}))}
    best: dict[tuple[int, bool], float] = {joined[0]: 0.0}
    for _, b, _, arrival, _ in rows:
        best[b] = max(best.get(b, _MINUS_INFINITY), arrival)
    arcs = np.array([row[4] for row in rows], np.int32)
    prior = lattice.prior[arcs]
    score = np.array([arrival - best[a] for a, _, _, arrival, _ in rows])
    words, index = np.unique(lattice.word[arcs], return_inverse=True)
    return Lattice(
        np.array([number[row[0]] for row in rows], np.int32),
        np.array([number[row[1]] for row in rows], np.int32),
        index.astype(np.int32),
        lattice.start_frame[arcs],
        lattice.end_frame[arcs],
        (score - prior).astype(np.float32),
        prior,
        tuple(lattice.words[w] for w in words),
    )


def determinised(lattice: Lattice, *, max_arcs: int = MAX_DETERMINISED_ARCS) -> Lattice:
    """The same sentences, each on one path, with the scores of its best.

    Weights are pairs (acoustic, prior) ordered by their sum. A word that can end a sentence and
    also go on has two arcs, because there is one last state.

    Args:
        lattice: A lattice.
        max_arcs: What it may grow to.

    Returns:
        No two of its paths say the same words, and its n-best list is that of `lattice`. Times
        of an arc are those of the best alternative so far.

    Raises:
        LatticeError: It would have more than `max_arcs` arcs.

    Source:
        Povey et al., "Generating exact lattices in the WFST framework", ICASSP 2012.
    """
    begin = _begins(lattice)
    dst, word = lattice.dst.tolist(), lattice.word.tolist()
    acoustic = lattice.acoustic.astype(np.float64).tolist()
    prior = lattice.prior.astype(np.float64).tolist()
    last = lattice.num_states - 1
    Residuals = dict[int, tuple[float, float]]

    def key(subset: Residuals) -> tuple[tuple[int, int, int], ...]:
        return tuple(
            (state, round(a * _RESIDUAL_STEPS), round(p * _RESIDUAL_STEPS))
            for state, (a, p) in sorted(subset.items())
        )

    first: Residuals = {0: (0.0, 0.0)}
    subsets: list[Residuals] = [first]
    number = {key(first): 0}
    arcs: list[Arc] = []
    final = -1  # the last state's name
    at = 0
    while at < len(subsets):
        following: dict[int, dict[int, tuple[float, float, int]]] = {}
        for state, (a, p) in subsets[at].items():
            for arc in range(begin[state], begin[state + 1]):
                there = following.setdefault(word[arc], {})
                weight = (a + acoustic[arc], p + prior[arc], arc)
                old = there.get(dst[arc])
                if old is None or sum(weight[:2]) > sum(old[:2]):
                    there[dst[arc]] = weight
        for said, there in following.items():
            if last in there:
                a, p, arc = there.pop(last)
                arcs.append(_arc(lattice, at, final, said, arc, a, p))
            if there:
                a, p, arc = max(there.values(), key=lambda weight: weight[0] + weight[1])
                subset = {state: (x - a, y - p) for state, (x, y, _) in there.items()}
                to = number.setdefault(key(subset), len(subsets))
                if to == len(subsets):
                    subsets.append(subset)
                arcs.append(_arc(lattice, at, to, said, arc, a, p))
        if len(arcs) > max_arcs:
            raise LatticeError(
                "lattice",
                f"determinised, its {lattice.num_arcs} arcs become more than {max_arcs}",
                remedy="Prune it first, or allow more arcs",
            )
        at += 1
    # An arc leads from a subset to one whose lowest state is higher.
    order = sorted(range(len(subsets)), key=lambda i: (min(subsets[i]), i))
    place = {name: i for i, name in enumerate(order)}
    place[final] = len(subsets)
    return from_arcs([arc._replace(src=place[arc.src], dst=place[arc.dst]) for arc in arcs])


def _arc(lattice: Lattice, src: int, dst: int, word: int, arc: int, a: float, p: float) -> Arc:
    start, end = int(lattice.start_frame[arc]), int(lattice.end_frame[arc])
    return Arc(src, dst, lattice.words[word], start, end, a, p)


def from_arcs(arcs: Sequence[Arc]) -> Lattice:
    """A lattice of arcs whose states are numbered as they must be.

    Args:
        arcs: In any order; the words come to the table in theirs.

    Raises:
        LatticeError: They make no lattice; `assembled` takes any acyclic graph.
    """
    arcs = sorted(arcs, key=lambda arc: arc.src)
    ids: dict[str, int] = {}
    word = [ids.setdefault(arc.word, len(ids)) for arc in arcs]
    return Lattice(
        np.array([arc.src for arc in arcs], np.int32),
        np.array([arc.dst for arc in arcs], np.int32),
        np.array(word, np.int32),
        np.array([arc.start_frame for arc in arcs], np.int32),
        np.array([arc.end_frame for arc in arcs], np.int32),
        np.array([arc.acoustic for arc in arcs], np.float32),
        np.array([arc.prior for arc in arcs], np.float32),
        tuple(ids),
    )


def assembled(
    arcs: Iterable[Arc], *, start: int, finals: dict[int, float], where: str = "lattice"
) -> Lattice:
    """A lattice from the arcs of any acyclic graph, as other people's files have them.

    Orders the states, leaves out what lies on no path, removes arcs that say nothing, and gives
    the graph one last state. An arc into a state that is final and goes on is there twice then.

    Args:
        arcs: At least one way from `start` to a final state.
        start: Where paths start.
        finals: States where they may end, with the acoustic nats that this adds.
        where: Names the graph in errors.

    Returns:
        The lattice.

    Raises:
        LatticeError: The graph has a cycle, no path, or comes to more than `MAX_ARCS` arcs.
    """
    leaving: dict[int, list[Arc]] = {}
    for arc in arcs:
        leaving.setdefault(arc.src, []).append(arc)
    order = _topological(leaving, start, where)
    ends = dict(finals)
    # From the back: what an empty arc leads to is free of empty arcs already.
    total = 0
    clean: dict[int, list[Arc]] = {}
    priors: dict[int, tuple[float, float]] = {state: (ends[state], 0.0) for state in ends}
    for state in reversed(order):
        kept: list[Arc] = []
        for arc in leaving.get(state, ()):
            if arc.word != NOTHING:
                kept.append(arc)
                continue
            for after in clean.get(arc.dst, ()):
                kept.append(
                    after._replace(
                        src=state,
                        acoustic=after.acoustic + arc.acoustic,
                        prior=after.prior + arc.prior,
                    )
                )
            if arc.dst in priors:
                a, p = priors[arc.dst]
                through = (a + arc.acoustic, p + arc.prior)
                if state not in priors or sum(through) > sum(priors[state]):
                    priors[state] = through
        clean[state] = kept
        total += len(kept)
        if total > MAX_ARCS:
            raise LatticeError(
                where, f"it comes to more than {MAX_ARCS} arcs", remedy="Prune it where it was made"
            )
    final = object()
    rows: list[tuple[int, Any, Arc]] = []
    for state in order:
        for arc in clean[state]:
            if clean.get(arc.dst):
                rows.append((state, arc.dst, arc))
            if arc.dst in priors:
                a, p = priors[arc.dst]
                ending = arc._replace(acoustic=arc.acoustic + a, prior=arc.prior + p)
                rows.append((state, final, ending))
    if start in priors:
        a, p = priors[start]
        rows.append((start, final, Arc(0, 0, NOTHING, 0, 0, a, p)))
    # Only what lies on a path.
    reached, useful = {start}, {final}
    for src, dst, _ in rows:
        if src in reached:
            reached.add(dst)
    for src, dst, _ in reversed(rows):
        if dst in useful:
            useful.add(src)
    rows = [row for row in rows if row[0] in reached and row[1] in useful]
    if not rows:
        raise LatticeError(where, "no path leads from its start to an end", remedy="Make it again")
    place: dict[Any, int] = {}
    for state in order:
        if state in reached and state in useful:
            place[state] = len(place)
    place[final] = len(place)
    return from_arcs([arc._replace(src=place[src], dst=place[dst]) for src, dst, arc in rows])


def _topological(leaving: dict[int, list[Arc]], start: int, where: str) -> list[int]:
    """States reached from `start`, each before all that it leads to."""
    order: list[int] = []
    open_states: set[int] = set()
    done: set[int] = set()
    stack: list[tuple[int, Iterator[Arc]]] = [(start, iter(leaving.get(start, ())))]
    open_states.add(start)
    while stack:
        state, rest = stack[-1]
        for arc in rest:
            if arc.dst in open_states:
                raise LatticeError(
                    where,
                    f"an arc leads from state {state} back to {arc.dst}; a lattice has no cycles",
                    remedy="Make it again",
                )
            if arc.dst not in done:
                open_states.add(arc.dst)
                stack.append((arc.dst, iter(leaving.get(arc.dst, ()))))
                break
        else:
            stack.pop()
            open_states.discard(state)
            done.add(state)
            order.append(state)
    return order[::-1]


def to_json(lattice: Lattice) -> dict[str, object]:
    """The lattice as JSON-ready values, one list a field; nothing is rounded.

    Returns:
        `{"version": 1, "words", "src", "dst", "word", "start_frame", "end_frame", "acoustic",
        "prior"}`.
    """
    return {
        "version": 1,
        "words": list(lattice.words),
        **{name: getattr(lattice, name).tolist() for name in _FIELDS},
    }


_FIELDS = ("src", "dst", "word", "start_frame", "end_frame", "acoustic", "prior")


def from_json(value: object, *, where: str = "lattice") -> Lattice:
    """What `to_json` made.

    Args:
        value: Parsed JSON.
        where: Names it in errors.

    Raises:
        LatticeError: It is something else, of another version, or contradicts itself.
    """
    remedy = "Give what `earshot transcribe --lattice out.json` writes"
    if not isinstance(value, dict) or value.get("version") != 1:
        raise LatticeError(where, "it is no lattice of version 1 as JSON", remedy=remedy)
    words = value.get("words")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise LatticeError(where, "'words' is not a list of texts", remedy=remedy)
    arrays: dict[str, Any] = {}
    for name in _FIELDS:
        rows = value.get(name)
        whole = name not in ("acoustic", "prior")
        kinds = (int,) if whole else (int, float)
        if not isinstance(rows, list) or not all(
            isinstance(v, kinds) and not isinstance(v, bool) for v in rows
        ):
            kind = "whole numbers" if whole else "numbers"
            raise LatticeError(where, f"'{name}' is not a list of {kind}", remedy=remedy)
        try:
            with np.errstate(over="ignore"):
                arrays[name] = np.array(rows, np.int32 if whole else np.float32)
        except OverflowError:
            raise LatticeError(
                where, f"'{name}' holds a number out of range", remedy=remedy
            ) from None
    return Lattice(**arrays, words=tuple(words))
