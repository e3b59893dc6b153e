"""The router's metrics: hands out cheap recorders, and writes what they hold as a Prometheus page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from kvroute.router.control import catalogue as c
from kvroute.router.control.contract import ReplicaStatus
from kvroute.router.control.exposition import write_histograms, write_numbers
from kvroute.router.control.histogram import Histogram
from kvroute.router.control.knowledge import Knowledge
from kvroute.router.control.knowledge_page import knowledge_pieces
from kvroute.router.control.series import LineCounts, RequestSeries, RouterSeries
from kvroute.router.dataplane.counters import Counters

STATES = ("joining", "ready", "draining", "ejected", "gone")
OVERFLOW = ("_other", "_other")

_NUMBERS: tuple[tuple[c.Metric, Callable[[RequestSeries], float]], ...] = (
    (c.IN_FLIGHT, attrgetter("in_flight")),
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
_DATA_PLANE: tuple[tuple[c.Metric, Callable[[Counters], int]], ...] = (
    (c.CONNECTIONS, attrgetter("connections")),
    (c.OPEN_CONNECTIONS, attrgetter("open_connections")),
    (c.REFUSED, attrgetter("refused")),
    (c.CUT, attrgetter("cut")),
    (c.BODY_BYTES, attrgetter("body_bytes")),
    (c.UPSTREAM_CONNECTS, attrgetter("upstream_connects")),
    (c.UPSTREAM_REUSED, attrgetter("upstream_reused")),
)
_DECISIONS: tuple[tuple[c.Metric, Callable[[LineCounts], int]], ...] = (
    (c.DECISIONS_WRITTEN, attrgetter("written")),
    (c.DECISIONS_DROPPED, attrgetter("dropped")),
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


class Metrics:
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
        self.knowledge: Callable[[], Knowledge] = Knowledge
        """Asked at each scrape for what is known of the replicas' caches."""
        self.counters = Counters()
        """What the data plane counts of itself; put its own object here."""
        self.decisions = LineCounts()
        """What the decision log counts; put its own object here."""
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

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

    async def page(self) -> bytes:
        """The whole page, letting the event loop run between its pieces."""
        pieces: list[str] = []
        for piece in self.pieces():
            pieces.append(piece)
            await asyncio.sleep(0)
        return "".join(pieces).encode("utf-8", "replace") + generate_latest(self._process)

    def pieces(self) -> Iterator[str]:
        """The page's text without the `process_` metrics; each piece takes well under a millisecond to make."""
        yield from write_numbers(c.INFO, [(self._info, 1)])
        yield from self._request_pieces()
        answered = sorted(self.router.answered.items())
        yield from write_numbers(c.ANSWERED, (((str(status),), count) for status, count in answered))
        yield from write_numbers(c.POISONED, [((), self.router.poisoned)])
        yield from write_numbers(c.BUDGET_SPENT, [((), self.router.budget_spent)])
        yield from write_histograms(c.DECISION, [((), self.router.decision)])
        yield from write_histograms(c.LOOP_LAG, [((), self.router.loop_lag)])
        for metric, count in _DATA_PLANE:
            yield from write_numbers(metric, [((), count(self.counters))])
        for metric, lines in _DECISIONS:
            yield from write_numbers(metric, [((), lines(self.decisions))])
        yield from write_numbers(c.EJECTIONS, _by_name(self._ejections))
        yield from write_numbers(c.RESTARTS, _by_name(self._restarts))
        yield from write_numbers(c.PLUGIN_FAILURES, _by_name(self._plugin_failures))
        yield from _replica_pieces(list(self.replicas()))
        yield from knowledge_pieces(self.knowledge())

    def _request_pieces(self) -> Iterator[str]:
        items = list(self._requests.items())
        outcomes = (
            ((outcome, *key), getattr(series, outcome))
            for key, series in items
            for outcome in ("completed", "failed", "aborted")
        )
        yield from write_numbers(c.REQUESTS, outcomes)
        for metric, number in _NUMBERS:
            yield from write_numbers(metric, ((key, number(series)) for key, series in items))
        for metric, histogram in _HISTOGRAMS:
            yield from write_histograms(metric, ((key, histogram(series)) for key, series in items))


def _replica_pieces(replicas: list[ReplicaStatus]) -> Iterator[str]:
    states = (((replica.name, state), int(replica.state == state)) for replica in replicas for state in STATES)
    yield from write_numbers(c.REPLICA_STATE, states)
    for metric, gauge in _GAUGES:
        known = ((replica.name, gauge(replica)) for replica in replicas)
        yield from write_numbers(metric, (((name,), value) for name, value in known if value is not None))


def _by_name(counts: dict[str, int]) -> list[tuple[tuple[str], int]]:
    return [((name,), count) for name, count in counts.items()]
