"""The host's memory behind a cache."""

from __future__ import annotations

from kvroute.simulator.engine.offload import Offload


def test_it_keeps_what_was_evicted_last() -> None:
    """As many keys as there is room for, whole keys only; the longest unused goes first."""
    offload = Offload(7, 2, 0.1)
    offload.admit([3, 2, 1, 0])
    assert len(offload) == 3
    assert offload.match([0, 1, 2, 3], 0, 9) == 3
    assert offload.match([0, 1, 2, 3], 1, 2) == 1
    assert offload.match([7, 0], 0, 9) == 0
    offload.clear()
    assert offload.match([0], 0, 9) == 0


def test_one_block_is_brought_after_the_other() -> None:
    """The link is busy with one request at a time."""
    offload = Offload(100, 2, 0.5)
    offload.admit(range(10))
    assert offload.load(range(10), 2, 3, 1.0) == 4.0
    assert offload.load(range(10), 5, 1, 2.0) == 5.0
    assert offload.load(range(10), 5, 1, 9.0) == 10.0


def test_what_was_brought_is_young_again() -> None:
    """A key that was used outlives one that was not, and a chain goes from its end."""
    offload = Offload(4, 1, 0.0)
    offload.admit([3, 2, 1, 0])
    offload.load([2, 3], 0, 2, 0.0)
    offload.admit([10, 11, 12])
    assert [offload.match([key], 0, 1) for key in (0, 1, 2, 3)] == [0, 0, 1, 0]
