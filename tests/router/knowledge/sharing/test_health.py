"""What is shown of the store: one trouble at a time, since when, and how long to wait."""

from __future__ import annotations

from kvroute.router.knowledge.sharing.health import Health
from kvroute.router.knowledge.sharing.store import StoreDown, Trouble


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_trouble_lasts_until_all_that_failed_was_served() -> None:
    """Reads that work do not hide writes that fail."""
    clock = Clock()
    health = Health(clock)
    clock.now = 5.0
    health.failed("write", StoreDown(Trouble.FULL, "commit"))
    assert (health.trouble, health.since) == (Trouble.FULL, 5.0)
    clock.now = 6.0
    health.served("read")
    assert (health.trouble, health.since) == (Trouble.FULL, 5.0)
    health.served("write", 0.001)
    assert (health.trouble, health.since) == (None, 6.0)
    assert health.failures[Trouble.FULL] == 1


def test_tries_come_further_apart() -> None:
    """The wait doubles up to a second, and begins anew after a success."""
    health = Health(Clock())
    down = StoreDown(Trouble.UNREACHABLE, "read")
    waits = [health.failed("read", down) for _ in range(8)]
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    health.served("read")
    assert health.failed("read", down) == 0.05


def test_a_slow_store_is_shown_as_slow() -> None:
    """Calls that are served late are no failure, but a state."""
    health = Health(Clock())
    for _ in range(20):
        health.served("write", 0.1)
    assert health.trouble is Trouble.SLOW
    for _ in range(50):
        health.served("write", 0.001)
    assert health.trouble is None
