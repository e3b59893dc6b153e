"""The consistent-hash ring."""

from __future__ import annotations

import time

import numpy as np
import pytest
import xxhash

from kvroute.scorers.baselines.ring import Ring, Rings

NAMES = tuple(f"10.0.0.{index}:8000" for index in range(8))
KEYS = [xxhash.xxh3_64_intdigest(str(key).encode()) for key in range(4000)]


def test_a_walk_meets_each_replica_once() -> None:
    """From any key on, also beyond the last point and beyond 64 bits."""
    ring = Rings(16).of(NAMES)
    for key in (*KEYS[:50], 0, (1 << 64) - 1, 1 << 64, -1):
        assert sorted(ring.walk(key)) == list(range(8))


def test_shares_are_about_even() -> None:
    """256 points each keep every replica within 25 % of its share."""
    ring = Rings().of(NAMES)
    counts = np.bincount([ring.owner(key) for key in KEYS], minlength=8)
    assert counts.min() > 0.75 * 500
    assert counts.max() < 1.25 * 500


def test_a_replica_that_leaves_takes_only_its_own_keys() -> None:
    """The keys of the others stay where they are, whatever the order of the names."""
    rings = Rings()
    before = [NAMES[rings.of(NAMES).owner(key)] for key in KEYS]
    fewer = tuple(reversed(NAMES[:7]))
    after = [fewer[rings.of(fewer).owner(key)] for key in KEYS]
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {NAMES[7]}


def test_placement_is_the_same_everywhere() -> None:
    """Routers side by side, and one that restarts, send a key to the same replica."""
    assert [Rings().of(NAMES).owner(key) for key in KEYS[:12]] == [2, 1, 5, 7, 6, 7, 2, 1, 1, 0, 5, 4]


def test_a_ring_is_made_once() -> None:
    """The same replicas get the same ring, and rings of long ago are dropped."""
    rings = Rings(4)
    ring = rings.of(NAMES)
    assert rings.of(list(NAMES)) is ring
    for index in range(100):
        assert isinstance(rings.of((f"replica-{index}",)), Ring)
    assert rings.of(NAMES) is not ring


def test_a_large_fleet_s_ring_is_made_in_a_blink() -> None:
    """A ring of 300 new replicas holds up the requests for some 5 ms; four times that is allowed to slow machines."""
    names = tuple(f"10.0.{index // 100}.{index % 100}:8000" for index in range(300))
    took = []
    for _ in range(8):
        begun = time.process_time()
        Rings().of(names)
        took.append(time.process_time() - begun)
    assert min(took) < 0.02


def test_kept_points_are_bounded() -> None:
    """Large rings push one another out, the least recently used first."""
    rings = Rings()
    names = tuple(str(index) for index in range(1000))
    used = rings.of(NAMES)
    for gone in range(10):
        rings.of(names[gone:])
        assert rings.of(NAMES) is used
    assert sum(map(len, rings._rings.values())) <= 1 << 20


def test_no_points_are_refused() -> None:
    """A ring needs at least one point for each replica."""
    with pytest.raises(ValueError, match="virtual_nodes must be at least 1"):
        Rings(0)
