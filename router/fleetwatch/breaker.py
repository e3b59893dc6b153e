"""When an endpoint is ejected and when it gets another chance: a state machine; the clock is an argument."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from kvroute.router.dataplane.limits import Count, Seconds


class State(enum.Enum):
    """Where an endpoint stands."""

    STARTING = "starting"
    """Never answered yet."""
    HEALTHY = "healthy"
    EJECTED = "ejected"
    """Gets no request until a trial succeeds; the trial is due at `retry_at`."""
    TRIAL = "trial"
    """Half open: one active check is out, and decides."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a breaker; times in seconds."""

    failures: Count = 3
    """Consecutive failures that eject."""
    base: Seconds = 0.5
    """First wait after an ejection; doubles with each failed trial or early relapse."""
    cap: Seconds = 10.0
    """Longest wait."""
    starting_cap: Seconds = 1.0
    """Longest wait between looks at an endpoint that has never answered."""
    probation: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """After a recovery one failure of a request within this time ejects again."""


class Breaker:
    """One endpoint's state.

    Failures of requests and of active checks are counted apart: a check that succeeds must not excuse failing requests
    (its path may differ, TLS for example), while a request that succeeds excuses a slow check (a busy engine is not a
    dead one). Only a trial's own check closes the breaker: results that were on their way when it opened are stale.
    """

    __slots__ = ("_checks", "_limits", "_probation_until", "_requests", "_strikes", "retry_at", "state")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.state = State.STARTING
        self.retry_at = float("-inf")
        """When the next look at an endpoint that is not healthy is due."""
        self._requests = 0
        self._checks = 0
        self._strikes = 0
        self._probation_until = float("-inf")

    @property
    def healthy(self) -> bool:
        return self.state is State.HEALTHY

    def request_failed(self, now: float) -> bool:
        """A request could not connect. True: this ejects the endpoint now."""
        if self.state is not State.HEALTHY:
            return False
        self._requests += 1
        if self._requests < self._limits.failures and now >= self._probation_until:
            return False
        return self._eject(now)

    def request_succeeded(self) -> None:
        """The endpoint answered a request. It does not end an ejection: the request may be older than that."""
        self._requests = 0
        self._checks = 0

    def check_failed(self, now: float, decisive: bool) -> bool:
        """An active check failed; `decisive`: nobody listens, or the engine calls itself dead. True: ejected now."""
        if self.state is State.HEALTHY:
            self._checks += 1
            # A request and a check that both failed are two witnesses: a host that went dark need not cost a third.
            enough = decisive or self._requests > 0 or self._checks >= self._limits.failures
            return enough and self._eject(now)
        self._strikes += 1
        cap = self._limits.starting_cap if self.state is State.STARTING else self._limits.cap
        self.retry_at = now + min(cap, self._wait())
        if self.state is State.TRIAL:
            self.state = State.EJECTED
        return False

    def check_succeeded(self, now: float) -> bool:
        """An active check succeeded. True: the endpoint is healthy from now on and was not before."""
        self._checks = 0
        if self.state is State.STARTING:
            self._strikes = 0
        elif self.state is State.TRIAL:
            self._probation_until = now + self._limits.probation
        else:
            return False
        self._requests = 0
        self.state = State.HEALTHY
        return True

    def begin_trial(self, now: float) -> None:
        """Call as an active check is sent: it becomes the trial when one is due."""
        if self.state is State.EJECTED and now >= self.retry_at:
            self.state = State.TRIAL

    def _eject(self, now: float) -> bool:
        self._strikes = self._strikes + 1 if now < self._probation_until else 0
        self._requests = self._checks = 0
        self.state = State.EJECTED
        self.retry_at = now + min(self._limits.cap, self._wait())
        return True

    def _wait(self) -> float:
        # The exponent is bounded so that a year of failures does not overflow a float.
        return self._limits.base * 2.0 ** min(self._strikes, 30)
