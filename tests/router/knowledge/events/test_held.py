"""Batches that wait for those before them."""

from __future__ import annotations

from kvroute.router.knowledge.events.held import Held


def _filled(*numbers: int, **bounds: int) -> Held:
    held = Held(**bounds)
    for number in numbers:
        held.put(number, float(number), b"x" * 10)
    return held


def test_batches_wait_under_their_numbers() -> None:
    """In any order; the last payload of a number counts."""
    held = _filled(7, 5, 6)
    held.put(6, 6.0, b"again")
    assert (len(held), held.first, 6 in held, 8 in held) == (3, 5, True, False)
    assert held.take(6) == b"again"
    assert 6 not in held


def test_they_are_bounded() -> None:
    """By number and by bytes: those with the lowest numbers go."""
    held = _filled(*range(10), most_batches=4)
    assert (len(held), held.first) == (4, 6)
    held = _filled(*range(10), most_bytes=35)
    assert (len(held), held.first) == (3, 7)
    held.put(11, 11.0, b"x" * 36)
    assert len(held) == 0
    held.put(3, 3.0, b"x" * 35)
    assert held.first == 3


def test_batches_of_an_engine_that_is_gone_go() -> None:
    """A lower number with a later time: the numbers began anew."""
    held = _filled(5, 6, 7)
    held.put(2, 99.0, b"new")
    assert (len(held), held.first) == (1, 2)
    held.put(1, 98.0, b"new")
    assert len(held) == 2


def test_what_has_passed_is_forgotten() -> None:
    """All below a number, or all."""
    held = _filled(5, 6, 7)
    held.forget_before(7)
    assert (len(held), held.first) == (1, 7)
    held.clear()
    assert len(held) == 0
    held.put(1, 1.0, b"")
    assert held.first == 1
