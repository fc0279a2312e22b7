"""The messages of the rescoring service, both sides of them, and what neither may believe.

A device believes an answer only as far as it is paths through the lattice that it sent. Knows
nothing of sockets; the fields are in proto/earshot/decode/rescoring.proto.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earshot.core.errors import LatticeError
from earshot.decode.lattice import NOTHING, Lattice
from earshot.decode.lattice_wire import MAX_WIRE_BYTES, decode_lattice
from earshot.decode.rescoring import Hypothesis

if TYPE_CHECKING:
    from earshot.decode import rescoring_pb2

__all__ = [
    "CONTENT_TYPE",
    "MAX_ANSWER_BYTES",
    "MAX_NBEST",
    "MAX_REQUEST_BYTES",
    "VERSION",
    "BadMessage",
    "Refusal",
    "Request",
    "decode_answer",
    "decode_request",
    "encode_answer",
    "encode_refusal",
    "encode_request",
]

VERSION = 1
CONTENT_TYPE = "application/x-protobuf"
MAX_REQUEST_BYTES = MAX_WIRE_BYTES + 64
MAX_ANSWER_BYTES = 1 << 20
MAX_NBEST = 100


class BadMessage(ValueError):
    """Bytes that are no message, or one that contradicts itself; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a device wants.

    Args:
        lattice: As it was sent.
        id: Comes back in the answer.
        nbest: Hypotheses at most; 0 leaves it to the server.
        timeout_ms: How long the device waits; 0 if it did not say.
    """

    lattice: Lattice
    id: int = 0
    nbest: int = 0
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a server gave no hypotheses.

    Args:
        status: As in HTTP.
        code: A word for programs.
        message: A sentence for people.
        retry_after_s: Seconds after which asking again may help; 0 if not said.
    """

    status: int
    code: str
    message: str
    retry_after_s: float = 0.0


def encode_request(
    lattice: bytes, *, request_id: int = 0, nbest: int = 0, timeout_ms: int = 0
) -> bytes:
    """A request for the wire.

    Args:
        lattice: What `encode_lattice` wrote.
        request_id: 0..2^64 - 1.
        nbest: 0..`MAX_NBEST`.
        timeout_ms: >= 0.
    """
    from earshot.decode import rescoring_pb2

    message = rescoring_pb2.Request(
        version=VERSION, id=request_id, lattice=lattice, nbest=nbest, timeout_ms=timeout_ms
    )
    return bytes(message.SerializeToString(deterministic=True))


def decode_request(data: bytes) -> Request:
    """Read a request, from whoever sent it.

    Raises:
        BadMessage: The bytes are no request, or its lattice is none.
    """
    from google.protobuf.message import DecodeError

    from earshot.decode import rescoring_pb2

    if len(data) > MAX_REQUEST_BYTES:
        raise BadMessage(f"the request has {len(data)} bytes; it may have {MAX_REQUEST_BYTES}")
    try:
        message = rescoring_pb2.Request.FromString(bytes(data))
    except DecodeError:
        raise BadMessage(f"{len(data)} bytes are no protobuf message of a request") from None
    if message.version != VERSION:
        raise BadMessage(f"the request has version {message.version}; this server knows {VERSION}")
    if message.nbest > MAX_NBEST:
        raise BadMessage(f"{message.nbest} hypotheses are asked for; at most {MAX_NBEST} may be")
    try:
        lattice = decode_lattice(message.lattice)
    except LatticeError as err:
        raise BadMessage(str(err)) from None
    return Request(lattice, message.id, message.nbest, message.timeout_ms)


def encode_answer(
    hypotheses: Sequence[Hypothesis], *, request_id: int = 0, model: str, computed_ms: float
) -> bytes:
    """An answer for the wire.

    Args:
        hypotheses: Best first, at least one.
        request_id: That of the request.
        model: Name of the language model.
        computed_ms: Milliseconds that it took.
    """
    from earshot.decode import rescoring_pb2

    message = rescoring_pb2.Answer(
        version=VERSION, id=request_id, model=model, computed_ms=computed_ms
    )
    for hypothesis in hypotheses:
        message.hypotheses.add(
            arc=hypothesis.arcs,
            score=hypothesis.score,
            first=hypothesis.first,
            language=hypothesis.language,
            errors=hypothesis.errors,
        )
    return bytes(message.SerializeToString(deterministic=True))


def encode_refusal(refusal: Refusal, *, request_id: int = 0) -> bytes:
    """A refusal for a WebSocket."""
    from earshot.decode import rescoring_pb2

    message = rescoring_pb2.Answer(version=VERSION, id=request_id)
    message.error.status = refusal.status
    message.error.code = refusal.code
    message.error.message = refusal.message
    message.error.retry_after_s = refusal.retry_after_s
    return bytes(message.SerializeToString(deterministic=True))


def decode_answer(
    data: bytes, sent: Lattice, *, request_id: int = 0
) -> tuple[tuple[Hypothesis, ...], str] | Refusal:
    """Read an answer, from whatever stands for the server.

    Args:
        data: At most `MAX_ANSWER_BYTES`.
        sent: The lattice of the request, as `decode_lattice` reads what was sent.
        request_id: That of the request.

    Returns:
        Hypotheses, best first, and the model's name; or why there are none.

    Raises:
        BadMessage: The bytes are no answer to this request: something else, of another version
            or id, without hypotheses, out of order, or with one that is no path of `sent`.
    """
    from google.protobuf.message import DecodeError

    from earshot.decode import rescoring_pb2

    if len(data) > MAX_ANSWER_BYTES:
        raise BadMessage(f"the answer has {len(data)} bytes; it may have {MAX_ANSWER_BYTES}")
    try:
        message = rescoring_pb2.Answer.FromString(bytes(data))
    except DecodeError:
        raise BadMessage(f"{len(data)} bytes are no protobuf message of an answer") from None
    if message.version != VERSION or message.id != request_id:
        raise BadMessage(
            f"the answer has version {message.version} and id {message.id}; they must be "
            f"{VERSION} and {request_id}"
        )
    if message.HasField("error"):
        error = message.error
        retry = error.retry_after_s if math.isfinite(error.retry_after_s) else 0.0
        return Refusal(error.status, error.code[:100], error.message[:500], max(0.0, retry))
    if not 1 <= len(message.hypotheses) <= MAX_NBEST:
        raise BadMessage(
            f"the answer has {len(message.hypotheses)} hypotheses; it must have 1 to {MAX_NBEST}"
        )
    hypotheses = tuple(_path(h, sent) for h in message.hypotheses)
    by_errors = any(h.errors for h in hypotheses)
    ranks = [h.errors if by_errors else -h.score for h in hypotheses]
    if ranks != sorted(ranks):
        raise BadMessage(
            "the answer's hypotheses are not in the order of their expected errors, or scores"
        )
    return hypotheses, message.model[:200]


def _path(hypothesis: rescoring_pb2.Hypothesis, sent: Lattice) -> Hypothesis:
    numbers = (hypothesis.score, hypothesis.first, hypothesis.language, hypothesis.errors)
    if not all(map(math.isfinite, numbers)):
        raise BadMessage("a score of the answer is not finite")
    arcs = tuple(hypothesis.arc)
    state = 0
    for arc in arcs:
        if arc >= sent.num_arcs or int(sent.src[arc]) != state:
            raise BadMessage(f"the answer goes over arc {arc}, which does not leave state {state}")
        state = int(sent.dst[arc])
    if state != sent.num_states - 1:
        raise BadMessage(f"a hypothesis of the answer ends in state {state}, not in the last")
    words = tuple(word for word in map(sent.word_at, arcs) if word != NOTHING)
    return Hypothesis(words, arcs, *numbers)
