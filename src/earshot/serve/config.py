"""What a server can be told, checked before a socket is opened.

Frozen values only; reading files and opening sockets is for others.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, fields
from pathlib import Path

from earshot.core.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "ip6-localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one client, and all of them, may ask for.

    Args:
        max_streams: Live streams and uploads at once, all clients together.
        max_streams_per_client: The same for one client: a token, or an address without tokens.
        max_upload_bytes: Body of one request.
        max_audio_s: Sound of one upload after decoding, seconds.
        max_stream_s: Sound of one live stream, seconds.
        max_message_bytes: One message on a socket.
        max_silence_s: Seconds of sound without speech after which a live stream is ended.
        idle_timeout_s: Wall seconds without a message after which a live stream is ended.
        stall_timeout_s: Wall seconds that a client may leave its results unread.
        max_backlog_s: Sound that waits for decoding; with more, the socket is not read from.
        drain_timeout_s: Wall seconds that streams get to finish when the server is stopped.
    """

    max_streams: int = 512
    max_streams_per_client: int = 256
    max_upload_bytes: int = 100_000_000
    max_audio_s: float = 4 * 3600.0
    max_stream_s: float = 12 * 3600.0
    max_message_bytes: int = 16_777_216
    max_silence_s: float = 3600.0
    idle_timeout_s: float = 60.0
    stall_timeout_s: float = 30.0
    max_backlog_s: float = 5.0
    drain_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise ConfigError(f"serve.{item.name} is {value}; it must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """One server.

    Args:
        host: Address to listen on.
        http_port: Port of HTTP and WebSockets; 0 takes a free one, None leaves them out.
        wyoming_port: Port of Wyoming; 0 takes a free one, None leaves it out.
        token_file: One token a line; None lets everybody in who reaches the port.
        tls_cert: Certificate chain, PEM.
        tls_key: Its private key, PEM.
        local_only: Listen on loopback alone and let no connection out.
        allow_origins: Other web pages, such as `https://home.example`, that may use the server.
        allow_hosts: Names beside addresses and local names that it is reached by.
        zeroconf: Announce Wyoming on the network; None does so where it can be reached from there.
        name: What the server is called when it is announced.
        wyoming_endpointing: Answer Wyoming clients when the speaker has finished instead of when
            they say `audio-stop`.
        log_transcripts: Let what was said into the log.
        access_log: Log every request.
        limits: What clients may ask for.
    """

    host: str = "127.0.0.1"
    http_port: int | None = 8080
    wyoming_port: int | None = 10300
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    local_only: bool = False
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    zeroconf: bool | None = None
    name: str = "earshot"
    wyoming_endpointing: bool = False
    log_transcripts: bool = False
    access_log: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.http_port is None and self.wyoming_port is None:
            raise ConfigError("serve: both ports are switched off; leave one of them on")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError(
                "serve: one of --tls-cert and --tls-key is given; TLS needs both, leave out both "
                "or give the other one too"
            )
        if self.local_only and not self.is_loopback:
            raise ConfigError(
                f"serve.host is {self.host}, which other machines can reach; with --local-only it "
                "must be 127.0.0.1, ::1 or localhost. Leave out one of the two"
            )
        if self.zeroconf and (self.is_loopback or self.wyoming_port is None):
            raise ConfigError(
                f"serve: --zeroconf announces Wyoming to other machines, but it listens on "
                f"{self.host if self.wyoming_port is not None else 'no port'}; give --host "
                "0.0.0.0 and a --wyoming-port, or leave out --zeroconf"
            )
        for origin in self.allow_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise ConfigError(
                    f"serve.allow_origins has {origin!r}; an origin reads https://host[:port]"
                )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def announces(self) -> bool:
        """Whether Wyoming is announced on the network."""
        if self.zeroconf is not None:
            return self.zeroconf
        return self.wyoming_port is not None and not self.is_loopback


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own.

    Args:
        host: An address with or without brackets, or a name; names are not looked up.

    Returns:
        True for 127.0.0.0/8, ::1 and `localhost`.
    """
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
