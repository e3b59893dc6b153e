"""Service level objectives: what is demanded of a run's latencies, and of each request by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from kvroute.simulator.errors import SimulatorError

EXAMPLE = "ttft_p90<2s,tpot_p90<50ms,e2e_p99<30s"
METRICS = ("ttft", "tpot", "itl", "e2e", "queue")
PER_REQUEST = ("ttft", "tpot", "e2e", "queue")
"""Metrics that each request has one of; inter-token times are known for all requests together only."""
MOST_REFUSED = 0.01
"""Share of requests refused beyond which no SLO is met, whatever the latencies of the rest [0..1]."""
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}

_TERM = re.compile(
    r"(?P<metric>[a-z0-9]+)_(?P<statistic>[a-z0-9.]+)\s*<=?\s*(?P<number>[0-9.eE+-]+)\s*(?P<unit>[a-zA-Zµ]*)"
)
_SHARE = re.compile(r"goodput\s*>=?\s*(?P<number>[0-9.eE+-]+)\s*(?P<percent>%?)")
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


class Measured(Protocol):
    """What is asked of a run's summary, besides a distribution under the name of each metric."""

    @property
    def requests(self) -> int:
        """Sent."""
        ...

    @property
    def completed(self) -> int:
        """Answered to the end."""
        ...

    @property
    def refused(self) -> int:
        """Turned away."""
        ...

    @property
    def slo_share(self) -> float | None:
        """Share of requests that were good [0..1]."""
        ...

    @property
    def slo_extra(self) -> dict[str, float]:
        """Percentiles that distributions do not have, such as ttft_p97 [s]."""
        ...


class SloError(SimulatorError):
    """An SLO that cannot be read; the message names the part at fault."""


class Term(msgspec.Struct, frozen=True):
    """One demand: a statistic of a metric stays below a limit."""

    metric: str
    statistic: str
    """mean, max, or a percentile such as p90."""
    limit: float
    """[s]"""
    text: str
    """As it was written."""

    @property
    def quantile(self) -> float | None:
        """0.9 of p90; None of mean and max."""
        found = _PERCENTILE.fullmatch(self.statistic)
        return float(found[1]) / 100.0 if found else None


class Slo(msgspec.Struct, frozen=True):
    """All demands together: each term must hold, and the share of good requests, where one is stated."""

    terms: tuple[Term, ...]
    share: float | None = None
    """Least share of requests that must be good [0..1]; None: not asked for."""

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Read `METRIC_STATISTIC<TIME,...`, such as `ttft_p90<2s,tpot_p90<50ms`.

        Metrics are ttft, tpot, itl, e2e and queue; statistics mean, max and percentiles (p50, p99, p99.9);
        units us, ms, s and m. `goodput>0.95` asks that 95 % of requests are good, each by itself.

        Raises:
            SloError: the part that cannot be read, why, and an example.
        """
        terms: list[Term] = []
        share: float | None = None
        for part in (one.strip() for one in text.split(",")):
            if found := _SHARE.fullmatch(part):
                share = _share(part, found)
            else:
                terms.append(_term(part))
        if not terms:
            raise _fault(text, "it states no time that requests should stay below")
        return cls(tuple(terms), share)

    def __str__(self) -> str:
        parts = [term.text for term in self.terms]
        return ",".join(parts if self.share is None else [*parts, f"goodput>{self.share:g}"])

    def limits(self) -> dict[str, float]:
        """What one request must stay below to be good: for each metric the loosest number stated [s].

        The loosest, because `ttft_p50<1s,ttft_p99<5s` allows half of the requests more than one second.
        """
        found: dict[str, float] = {}
        for term in self.terms:
            if term.metric in PER_REQUEST:
                found[term.metric] = max(term.limit, found.get(term.metric, 0.0))
        return found

    def good(self, columns: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.bool_]:
        """Which requests are good: none of their times is over its limit.

        Args:
            columns: seconds per request for each of PER_REQUEST. NaN is good (a request of one token has no TPOT);
                requests that were never answered are for the caller to leave out.
        """
        size = len(next(iter(columns.values())))
        found = np.ones(size, dtype=np.bool_)
        for metric, limit in self.limits().items():
            found &= ~(columns[metric] >= limit)
        return found

    def met(self, summary: Measured) -> bool:
        """Whether a run did what is asked.

        Raises:
            SloError: it asks for a percentile that the summary was not made with.
        """
        if summary.refused > MOST_REFUSED * summary.requests:
            return False
        if self.share is not None and not (summary.slo_share or 0.0) >= self.share:
            return False
        return summary.completed > 0 and all(_measured(term, summary) < term.limit for term in self.terms)


def _measured(term: Term, summary: Measured) -> float:
    """What a term speaks of [s]. A metric that no request has (TPOT of single tokens) is 0."""
    distribution = getattr(summary, term.metric)
    if distribution is None:
        return 0.0
    value = getattr(distribution, term.statistic, None)
    if value is None:
        value = summary.slo_extra.get(f"{term.metric}_{term.statistic}")
    if value is None:
        raise SloError(f"{term.metric}_{term.statistic} was not measured; summarise the run with this SLO")
    return float(value)


def _term(part: str) -> Term:
    found = _TERM.fullmatch(part)
    if not found:
        raise _fault(part, "expected METRIC_STATISTIC<TIME")
    metric, statistic = found["metric"], found["statistic"]
    if metric not in METRICS:
        raise _fault(part, f"no metric {metric!r}; there are {', '.join(METRICS)}")
    if statistic not in ("mean", "max"):
        percentile = _PERCENTILE.fullmatch(statistic)
        if not percentile or not 0.0 < float(percentile[1]) < 100.0:
            raise _fault(part, f"no statistic {statistic!r}; there are mean, max and percentiles such as p90")
    unit = found["unit"].replace("µs", "us")
    if unit not in SECONDS:
        said = f"no unit {unit!r}" if unit else "the time has no unit"
        raise _fault(part, f"{said}; there are {', '.join(SECONDS)}")
    return Term(metric, statistic, _number(part, found["number"]) * SECONDS[unit], re.sub(r"\s|(?<=<)=", "", part))


def _share(part: str, found: re.Match[str]) -> float:
    share = _number(part, found["number"]) / (100.0 if found["percent"] else 1.0)
    if share > 1.0:
        raise _fault(part, "a share is at most 1, or 100 %")
    return share


def _number(part: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _fault(part, f"{text!r} is no number") from None
    if not 0.0 < number < float("inf"):
        raise _fault(part, "the number must be above 0")
    return number


def _fault(part: str, reason: str) -> SloError:
    return SloError(f"SLO {part!r}: {reason}. For example: {EXAMPLE}")
