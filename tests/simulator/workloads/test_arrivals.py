"""When requests arrive."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import numpy as np
import pytest

from kvroute.simulator.workloads.arrivals import OPTIONS, poisson, times
from kvroute.simulator.workloads.options import read

COUNT = 40_000


def drawn(speedup: float = 1.0, rate: float = 20.0, seed: int = 5, count: int = COUNT, **options: str) -> list[float]:
    """The first arrivals."""
    pairs = {name.rstrip("_"): value for name, value in options.items()}
    return list(islice(times(read("x", OPTIONS, pairs), rate, np.random.default_rng(seed), speedup), count))


def variation(at: list[float]) -> float:
    """Coefficient of variation of the gaps."""
    gaps = [later - earlier for earlier, later in pairwise(at)]
    mean = math.fsum(gaps) / len(gaps)
    return math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean


@pytest.mark.parametrize("kind", ["poisson", "gamma", "uniform", "diurnal", "ramp"])
def test_times_ascend_and_are_whole_microseconds(kind: str) -> None:
    """What a processor computes differently in the last bit is rounded away."""
    at = drawn(arrivals=kind, count=10_000)
    assert at == sorted(at)
    assert at[0] >= 0.0
    assert all(round(one * 1e6) == pytest.approx(one * 1e6, abs=1e-3) for one in at)
    assert at == drawn(arrivals=kind, count=10_000)


@pytest.mark.parametrize(("kind", "expected"), [("poisson", 1.0), ("uniform", 0.0), ("gamma", 2.0)])
def test_gaps_vary_as_they_should(kind: str, expected: float) -> None:
    """The mean rate is the wanted one; gaps of Poisson vary by their mean, gamma's by cv times that."""
    at = drawn(arrivals=kind)
    assert COUNT / at[-1] == pytest.approx(20.0, rel=0.04)
    assert variation(at) == pytest.approx(expected, rel=0.05, abs=1e-4)


def test_gamma_of_one_is_poisson() -> None:
    """And below one it is steadier."""
    assert variation(drawn(arrivals="gamma", cv="1")) == pytest.approx(1.0, rel=0.05)
    assert variation(drawn(arrivals="gamma", cv="0.5")) == pytest.approx(0.5, rel=0.05)


def test_poisson_counts_vary_by_their_mean() -> None:
    """The number within equal windows has a variance equal to its mean."""
    at = list(islice(poisson(20.0, np.random.default_rng(1)), COUNT))
    counts = np.bincount(np.array(at).astype(int))[:-1]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)


def test_a_day_has_a_trough_and_a_peak() -> None:
    """It begins at the trough; half a period later the rate is (1+swing)/(1-swing) times that; its mean is kept."""
    at = np.array(drawn(arrivals="diurnal", period="100", swing="0.8"))
    whole = at[at < math.floor(at[-1] / 100) * 100]
    share = np.histogram(whole % 100, bins=10, range=(0, 100))[0] / len(whole) * 10
    expected = [1 - 0.8 * math.cos(2 * math.pi * (bin + 0.5) / 10) * (math.sin(0.1 * math.pi) / (0.1 * math.pi))
                for bin in range(10)]  # fmt: skip
    assert share == pytest.approx(expected, abs=0.06)
    assert len(whole) / math.floor(at[-1] / 100) / 100 == pytest.approx(20.0, rel=0.03)


def test_a_ramp_rises_to_its_rate_and_stays() -> None:
    """From a tenth to all of it within the period."""
    at = np.array(drawn(arrivals="ramp", period="1000", from_="0.1"))
    rates = np.histogram(at, bins=[0, 100, 450, 550, 900, 1000, 1500])[0] / np.array([100, 350, 100, 350, 100, 500])
    assert rates == pytest.approx([2.9, 6.95, 11.0, 15.05, 19.1, 20.0], rel=0.1)


def test_a_ramp_may_fall() -> None:
    """From above one the rate comes down; at one it is level."""
    at = np.array(drawn(arrivals="ramp", period="500", from_="2"))
    early, late = (at < 50).sum() / 50, ((at > 800) & (at < 1000)).sum() / 200
    assert early == pytest.approx(39.0, rel=0.1)
    assert late == pytest.approx(20.0, rel=0.1)
    assert drawn(arrivals="ramp", from_="1", count=100) == drawn(count=100)


@pytest.mark.parametrize("kind", ["poisson", "diurnal", "ramp"])
def test_speedup_shrinks_periods_too(kind: str) -> None:
    """The same arrivals, all earlier by that factor."""
    slow, fast = drawn(arrivals=kind, count=5000), drawn(arrivals=kind, count=5000, speedup=10.0)
    assert fast == pytest.approx([one / 10 for one in slow], abs=1e-6)
