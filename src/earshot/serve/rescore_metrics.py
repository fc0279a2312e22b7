"""What a rescoring server counts, for Prometheus. Knows nothing of protocols."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "RescoreMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
_ARCS = (1, 10, 30, 100, 300, 1000, 3000, 10_000)


class RescoreMetrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._rescored = Counter(
            "earshot_rescored", "Lattices that were rescored.", registry=registry
        )
        self._refused = Counter(
            "earshot_rescore_refused", "Lattices that were not.", ["reason"], registry=registry
        )
        self._waiting = Gauge(
            "earshot_rescore_waiting", "Lattices that wait or are rescored.", registry=registry
        )
        self._bytes = Counter(
            "earshot_rescore_received_bytes", "Bytes of requests.", registry=registry
        )
        self._seconds = Histogram(
            "earshot_rescore_seconds",
            "From arrival to answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._arcs = Histogram(
            "earshot_rescore_arcs", "Arcs of a lattice.", buckets=_ARCS, registry=registry
        )
        self._step_s = Histogram(
            "earshot_rescore_step_seconds",
            "Computing time of a step of the batch.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "earshot_rescore_batch", "Lattices in a step.", buckets=_COUNTS, registry=registry
        )

    def received(self, num_bytes: int) -> None:
        """A request came in."""
        self._bytes.inc(num_bytes)

    def rescored(self, num_arcs: int, took_s: float) -> None:
        """A lattice was rescored."""
        self._rescored.inc()
        self._arcs.observe(num_arcs)
        self._seconds.observe(took_s)

    def refused(self, reason: str) -> None:
        """A lattice was not rescored."""
        self._refused.labels(reason).inc()

    def waiting(self, count: int) -> None:
        """So many wait or are being rescored now."""
        self._waiting.set(count)

    def step(self, count: int, took_s: float) -> None:
        """A step of so many lattices was computed."""
        self._batch.observe(count)
        self._step_s.observe(took_s)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
