"""Numbers for Prometheus, of one application."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What an application counts.

    Attributes:
        requests: By route, method and status.
        latency: Seconds until the last byte, by route.
        batches: Rows that the model has read at once.
        tokens: Read ("prompt") and generated ("completion").
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "propulsion_requests", "Requests answered", ["route", "method", "status"], registry=self._registry
        )
        self.latency = Histogram(
            "propulsion_request_seconds", "Time of a request", ["route"], buckets=SECONDS, registry=self._registry
        )
        self.batches = Histogram(
            "propulsion_batch_rows", "Rows that the model reads at once", buckets=SIZES, registry=self._registry
        )
        self.tokens = Counter("propulsion_tokens", "Tokens read and generated", ["kind"], registry=self._registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is looked up when it is asked for."""
        Gauge(f"propulsion_{name}", text, registry=self._registry).set_function(value)

    def samples(self) -> Iterator[tuple[str, str, Mapping[str, str], float]]:
        """Each number as it is now: its name, what it is, its labels, its value."""
        for family in self._registry.collect():
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    yield sample.name, family.documentation, sample.labels, sample.value

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return generate_latest(self._registry)
