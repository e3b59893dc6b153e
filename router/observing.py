"""Counts and logs what happens to requests: fills the metrics' recorders, and knows which replicas tell what."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kvroute.router.control.logs import SeldomLog, log_request
from kvroute.router.control.metrics import Metrics
from kvroute.router.control.series import RequestSeries
from kvroute.router.core.canary import Comparison
from kvroute.router.core.replica import State
from kvroute.router.core.sources import Source
from kvroute.router.dataplane.contract import Head, Outcome
from kvroute.router.exchange import Ending, Exchange
from kvroute.router.membership import Membership

log = logging.getLogger(__name__)

UNEVEN = 0.25
"""Part by which a hit predicted from text may differ although all is there: text is not evenly dense in tokens."""


class Observing:
    """Implements the traffic's Observer."""

    def __init__(
        self, metrics: Metrics, membership: Membership, clock: Callable[[], float], *, log_requests: bool = False
    ) -> None:
        self._metrics = metrics
        self._membership = membership
        self._log_requests = log_requests
        self._series: dict[tuple[str, str], RequestSeries] = {}
        self._router = metrics.router
        self._silent: set[str] = set()
        self._seldom = SeldomLog(log, clock=clock)

    def decided(self, seconds: float) -> None:
        """Hashing, looking up, choosing and reserving took so long."""
        self._router.decision.observe(seconds)

    def answered(self, status: int, head: Head | None) -> None:
        """The router answered a request itself, with an error; one that was forwarded has its line when it settles."""
        answered = self._router.answered
        answered[status] = answered.get(status, 0) + 1
        if head is not None and self._log_requests:
            path = head.path.decode("latin-1")
            log_request({"request_id": head.request_id, "outcome": "answered", "path": path, "status": status})

    def poisoned(self) -> None:
        """Two endpoints failed on one request."""
        self._router.poisoned += 1

    def budget_spent(self) -> None:
        """A try that would have been made was not."""
        self._router.budget_spent += 1

    def began(self, exchange: Exchange) -> None:
        """An attempt at the decided replica begins."""
        decision = exchange.decision
        series = self._of(exchange.request.model, decision.replica.name)
        if exchange.request.adapter is not None:
            self._membership.adapter_used(decision.replica, exchange.request.adapter)
        if decision.replica.source is Source.RECOVERING:
            self._membership.hears.sent(decision.replica, exchange.request.keys)
        exchange.series = series
        series.in_flight += 1
        series.prompt_tokens += exchange.request.tokens
        series.predicted_cached_tokens += int(decision.hit_tokens)
        series.best_cached_tokens += int(decision.best_hit_tokens)

    def retried(self, exchange: Exchange) -> None:
        """The attempt failed and another will be made."""
        exchange.series.in_flight -= 1
        exchange.series.retries += 1

    def settled(self, exchange: Exchange, outcome: Outcome, end: Ending) -> None:
        """The request is over."""
        series, decision = exchange.series, exchange.decision
        series.in_flight -= 1
        if outcome is Outcome.COMPLETED:
            series.completed += 1
            series.total.observe(end.seconds)
        elif outcome is Outcome.FAILED:
            series.failed += 1
        else:
            series.aborted += 1
        if end.ttft is not None:
            series.ttft.observe(end.ttft)
            series.predicted_ttft.observe(decision.predicted_ttft)
            series.ttft_error.observe(abs(end.ttft - decision.predicted_ttft))
            if end.pieces > 1:
                series.inter_chunk.observe((end.seconds - end.ttft) / (end.pieces - 1))
        if outcome is Outcome.COMPLETED and end.status < 300 and exchange.request.keys:
            self._learn(exchange, end, series)
        if self._log_requests:
            self._line(exchange, outcome, end)

    def fault(self, name: str, distribution: str, message: str) -> None:
        """A plugin broke its contract while a request ran: counted, and logged once a minute."""
        self._metrics.plugin_failed(name)
        words = "plugin %r of %s %s; it contributes nothing to this decision"
        self._seldom.error(name, words, name, distribution, message)

    def forget(self, replica: str) -> None:
        """The replica is gone."""
        for key in [key for key in self._series if key[1] == replica]:
            del self._series[key]
        self._silent.discard(replica)
        self._metrics.forget(replica)

    def _of(self, model: str, replica: str) -> RequestSeries:
        key = (model, replica)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._metrics.request(model, replica)
        return series

    def _learn(self, exchange: Exchange, end: Ending, series: RequestSeries) -> None:
        """Set the prediction against what the reply tells, or keep it for the engine's totals to be set against."""
        decision = exchange.decision
        miss = exchange.request.tokens - decision.hit_tokens
        self._membership.mean_miss_tokens += 0.02 * (miss - self._membership.mean_miss_tokens)
        if decision.replica.state is State.GONE:
            return
        trust = self._membership.cached(decision.replica.name).trust
        if end.usage is None or end.usage.cached is None:
            trust.predicted(decision.hit_tokens, exchange.request.tokens)
            if decision.replica.name not in self._silent:
                self._silent.add(decision.replica.name)
                log.warning("%s %s", decision.replica.name, _missing(end))
            return
        trust.told()
        series.reported_prompt_tokens += end.usage.prompt
        series.reported_cached_tokens += end.usage.cached
        if exchange.request.sequences == 1:
            self._compare(exchange, end.usage.cached)

    def _compare(self, exchange: Exchange, reported: int) -> None:
        """Show the canary what was predicted and what the engine found."""
        replica, request, read = exchange.decision.replica, exchange.request, exchange.read
        predicted = exchange.decision.hit_tokens
        exact = read.text_bytes == 0
        if not exact or replica.source is Source.EXPECTED:
            # Others' requests and the engine's own answers are in its cache too; nobody told us of those.
            reported = min(reported, int(predicted))
        tolerance = request.block_tokens if exact else max(request.block_tokens, UNEVEN * predicted)
        membership = self._membership
        canary = membership.cached(replica.name).canary
        seen = Comparison(
            predicted, reported, tolerance, request.adapter is not None, read.salted, read.chat, request.keys[-1]
        )
        if canary.saw(seen):
            if canary.alarm:
                words = "%s: predicted and reported cached tokens have parted (%.0f %% of the last requests'): %s"
                log.warning(words, replica.name, 100 * canary.disagreement, membership.hint(replica).value)
            else:
                log.info("%s: predicted and reported cached tokens agree again", replica.name)
        if canary.reset_suspected and replica.source is Source.EXACT and membership.hears.reset(replica):
            canary.forget()

    def _line(self, exchange: Exchange, outcome: Outcome, end: Ending) -> None:
        request, decision = exchange.request, exchange.decision
        log_request(
            {
                "request_id": request.id,
                "outcome": outcome.value,
                "path": exchange.path.decode("latin-1"),
                "model": request.adapter or request.model,
                "replica": decision.replica.name,
                "status": end.status,
                "prompt_tokens": request.tokens,
                "hit_tokens": int(decision.hit_tokens),
                "best_hit_tokens": int(decision.best_hit_tokens),
                "cached_tokens": end.usage.cached if end.usage else None,
                "predicted_ttft": round(decision.predicted_ttft, 6),
                "ttft": None if end.ttft is None else round(end.ttft, 6),
                "seconds": round(end.seconds, 6),
            },
        )


def _missing(end: Ending) -> str:
    """What this reply did not tell, what that costs, and the engine's flag that mends it."""
    if end.usage is None:
        return (
            "sends no usage with this reply: output lengths and cached tokens stay unknown for such requests, and the"
            " cache estimate is set right once a scrape instead of once a reply. Start vLLM with"
            " --enable-prompt-tokens-details and --enable-force-include-usage for better predictions"
        )
    return (
        "does not tell cached tokens: the cache estimate is set right once a scrape, from the engine's totals,"
        " instead of once a reply. Start vLLM with --enable-prompt-tokens-details for better predictions"
    )
