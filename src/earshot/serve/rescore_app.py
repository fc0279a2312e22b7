"""The rescoring service as an ASGI application: HTTP and WebSocket, protobuf in and out.

`POST /v1/rescore` answers one request; `/v1/rescore/stream` takes any number on one socket and
answers each as it is done. There is no way to send sound: a body is a message of a lattice, or it
is refused. Neither words nor lattices are logged. Knows nothing of language models.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from earshot.decode.rescoring_wire import (
    CONTENT_TYPE,
    BadMessage,
    Refusal,
    decode_request,
    encode_answer,
    encode_refusal,
)
from earshot.serve import rescore_metrics
from earshot.serve.access import CLIENT, App, Gate
from earshot.serve.config import ServeConfig
from earshot.serve.logs import log
from earshot.serve.problems import error_body
from earshot.serve.rescore_config import RescoreServeConfig
from earshot.serve.rescore_engine import RefusedError, RescoringEngine
from earshot.serve.tokens import Tokens

__all__ = ["build_app"]

_MAX_IN_FLIGHT = 64  # of one socket
_POLICY, _TRY_LATER, _TOO_BIG = 1008, 1013, 1009


def build_app(
    engine: RescoringEngine, config: RescoreServeConfig, tokens: Tokens | None = None
) -> App:
    """The application around an engine.

    Args:
        engine: Rescores; stopped with the application.
        config: Limits and names.
        tokens: Who is let in; None lets everybody in.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        finished = await asyncio.to_thread(engine.stop)
        log("rescoring stopped", finished=finished)

    service = _Service(engine, config)
    app = Starlette(
        routes=[
            Route("/v1/rescore", service.post, methods=["POST"]),
            WebSocketRoute("/v1/rescore/stream", service.stream),
            Route("/healthz", service.health),
            Route("/metrics", service.metrics),
        ],
        lifespan=lifespan,
    )
    gate = ServeConfig(host=config.host, wyoming_port=None, allow_hosts=config.allow_hosts)
    return Gate(app, config=gate, tokens=tokens)


class _Service:
    def __init__(self, engine: RescoringEngine, config: RescoreServeConfig) -> None:
        self._engine = engine
        self._limits = config.limits

    async def health(self, _: Request) -> Response:
        """Whether the process lives, and what it serves."""
        return JSONResponse({"status": "ok", "model": self._engine.model})

    async def metrics(self, _: Request) -> Response:
        """Counters in Prometheus' format."""
        return Response(
            self._engine.metrics.text(), headers={"content-type": rescore_metrics.CONTENT_TYPE}
        )

    async def post(self, request: Request) -> Response:
        """Answer one request."""
        began = time.monotonic()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (CONTENT_TYPE, "application/protobuf"):
            return self._refused(
                Refusal(415, "media_type", f"the body must be {CONTENT_TYPE}, a message Request")
            )
        try:
            body = await asyncio.wait_for(self._body(request), self._limits.max_body_s)
            answer = await self._answer(body, request.scope[CLIENT], began)
        except TimeoutError:
            return self._refused(
                Refusal(408, "slow", f"the body took longer than {self._limits.max_body_s:g} s")
            )
        except ClientDisconnect:
            return Response(status_code=400)
        except RefusedError as err:
            return self._refused(err.refusal)
        return Response(answer, media_type=CONTENT_TYPE)

    async def stream(self, socket: WebSocket) -> None:
        """Answer the requests of one socket, each as it is done."""
        await socket.accept()
        running: set[asyncio.Task[None]] = set()
        sending = asyncio.Lock()
        client = socket.scope[CLIENT]

        async def answer(data: bytes) -> None:
            began = time.monotonic()
            try:
                reply = await self._answer(data, client, began)
            except RefusedError as err:
                reply = encode_refusal(err.refusal, request_id=_id_of(data))
            async with sending:
                with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
                    await socket.send_bytes(reply)

        try:
            while True:
                # Back-pressure: with too many in flight the socket is not read from.
                if len(running) >= _MAX_IN_FLIGHT:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    continue
                message = await asyncio.wait_for(socket.receive(), self._limits.idle_timeout_s)
                if message["type"] == "websocket.disconnect":
                    break
                data = message.get("bytes")
                if data is None:
                    await socket.close(_POLICY, "binary messages only")
                    break
                if len(data) > self._limits.max_request_bytes:
                    await socket.close(_TOO_BIG, "message too large")
                    break
                task = asyncio.create_task(answer(data))
                running.add(task)
                task.add_done_callback(running.discard)
        except TimeoutError:
            await socket.close(_POLICY, "idle")
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass
        finally:
            for task in list(running):
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _body(self, request: Request) -> bytes:
        most = self._limits.max_request_bytes
        said = request.headers.get("content-length", "")
        too_large = RefusedError(
            Refusal(413, "request_too_large", f"the body may have {most} bytes at most")
        )
        if said.isascii() and said.isdigit() and int(said[:18]) > most:
            raise too_large
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise too_large
        return bytes(body)

    async def _answer(self, data: bytes, client: str, began: float) -> bytes:
        engine = self._engine
        engine.metrics.received(len(data))
        try:
            request = decode_request(data)
        except BadMessage as err:
            engine.metrics.refused("bad_request")
            raise RefusedError(Refusal(400, "bad_request", str(err))) from None
        hypotheses = await engine.rescore(request, client=client)
        computed_ms = 1000 * (time.monotonic() - began)
        log("rescored", level=logging.DEBUG, arcs=request.lattice.num_arcs, ms=computed_ms)
        return encode_answer(
            hypotheses, request_id=request.id, model=engine.model, computed_ms=computed_ms
        )

    def _refused(self, refusal: Refusal) -> Response:
        headers = {}
        if refusal.retry_after_s:
            headers["retry-after"] = str(math.ceil(refusal.retry_after_s))
        status = 400 if refusal.status == 499 else refusal.status
        body: dict[str, Any] = error_body(status, refusal.message, code=refusal.code)
        # What is left of the body is not worth reading.
        if status in (408, 413):
            headers["connection"] = "close"
        return JSONResponse(body, status, headers)


def _id_of(data: bytes) -> int:
    """The id of a request that may be broken otherwise; 0 if there is none."""
    from google.protobuf.message import DecodeError

    from earshot.decode.rescoring_pb2 import Request as Message

    try:
        return int(Message.FromString(data).id)
    except DecodeError:
        return 0
