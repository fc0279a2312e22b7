"""One process that serves everything: opens sockets, starts, stops when told, in this order.

Knows the life of a server; the protocols are in modules of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from earshot.core.errors import ConfigError, MissingExtraError
from earshot.core.understanding import Understanding
from earshot.serve import local_only
from earshot.serve.config import ServeConfig
from earshot.serve.logs import log

BACKLOG = 1024  # connections that wait to be accepted
HEADERS_WITHIN_S = 15.0  # a connection that has sent no request by then is closed
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What is served.

    Args:
        recognizer: Hears.
        language: Such as "en".
        description: One line.
        created: When the file was written, seconds since 1970.
        commands: Names of the command templates.
        recognize: Finds the intent of a text; None without templates.
    """

    recognizer: Any
    language: str = "en"
    description: str = "Streaming speech recognition"
    created: int = 0
    commands: tuple[str, ...] = ()
    recognize: Callable[[str], Understanding] | None = None


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server can be reached.

    Args:
        http: Base address, or None.
        wyoming: Address, or None.
    """

    http: str | None
    wyoming: str | None


@dataclass(slots=True)
class Server:
    """Serves one model over all protocols.

    Args:
        model: What is served.
        config: How.
        on_ready: Called with the addresses once connections are taken.
    """

    model: ServedModel
    config: ServeConfig
    on_ready: Callable[[Addresses], None] | None = None
    addresses: Addresses = field(init=False, default=Addresses(None, None))
    _stop: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    async def run(self) -> None:
        """Serve until `stop` is called or a signal comes; then finish what was said.

        Raises:
            ConfigError: A port is taken, or a file of the configuration cannot be used.
            MissingExtraError: A package of the extra [serve] is missing.
        """
        with missing_packages():
            from earshot.serve.app import Served, make_app
            from earshot.serve.engine import Engine
            from earshot.serve.metrics import Metrics
            from earshot.serve.wyoming import WyomingServer, WyomingService
        config = self.config
        tokens = _tokens(config)
        tls = _tls(config)
        http, wyoming = self._open_sockets(is_tls=tls is not None)
        try:
            if config.local_only:
                log("locked", by=local_only.lock())
            engine = Engine(self.model.recognizer, limits=config.limits, metrics=Metrics())
            engine.start()
            served = Served(
                engine=engine,
                config=config,
                language=self.model.language,
                description=self.model.description,
                commands=self.model.commands,
                created=self.model.created,
            )
            stopped = asyncio.create_task(self._stop.wait())
            tasks: list[asyncio.Task[Any]] = [stopped]
            web, wyoming_server, announcement = None, None, None
            if http is not None:
                web = _web_server(make_app(served, tokens=tokens), config, tls)
                tasks.append(asyncio.create_task(web.serve(sockets=[http])))
            if wyoming is not None:
                service = WyomingService(
                    engine=engine,
                    language=self.model.language,
                    description=self.model.description,
                    recognize=self.model.recognize,
                    endpointing=config.wyoming_endpointing,
                )
                wyoming_server = WyomingServer(service)
                await wyoming_server.start(wyoming)
                if config.announces:
                    announcement = await _announce(config, wyoming.getsockname()[1])
            while web is not None and not web.started and not tasks[-1].done():
                await asyncio.sleep(0.01)
            self._said_ready(tokens)
            with _signals(self._stop):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            log("stopping", streams=engine.num_sessions)
            if announcement is not None:
                await announcement()
            if wyoming_server is not None:
                wyoming_server.stop_listening()
            await engine.drain()
            if wyoming_server is not None:
                await wyoming_server.stop()
            if web is not None:
                web.should_exit = True
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        asyncio.gather(*tasks[1:], return_exceptions=True),
                        config.limits.drain_timeout_s,
                    )
            await engine.stop()
            stopped.cancel()
            log("stopped")
        finally:
            for opened in (http, wyoming):
                if opened is not None:
                    opened.close()

    def stop(self) -> None:
        """End `run`; call it in the event loop."""
        self._stop.set()

    def _open_sockets(self, *, is_tls: bool) -> tuple[socket.socket | None, socket.socket | None]:
        config = self.config
        http = wyoming = None
        try:
            if config.http_port is not None:
                http = _listen(config.host, config.http_port, option="--http-port")
            if config.wyoming_port is not None:
                wyoming = _listen(config.host, config.wyoming_port, option="--wyoming-port")
        except ConfigError:
            if http is not None:
                http.close()
            raise
        self.addresses = Addresses(
            None if http is None else f"http{'s' * is_tls}://{_address(config.host, http)}",
            None if wyoming is None else f"tcp://{_address(config.host, wyoming)}",
        )
        return http, wyoming

    def _said_ready(self, tokens: Any) -> None:
        config = self.config
        if not config.is_loopback:
            if tokens is None and config.http_port is not None:
                log("everybody who reaches the port may use it: give --token-file",
                    level=logging.WARNING)  # fmt: skip
            if config.tls_cert is None and config.http_port is not None:
                log("sound travels unencrypted: give --tls-cert and --tls-key",
                    level=logging.WARNING)  # fmt: skip
            if config.wyoming_port is not None:
                log("Wyoming has neither tokens nor encryption: keep its port in a network that "
                    "you trust", level=logging.WARNING)  # fmt: skip
        if tokens is not None and tokens.num_short:
            log("tokens are shorter than 16 characters", level=logging.WARNING,
                count=tokens.num_short)  # fmt: skip
        log(
            "ready",
            http=self.addresses.http,
            wyoming=self.addresses.wyoming,
            model=self.model.recognizer.name,
        )
        if self.on_ready is not None:
            self.on_ready(self.addresses)


def check_installed() -> None:
    """Find out whether the packages of [serve] are there, before a model is loaded.

    Raises:
        MissingExtraError: One is missing.
    """
    with missing_packages():
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401


@contextlib.contextmanager
def missing_packages() -> Any:
    """Name the extra where a package of it is missing.

    Raises:
        MissingExtraError: One is.
    """
    try:
        yield
    except ModuleNotFoundError as err:
        name = (err.name or "").partition(".")[0]
        if name == "earshot" or not name:
            raise
        raise MissingExtraError("earshot serve", package=name, extra="serve") from None


def _tokens(config: ServeConfig) -> Any:
    from earshot.serve.tokens import Tokens

    return None if config.token_file is None else Tokens.read(config.token_file)


def _tls(config: ServeConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as err:
        raise ConfigError(
            f"{config.tls_cert}, {config.tls_key}: they cannot be used for TLS "
            f"({err.strerror or err}). Give a PEM certificate and the private key that belongs "
            "to it."
        ) from None
    return context


def _listen(host: str, port: int, *, option: str) -> socket.socket:
    name = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as err:
        raise ConfigError(
            f"--host {host}: it is no address of this machine ({err.strerror}). Give one such as "
            "127.0.0.1 or 0.0.0.0."
        ) from None
    except OverflowError:
        raise ConfigError(f"{option} {port}: a port lies in 0..65535.") from None
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError as err:
        opened.close()
        raise ConfigError(
            f"{option} {port}: {host} cannot be listened on ({err.strerror}). Choose another "
            "port or host, or stop what uses it."
        ) from None
    return opened


def _address(host: str, opened: socket.socket) -> str:
    name = host.strip("[]")
    return (
        f"[{name}]:{opened.getsockname()[1]}"
        if ":" in name
        else (f"{name}:{opened.getsockname()[1]}")
    )


def _web_server(app: Any, config: ServeConfig, tls: ssl.SSLContext | None) -> Any:
    """uvicorn, set up for strangers: nothing is believed of proxies, nothing said of itself."""
    import uvicorn

    settings = uvicorn.Config(
        app,
        http=_http_protocol(),
        ws="websockets-sansio",
        ws_max_size=config.limits.max_message_bytes,
        ws_per_message_deflate=False,  # a few bytes must not become many
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=round(max(1.0, config.limits.drain_timeout_s)),
        limit_concurrency=2 * config.limits.max_streams + 100,
        backlog=BACKLOG,
    )
    settings.load()
    if tls is not None:
        settings.ssl = tls
    server = uvicorn.Server(settings)
    # Signals are ours: uvicorn would close connections before they are finished.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    return server


def _http_protocol() -> Any:
    """The HTTP protocol, with a limit on how long a client takes to ask."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.asking = self.loop.call_later(HEADERS_WITHIN_S, self._give_up)

        def _give_up(self) -> None:
            # A WebSocket has taken the transport over; a request makes a cycle.
            is_ours = self.transport.get_protocol() is self
            if is_ours and getattr(self, "cycle", None) is None:
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self.asking.cancel()
            super().connection_lost(exc)

    return PatientProtocol


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Any:
    loop = asyncio.get_running_loop()
    caught = []
    for number in STOP_SIGNALS:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
            caught.append(number)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


async def _announce(config: ServeConfig, port: int) -> Callable[[], Any]:
    """Tell the network about Wyoming (mDNS), so that Home Assistant finds it by itself."""
    try:
        import ifaddr
        from zeroconf import IPVersion, NonUniqueNameException
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
    except ModuleNotFoundError:
        raise MissingExtraError("--zeroconf", package="zeroconf", extra="serve") from None
    name = config.host.strip("[]")
    addresses = [name]
    if name in ("0.0.0.0", "::"):
        own = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
        addresses = [str(ip) for ip in own if not str(ip).startswith("127.")]
    zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
    kind = "_wyoming._tcp.local."
    info = AsyncServiceInfo(kind, f"{config.name}.{kind}", parsed_addresses=addresses, port=port)
    try:
        await zeroconf.async_register_service(info, allow_name_change=True)
    except (OSError, NonUniqueNameException) as err:
        log("not announced", level=logging.WARNING, error=str(err))
    else:
        log("announced", name=info.name, addresses=addresses)

    async def withdraw() -> None:
        await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()

    return withdraw


def served_model(
    path: Path, recognizer: Any, *, commands: tuple[str, ...], recognize: Any
) -> ServedModel:
    """What is said of a model to clients, from its file.

    Args:
        path: The `.ear` file.
        recognizer: From it.
        commands: Names of the command templates.
        recognize: Finds the intent of a text, or None.

    Returns:
        The model as it is served.
    """
    from earshot.modelfile.reader import ModelFile

    metadata: Any = ModelFile(path).header.get("metadata") or {}
    language = str(metadata.get("language") or "en")
    description = str(metadata.get("description") or "Streaming speech recognition")
    try:
        created = int(path.stat().st_mtime)
    except OSError:
        created = int(time.time())
    return ServedModel(
        recognizer=recognizer,
        language=language,
        description=description,
        created=created,
        commands=commands,
        recognize=recognize,
    )
