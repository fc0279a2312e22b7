"""The HTTP application: routes, errors in OpenAI's form, limits on bodies, the page.

Knows which path is whose; the protocols themselves are in modules of their own.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocket

from earshot import __version__
from earshot.serve import realtime, simple_sockets, stream_socket, transcriptions, uploads
from earshot.serve.access import CLIENT, App, Gate
from earshot.serve.config import ServeConfig
from earshot.serve.engine import Engine
from earshot.serve.languages import LanguageError, check_language
from earshot.serve.logs import log
from earshot.serve.metrics import CONTENT_TYPE
from earshot.serve.openapi import (
    BRIDGE,
    HEALTH,
    METRICS,
    MODEL,
    MODELS,
    TRANSCRIPTION,
)
from earshot.serve.problems import ApiError, error_body
from earshot.serve.tokens import Tokens

PAGE = Path(__file__).parent / "page"
MAX_FIELDS = 200
SPOOL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What all routes share.

    Args:
        engine: Decodes.
        config: How the server was started.
        language: Of the model.
        description: Of the model, one line.
        commands: Names of the command templates.
        created: When the model file was written, seconds since 1970.
    """

    engine: Engine
    config: ServeConfig
    language: str
    description: str
    commands: tuple[str, ...] = ()
    created: int = 0


def make_app(served: Served, *, tokens: Tokens | None) -> App:
    """The application behind its gate.

    Args:
        served: What it serves.
        tokens: Who is let in.

    Returns:
        An ASGI application.
    """
    app = FastAPI(
        title="Earshot",
        version=__version__,
        summary="Speech recognition that stays on the device.",
        docs_url=None,  # they load from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    _add_errors(app)
    _add_transcriptions(app, served)
    _add_models(app, served)
    _add_operation(app, served)
    _add_sockets(app, served)
    _add_page(app)
    return Gate(app, config=served.config, tokens=tokens)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def _(_: Request, err: ApiError) -> JSONResponse:
        return JSONResponse(err.as_dict(), err.status)

    @app.exception_handler(HTTPException)
    async def _(request: Request, err: HTTPException) -> JSONResponse:
        message = str(err.detail)
        if err.status_code == 404:
            message = f"There is nothing at {request.method} {request.url.path[:100]}."
        elif err.status_code == 405:
            message = f"{request.method} is not allowed at {request.url.path[:100]}."
        return JSONResponse(
            error_body(err.status_code, message), err.status_code, headers=err.headers
        )

    @app.exception_handler(Exception)
    async def _(_: Request, err: Exception) -> JSONResponse:
        log("request failed", error=repr(err))
        message = "Something went wrong inside the server; its log says what."
        return JSONResponse(error_body(500, message, code="internal"), 500)


def _add_transcriptions(app: FastAPI, served: Served) -> None:
    @app.post("/v1/audio/transcriptions", **TRANSCRIPTION)
    async def transcribe(request: Request) -> Response:
        """Turn a recording into text."""
        begun = time.monotonic()
        values, file, name = await _form(request, served.config.limits.max_upload_bytes)
        try:
            asked = transcriptions.parse_form(values, language=served.language)
        except ApiError:
            file.close()
            raise
        client = request.scope[CLIENT]
        options = {"hotwords": tuple((k, 2.0) for k in asked.keywords)} if asked.keywords else {}
        events = transcriptions.heard_events(
            served.engine,
            file,
            client=client,
            name=name,
            protocol="transcriptions",
            options=options,
        )
        if asked.stream:
            return await _event_stream(events, asked, file)
        try:
            heard = await transcriptions.collect(events)
        finally:
            file.close()
        content_type, body = transcriptions.render(heard, asked, language=served.language)
        transcriptions.log_done(
            heard.text,
            client=client,
            protocol="transcriptions",
            audio_s=heard.duration_s,
            took_s=time.monotonic() - begun,
        )
        return Response(body, media_type=content_type)

    @app.post("/api/speech-to-text", **BRIDGE)
    async def speech_to_text(request: Request) -> Response:
        """Turn a recording into text, as Wyoming's HTTP bridge does."""
        query = request.query_params
        try:
            check_language(query.get("language"), served.language)
        except LanguageError as err:
            raise ApiError(400, str(err), code="unsupported_language", param="language") from None
        hotwords = tuple(
            (phrase.strip(), boost)
            for key, boost in (("transcript_names", 3.0), ("transcript_terms", 1.5))
            for phrase in query.get(key, "").split(",")
            if phrase.strip()
        )
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
            async for part in _body(request, served.config.limits.max_upload_bytes):
                file.write(part)
            file.seek(0)
            events = transcriptions.heard_events(
                served.engine,
                file,  # type: ignore[arg-type]
                client=request.scope[CLIENT],
                name="the body",
                protocol="speech-to-text",
                options={"hotwords": hotwords} if hotwords else {},
            )
            heard = await transcriptions.collect(events)
        return JSONResponse({"text": heard.text})


async def _form(request: Request, max_bytes: int) -> tuple[list[tuple[str, str]], BinaryIO, str]:
    """The text fields and the one file of a multipart form.

    Raises:
        ApiError: It is no such form (400), or too large (413).
    """
    if request.headers.get("content-type", "").partition(";")[0] != "multipart/form-data":
        raise ApiError(
            400,
            "content-type: send multipart/form-data with the fields file and model.",
            code="invalid_content_type",
        )
    parser = MultiPartParser(
        request.headers,
        _body(request, max_bytes),  # type: ignore[arg-type]
        max_files=2,
        max_fields=MAX_FIELDS,
        max_part_size=4 * transcriptions.MAX_FIELD_CHARS,
    )
    try:
        form = await parser.parse()
    except MultiPartException as err:
        raise ApiError(400, f"form: {err.message}", code="invalid_form") from None
    except (KeyError, UnicodeError):
        raise ApiError(
            400, "form: the boundary or a header cannot be read.", code="invalid_form"
        ) from None
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    found = [value for name, value in files if name == "file"]
    for value in (value for _, value in files if value not in found[:1]):
        await value.close()
    if len(found) != 1:
        for value in found[:1]:
            await value.close()
        raise ApiError(
            400,
            f"file: there are {len(found)}; send one recording as a file part of that name.",
            code="missing_required_parameter",
            param="file",
        )
    values = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    return values, found[0].file, uploads.suffix_of(found[0].filename)


async def _body(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body in pieces, up to a limit, whatever its header says.

    Raises:
        ApiError: It is longer (413), or the client leaves (400).
    """
    too_large = ApiError(
        413,
        f"The body is larger than {max_bytes} bytes, which is the most that this server takes. "
        "Compress the recording, such as to FLAC or Opus, or cut it.",
        code="content_too_large",
        param="file",
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    total = 0
    try:
        async for part in request.stream():
            total += len(part)
            if total > max_bytes:
                raise too_large
            yield part
    except ClientDisconnect:
        raise ApiError(400, "The client left before it had sent everything.") from None


async def _event_stream(
    events: AsyncIterator[Any], asked: transcriptions.TranscriptionRequest, file: BinaryIO
) -> Response:
    """Answer with server-sent events; what is wrong from the start is still a plain error."""
    objects = transcriptions.stream_events(events, asked)
    try:
        first = await anext(objects)
    except BaseException:
        file.close()
        raise

    async def lines() -> AsyncIterator[str]:
        try:
            yield _line(first)
            async for item in objects:
                yield _line(item)
        except ApiError as err:
            yield _line({"type": "error", **err.as_dict()})
        finally:
            file.close()
        yield "data: [DONE]\n\n"

    return StreamingResponse(
        lines(), media_type="text/event-stream", headers={"cache-control": "no-cache"}
    )


def _line(item: dict[str, Any]) -> str:
    return f"data: {json.dumps(item, ensure_ascii=False)}\n\n"


def _add_models(app: FastAPI, served: Served) -> None:
    model = {
        "id": served.engine.recognizer.name,
        "object": "model",
        "created": served.created,
        "owned_by": "earshot",
    }

    @app.get("/v1/models", **MODELS)
    async def list_models() -> dict[str, Any]:
        """The one model there is."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{model_id}", **MODEL)
    async def get_model(request: Request) -> dict[str, Any]:
        """What is known of a model."""
        name = request.path_params["model_id"]
        if name != model["id"]:
            raise ApiError(
                404,
                f"There is no model {name[:100]!r}, but {model['id']!r}.",
                code="model_not_found",
                param="model",
            )
        return model


def _add_operation(app: FastAPI, served: Served) -> None:
    @app.get("/healthz", **HEALTH)
    async def health() -> JSONResponse:
        """Whether the server takes requests."""
        draining = served.engine.is_draining
        body = {
            "status": "stopping" if draining else "ok",
            "model": served.engine.recognizer.name,
            "version": __version__,
            "streams": served.engine.num_sessions,
        }
        return JSONResponse(body, 503 if draining else 200)

    @app.get("/metrics", **METRICS)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(served.engine.metrics.text(), headers={"content-type": CONTENT_TYPE})


def _add_sockets(app: FastAPI, served: Served) -> None:
    engine, language = served.engine, served.language

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await stream_socket.serve(
            socket,
            engine,
            client=socket.scope[CLIENT],
            language=language,
            commands=served.commands,
        )

    @app.websocket("/v1/realtime")
    async def openai_realtime(socket: WebSocket) -> None:
        await realtime.serve(socket, engine, client=socket.scope[CLIENT], language=language)

    for path, protocol in (
        ("/", None),
        ("/sherpa", "sherpa"),
        ("/vosk", "vosk"),
        ("/wenet", "wenet"),
    ):
        _add_simple_socket(app, engine, path, protocol)


def _add_simple_socket(app: FastAPI, engine: Engine, path: str, protocol: str | None) -> None:
    @app.websocket(path)
    async def simple(socket: WebSocket) -> None:
        client = socket.scope[CLIENT]
        await simple_sockets.serve(socket, engine, client=client, protocol=protocol)


def _add_page(app: FastAPI) -> None:
    files = {path.name: path for path in sorted(PAGE.iterdir()) if path.is_file()}

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> FileResponse:
        return FileResponse(PAGE / "icon.svg")

    # Names are looked up, never joined to a path.
    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(request: Request) -> FileResponse:
        found = files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        media_type = "text/javascript" if found.suffix == ".js" else None
        return FileResponse(found, media_type=media_type, headers={"cache-control": "no-cache"})
