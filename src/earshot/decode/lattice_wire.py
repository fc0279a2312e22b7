"""A lattice as the bytes that a device sends: protobuf, quantised, with one table of words.

Columns of small numbers and a front-coded table, deflated: a third less at the size of a sentence
(zstd saves a little less there, its frames being longer). Scores travel as what each arc loses
against the best way on: 0 along the best path, which therefore stays the best whatever the step.
Reading trusts nothing: bytes that are no lattice end in a `LatticeError`, after work and memory
in proportion to their number.
Knows nothing of the network. The fields are in proto/earshot/decode/lattice.proto.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from earshot.core.errors import LatticeError
from earshot.decode.lattice import (
    NOTHING,
    Lattice,
    arcs_behind,
    best_path,
    kept_arcs,
    time_conditioned,
    ways_on,
)

if TYPE_CHECKING:
    from earshot.decode.lattice_pb2 import Lattice as Message

__all__ = ["MAX_WIRE_BYTES", "STEP", "VERSION", "decode_lattice", "encode_lattice"]

VERSION = 1
STEP = 0.25
"""Nats. A path that leaves the best one k times is off by at most k / 2 steps."""

MAX_WIRE_BYTES = 1 << 20
MAX_FRAME = 1 << 28  # 124 days
_SHARED = 30  # characters that a word can share with the one before
_I32 = npt.NDArray[np.int32]


def encode_lattice(
    lattice: Lattice,
    *,
    step: float = STEP,
    beam: float | None = None,
    max_bytes: int | None = None,
) -> bytes:
    """Write a lattice for the wire.

    Args:
        lattice: A lattice.
        step: Nats that scores are rounded to, > 0.
        beam: Leave out arcs whose best path is more than this many nats behind the best.
        max_bytes: Join states of equal time (`time_conditioned`) and narrow the beam until the
            bytes are at most so many; the best path is sent even if it alone has more.

    Returns:
        A message `earshot.lattice.v1.Lattice`.

    Raises:
        LatticeError: A word holds control characters, or the bytes would be more than
            `MAX_WIRE_BYTES`.
        ValueError: A setting is out of its range.
    """
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"lattice: step is {step}; it must be above 0.")
    if max_bytes is not None:
        lattice = time_conditioned(lattice)
    behind = arcs_behind(lattice)
    limit = min(MAX_WIRE_BYTES, max_bytes or MAX_WIRE_BYTES)
    beams = np.unique(behind if beam is None else behind[behind <= max(beam, 0.0)])
    # The widest beam whose bytes fit; bytes grow with the beam but for a few that a word more
    # can save, which costs at most one step of the search.
    low, high = 0, len(beams) - 1
    best = _written(kept_arcs(lattice, behind <= beams[high]), step)
    if len(best) > limit:
        best = b""
        while low < high:
            middle = (low + high) // 2
            tried = _written(kept_arcs(lattice, behind <= beams[middle]), step)
            if len(tried) <= limit:
                best, low = tried, middle + 1
            else:
                high = middle
    if not best:  # many paths may be exactly as good as the best
        best = _written(_best_alone(lattice), step)
    if len(best) > MAX_WIRE_BYTES:
        raise LatticeError(
            "lattice",
            f"its best path alone takes {len(best)} bytes; a message has at most {MAX_WIRE_BYTES}",
            remedy="Send shorter stretches of speech",
        )
    return best


def _best_alone(lattice: Lattice) -> Lattice:
    keep = np.zeros(lattice.num_arcs, bool)
    keep[list(best_path(lattice).arcs)] = True
    return kept_arcs(lattice, keep)


def _message() -> type[Message]:
    # Imported on first use: who asks for no lattice does not wait for protobuf.
    from earshot.decode.lattice_pb2 import Lattice as Message

    return Message


def _written(lattice: Lattice, step: float) -> bytes:
    ahead, first = ways_on(lattice)
    src, dst = lattice.src, lattice.dst
    best = np.array(ahead)
    loss = np.rint((best[src] - lattice.score - best[dst]) / step).astype(np.int64)
    loss = np.clip(loss, 1, (1 << 31) - 1)  # an arc that is not the best stays so
    loss[[arc for arc in first if arc >= 0]] = 0
    used = sorted({lattice.words[w] for w in lattice.word} - {NOTHING})
    index = {word: i for i, word in enumerate(used, start=1)}
    index[NOTHING] = 0
    entering = _lowest_end(lattice)
    prior = np.rint(lattice.prior.astype(np.float64) / step)
    prior = np.clip(prior, -(2**31) + 1, 2**31 - 1).astype(np.int64)
    message = _message()(
        words=_front_coded(used),
        leaving=np.bincount(src, minlength=lattice.num_states)[:-1].tolist(),
        ahead=(dst - src - 1).tolist(),
        word=[index[lattice.words[w]] for w in lattice.word.tolist()],
        start=(lattice.start_frame - entering[src]).tolist(),
        length=(lattice.end_frame - lattice.start_frame).tolist(),
        loss=loss.tolist(),
        prior=prior.tolist() if prior.any() else [],
        step=step,
        score=ahead[0],
    )
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = packer.compress(message.SerializeToString(deterministic=True)) + packer.flush()
    packed = _message()(version=VERSION, deflated=deflated).SerializeToString(deterministic=True)
    message.version = VERSION
    plain = message.SerializeToString(deterministic=True)
    return bytes(min(plain, packed, key=len))


def _lowest_end(lattice: Lattice) -> npt.NDArray[np.int64]:
    """Of each state: the lowest end frame of the arcs that enter it; 0 for the first."""
    out = np.full(lattice.num_states, np.iinfo(np.int64).max)
    np.minimum.at(out, lattice.dst, lattice.end_frame)
    out[0] = 0
    return out


def _front_coded(words: list[str]) -> str:
    out, before = [], ""
    for word in words:
        if any(letter < " " for letter in word):
            raise LatticeError(
                "lattice",
                f"the word {word!r} holds a control character",
                remedy="Repair the model's word pieces",
            )
        shared = 0
        while shared < min(len(word), len(before), _SHARED) and word[shared] == before[shared]:
            shared += 1
        out.append(chr(1 + shared) + word[shared:])
        before = word
    return "".join(out)


def _words(coded: str, where: str) -> list[str]:
    """What `_front_coded` was given; a table may not be longer than the message by much."""
    words: list[str] = []
    before, room = "", MAX_WIRE_BYTES
    starts = [i for i, letter in enumerate(coded) if letter < " "]
    if not coded:
        return words
    if not starts or starts[0] != 0:
        raise _damaged(where, "its table of words begins within a word")
    for start, end in zip(starts, [*starts[1:], len(coded)], strict=True):
        shared = ord(coded[start]) - 1
        if not 0 <= shared <= len(before):
            raise _damaged(where, f"word {len(words)} shares {shared} letters with '{before[:40]}'")
        word = before[:shared] + coded[start + 1 : end]
        room -= len(word)
        if word <= before or room < 0:
            raise _damaged(where, f"word {len(words)} of its table is empty, out of order, or huge")
        words.append(word)
        before = word
    return words


def _damaged(where: str, problem: str) -> LatticeError:
    return LatticeError(where, problem, remedy="Send it again as `encode_lattice` writes it")


def decode_lattice(data: bytes, *, where: str = "lattice") -> Lattice:
    """Read what `encode_lattice` wrote, from whoever sent it.

    Args:
        data: A message, at most `MAX_WIRE_BYTES`.
        where: Names it in errors.

    Returns:
        The lattice. Words, states, times and the best path are as they were. Scores of paths
        are as exact as the step allows; on a single arc the acoustic score is what it loses
        against the best way on, less its prior, and arcs from state 0 also carry the score of
        the best path.

    Raises:
        LatticeError: The bytes are no lattice of version 1, or one that contradicts itself.
    """
    if len(data) > MAX_WIRE_BYTES:
        raise _damaged(where, f"it has {len(data)} bytes; a message has at most {MAX_WIRE_BYTES}")
    message = _parsed(bytes(data), where)
    if message.version != VERSION:
        raise LatticeError(
            where,
            f"it has version {message.version}; this reader knows version {VERSION}",
            remedy="Update the older of the two sides",
        )
    if message.deflated:
        message = _parsed(_inflated(message.deflated, where), where)
        if message.version or message.deflated:
            raise _damaged(where, "it is packed within what is packed")
    columns = {name: _column(message, name) for name in ("leaving", "ahead", "word", "length")}
    columns |= {name: _column(message, name) for name in ("start", "loss", "prior")}
    arcs = len(columns["ahead"])
    if len(columns["prior"]) == 0:
        columns["prior"] = np.zeros(arcs, np.int64)
    for name, column in columns.items():
        if name != "leaving" and len(column) != arcs:
            raise _damaged(where, f"it has {arcs} arcs, and {len(column)} entries of '{name}'")
    step, score = message.step, message.score
    if not (0 < step < 1e6 and abs(score) < 1e9):
        raise _damaged(where, f"its step is {step} and its score {score}")
    leaving = columns["leaving"]
    if not arcs or leaving.sum() != arcs or (leaving < 1).any():
        raise _damaged(where, f"its {len(leaving) + 1} states have {leaving.sum()} of {arcs} arcs")
    src = np.repeat(np.arange(len(leaving)), leaving)
    dst = src + 1 + columns["ahead"]
    if dst.max() != len(leaving):
        raise _damaged(where, f"an arc leads to state {dst.max()}; the last is {len(leaving)}")
    words = _words(message.words, where)
    word = columns["word"]
    if word.max() > len(words):
        raise _damaged(where, f"word {word.max()} is on an arc; the table has {len(words)}")
    start, end = _times(src, dst, columns["start"], columns["length"], len(leaving) + 1, where)
    prior = columns["prior"].astype(np.float64) * step
    total = _totals(
        src, dst, columns["loss"].astype(np.float64) * step, len(leaving) + 1, score, where
    )
    return Lattice(
        src.astype(np.int32),
        dst.astype(np.int32),
        word.astype(np.int32),
        start,
        end,
        (total - prior).astype(np.float32),
        prior.astype(np.float32),
        (NOTHING, *words),
    )


def _parsed(data: bytes, where: str) -> Message:
    from google.protobuf.message import DecodeError

    try:
        message: Message = _message().FromString(data)
    except DecodeError:
        raise _damaged(
            where, f"its {len(data)} bytes are no protobuf message of a lattice"
        ) from None
    return message


def _inflated(data: bytes, where: str) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        out = inflater.decompress(data, MAX_WIRE_BYTES)
    except zlib.error as err:
        raise _damaged(where, f"what is packed in it is damaged ({err})") from None
    if not inflater.eof or inflater.unused_data:
        raise _damaged(
            where, f"what is packed in it does not end within {MAX_WIRE_BYTES} bytes, or not there"
        )
    return out


def _column(message: Any, name: str) -> npt.NDArray[np.int64]:
    return np.array(getattr(message, name), np.int64)


def _times(
    src: npt.NDArray[np.int64],
    dst: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
    length: npt.NDArray[np.int64],
    states: int,
    where: str,
) -> tuple[_I32, _I32]:
    lowest = [MAX_FRAME] * states
    lowest[0] = 0
    starts, ends = [], []
    for s, d, offset, frames in zip(
        src.tolist(), dst.tolist(), start.tolist(), length.tolist(), strict=True
    ):
        at = lowest[s] + offset
        if not 0 <= at <= at + frames < MAX_FRAME:
            raise _damaged(where, f"an arc lasts from frame {at} to {at + frames}")
        starts.append(at)
        ends.append(at + frames)
        lowest[d] = min(lowest[d], at + frames)
    return np.array(starts, np.int32), np.array(ends, np.int32)


def _totals(
    src: npt.NDArray[np.int64],
    dst: npt.NDArray[np.int64],
    loss: npt.NDArray[np.float64],
    states: int,
    score: float,
    where: str,
) -> npt.NDArray[np.float64]:
    """Scores of arcs whose best path has `score`."""
    least = np.full(states - 1, np.inf)
    np.minimum.at(least, src, loss)
    if least.any():
        raise _damaged(where, f"state {int(np.argmax(least > 0))} has no arc of its best way on")
    if (loss >= 1e9).any():
        raise _damaged(where, "an arc loses more than 1e9 nats")
    return np.where(src == 0, score, 0.0) - loss
