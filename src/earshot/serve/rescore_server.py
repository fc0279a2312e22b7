"""The life of a rescoring server: opens a socket, serves, drains, ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable

import uvicorn

from earshot.core.errors import ConfigError
from earshot.decode.language import LanguageScorer
from earshot.decode.rescoring import RescoringConfig
from earshot.serve.logs import log
from earshot.serve.rescore_app import build_app
from earshot.serve.rescore_config import RescoreServeConfig
from earshot.serve.rescore_engine import RescoringEngine
from earshot.serve.tokens import Tokens

__all__ = ["RescoreServer"]


class RescoreServer:
    """Serves one language model.

    `run` blocks until SIGINT or SIGTERM; `start` and `stop` run it on a thread, for tests and for
    programs that do other things, too.

    Args:
        scorer: The language model.
        rescoring: Its weights.
        config: Where and for whom.

    Raises:
        ConfigError: The tokens cannot be read, or the address cannot be listened on.
    """

    def __init__(
        self, scorer: LanguageScorer, rescoring: RescoringConfig, config: RescoreServeConfig
    ) -> None:
        tokens = Tokens.read(config.token_file) if config.token_file is not None else None
        self.engine = RescoringEngine(scorer, rescoring, limits=config.limits, nbest=config.nbest)
        self._config = config
        try:
            self._socket = _listening(config)
            self._server = uvicorn.Server(
                uvicorn.Config(
                    build_app(self.engine, config, tokens),
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    lifespan="on",
                    timeout_graceful_shutdown=max(1, round(config.limits.drain_timeout_s)),
                    timeout_keep_alive=max(1, round(config.limits.idle_timeout_s)),
                    ws_max_size=config.limits.max_request_bytes,
                    ws="websockets-sansio",
                    ssl_certfile=config.tls_cert,
                    ssl_keyfile=config.tls_key,
                )
            )
        except BaseException:
            self.engine.stop(drain_timeout_s=0)
            raise
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base address."""
        host, port = self._socket.getsockname()[:2]
        scheme = "https" if self._config.tls_cert is not None else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def run(self, *, on_ready: Callable[[str], None] = lambda _: None) -> None:
        """Serve until told to stop by a signal.

        Args:
            on_ready: Called with the address once connections are taken.
        """
        on_ready(self.url)
        log("rescoring ready", address=self.url, model=self.engine.model)
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self.engine.stop(drain_timeout_s=0)

    def start(self) -> str:
        """Serve on a thread of its own; returns the address once connections are taken."""

        def serve() -> None:
            asyncio.run(self._server.serve(sockets=[self._socket]))

        self._thread = threading.Thread(target=serve, daemon=True, name="earshot-rescore-server")
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.01)
        return self.url

    def stop(self) -> None:
        """Finish what is there, and end."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(self._config.limits.drain_timeout_s + 10)
        self._socket.close()
        self.engine.stop(drain_timeout_s=0)

    def __enter__(self) -> RescoreServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listening(config: RescoreServeConfig) -> socket.socket:
    if config.tls_cert is not None and config.tls_key is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key)
        except (OSError, ssl.SSLError) as err:
            raise ConfigError(
                f"{config.tls_cert}: certificate or key cannot be used ({err}). Check both files."
            ) from None
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(1024)
    except OSError as err:
        listener.close()
        raise ConfigError(
            f"{config.host}:{config.port}: cannot be listened on ({err.strerror}). Take another "
            "--port or --host."
        ) from None
    return listener
