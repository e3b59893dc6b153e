"""Which requests a fit may look at, and on which others it is judged."""

from __future__ import annotations

from typing import NamedTuple

LEAST = 8
"""Requests that a part needs."""


class Split(NamedTuple):
    """One way of cutting a run in two; positions in the order of arrival."""

    name: str
    fitted_on: str
    judged_on: str
    fit: list[int]
    judge: list[int]


def splits(count: int) -> list[Split]:
    """Both directions of two cuts: in the middle of the run, and every other request.

    The first asks for extrapolation (a filling queue from a draining one, and back), the second does not.
    """
    half = count // 2
    early, late = list(range(half)), list(range(half, count))
    even, odd = list(range(0, count, 2)), list(range(1, count, 2))
    first, second = f"requests 1-{half} by arrival", f"requests {half + 1}-{count} by arrival"
    one, other = "odd-numbered requests by arrival (1st, 3rd, ...)", "even-numbered requests by arrival (2nd, 4th, ...)"
    return [
        Split("alternate-a", one, other, even, odd),
        Split("alternate-b", other, one, odd, even),
        Split("early-late", first, second, early, late),
        Split("late-early", second, first, late, early),
    ]
