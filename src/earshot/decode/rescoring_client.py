"""The device's side of the rescoring service: a lattice out, a ranking back, or the first pass.

Whatever the other side does, an answer or the reason for none is there when the deadline is: names
are looked up, connections made and answers read against one clock. After a few failures the
service is left alone for a while. Only `encode_lattice`'s bytes leave; this module never sees
audio, and knows nothing of recognisers.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from earshot.core.errors import ConfigError, LatticeError
from earshot.core.features import ENCODER_CLOCK
from earshot.core.transcript import Rescoring
from earshot.decode.lattice import Lattice
from earshot.decode.lattice_wire import decode_lattice, encode_lattice
from earshot.decode.rescoring import Rescored
from earshot.decode.rescoring_wire import (
    CONTENT_TYPE,
    MAX_ANSWER_BYTES,
    BadMessage,
    Refusal,
    decode_answer,
    encode_request,
)

__all__ = ["CircuitBreaker", "ClientConfig", "RescoringClient"]

PATH = "/v1/rescore"
_MAX_HEAD_BYTES = 16_384
_MAX_IDLE = 8  # connections kept open for the next utterance
_NAME_KEPT_S = 60.0
_LEAST_BYTES = 128  # of a lattice, however short


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How long to wait, and when to stop asking.

    Args:
        deadline_ms: Milliseconds from the call to the decision, everything included.
        nbest: Hypotheses asked for.
        max_bytes_per_s: A lattice with more bytes than so many for each second of its audio is
            pruned until it fits.
        max_lattice_bytes: The same, whatever the length.
        failures: So many in a row open the circuit.
        open_s: Seconds for which nothing is asked then; doubles with every failed try after it.
        max_open_s: At most so many.

    Raises:
        ConfigError: A value is out of its range.
    """

    deadline_ms: float = 300.0
    nbest: int = 10
    max_bytes_per_s: float = 200.0
    max_lattice_bytes: int = 65_536
    failures: int = 3
    open_s: float = 5.0
    max_open_s: float = 120.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("deadline_ms", 1.0, 600_000.0),
            ("nbest", 1, 100),
            ("max_bytes_per_s", 10.0, 1e6),
            ("max_lattice_bytes", 64, 1 << 20),
            ("failures", 1, 1000),
            ("open_s", 0.0, 3600.0),
            ("max_open_s", 0.0, 86_400.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"rescorer.{name} is {value}; it must lie in {low}..{high}.")

    def encoded(self, lattice: Lattice) -> bytes:
        """A lattice for the wire, pruned until it has no more bytes than it may.

        Raises:
            LatticeError: As `encode_lattice`.
        """
        audio_s = ENCODER_CLOCK.start_s(lattice.num_frames)
        allowed = min(self.max_lattice_bytes, int(self.max_bytes_per_s * audio_s))
        return encode_lattice(lattice, max_bytes=max(_LEAST_BYTES, allowed))


class CircuitBreaker:
    """Says whether to ask a service that may be down. Safe for threads.

    Closed: everybody asks. After `failures` failures in a row it opens: nobody asks for `open_s`
    seconds. Then one asks: success closes it, failure opens it for twice as long.

    Args:
        config: Its three numbers.
        clock: Seconds, monotonic.

    Source:
        Nygard, "Release It!", 2007.
    """

    def __init__(
        self, config: ClientConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_s = config.open_s
        self._open_until: float | None = None  # None: closed
        self._trying = False

    def allows(self) -> bool:
        """Whether to ask now; who is told so must report how it went."""
        with self._lock:
            if self._open_until is None:
                return True
            if self._trying or self._clock() < self._open_until:
                return False
            self._trying = True
            return True

    def succeeded(self) -> None:
        """The service answered."""
        with self._lock:
            self._failures = 0
            self._open_s = self._config.open_s
            self._open_until = None
            self._trying = False

    def failed(self, *, retry_after_s: float = 0.0) -> None:
        """It did not, or asked to be left alone for some seconds."""
        with self._lock:
            self._failures += 1
            tried, self._trying = self._trying, False
            if tried:
                self._open_s = min(2 * self._open_s, self._config.max_open_s)
            if tried or self._failures >= self._config.failures or retry_after_s > 0:
                wait_s = min(max(self._open_s, retry_after_s), self._config.max_open_s)
                self._open_until = self._clock() + wait_s

    @property
    def is_open(self) -> bool:
        """Whether nobody may ask at present."""
        with self._lock:
            return self._open_until is not None and (
                self._trying or self._clock() < self._open_until
            )


class _Failed(Exception):
    """An attempt that came to nothing; `reason` is one of `Rescoring.reason`."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0, stale: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.stale = stale  # the connection was closed before anything came over it


class RescoringClient:
    """A `Rescorer` that asks a service over HTTP.

    One client may be shared by threads; connections stay open between utterances.

    Args:
        url: `http://host[:port][/path]` or `https://...`; without a path `/v1/rescore`.
        token: Sent as `Authorization: Bearer`.
        config: Deadline and circuit breaker.
        clock: Seconds, monotonic, for the circuit breaker.

    Raises:
        ConfigError: The URL or the token cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        config: ClientConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(
                f"rescorer: {url!r} is no address of a service; it must read "
                "http://host:port or https://host:port. Give that."
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigError(
                f"rescorer: the address of {parts.hostname} holds a user, query or fragment; none "
                "is sent. Give http://host:port, and the token by itself."
            )
        if token is not None and (not token.isascii() or not token.isprintable() or " " in token):
            raise ConfigError(
                "rescorer: the token has characters that a header cannot carry. Give it without "
                "white space."
            )
        self.url = url
        self._config = config or ClientConfig()
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        path = parts.path if parts.path not in ("", "/") else PATH
        if not path.isascii() or not path.isprintable() or " " in path:
            raise ConfigError(f"rescorer: the path {path!r} must be written in percent codes.")
        authorization = f"Authorization: Bearer {token}\r\n" if token is not None else ""
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"Accept: {CONTENT_TYPE}\r\n{authorization}"
        )
        self.breaker = CircuitBreaker(self._config, clock=clock)
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._known: tuple[float, list[Any]] | None = None

    def rescore(self, lattice: Lattice) -> Rescored:
        """Rank the readings of a lattice, or say why the first pass stands.

        Args:
            lattice: What the search found.

        Returns:
            Never later than the deadline but for what the scheduler takes. Arcs of hypotheses
            are those of the lattice in the result, which was pruned for the wire.
        """
        began = time.monotonic()
        deadline = began + self._config.deadline_ms / 1000

        def note(reason: str, sent: Lattice) -> Rescored:
            took_ms = 1000 * (time.monotonic() - began)
            return Rescored(Rescoring("kept", reason, took_ms=took_ms), sent)

        if lattice.num_arcs == lattice.num_states - 1:
            return note("certain", lattice)  # one path: there is nothing to ask
        if self.breaker.is_open:
            return note("circuit_open", lattice)
        try:
            data = self._config.encoded(lattice)
            sent = decode_lattice(data)
        except LatticeError:
            return note("too_large", lattice)
        if not self.breaker.allows():
            return note("circuit_open", lattice)
        try:
            left_ms = max(1, int(1000 * (deadline - time.monotonic())))
            request = encode_request(data, nbest=self._config.nbest, timeout_ms=left_ms)
            answer = self._post(request, deadline)
            read = decode_answer(answer, sent)
            if isinstance(read, Refusal):
                raise _Failed("refused", retry_after_s=read.retry_after_s)
        except _Failed as failure:
            self.breaker.failed(retry_after_s=failure.retry_after_s)
            return note(failure.reason, lattice)
        except BadMessage:
            self.breaker.failed()
            return note("bad_answer", lattice)
        self.breaker.succeeded()
        hypotheses, model = read
        took_ms = 1000 * (time.monotonic() - began)
        return Rescored(Rescoring("rescored", model=model, took_ms=took_ms), sent, hypotheses)

    def close(self) -> None:
        """Close the connections that are kept open; a later call opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> RescoringClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, body: bytes, deadline: float) -> bytes:
        request = f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._exchange(connection, request, deadline)
            except _Failed as failure:
                if not failure.stale:
                    raise
        # A ranking changes nothing on the server, so asking twice does no harm.
        return self._exchange(self._connect(deadline), request, deadline)

    def _exchange(self, connection: socket.socket, request: bytes, deadline: float) -> bytes:
        keep = False
        try:
            try:
                _set_deadline(connection, deadline)
                connection.sendall(request)
            except TimeoutError:
                raise _Failed("timeout") from None
            except OSError:
                raise _Failed("unreachable", stale=True) from None
            status, headers, body = _Response(connection, deadline).read()
            keep = headers.get("connection", "").lower() != "close"
        finally:
            if keep:
                with self._lock:
                    keep = len(self._idle) < _MAX_IDLE
                    if keep:
                        self._idle.append(connection)
            if not keep:
                connection.close()
        if status == 200:
            if headers.get("content-type", "").partition(";")[0].strip() != CONTENT_TYPE:
                raise _Failed("bad_answer")
            return body
        reason = {401: "unauthorised", 403: "unauthorised", 413: "too_large"}.get(status, "refused")
        if status in (429, 503, 504):
            reason = "busy"
        raise _Failed(reason, retry_after_s=_seconds(headers.get("retry-after", "")))

    def _connect(self, deadline: float) -> socket.socket:
        failure: OSError | None = None
        for family, kind, protocol, _, address in self._addresses(deadline):
            try:
                connection = socket.socket(family, kind, protocol)
            except OSError as err:
                failure = err
                continue
            try:
                _set_deadline(connection, deadline)
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is None:
                    return connection
                _set_deadline(connection, deadline)
                return self._tls.wrap_socket(connection, server_hostname=self._host)
            except OSError as err:
                connection.close()
                failure = err
                if isinstance(err, TimeoutError):
                    break
        raise _Failed("timeout" if isinstance(failure, TimeoutError) else "unreachable")

    def _addresses(self, deadline: float) -> list[Any]:
        """Where the service may be; looking a name up cannot be interrupted, so a thread does."""
        with self._lock:
            known = self._known
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        found: list[Any] = []
        try:
            ipaddress.ip_address(self._host)
            found = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        except ValueError:

            def look_up() -> None:
                try:
                    found.extend(
                        socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                    )
                except OSError:
                    return

            thread = threading.Thread(target=look_up, daemon=True, name="earshot-look-up")
            thread.start()
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise _Failed("timeout") from None
        except OSError:
            pass
        if not found:
            raise _Failed("unreachable")
        with self._lock:
            self._known = (time.monotonic() + _NAME_KEPT_S, found)
        return found


class _Response:
    """Reads one HTTP/1.1 response against a deadline, and no more of it than is allowed."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._buffer = b""
        self._any = False

    def read(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with names in lower case, and body."""
        head = self._until(b"\r\n\r\n", _MAX_HEAD_BYTES)
        lines = head.decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit()):
            raise _Failed("bad_answer")
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise _Failed("bad_answer")
            headers[name.strip().lower()] = value.strip()
        status = int(code)
        if version == "HTTP/1.0":
            headers.setdefault("connection", "close")
        if 100 <= status < 200:
            return self.read()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return status, headers, self._chunks()
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 12:
            raise _Failed("bad_answer")
        if int(length) > MAX_ANSWER_BYTES:
            raise _Failed("too_large")
        return status, headers, self._exactly(int(length))

    def _chunks(self) -> bytes:
        body = b""
        while True:
            line = self._until(b"\r\n", 1024).partition(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError:
                raise _Failed("bad_answer") from None
            if size < 0 or len(body) + size > MAX_ANSWER_BYTES:
                raise _Failed("too_large")
            if size == 0:
                while self._until(b"\r\n", _MAX_HEAD_BYTES):
                    pass
                return body
            body += self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise _Failed("bad_answer")

    def _until(self, mark: bytes, most: int) -> bytes:
        while mark not in self._buffer:
            if len(self._buffer) > most:
                raise _Failed("bad_answer")
            self._more()
        part, _, self._buffer = self._buffer.partition(mark)
        return part

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        part, self._buffer = self._buffer[:count], self._buffer[count:]
        return part

    def _more(self) -> None:
        try:
            _set_deadline(self._connection, self._deadline)
            data = self._connection.recv(65_536)
        except TimeoutError:
            raise _Failed("timeout") from None
        except OSError:
            raise _Failed("unreachable", stale=not self._any) from None
        if not data:
            raise _Failed("unreachable", stale=not self._any)
        self._any = True
        self._buffer += data


def _set_deadline(connection: socket.socket, deadline: float) -> None:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    connection.settimeout(left_s)


def _seconds(text: str) -> float:
    """Of a Retry-After header; dates are taken as not said."""
    return min(float(text), 3600.0) if text.isascii() and text.isdigit() and len(text) < 8 else 0.0
