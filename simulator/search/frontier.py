"""Where along one axis a demand begins, or ceases, to be met: fewest replicas, greatest rate.

What is tried does not depend on how many runs are made at once, so answers are the same on any machine: each round
tries three values, which also keeps four cores busy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

import msgspec

X = TypeVar("X", int, float)
Meets: TypeAlias = Callable[[Sequence[X]], list[bool]]
"""Whether the demand is met at each of these values."""

WIDTH = 3
"""Values tried in one round."""
RATE_STEP = 0.03
"""Rates are found to this precision [share]."""
MOST_DOUBLINGS = 10
"""Rounds, of two doublings or halvings each, before a border counts as not to be found."""


class Frontier(msgspec.Struct, Generic[X], frozen=True):
    """The answer, and whether what was tried is in keeping with there being one border."""

    answer: X | None
    """None: the demand is met nowhere within the limits."""
    monotone: bool
    """False: beyond the border some tried value was on the wrong side."""
    bounded: bool = False
    """The answer is the limit of what was to be tried: the border lies beyond it."""


def fewest(meets: Meets[int], most: int, least: int = 1) -> Frontier[int]:
    """The smallest count from which on the demand is met at all counts tried: gallop, section, then the neighbours.

    Both neighbours of the answer are tried. Where more is not always enough (a count above the answer fails), the
    search goes on above it.
    """
    tried = _Tried(meets)
    while True:
        floor, ceiling = tried.border()
        floor = max(floor, least - 1)
        if floor >= most:
            return Frontier(None, tried.monotone())
        if not ceiling:
            tried.all([min(most, max(least, floor + 1, floor * 2) * 2**i) for i in range(WIDTH)])
        elif between := _between(floor, ceiling):
            tried.all(between)
        elif ceiling < most and ceiling + 1 not in tried.met:
            tried.all([ceiling + 1])
        else:
            return Frontier(ceiling, tried.monotone())


def _between(floor: int, ceiling: int) -> list[int]:
    """Up to three counts that cut the open range between the two evenly."""
    width = ceiling - floor
    return sorted({floor + width * i // (WIDTH + 1) for i in range(1, WIDTH + 1)} - {floor, ceiling})


class _Tried:
    """What is known of the counts tried so far."""

    def __init__(self, meets: Meets[int]) -> None:
        self._meets = meets
        self.met: dict[int, bool] = {}

    def all(self, counts: Sequence[int]) -> None:
        """Try those that are new."""
        new = sorted(set(counts) - set(self.met))
        if new:
            self.met.update(zip(new, self._meets(new), strict=True))

    def border(self) -> tuple[int, int]:
        """The greatest count that fails (0: none), and the smallest above it that meets (0: none)."""
        floor = max((count for count, met in self.met.items() if not met), default=0)
        return floor, min((count for count, met in self.met.items() if met and count > floor), default=0)

    def monotone(self) -> bool:
        """No count fails above one that meets."""
        floor, _ = self.border()
        return all(count > floor for count, met in self.met.items() if met)


def greatest(
    meets: Meets[float], guess: float, *, step: float = RATE_STEP, whole: bool = False, failing: float | None = None
) -> Frontier[float]:
    """The greatest rate at which the demand is met, within `step` of the smallest one tried that fails.

    `guess` is where to begin: rates are doubled, or halved, until the border lies between two of them. Where a rate
    fails below one that meets, the answer stays below the failing one. `whole`: only whole numbers from 1 on are tried.
    `failing`: a rate that is known to fail.
    """
    met: dict[float, bool] = {} if failing is None else {failing: False}

    def attempt(rates: Sequence[float]) -> bool:
        new = sorted({_rounded(rate, whole) for rate in rates} - set(met))
        if new:
            met.update(zip(new, meets(new), strict=True))
        return bool(new)

    def border() -> tuple[float, float]:
        ceiling = min((rate for rate, fine in met.items() if not fine), default=math.inf)
        return max((rate for rate, fine in met.items() if fine and rate < ceiling), default=0.0), ceiling

    attempt([guess / 2, guess, guess * 2])
    floor, ceiling = border()
    for _ in range(MOST_DOUBLINGS):
        if floor > 0.0 and ceiling < math.inf:
            break
        if not attempt([ceiling / 4, ceiling / 2] if floor == 0.0 else [floor * 2, floor * 4]):
            break
        floor, ceiling = border()
    if floor == 0.0:
        return Frontier(None, True)
    if ceiling == math.inf:
        return Frontier(floor, True, bounded=True)
    while floor > 0.0 and ceiling > floor * (1.0 + step):
        ratio = ceiling / floor
        if not attempt([floor * ratio ** (i / (WIDTH + 1)) for i in range(1, WIDTH + 1)]):
            break
        floor, ceiling = border()
    monotone = all(rate < ceiling for rate, fine in met.items() if fine)
    return Frontier(floor or None, monotone)


def _rounded(rate: float, whole: bool) -> float:
    """Three significant digits: rates that people can type again."""
    return float(max(1, round(rate))) if whole else float(f"{rate:.3g}")
