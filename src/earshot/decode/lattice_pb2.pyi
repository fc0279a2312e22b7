from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Lattice(_message.Message):
    __slots__ = ("version", "words", "leaving", "ahead", "word", "start", "length", "loss", "prior", "step", "score", "deflated")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    WORD_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    DEFLATED_FIELD_NUMBER: _ClassVar[int]
    version: int
    words: str
    leaving: _containers.RepeatedScalarFieldContainer[int]
    ahead: _containers.RepeatedScalarFieldContainer[int]
    word: _containers.RepeatedScalarFieldContainer[int]
    start: _containers.RepeatedScalarFieldContainer[int]
    length: _containers.RepeatedScalarFieldContainer[int]
    loss: _containers.RepeatedScalarFieldContainer[int]
    prior: _containers.RepeatedScalarFieldContainer[int]
    step: float
    score: float
    deflated: bytes
    def __init__(self, version: _Optional[int] = ..., words: _Optional[str] = ..., leaving: _Optional[_Iterable[int]] = ..., ahead: _Optional[_Iterable[int]] = ..., word: _Optional[_Iterable[int]] = ..., start: _Optional[_Iterable[int]] = ..., length: _Optional[_Iterable[int]] = ..., loss: _Optional[_Iterable[int]] = ..., prior: _Optional[_Iterable[int]] = ..., step: _Optional[float] = ..., score: _Optional[float] = ..., deflated: _Optional[bytes] = ...) -> None: ...
