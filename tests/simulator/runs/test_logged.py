"""The scenario that a log was written in."""

from __future__ import annotations

import pytest

from kvroute.scorers.contract import Role
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.runs.logged import Ordered, kinds, scenario
from kvroute.simulator.workloads.decisions import Seen
from tests.simulator.runs.jobs import Listed, job
from tests.simulator.workloads.logs import began


def test_the_fleet_is_as_the_log_tells() -> None:
    """Role, slots, cache and block size of each; the rest is the kind's."""
    seen = [
        Seen("a", "both", 64.0, 32_000.0, 16),
        Seen("b", "decode", 128.0, 32_000.0, 32),
        Seen("c", "both", 256.0, None, None),
    ]
    one, two, three = kinds(seen, Kind(), 128)
    assert (one.limits.blocks, one.limits.max_num_seqs, one.role) == (2000, 64, Role.BOTH)
    assert (two.limits.blocks, two.limits.block_size, two.role) == (1000, 32, Role.DECODE)
    assert three == Kind()
    assert kinds(seen[1:2], Kind(), 48)[0].limits.block_size == 16  # keys of 48 tokens are no blocks of 32
    with pytest.raises(FleetError, match="no replica of the log was ever ready"):
        kinds([], Kind(), 16)
    with pytest.raises(FleetError, match=r"^a, as the log tells of it, .*max_num_seqs \(4096\) is above .* --preset"):
        kinds([Seen("a", "both", 4096.0, None, None)], Kind(), 16)


def test_the_router_is_as_the_log_tells() -> None:
    """Its policy, its seed, what it knew, and how many there were."""
    line = began()
    line.seed, line.shared = 7, True
    alone = scenario(line, (Kind(),), routers=1, exact=False)
    assert (alone.policy.name, alone.seed, alone.lateness.share_seconds) == ("latency", 7, None)
    several = scenario(line, (Kind(),), routers=3, exact=True).lateness
    assert (several.routers, several.knowledge, several.share_seconds) == (3, "exact", 0.005)


def test_rows_are_told_apart_by_when_they_were_sent() -> None:
    """Those that follow answers among those that come by themselves; first of two at one moment."""
    ordered = Ordered(Listed([job("a", 0.0, 1), job("b", 2.0, 1)], {"a": (1.0, job("c", 0.0, 1))}))
    first, _ = ordered.arrivals()
    ordered.after(first, 1.0)
    assert ordered.ids() == ["a", "c", "b"]
