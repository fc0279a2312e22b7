"""Who may come in over HTTP and WebSockets: host names, origins of pages, tokens.

A browser lets any page on the web talk to servers on the user's own machine and network. Two
checks stop that: a page of another origin is refused unless it is on the list, and a name that is
not this server's (a page whose name was pointed at a local address, "DNS rebinding") too. Works as
ASGI middleware in front of everything. Knows nothing of what is served.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from earshot.serve.config import ServeConfig
from earshot.serve.tokens import Tokens

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Static files and liveness hold no secrets, and a page must be loaded before it can ask for a
# token.
OPEN_PATHS = ("/", "/healthz", "/favicon.ico", "/openapi.json")
OPEN_PREFIXES = ("/page/",)
CLIENT = "earshot.client"  # key of the scope: who is asking
# Names that no public name server answers for; a page from the web cannot have them.
_LOCAL_SUFFIXES = (".localhost", ".local", ".lan", ".home", ".home.arpa", ".internal")
_KEY_PROTOCOL = "openai-insecure-api-key."
_SPLIT = re.compile(r"\s*,\s*")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; worker-src 'self'; media-src 'self' blob:; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Gate:
    """Lets a request through to the application, or answers it itself.

    Args:
        app: What is behind the gate.
        config: Which hosts and origins are allowed.
        tokens: Who is let in; None lets everybody in.
    """

    def __init__(self, app: App, *, config: ServeConfig, tokens: Tokens | None) -> None:
        self._app = app
        self._tokens = tokens
        self._origins = {origin.rstrip("/").lower() for origin in config.allow_origins}
        self._hosts = {host.lower() for host in (*config.allow_hosts, socket.gethostname())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI says."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        origin = headers.get("origin")
        refusal = self._refusal(scope, headers, origin)
        if refusal is not None:
            await _answer(scope, receive, send, *refusal)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], *SECURITY_HEADERS]
                if origin is not None and self._is_listed(origin):
                    message["headers"] += [
                        (b"access-control-allow-origin", origin.encode("latin-1")),
                        (b"vary", b"origin"),
                    ]
            await send(message)

        if scope["type"] == "http" and scope["method"] == "OPTIONS" and origin is not None:
            await _preflight(send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _refusal(
        self, scope: Scope, headers: dict[str, str], origin: str | None
    ) -> tuple[int, str, str] | None:
        """Status, code and message for what may not pass; else None, and the client is named."""
        host = headers.get("host", "")
        if not self._is_own_host(host):
            return (
                421,
                "unknown_host",
                f"This server is not called {host[:100]!r}; start it with --allow-host "
                f"{_host_name(host)[:100]} if it is.",
            )
        if origin is not None and not self._is_own_origin(origin, host):
            return (
                403,
                "origin_not_allowed",
                f"Pages of {origin[:100]!r} may not use this server; start it with --allow-origin "
                "if they should.",
            )
        peer = scope.get("client")
        scope[CLIENT] = peer[0] if peer else "local"
        if self._tokens is None or _is_open(scope):
            return None
        if scope["type"] == "http" and scope["method"] == "OPTIONS" and origin is not None:
            return None  # a preflight carries no token
        owner = self._tokens.owner(token_of(scope, headers))
        if owner is None:
            return (
                401,
                "invalid_api_key",
                "The API token is missing or wrong. Send it as `Authorization: Bearer TOKEN`, or "
                "as `?token=TOKEN` where headers cannot be set.",
            )
        scope[CLIENT] = owner
        return None

    def _is_own_host(self, host: str) -> bool:
        name = _host_name(host).lower().rstrip(".")
        if not name or name in self._hosts or "*" in self._hosts:
            return True  # HTTP/1.0 has no host, and no browser speaks it
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return "." not in name or name.endswith(_LOCAL_SUFFIXES)
        return True

    def _is_own_origin(self, origin: str, host: str) -> bool:
        if self._is_listed(origin):
            return True
        parts = urlsplit(origin)
        return bool(parts.netloc) and parts.netloc.lower() == host.lower()

    def _is_listed(self, origin: str) -> bool:
        return "*" in self._origins or origin.rstrip("/").lower() in self._origins


def token_of(scope: Scope, headers: dict[str, str]) -> str | None:
    """The token that a request carries.

    Args:
        scope: The connection.
        headers: Its headers, names in lower case.

    Returns:
        From `Authorization: Bearer`, `?token=`, or the subprotocol with which browsers pass keys
        to OpenAI's Realtime interface, in this order; None without any.
    """
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return value.strip()
    raw: bytes = scope.get("query_string", b"")
    try:
        query = parse_qs(raw.decode("latin-1"), max_num_fields=64)
    except ValueError:  # more fields than anybody needs
        query = {}
    if found := query.get("token"):
        return found[0]
    for protocol in _SPLIT.split(headers.get("sec-websocket-protocol", "")):
        if protocol.startswith(_KEY_PROTOCOL):
            return protocol.removeprefix(_KEY_PROTOCOL)
    return None


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return scope["type"] == "http" and (path in OPEN_PATHS or path.startswith(OPEN_PREFIXES))


def _host_name(host: str) -> str:
    if host.startswith("["):  # [::1]:8080
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


async def _preflight(send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _answer(
    scope: Scope, receive: Receive, send: Send, status: int, code: str, message: str
) -> None:
    """Refuse, in OpenAI's form; before a WebSocket is accepted this is an HTTP answer too."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *SECURITY_HEADERS,
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": code})
            return
        await receive()
        prefix = "websocket."
    await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})
