"""When requests arrive in an open loop: Poisson, bursty, even, by day, rising."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvroute.simulator.workloads.options import Option, Options

CHUNK = 4096
"""Draws at once: a draw of one costs a microsecond, of many some nanoseconds each."""

OPTIONS = (
    Option("rate", 10.0, "requests per second, on average", float, least=1e-9),
    Option("arrivals", "poisson", "how they arrive", str, choices=("poisson", "gamma", "uniform", "diurnal", "ramp")),
    Option("cv", 2.0, "gamma: coefficient of variation of the gaps; 1 is Poisson", float, least=1e-3, most=100),
    Option("period", 3600.0, "diurnal: seconds from peak to peak; ramp: seconds from first to last rate", float, 1e-3),
    Option("swing", 0.5, "diurnal: rate goes from (1-swing) to (1+swing) times its mean", float, most=1),
    Option("from", 0.1, "ramp: the first rate as a share of the last, which is `rate`", float, least=1e-3, most=1e3),
)
_POISSON = Options({"arrivals": "poisson"})


def times(options: Options, rate: float, rng: np.random.Generator, speedup: float = 1.0) -> Iterator[float]:
    """Endless ascending times [s], to the microsecond, at `rate` a second on average, all divided by `speedup`."""
    kind = options.text("arrivals")
    start = 0.0
    while True:
        steps = _gaps(kind, options, rng) / rate
        steps[0] += start
        summed = np.cumsum(steps)
        start = float(summed[-1])
        if kind == "diurnal":
            summed = _diurnal(summed, options)
        elif kind == "ramp":
            summed = _ramp(summed, options)
        # Whole microseconds: the last bit of a logarithm differs between machines, the result must not.
        yield from (np.floor(summed / speedup * 1e6 + 0.5) / 1e6).tolist()


def poisson(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Endless ascending times of a Poisson process [s], to the microsecond."""
    return times(_POISSON, rate, rng)


def _gaps(kind: str, options: Options, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaps of mean 1."""
    if kind == "uniform":
        return np.ones(CHUNK)
    if kind == "gamma":
        shape = options.number("cv") ** -2
        return rng.standard_gamma(shape, CHUNK) / shape
    return rng.standard_exponential(CHUNK)


def _diurnal(even: NDArray[np.float64], options: Options) -> NDArray[np.float64]:
    """Where the integral of 1 - swing*cos(2 pi t/period) reaches these values: it begins at the trough."""
    period = options.number("period")
    swing = options.number("swing")
    turn = 2 * np.pi / period
    low, high = even - swing / turn, even + swing / turn
    for _ in range(60):
        middle = 0.5 * (low + high)
        late = middle - swing * np.sin(turn * middle) / turn > even
        high = np.where(late, middle, high)
        low = np.where(late, low, middle)
    return np.maximum(0.5 * (low + high), 0.0)


def _ramp(even: NDArray[np.float64], options: Options) -> NDArray[np.float64]:
    """Where the integral of a rate that goes from `from` to 1 within `period`, and stays, reaches these values."""
    period = options.number("period")
    first = options.number("from")
    slope = (1.0 - first) / period
    reached = period * (1.0 + first) / 2
    if abs(slope) < 1e-15:
        return even
    inner = np.minimum(even, reached)
    rising = (np.sqrt(np.maximum(first * first + 2 * slope * inner, 0.0)) - first) / slope
    return np.where(even <= reached, rising, period + even - reached)
