"""The router's metrics: hands out cheap recorders, and exports them through prometheus-client in its own registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from kvroute.router.control import catalogue as c
from kvroute.router.control.contract import ReplicaStatus
from kvroute.router.control.histogram import Histogram
from kvroute.router.control.series import RequestSeries, RouterSeries

STATES = ("joining", "ready", "draining", "ejected", "gone")
OVERFLOW = ("_other", "_other")

_COUNTERS: tuple[tuple[c.Metric, Callable[[RequestSeries], float]], ...] = (
    (c.RETRIES, attrgetter("retries")),
    (c.PROMPT, attrgetter("prompt_tokens")),
    (c.PREDICTED_CACHED, attrgetter("predicted_cached_tokens")),
    (c.BEST_CACHED, attrgetter("best_cached_tokens")),
    (c.REGRET, lambda series: max(0, series.best_cached_tokens - series.predicted_cached_tokens)),
    (c.REPORTED_PROMPT, attrgetter("reported_prompt_tokens")),
    (c.REPORTED_CACHED, attrgetter("reported_cached_tokens")),
)
_HISTOGRAMS: tuple[tuple[c.Metric, Callable[[RequestSeries], Histogram]], ...] = (
    (c.TTFT, attrgetter("ttft")),
    (c.PREDICTED_TTFT, attrgetter("predicted_ttft")),
    (c.TTFT_ERROR, attrgetter("ttft_error")),
    (c.INTER_CHUNK, attrgetter("inter_chunk")),
    (c.TOTAL, attrgetter("total")),
)
_GAUGES: tuple[tuple[c.Metric, Callable[[ReplicaStatus], float | None]], ...] = (
    (c.REPLICA_REQUESTS, attrgetter("requests")),
    (c.REPLICA_DECODING, attrgetter("decoding")),
    (c.REPLICA_QUEUED, attrgetter("queued_tokens")),
    (c.REPLICA_QUEUE_SECONDS, attrgetter("queue_seconds")),
    (c.REPLICA_BUSY, attrgetter("busy")),
    (c.REPLICA_RATE, attrgetter("tokens_per_second")),
    (c.REPLICA_STEP, attrgetter("step_seconds")),
    (c.REPLICA_CACHED, attrgetter("cached_tokens")),
    (c.REPLICA_CAPACITY, attrgetter("capacity_tokens")),
)


class Metrics(Collector):
    """All counts of one router. Only its event loop may touch it."""

    def __init__(self, version: str = "", policy: str = "", *, max_series: int = 4096) -> None:
        """`max_series` bounds the pairs of model and replica; what comes beyond is counted together as `_other`."""
        self._info = (version, policy)
        self._max_series = max_series
        self._requests: dict[tuple[str, str], RequestSeries] = {}
        self._ejections: dict[str, int] = {}
        self._restarts: dict[str, int] = {}
        self._plugin_failures: dict[str, int] = {}
        self.router = RouterSeries()
        self.replicas: Callable[[], Iterable[ReplicaStatus]] = tuple
        """Asked at each scrape for the gauges per replica."""
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def request(self, model: str, replica: str) -> RequestSeries:
        """The recorder of one model at one replica: resolve once and keep. Use "" where there is none.

        Pass only models that are served: a name a client made up would become a label.
        """
        key = (model, replica)
        series = self._requests.get(key)
        if series is None:
            if len(self._requests) >= self._max_series:
                key = OVERFLOW
            series = self._requests.setdefault(key, RequestSeries())
        return series

    def forget(self, replica: str) -> None:
        """Drop a gone replica's series. Recorders still held count on, unseen."""
        for key in [key for key in self._requests if key[1] == replica]:
            del self._requests[key]
        self._ejections.pop(replica, None)
        self._restarts.pop(replica, None)

    def ejected(self, replica: str) -> None:
        self._ejections[replica] = self._ejections.get(replica, 0) + 1

    def restarted(self, replica: str) -> None:
        self._restarts[replica] = self._restarts.get(replica, 0) + 1

    def plugin_failed(self, plugin: str) -> None:
        self._plugin_failures[plugin] = self._plugin_failures.get(plugin, 0) + 1

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The page, and its content type, in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Family]:
        """Called by prometheus-client for each page."""
        yield _gauge(c.INFO, [(self._info, 1.0)])
        yield from self._collect_requests()
        yield _histogram(c.DECISION, [((), self.router.decision)])
        yield _histogram(c.LOOP_LAG, [((), self.router.loop_lag)])
        yield _counter(c.EJECTIONS, (((name,), count) for name, count in self._ejections.items()))
        yield _counter(c.RESTARTS, (((name,), count) for name, count in self._restarts.items()))
        yield _counter(c.PLUGIN_FAILURES, (((name,), count) for name, count in self._plugin_failures.items()))
        yield from _collect_replicas(list(self.replicas()))

    def _collect_requests(self) -> Iterator[Family]:
        items = list(self._requests.items())
        yield _counter(
            c.REQUESTS,
            (
                ((outcome, *key), getattr(series, outcome))
                for key, series in items
                for outcome in ("completed", "failed", "aborted")
            ),
        )
        yield _gauge(c.IN_FLIGHT, ((key, series.in_flight) for key, series in items))
        for metric, count in _COUNTERS:
            yield _counter(metric, ((key, count(series)) for key, series in items))
        for metric, histogram in _HISTOGRAMS:
            yield _histogram(metric, ((key, histogram(series)) for key, series in items))


def _collect_replicas(replicas: list[ReplicaStatus]) -> Iterator[Family]:
    yield _gauge(
        c.REPLICA_STATE,
        (((replica.name, state), float(replica.state == state)) for replica in replicas for state in STATES),
    )
    for metric, value in _GAUGES:
        known = ((replica.name, value(replica)) for replica in replicas)
        yield _gauge(metric, (((name,), number) for name, number in known if number is not None))


def _counter(metric: c.Metric, samples: Iterable[tuple[tuple[str, ...], float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _gauge(metric: c.Metric, samples: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _histogram(metric: c.Metric, samples: Iterable[tuple[tuple[str, ...], Histogram]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, histogram in samples:
        bounds = [*map(str, histogram.bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, map(float, histogram.cumulative()), strict=True)), histogram.total)
    return family
