"""LoRA adapters on a device."""

from __future__ import annotations

from kvroute.simulator.engine.adapters import Adapters


def test_a_batch_has_room_for_so_many() -> None:
    """Those in use always fit, another one only below the limit; no adapter always fits."""
    adapters = Adapters(2, 1.0)
    for name in "ab":
        assert adapters.fit(name)
        adapters.start(name)
    assert adapters.fit("a")
    assert adapters.fit(None)
    assert not adapters.fit("c")
    adapters.stop("a")
    assert adapters.fit("c")


def test_the_longest_unused_is_replaced() -> None:
    """An adapter is loaded once while it stays on the device, and again when it was replaced."""
    adapters = Adapters(2, 1.0)
    assert [adapters.start(name) for name in "aab"] == [1.0, 0.0, 1.0]
    for name in "aba":
        adapters.stop(name)
    assert adapters.start("c") == 1.0  # in place of b, which was left first
    assert adapters.start("a") == 0.0
    adapters.stop("c")
    assert adapters.start("b") == 1.0


def test_without_a_limit_each_is_loaded_once() -> None:
    """Any number of adapters stays on the device."""
    adapters = Adapters(0, 0.5)
    assert [adapters.start(str(name)) for name in range(9)] == [0.5] * 9
    for name in range(9):
        adapters.stop(str(name))
    assert [adapters.start(str(name)) for name in range(9)] == [0.0] * 9
    assert adapters.start(None) == 0.0
    adapters.stop(None)
