"""The rescoring service on many machines: replicas of the same application under Ray Serve.

Each replica loads the language model itself and batches what reaches it; Ray's proxies spread
requests over those that live and replace those that die. Knows nothing of how a cluster is made:
`ray.init` or `ray start` is for whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from earshot.core.errors import ConfigError, MissingExtraError
from earshot.decode.language import LanguageScorer
from earshot.decode.rescoring import RescoringConfig
from earshot.serve.access import App
from earshot.serve.rescore_app import build_app
from earshot.serve.rescore_config import RescoreServeConfig
from earshot.serve.rescore_engine import RescoringEngine
from earshot.serve.tokens import Tokens

__all__ = ["APPLICATION", "cluster_application", "run_cluster", "stop_cluster"]

APPLICATION = "earshot-rescoring"

Load = Callable[[], tuple[LanguageScorer, RescoringConfig]]


def cluster_application(
    load: Load, config: RescoreServeConfig, *, replicas: int = 2, cpus: float = 1.0
) -> Any:
    """A Ray Serve application; deploy it with `ray.serve.run`, or `run_cluster`.

    Args:
        load: Called in every replica: the language model and its weights. It is sent there
            pickled, and so are the paths in it: files must be where every machine finds them.
        config: Limits, names and tokens; address and TLS are those of Ray's proxies.
        replicas: How many, 1..1000.
        cpus: What Ray reserves for each.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: `replicas` is out of its range.
    """
    serve = _ray_serve()
    if not 1 <= replicas <= 1000:
        raise ConfigError(f"rescore: {replicas} replicas are asked for; it must be 1..1000.")
    # Read here: a wrong file is told before anything is deployed, and replicas need not have it.
    tokens = Tokens.read(config.token_file) if config.token_file is not None else None

    def build() -> App:
        scorer, rescoring = load()
        engine = RescoringEngine(scorer, rescoring, limits=config.limits, nbest=config.nbest)
        return build_app(engine, config, tokens)

    @serve.deployment(
        name="Rescoring",
        num_replicas=replicas,
        # The engine's own queue refuses, and says when to come back; Ray's must not come first.
        max_ongoing_requests=2 * (config.limits.max_queue + config.limits.max_batch),
        ray_actor_options={"num_cpus": cpus},
        graceful_shutdown_timeout_s=config.limits.drain_timeout_s,
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
    )
    @serve.ingress(build)
    class Rescoring:
        """Holds the application in a replica."""

    deployment: Any = Rescoring
    return deployment.bind()


def run_cluster(
    load: Load, config: RescoreServeConfig, *, replicas: int = 2, cpus: float = 1.0
) -> None:
    """Deploy on the cluster that `ray.init` has joined, and listen at the configured address.

    Args:
        load: As in `cluster_application`.
        config: Likewise, with the address of the proxies.
        replicas: How many.
        cpus: What Ray reserves for each.
    """
    serve = _ray_serve()
    application = cluster_application(load, config, replicas=replicas, cpus=cpus)
    serve.start(http_options={"host": config.host, "port": config.port})
    serve.run(application, name=APPLICATION, route_prefix="/", blocking=False)


def stop_cluster() -> None:
    """Take the application off the cluster; what is there is finished."""
    _ray_serve().shutdown()


def _ray_serve() -> Any:
    try:
        from ray import serve
    except ModuleNotFoundError:
        raise MissingExtraError(
            "replicas of the rescoring service", package="ray", extra="cluster"
        ) from None
    return serve
