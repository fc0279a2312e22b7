from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("version", "id", "lattice", "nbest", "timeout_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LATTICE_FIELD_NUMBER: _ClassVar[int]
    NBEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    version: int
    id: int
    lattice: bytes
    nbest: int
    timeout_ms: int
    def __init__(self, version: _Optional[int] = ..., id: _Optional[int] = ..., lattice: _Optional[bytes] = ..., nbest: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class Hypothesis(_message.Message):
    __slots__ = ("arc", "score", "first", "language", "errors")
    ARC_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    arc: _containers.RepeatedScalarFieldContainer[int]
    score: float
    first: float
    language: float
    errors: float
    def __init__(self, arc: _Optional[_Iterable[int]] = ..., score: _Optional[float] = ..., first: _Optional[float] = ..., language: _Optional[float] = ..., errors: _Optional[float] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("version", "id", "hypotheses", "model", "computed_ms", "error")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    HYPOTHESES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    version: int
    id: int
    hypotheses: _containers.RepeatedCompositeFieldContainer[Hypothesis]
    model: str
    computed_ms: float
    error: Error
    def __init__(self, version: _Optional[int] = ..., id: _Optional[int] = ..., hypotheses: _Optional[_Iterable[_Union[Hypothesis, _Mapping]]] = ..., model: _Optional[str] = ..., computed_ms: _Optional[float] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("status", "code", "message", "retry_after_s")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    status: int
    code: str
    message: str
    retry_after_s: float
    def __init__(self, status: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_s: _Optional[float] = ...) -> None: ...
