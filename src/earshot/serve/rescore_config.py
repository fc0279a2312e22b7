"""What a rescoring server can be told, checked before a socket is opened."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from earshot.core.errors import ConfigError
from earshot.decode.rescoring_wire import MAX_REQUEST_BYTES
from earshot.serve.config import is_loopback

__all__ = ["RescoreLimits", "RescoreServeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreLimits:
    """How much one client, and all of them, may ask for.

    Args:
        max_request_bytes: Body of one request, or one message on a socket.
        max_arcs: Arcs of one lattice.
        max_queue: Lattices that wait, all clients together; with more, clients are told to come
            back.
        max_batch: Lattices that are rescored at once.
        max_per_client: Lattices that wait or are rescored for one token, or one address without
            tokens.
        max_wait_s: Seconds after which a lattice is given up, whatever its client says.
        max_body_s: Seconds that a client may take to send a request.
        idle_timeout_s: Seconds without a message after which a socket is closed.
        drain_timeout_s: Seconds that requests get to finish when the server is stopped.
    """

    max_request_bytes: int = 262_144
    max_arcs: int = 20_000
    max_queue: int = 256
    max_batch: int = 16
    max_per_client: int = 64
    max_wait_s: float = 5.0
    max_body_s: float = 5.0
    idle_timeout_s: float = 60.0
    drain_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise ConfigError(f"rescore.{item.name} is {value}; it must be positive")
        if self.max_request_bytes > MAX_REQUEST_BYTES:
            raise ConfigError(
                f"rescore.max_request_bytes is {self.max_request_bytes}; the wire format allows "
                f"{MAX_REQUEST_BYTES} at most"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreServeConfig:
    """One rescoring server.

    Args:
        host: Address to listen on.
        port: 0 takes a free one.
        token_file: One token a line; None lets everybody in who reaches the port.
        tls_cert: Certificate chain, PEM.
        tls_key: Its private key, PEM.
        allow_hosts: Names beside addresses and local names that it is reached by.
        nbest: Hypotheses that a request gets that does not say how many.
        limits: What clients may ask for.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    nbest: int = 10
    limits: RescoreLimits = field(default_factory=RescoreLimits)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError(
                "rescore: one of --tls-cert and --tls-key is given; TLS needs both, leave out "
                "both or give the other one too"
            )
        if not 1 <= self.nbest <= 100:
            raise ConfigError(f"rescore.nbest is {self.nbest}; it must lie in 1..100")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)
