"""What the server counts, for Prometheus. Knows names and buckets; knows nothing of protocols."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from earshot.core.events import (
    Event,
    Final,
    Partial,
    SpeculationCancelled,
    SpeculativeEndpoint,
    SpeechStarted,
    StreamError,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_DELAY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_ROUND_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_NAMES = {
    SpeechStarted: "speech_started",
    Partial: "partial",
    SpeculativeEndpoint: "speculative_endpoint",
    SpeculationCancelled: "speculation_cancelled",
    Final: "final",
    StreamError: "error",
}


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        # They are a second series for every counter, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._open = Gauge(
            "earshot_streams_open", "Streams and uploads now.", ["protocol"], registry=registry
        )
        self._opened = Counter(
            "earshot_streams", "Streams and uploads ever.", ["protocol"], registry=registry
        )
        self._audio = Counter(
            "earshot_audio_seconds", "Sound of closed streams.", ["protocol"], registry=registry
        )
        self._refused = Counter(
            "earshot_refused", "Requests and streams turned away.", ["reason"], registry=registry
        )
        self._events = Counter("earshot_events", "Events sent.", ["type"], registry=registry)
        self._speculations = Counter(
            "earshot_speculations",
            "Speculative end-points by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._delay = Histogram(
            "earshot_decode_delay_seconds",
            "From the arrival of sound to the end of its decoding.",
            buckets=_DELAY_BUCKETS_S,
            registry=registry,
        )
        self._round_s = Histogram(
            "earshot_round_seconds",
            "Computing time of a batch.",
            buckets=_DELAY_BUCKETS_S,
            registry=registry,
        )
        self._round_streams = Histogram(
            "earshot_round_streams",
            "Streams in a batch.",
            buckets=_ROUND_BUCKETS,
            registry=registry,
        )

    def opened(self, protocol: str) -> None:
        """A stream was opened."""
        self._open.labels(protocol).inc()
        self._opened.labels(protocol).inc()

    def closed(self, protocol: str, audio_s: float) -> None:
        """A stream was closed."""
        self._open.labels(protocol).dec()
        self._audio.labels(protocol).inc(audio_s)

    def refused(self, reason: str) -> None:
        """Somebody was turned away."""
        self._refused.labels(reason).inc()

    def saw(self, event: Event) -> None:
        """An event was found."""
        self._events.labels(_NAMES[type(event)]).inc()
        if isinstance(event, SpeculationCancelled):
            self._speculations.labels(event.reason).inc()
        elif isinstance(event, SpeculativeEndpoint):
            self._speculations.labels("made").inc()
        elif isinstance(event, Final) and event.spec_id is not None:
            self._speculations.labels("matched" if event.matched else "mismatched").inc()

    def round(self, num_streams: int, took_s: float, delays_s: Sequence[float]) -> None:
        """A batch was decoded."""
        self._round_streams.observe(num_streams)
        self._round_s.observe(took_s)
        for delay_s in delays_s:
            self._delay.observe(delay_s)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
