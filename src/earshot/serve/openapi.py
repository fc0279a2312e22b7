"""What `/openapi.json` says of each route: bodies, answers and errors.

Routes read their own bodies, because those have limits; so what they take is written down here.
"""

from __future__ import annotations

from typing import Any

from earshot.serve.transcriptions import FORMATS, GRANULARITIES

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": _TEXT,
    },
}
_MEANINGS = {
    400: "The request cannot be used; `param` names the field.",
    401: "The token is missing or wrong.",
    403: "Pages of this origin may not use the server.",
    404: "There is no such thing.",
    413: "The body is too large.",
    421: "The server is not called by this name.",
    429: "Too many streams are open.",
    503: "The server is being stopped.",
}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answers(ok: dict[str, Any], *errors: int) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {200: {"description": "Done.", "content": ok}}
    for status in (*errors, 403, 421):
        found[status] = {"description": _MEANINGS[status], "content": _json(_ERROR)}
    return found


_SEGMENT = {
    "type": "object",
    "required": ["id", "start", "end", "text"],
    "properties": {"start": _NUMBER, "end": _NUMBER, "text": _TEXT, "speaker": _TEXT},
}
_TRANSCRIPTION = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": _TEXT,
        "task": {"const": "transcribe"},
        "language": _TEXT,
        "duration": _NUMBER,
        "usage": {
            "type": "object",
            "required": ["type", "seconds"],
            "properties": {"type": {"const": "duration"}, "seconds": _NUMBER},
        },
        "words": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["word", "start", "end"],
                "properties": {"word": _TEXT, "start": _NUMBER, "end": _NUMBER},
            },
        },
        "segments": {"type": "array", "items": _SEGMENT},
        "logprobs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "token": _TEXT,
                    "logprob": _NUMBER,
                    "bytes": {"type": "array", "items": {"type": "integer"}},
                },
            },
        },
    },
}
_FORM = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": "WAV, FLAC, MP3, Ogg, Opus, MP4, WebM or AAC.",
        },
        "model": {"type": "string", "minLength": 1, "description": "Any name: there is one model."},
        "language": _TEXT,
        "languages[]": {"type": "array", "items": _TEXT},
        "prompt": {"type": "string", "description": "Taken, and without effect."},
        "keywords[]": {"type": "array", "items": _TEXT, "description": "Phrases to expect."},
        "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
        "temperature": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Taken, and without effect: the search draws no lots.",
        },
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": list(GRANULARITIES)},
            "description": "With verbose_json.",
        },
        "include[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["logprobs"]},
            "description": "With json.",
        },
        "stream": {"type": "boolean", "default": False},
        "chunking_strategy": {"type": "string", "description": "auto, or server_vad as JSON."},
    },
}

TRANSCRIPTION: dict[str, Any] = {
    "operation_id": "transcribe",
    "responses": _answers(
        {
            **_json(_TRANSCRIPTION),
            "text/plain; charset=utf-8": {"schema": _TEXT},
            "text/vtt; charset=utf-8": {"schema": _TEXT},
            "text/event-stream": {"schema": _TEXT},
        },
        400, 401, 413, 429, 503,
    ),
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
    },
}  # fmt: skip
BRIDGE: dict[str, Any] = {
    "operation_id": "speech_to_text",
    "responses": _answers(
        _json({"type": "object", "required": ["text"], "properties": {"text": _TEXT}}),
        400, 401, 413, 429, 503,
    ),
    "openapi_extra": {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": _TEXT}
            for name in ("model", "language", "transcript_names", "transcript_terms")
        ],
        "requestBody": {
            "required": True,
            "content": {
                name: {"schema": {"type": "string", "format": "binary"}}
                for name in ("application/octet-stream", "audio/wav")
            },
        },
    },
}  # fmt: skip
MODELS: dict[str, Any] = {
    "operation_id": "list_models",
    "responses": _answers(
        _json(
            {
                "type": "object",
                "required": ["object", "data"],
                "properties": {
                    "object": {"const": "list"},
                    "data": {"type": "array", "items": _MODEL},
                },
            }
        ),
        401,
    ),
}
MODEL: dict[str, Any] = {
    "operation_id": "get_model",
    "responses": _answers(_json(_MODEL), 401, 404),
    "openapi_extra": {
        "parameters": [{"name": "model_id", "in": "path", "required": True, "schema": _TEXT}]
    },
}
HEALTH: dict[str, Any] = {
    "operation_id": "health",
    "responses": _answers(
        _json(
            {
                "type": "object",
                "required": ["status", "model", "version", "streams"],
                "properties": {
                    "status": {"enum": ["ok", "stopping"]},
                    "model": _TEXT,
                    "version": _TEXT,
                    "streams": {"type": "integer"},
                },
            }
        ),
        503,
    ),
}
METRICS: dict[str, Any] = {
    "operation_id": "metrics",
    "responses": _answers({"text/plain; version=0.0.4; charset=utf-8": {"schema": _TEXT}}, 401),
}
