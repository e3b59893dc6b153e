"""One request's way through the router: its attempts, its leases, what is learnt of it, and its one end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvroute.router import usage
from kvroute.router.core.decide import Decision
from kvroute.router.dataplane.contract import Endpoint, Failure, Headers, Outcome, Reply
from kvroute.scorers.contract import Request

if TYPE_CHECKING:
    from kvroute.router.control.series import RequestSeries
    from kvroute.router.core.decided import Decided
    from kvroute.router.traffic import Traffic

COSTLY = frozenset({Failure.STALE, Failure.CUT, Failure.PROTOCOL})
"""Failures after which the replica may have begun the work."""


class Ending(msgspec.Struct, gc=False):
    """What is known of a request when it is over."""

    status: int
    """Of the replica's reply; 0 when none came."""
    ttft: float | None
    """Seconds from the request's arrival to its first output; streams only."""
    seconds: float
    """From its arrival to its end."""
    usage: usage.Usage | None
    pieces: int
    """Segments in which a stream came, from that of its first output on; 0 for other replies."""


class Read(msgspec.Struct, gc=False):
    """What was read of a request before it was decided on."""

    request: Request
    model: str = ""
    """The base model that its prompt was read for."""
    text_bytes: int = 0
    """Bytes of prompt text behind `request.tokens`; 0: not to be told to the lens."""
    salted: bool = False
    """It has a cache_salt."""
    chat: bool = False
    """A chat template makes its prompt."""


class Exchange:
    """Implements the data plane's Exchange: reports go to the ledger, the estimate, the index and the metrics."""

    __slots__ = (
        "_broken",
        "_pieces",
        "_settled",
        "_status",
        "_traffic",
        "_tried",
        "_ttft",
        "_usage",
        "arrived",
        "body",
        "decision",
        "endpoint",
        "explain",
        "path",
        "read",
        "record",
        "request",
        "request_headers",
        "response_headers",
        "series",
    )

    def __init__(
        self,
        traffic: Traffic,
        read: Read,
        decision: Decision,
        body: bytes,
        path: bytes,
        explain: bool,
        now: float,
        pinned: bool = False,
    ) -> None:
        """`now`: when the request arrived. `pinned`: it had to go where it goes."""
        self._traffic = traffic
        self.read = read
        self._pieces = 0
        self.arrived = now
        self._broken: frozenset[str] = frozenset()
        self._tried: frozenset[str] = frozenset()
        self._settled = False
        self._status = 0
        self._ttft: float | None = None
        self._usage: usage.Usage | None = None
        self.request = read.request
        self.body = body
        self.path = path
        self.explain = explain
        self.series: RequestSeries
        """Where this attempt is counted; the observer sets it."""
        self.record: Decided | None = None
        """Its line of the decision log, where there is one."""
        self._aim(decision, pinned)

    def _aim(self, decision: Decision, pinned: bool) -> None:
        """Point at the replica of a decision."""
        self.decision = decision
        """The decision that holds now: a retry has another."""
        replica = decision.replica
        target = self._traffic.target(replica.name)
        self.endpoint: Endpoint = target.endpoint
        self.request_headers: Headers = target.request_headers
        self.response_headers: Headers = target.response_headers
        if self.explain:
            self.response_headers = (
                (b"X-Kvroute-Replica", replica.name.encode()),
                (b"X-Kvroute-Predicted-TTFT", b"%.6f" % decision.predicted_ttft),
                (b"X-Kvroute-Hit-Tokens", b"%d" % decision.hit_tokens),
                (b"X-Kvroute-Best-Hit-Tokens", b"%d" % decision.best_hit_tokens),
                (b"X-Kvroute-Prompt-Tokens", b"%d" % self.request.tokens),
            )
        log = self._traffic.decisions
        if log is not None:
            log.decided(self, pinned, self._tried)
        self._traffic.observer.began(self)

    # --- what the data plane reports ---

    def body_sent(self) -> None:
        """A body byte went to the replica: from here on it may have begun the work."""

    def replied(self, status: int, streaming: bool, now: float) -> None:
        """The response head is in."""
        self._status = status
        self._traffic.reached(self.endpoint)

    def first_output(self, now: float) -> None:
        """First event of a stream that carries output."""
        if self._ttft is None:
            self._ttft = now - self.arrived
            self._traffic.deciding.ledger.first_output(self.decision.lease, now)
            log = self._traffic.decisions
            if log is not None and self.record is not None:
                log.first_output(self.record, now)

    def streamed(self, pieces: int) -> None:
        """In how many segments a stream came, from that of its first output on."""
        self._pieces = pieces

    def head(self, data: bytes) -> None:
        """The first bytes of a 2xx reply's body."""
        if self.path == b"/v1/responses":
            self._traffic.stored.learn(data, self.decision.replica.name)

    def tail(self, data: bytes, streaming: bool) -> None:
        """The last bytes of a 2xx reply's body, where its usage stands."""
        self._usage = usage.read(data)

    def failed(self, failure: Failure, now: float) -> Reply | None:
        """An attempt failed before anything was relayed: aim at another try, or give the answer to end with."""
        replica = self.decision.replica
        self._release(now, completed=False)
        log = self._traffic.decisions
        if log is not None and self.record is not None:
            log.failed(self.record, failure, now)
        self._traffic.unreached(self.endpoint, failure, now)
        if failure is not Failure.STALE:
            self._tried |= self._traffic.names_at(replica)
        if failure in COSTLY:
            # Counted by endpoint: a dying one first drops the kept connection, then resets the fresh one.
            self._broken |= {self.endpoint.name}
            if len(self._broken) > 1:
                self._traffic.observer.poisoned()
                return self._traffic.bad_gateway("two replicas failed on this request; it is not tried a third time")
            if not self._traffic.budget.spend():
                self._traffic.observer.budget_spent()
                return self._traffic.bad_gateway("a replica failed on this request, and the retry budget is used up")
        decision = self._traffic.again(self.request, replica, failure, self._tried, now)
        if isinstance(decision, Reply):
            return decision
        self._traffic.observer.retried(self)
        if log is not None and self.record is not None:
            log.again(self.record)
        self._aim(decision, failure is Failure.STALE and decision.replica is replica)
        return None

    def settle(self, outcome: Outcome, now: float) -> None:
        """The request is over."""
        if self._settled:
            return
        self._settled = True
        completed = outcome is Outcome.COMPLETED and self._status < 400
        self._release(now, completed=completed)
        log = self._traffic.decisions
        if log is not None and self.record is not None:
            log.settled(self.record, outcome, self._status, self._usage, now)
        if self._usage is not None and self.read.text_bytes:
            self._traffic.lens.observe(self.read.model, self.read.text_bytes, self._usage.prompt)
        end = Ending(self._status, self._ttft, now - self.arrived, self._usage, self._pieces)
        self._traffic.observer.settled(self, outcome, end)

    def _release(self, now: float, *, completed: bool) -> None:
        found = self._usage
        deciding, decision = self._traffic.deciding, self.decision
        # Of several prompts only the first is keyed, but the engine's count is of all.
        if found is not None and found.cached is not None and self.request.sequences == 1:
            deciding.reported(decision, found.cached, found.prompt)
        output = found.completion if found is not None else 0
        deciding.settle(self.request, decision, now, completed=completed, output_tokens=output)
