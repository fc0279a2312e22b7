"""Two replicas under Ray Serve on this machine, one of them killed while clients ask."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="replicas need the extra [cluster]")
pytest.importorskip("ray.serve", reason="replicas need the extra [cluster]", exc_type=ImportError)
pytest.importorskip("prometheus_client", reason="the server needs the extra [serve]")

DECODE_TESTS = str(Path(__file__).resolve().parents[1] / "decode")
sys.path.insert(0, DECODE_TESTS)

from lattices import make

from earshot.core.errors import ConfigError
from earshot.decode.rescoring import RescoringConfig
from earshot.decode.rescoring_client import ClientConfig, RescoringClient
from earshot.serve.rescore_cluster import cluster_application, run_cluster, stop_cluster
from earshot.serve.rescore_config import RescoreLimits, RescoreServeConfig

pytestmark = [
    pytest.mark.slow,
    # Ray leaves files and processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

LATTICE = make(
    [(0, 1, "turn", 0, 5, -1.0, 0.0), (0, 1, "torn", 0, 5, -1.3, 0.0),
     (1, 2, "on", 5, 8, -0.5, 0.0), (1, 2, "and", 5, 8, -0.4, 0.0)]
)  # fmt: skip


def load() -> Any:
    import sys

    sys.path.insert(0, DECODE_TESTS)
    from scorers import HashScorer

    return HashScorer(), RescoringConfig(language=0.5)


def replicas() -> list[int]:
    """Processes of this session's replicas: Ray names them after what they run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            title = (entry / "cmdline").read_bytes()
            if title.startswith(b"ray::ServeReplica:earshot-rescoring"):
                found.append(int(entry.name))
    return found


# Ray gives its processes 5 s to come up, which a busy machine does not manage.
PATIENCE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_AUTH_MODE": "disabled",  # on this machine only, and gone after the test
    "RAY_USAGE_STATS_ENABLED": "0",
}


@pytest.fixture(scope="module")
def patient() -> Iterator[None]:
    from ray.serve._private import api

    before = {name: os.environ.get(name) for name in PATIENCE}
    os.environ.update(PATIENCE)
    with pytest.MonkeyPatch.context() as patch:
        # What `serve.start` waits for proxies; there is no setting for it.
        patch.setattr(api, "HTTP_PROXY_TIMEOUT", 300, raising=False)
        yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def cluster(patient: None) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        ray.init(
            num_cpus=2,
            object_store_memory=80_000_000,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([*sys.path, DECODE_TESTS])}},
        )
        try:
            config = RescoreServeConfig(port=port, limits=RescoreLimits(drain_timeout_s=1.0))
            run_cluster(load, config, replicas=2, cpus=0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop_cluster()
            ray.shutdown()


def test_one_of_two_replicas_is_killed_and_every_lattice_is_answered(cluster: str) -> None:
    config = ClientConfig(deadline_ms=20_000, failures=1000)
    with RescoringClient(cluster, config=config) as client:
        assert client.rescore(LATTICE).note.status == "rescored"
        before = replicas()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        notes = [client.rescore(LATTICE).note for _ in range(40)]
        # Who was being answered by the killed one keeps the first pass; nobody is left without.
        kept = [note.reason for note in notes if note.status == "kept"]
        assert len(kept) <= 2, kept
        deadline = time.monotonic() + 300
        while len(replicas()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert before[0] not in replicas()
        assert client.rescore(LATTICE).note.status == "rescored"


def test_what_cannot_be_deployed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 replicas"):
        cluster_application(load, RescoreServeConfig(), replicas=0)
    with pytest.raises(ConfigError, match="token file"):
        cluster_application(load, RescoreServeConfig(token_file=tmp_path / "none"))
