"""Ingest leases: one holder, an even spread, a new holder soon after the old one dies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.knowledge.sharing.ingest_lease import SETTLED_SECONDS, IngestLeases, assignment
from kvroute.router.knowledge.sharing.memory_store import MemoryStore
from kvroute.router.knowledge.sharing.observed_log import LogNames
from kvroute.router.knowledge.sharing.store import Store

REPLICAS = [f"replica-{number}" for number in range(7)]


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def router(name: str, store: Store, time: Time) -> IngestLeases:
    leases = IngestLeases(store, name, time)
    for replica in REPLICAS:
        leases.joined(replica, LogNames("test", replica))
    return leases


@given(st.sets(st.text(max_size=5), max_size=40), st.sets(st.text(max_size=5), min_size=1, max_size=9))
def test_assignment_is_even(replicas: set[str], routers: set[str]) -> None:
    """Every replica has a router, and no router has more than its share, rounded up."""
    found = assignment(replicas, routers)
    assert set(found) == replicas
    loads = [list(found.values()).count(router) for router in routers]
    assert max(loads, default=0) <= -(-len(replicas) // len(routers))


def test_assignment_moves_little() -> None:
    """When a router leaves, little else moves but what it had."""
    replicas = [f"http://10.0.0.{number}:8000" for number in range(64)]
    routers = [f"router-{number}" for number in range(4)]
    before = assignment(replicas, routers)
    after = assignment(replicas, routers[:3])
    moved = sum(before[replica] != after[replica] for replica in replicas if before[replica] != "router-3")
    assert moved <= 16


async def test_each_has_its_own(store: Store) -> None:
    """Three routers that see each other share the leases out evenly, and no lease has two holders."""
    time = Time()
    names = ["a", "b", "c"]
    routers = [router(name, store, time) for name in names]
    for leases in routers:
        await leases.seek(names)
    held = [replica for leases in routers for replica in leases.held]
    assert sorted(held) == REPLICAS
    assert all(len(leases.held) in (1, 2, 3) for leases in routers)
    assert [await leases.renew() for leases in routers] == [[], [], []]


async def test_a_dead_router() -> None:
    """A dead router's leases are free once they expire; another takes them within two looks, though not its own by
    right, and the dead one, should it come back, is told that it lost them."""
    time = Time()
    store = MemoryStore(time)
    dead, other = router("dead", store, time), router("other", store, time)
    await dead.seek(["dead"])
    await dead.seek(["dead"])
    assert sorted(dead.held) == REPLICAS
    time.now += 2.9
    assert await other.seek(["dead", "other"]) == []
    start = time.now
    while len(other.held) < len(REPLICAS):
        time.now += 0.5
        await other.seek(["dead", "other"])
    assert time.now - start <= 1.5
    assert sorted(await dead.renew()) == REPLICAS
    assert dead.held == {}
    assert await other.renew() == []


async def test_renewing_keeps(store: Store) -> None:
    """A lease that is renewed stays, with its token; the others cannot win it."""
    time = Time()
    one, two = router("one", store, time), router("two", store, time)
    await one.seek(["one"])
    tokens = dict(one.held)
    assert len(set(tokens.values())) == len(tokens)
    assert await one.renew() == []
    assert one.held == tokens
    for _ in range(3):
        assert await two.seek(["two"]) == []


async def test_handing_over() -> None:
    """A router that comes later gets its share: the holder gives up what is another's by right, one after the other,
    after some time; and what comes back to it is held twice as long."""
    time = Time()
    store = MemoryStore(time)
    old, new = router("old", store, time), router("new", store, time)
    await old.seek(["old"])
    both = ["old", "new"]
    assert old.surplus(both) is None

    async def renewing(seconds: float) -> None:
        for _ in range(int(seconds)):
            time.now += 1.0
            await old.renew()
            await new.renew()

    await renewing(SETTLED_SECONDS)
    while (surplus := old.surplus(both)) is not None:
        await old.release(surplus)
        assert await new.seek(both) == [surplus]
    assert abs(len(old.held) - len(new.held)) <= 1
    assert len(old.held) + len(new.held) == len(REPLICAS)
    back = next(iter(new.held))
    await new.release(back)
    await old.seek(both)
    assert await old.seek(both) == [back]
    await renewing(SETTLED_SECONDS)
    assert old.surplus(both) is None
    await renewing(SETTLED_SECONDS)
    assert old.surplus(both) == back


async def test_a_replica_that_left(store: Store) -> None:
    """What was given back is free at once, and what has left is no longer sought."""
    time = Time()
    one, two = router("one", store, time), router("two", store, time)
    await one.seek(["one"])
    await one.release(REPLICAS[0])
    one.left(REPLICAS[0])
    assert await one.seek(["one"]) == []
    assert await two.seek(["two"]) == [REPLICAS[0]]
    await one.release("unknown")
    with pytest.raises(KeyError):
        one.held["unknown"]
