"""Writes the Prometheus text format in small pieces, so that a large fleet's page never holds up the event loop.

prometheus-client's own writer takes 240 ms for 300 replicas in one go (measured), during which no request would move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from kvroute.router.control.catalogue import Metric
from kvroute.router.control.histogram import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PIECE = 32
"""Label sets per piece: at most about 0.3 ms of work."""

T = TypeVar("T")


def write_numbers(metric: Metric, samples: Iterable[tuple[Sequence[str], float]]) -> Iterator[str]:
    """A counter or gauge: its header, then its samples (label values, value) piece by piece."""
    yield _header(metric)
    for part in _batches(samples):
        yield "".join(f"{metric.name}{_braces(_pairs(metric, labels))} {value}\n" for labels, value in part)


def write_histograms(metric: Metric, samples: Iterable[tuple[Sequence[str], Histogram]]) -> Iterator[str]:
    """A histogram: its header, then its samples (label values, histogram) piece by piece."""
    yield _header(metric)
    for part in _batches(samples):
        yield "".join(line for labels, histogram in part for line in _lines(metric, labels, histogram))


def _lines(metric: Metric, labels: Sequence[str], histogram: Histogram) -> Iterator[str]:
    pairs = _pairs(metric, labels)
    start = f'{metric.name}_bucket{{{pairs}{"," if pairs else ""}le="'
    running = histogram.cumulative()
    for bound, count in zip((*histogram.bounds, "+Inf"), running, strict=True):
        yield f'{start}{bound}"}} {count}\n'
    yield f"{metric.name}_sum{_braces(pairs)} {histogram.total}\n"
    yield f"{metric.name}_count{_braces(pairs)} {running[-1]}\n"


def _header(metric: Metric) -> str:
    return f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"


def _pairs(metric: Metric, values: Sequence[str]) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in zip(metric.labels, values, strict=True))


def _braces(pairs: str) -> str:
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, PIECE)):
        yield batch
