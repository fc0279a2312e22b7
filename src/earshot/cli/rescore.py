"""`earshot serve rescore`: a language model that ranks lattices for devices.

Turns options into a configuration and loads what is served; knows nothing of protocols. Imports
the torch wing only for `--hf`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earshot.cli.console import note, reported, say, usage_error
from earshot.cli.serve import (
    AllowHostOption,
    HostOption,
    TlsCertOption,
    TlsKeyOption,
    TokenFileOption,
)

if TYPE_CHECKING:
    from earshot.decode.language import LanguageScorer
    from earshot.decode.rescoring import RescoringConfig


def rescore(
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", help="Language model in a .ear file, see recipes/rescoring-lm.toml."
        ),
    ] = None,
    hf: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Instead: a causal language model in Hugging Face format, read from disk; needs "
            "the extra 'rescore'.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the --hf model computes.")] = "cpu",
    weight: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=10.0, help="Weight of the language model; default: the model's own."
        ),
    ] = None,
    word_bonus: Annotated[
        float | None,
        typer.Option(min=-10.0, max=10.0, help="Nats for every word; default: the model's own."),
    ] = None,
    risk: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=10.0,
            help="Scale of the scores when the reading with the fewest expected word errors is "
            "chosen; 0 chooses that with the highest score; default: the model's own.",
        ),
    ] = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8090,
    token_file: TokenFileOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    allow_host: AllowHostOption = None,
    nbest: Annotated[
        int, typer.Option(min=1, max=100, help="Hypotheses for who does not say how many.")
    ] = 10,
    max_queue: Annotated[int, typer.Option(min=1, help="Lattices that may wait.")] = 256,
    max_batch: Annotated[int, typer.Option(min=1, help="Lattices that are rescored at once.")] = 16,
    max_per_client: Annotated[
        int, typer.Option(min=1, help="Lattices of one token, or one address, at once.")
    ] = 64,
    max_request_kb: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Largest request, kB.")
    ] = 262,
    max_wait_s: Annotated[
        float, typer.Option(min=0.01, help="Seconds after which a lattice is given up.")
    ] = 5,
    drain_timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Time that requests get to finish when stopped.")
    ] = 10,
    replicas: Annotated[
        int, typer.Option(min=0, help="So many under Ray Serve (extra 'cluster'); 0: this process.")
    ] = 0,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The Ray cluster to join with --replicas, such as auto; default: a local one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Rank lattices with a language model, over HTTP and WebSocket, until stopped.

    Devices send lattices, never sound: `earshot transcribe --rescorer URL` is one of them.
    """
    if (model is None) == (hf is None):
        raise usage_error(
            "serve rescore: needs --model or --hf, one of the two. "
            "See `earshot serve rescore --help`."
        )
    if cluster is not None and not replicas:
        raise usage_error("--cluster: needs --replicas, which run there.")
    if replicas and tls_cert is not None:
        raise usage_error("--tls-cert: Ray's proxies speak plain HTTP; put TLS in front of them.")
    with reported():
        from earshot.core.errors import MissingExtraError
        from earshot.serve.rescore_config import RescoreLimits, RescoreServeConfig

        config = RescoreServeConfig(
            host=host,
            port=port,
            token_file=token_file,
            tls_cert=tls_cert,
            tls_key=tls_key,
            allow_hosts=tuple(allow_host or ()),
            nbest=nbest,
            limits=RescoreLimits(
                max_queue=max_queue,
                max_batch=max_batch,
                max_per_client=max_per_client,
                max_request_bytes=round(1000 * max_request_kb),
                max_wait_s=max_wait_s,
                drain_timeout_s=drain_timeout_s,
            ),
        )
        loader = _Loader(model, hf, device, {"language": weight, "word": word_bonus, "risk": risk})
        try:
            from earshot.serve import logs
            from earshot.serve.rescore_server import RescoreServer
        except ModuleNotFoundError as err:
            if err.name is None or err.name.startswith("earshot"):
                raise
            raise MissingExtraError(
                "earshot serve rescore", package=err.name.partition(".")[0], extra="serve"
            ) from None
        logs.configure(keep_transcripts=False)
        if token_file is None and not config.is_loopback:
            note(
                f"warning: whoever reaches {host}:{port} may use this server; "
                "--token-file keeps others out"
            )
        if replicas:
            _run_replicas(loader, config, replicas=replicas, address=cluster)
            return
        scorer, rescoring = loader()
        server = RescoreServer(scorer, rescoring, config)
        server.run(on_ready=lambda url: say(f"rescoring with {scorer.name} at {url}"))


class _Loader:
    """Loads the language model: here, or pickled in a replica."""

    def __init__(
        self,
        model: Path | None,
        hf: Path | None,
        device: str,
        overrides: Mapping[str, float | None],
    ) -> None:
        self._model = None if model is None else model.resolve()
        self._hf = None if hf is None else hf.resolve()
        self._device = device
        self._overrides: dict[str, Any] = {
            name: value for name, value in overrides.items() if value is not None
        }

    def __call__(self) -> tuple[LanguageScorer, RescoringConfig]:
        from earshot.decode.rescoring import RescoringConfig, stored_config

        config = RescoringConfig()
        scorer: LanguageScorer
        if self._hf is not None:
            from earshot.models.hugging_face import HuggingFaceScorer  # torch, only when asked for

            scorer = HuggingFaceScorer(self._hf, device=self._device)
        else:
            from earshot.decode.language import EarScorer

            assert self._model is not None
            scorer = EarScorer(self._model)
            config = stored_config(self._model) or config
        return scorer, replace(config, **self._overrides)


def _run_replicas(loader: _Loader, config: object, *, replicas: int, address: str | None) -> None:
    import signal
    import threading

    from earshot.core.errors import MissingExtraError
    from earshot.serve.rescore_cluster import run_cluster, stop_cluster
    from earshot.serve.rescore_config import RescoreServeConfig

    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError(
            "replicas of the rescoring service", package="ray", extra="cluster"
        ) from None
    assert isinstance(config, RescoreServeConfig)
    loader()  # a model that cannot be used is told here, and not in the log of a replica
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    ray.init(address=address, include_dashboard=False, log_to_driver=False)
    try:
        run_cluster(loader, config, replicas=replicas)
        say(f"rescoring with {replicas} replicas at http://{config.host}:{config.port}")
        stopped.wait()
    finally:
        stop_cluster()
        ray.shutdown()
