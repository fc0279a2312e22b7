"""Who is let in: tokens, hosts, origins, and what a server refuses before it starts."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from earshot.core.errors import ConfigError
from earshot.serve.config import Limits, ServeConfig
from earshot.serve.tokens import Tokens
from tests.serve.conftest import LIGHTS, LIGHTS_TEXT, RunningServer

TOKEN, HASHED = "plain-token-of-some-length", "hashed-token-of-some-length"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    digest = hashlib.sha256(HASHED.encode()).hexdigest()
    path.write_text(f"# who may come in\n\n{TOKEN}\nsha256:{digest}\n", encoding="utf-8")
    return path


def test_tokens_in_headers_and_queries(
    serving: Callable[..., RunningServer], token_file: Path
) -> None:
    server = serving(token_file=token_file)
    url = f"{server.http}/v1/models"
    for token in (TOKEN, HASHED):
        header = {"authorization": f"Bearer {token}"}
        assert httpx.get(url, headers=header).status_code == 200
        assert httpx.get(url, params={"token": token}).status_code == 200
        with connect(f"{server.ws}/v1/stream?token={token}", proxy=None) as socket:
            socket.send('{"type":"start"}')
            assert json.loads(socket.recv(timeout=10))["type"] == "ready"
    with connect(
        f"{server.ws}/v1/realtime?intent=transcription",
        subprotocols=["realtime", f"openai-insecure-api-key.{TOKEN}"],  # type: ignore[list-item]
        proxy=None,
    ) as socket:
        assert json.loads(socket.recv(timeout=10))["type"] == "session.created"
    digest = hashlib.sha256(HASHED.encode()).hexdigest()
    for wrong in ("", TOKEN[:-1], TOKEN + "x", digest, f"sha256:{digest}", "ä"):
        answer = httpx.get(url, params={"token": wrong})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/metrics", "/v1/audio/transcriptions", "/api/speech-to-text"):
        assert httpx.post(f"{server.http}{path}").status_code == 401
    for path in ("/v1/stream", "/v1/realtime", "/sherpa", "/"):
        with pytest.raises(InvalidStatus) as caught, connect(f"{server.ws}{path}", proxy=None):
            pass
        assert caught.value.response.status_code == 401
    for path in ("/", "/healthz", "/page/app.js", "/openapi.json"):
        assert httpx.get(f"{server.http}{path}").status_code == 200


@given(tokens=st.lists(st.text("abc:#é", min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_token_opens_if_it_is_in_the_file(
    tokens: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = [t for t in tokens if not t.startswith("#")]
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("\n".join(tokens), encoding="utf-8")
    if not kept:
        with pytest.raises(ConfigError, match="no token"):
            Tokens.read(path)
        return
    found = Tokens.read(path)
    for candidate in ("", "a", "abc", "#", *tokens):
        assert (found.owner(candidate) is not None) == (candidate in kept)
        assert candidate not in (found.owner(candidate) or "") or len(candidate) < 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no token"),
        (b"# nobody\n", "no token"),
        (b"two words\n", "white space"),
        (b"sha256:abc\n", "64 hexadecimal"),
        (b"\xff\xfe", "not text"),
    ],
)
def test_a_bad_token_file_says_why(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        Tokens.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokens.read(tmp_path / "missing")


def status(server: RunningServer, **headers: str) -> int:
    return httpx.get(f"{server.http}/v1/models", headers=headers).status_code


def test_pages_of_other_origins_are_refused(serving: Callable[..., RunningServer]) -> None:
    server = serving(allow_origins=("https://home.example",))
    own = server.http
    assert status(server, origin=own) == 200
    for other in ("https://evil.example", "null", "http://127.0.0.1:1", own + "0", "file://"):
        assert status(server, origin=other) == 403
        with (
            pytest.raises(InvalidStatus) as caught,
            connect(f"{server.ws}/v1/stream", additional_headers={"Origin": other}, proxy=None),
        ):
            pass
        assert caught.value.response.status_code == 403
    allowed = httpx.get(f"{own}/v1/models", headers={"origin": "https://home.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://home.example"
    preflight = httpx.options(
        f"{own}/v1/audio/transcriptions", headers={"origin": "https://home.example"}
    )
    assert preflight.status_code == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in httpx.get(f"{own}/v1/models").headers


def test_names_that_are_not_the_servers_are_refused(
    serving: Callable[..., RunningServer],
) -> None:
    """A page whose name was pointed at a local address has an origin of its own name."""
    server = serving(allow_hosts=("speech.example",))
    for good in ("127.0.0.1", "localhost:8080", "[::1]:80", "10.0.0.7", "kitchen.local", "nas",
                 "speech.example", "SPEECH.example:443"):  # fmt: skip
        assert status(server, host=good) == 200
    for bad in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080"):
        assert status(server, host=bad) == 421
        assert status(server, host=bad, origin=f"http://{bad}") == 421


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"local_only": True, "host": "0.0.0.0"}, "local-only"),
        ({"local_only": True, "host": "192.168.1.5"}, "local-only"),
        ({"tls_cert": Path("c.pem")}, "tls-key"),
        ({"http_port": None, "wyoming_port": None}, "both ports"),
        ({"zeroconf": True}, "zeroconf"),
        ({"allow_origins": ("home.example",)}, "origin"),
    ],
)
def test_settings_that_contradict(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ServeConfig(**settings)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_positive(value: float) -> None:
    with pytest.raises(ConfigError, match="max_silence_s"):
        Limits(max_silence_s=value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "::1", "[::1]", "localhost"])
def test_loopback_by_any_name(host: str) -> None:
    assert ServeConfig(host=host, local_only=True).is_loopback
    assert not ServeConfig(host=host).announces
    assert ServeConfig(host="0.0.0.0").announces


def test_a_port_that_is_taken(serving: Callable[..., RunningServer]) -> None:
    server = serving()
    port = int(server.http.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"--http-port {port}.*in use"):
        serving(http_port=port)


def test_tls(serving: Callable[..., RunningServer], tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no openssl command")
    server = serving(tls_cert=cert, tls_key=key)
    assert server.http.startswith("https://")
    trusted = ssl.create_default_context(cafile=str(cert))
    with httpx.Client(verify=trusted) as client, open(LIGHTS, "rb") as file:
        answer = client.post(
            f"{server.http}/v1/audio/transcriptions",
            data={"model": "m"},
            files={"file": file},
            timeout=30,
        )
        assert answer.json()["text"] == LIGHTS_TEXT
    with connect(f"{server.ws}/v1/stream", ssl=trusted, proxy=None) as socket:
        socket.send('{"type":"start"}')
        assert json.loads(socket.recv(timeout=10))["type"] == "ready"
    with pytest.raises(ConfigError, match="cannot be used for TLS"):
        serving(tls_cert=key, tls_key=cert)
