"""What the watch sees of endpoints, turned into replicas."""

from __future__ import annotations

import logging

import pytest

from kvroute.router.control.metrics import Metrics
from kvroute.router.core.replica import State
from kvroute.router.fleetwatch.backend import Backend, parse_backend
from kvroute.router.fleetwatch.exposition import Reading
from kvroute.router.fleetwatch.models import Served
from kvroute.router.membership import Membership
from kvroute.router.traffic import Target
from kvroute.scorers.contract import Column
from tests.router.core.deciding import prompt, sent, world

BACKEND = parse_backend("http://10.0.0.1:8000,slots=64,label.zone=a")
SERVED = Served(("m",))


def membership(backend: Backend = BACKEND) -> Membership:
    """An empty fleet that expects one backend."""
    members = Membership(world(0), dict[str, Target](), Metrics())
    members.expect([backend], 0.0)
    return members


def states(members: Membership) -> dict[str, State]:
    """Replica name -> state."""
    return {replica.name: replica.state for _, replica in members}


def reading(rank: int = 0, **numbers: float) -> Reading:
    """A reading with a cache of 10,000 tokens."""
    return Reading(rank=rank, running=0.0, waiting=0.0, capacity_tokens=10_000.0, **numbers)  # type: ignore[arg-type]


def test_a_listed_engine_shows_as_joining_until_it_answers() -> None:
    """It is in the list, and gets nothing."""
    members = membership()
    assert states(members) == {"10.0.0.1:8000": State.JOINING}
    members.joined(BACKEND, SERVED, [reading()], 1.0)
    assert states(members) == {"10.0.0.1:8000": State.READY}
    (_, replica) = next(iter(members))
    assert replica.cells[Column.CAPACITY_TOKENS] == 10_000.0
    assert replica.cells[Column.SLOTS] == 64.0
    assert replica.spec.labels == {"zone": "a"}


def test_each_data_parallel_rank_is_a_replica_of_its_own() -> None:
    """Two ranks behind one endpoint are two replicas, told apart by the header."""
    members = membership()
    members.joined(BACKEND, SERVED, [reading(0), reading(1)], 1.0)
    assert states(members) == {"10.0.0.1:8000/0": State.READY, "10.0.0.1:8000/1": State.READY}
    assert members._targets["10.0.0.1:8000/1"].request_headers == ((b"X-data-parallel-rank", b"1"),)


def test_ranks_stay_when_metrics_fail_and_come_when_they_show() -> None:
    """A page that cannot be read is no news of ranks; a first page that comes late is."""
    members = membership()
    members.joined(BACKEND, SERVED, [], 1.0)
    assert list(states(members)) == ["10.0.0.1:8000"]
    members.scraped(BACKEND.endpoint, [reading(0), reading(1)], 2.0)
    assert states(members) == {"10.0.0.1:8000/0": State.READY, "10.0.0.1:8000/1": State.READY}
    members.ejected(BACKEND.endpoint, "refused", 3.0)
    members.recovered(BACKEND.endpoint, SERVED, [], False, 4.0)
    assert states(members) == {"10.0.0.1:8000/0": State.READY, "10.0.0.1:8000/1": State.READY}


def test_draining_one_that_has_not_answered_holds_when_it_does() -> None:
    """It joins as draining, and undrained it serves."""
    members = membership()
    assert members.drain("10.0.0.1:8000", True)
    members.joined(BACKEND, SERVED, [reading()], 1.0)
    assert set(states(members).values()) == {State.DRAINING}
    members.drain("10.0.0.1:8000", False)
    assert set(states(members).values()) == {State.READY}


def test_a_many_headed_request_is_not_others_load() -> None:
    """The engine counts sequences, and so do we."""
    members = membership()
    members.joined(BACKEND, SERVED, [reading()], 1.0)
    decision = sent(members._deciding.decide(prompt("x" * 100, sequences=64), 1.0))
    for _ in range(5):
        members.scraped(BACKEND.endpoint, [Reading(running=64.0, waiting=0.0)], 2.0)
    assert decision.replica.cells[Column.REQUESTS] == 64.0
    assert decision.replica.cells[Column.DECODING] == 0.0


def test_an_adapter_that_was_sent_for_counts_as_resident() -> None:
    """Where more are served than fit, the last used are taken to be on the device."""
    members = membership()
    served = Served(("m",), {f"lora{i}": "m" for i in range(5)})
    page = reading()
    page.max_adapters, page.running_adapters = 2, ("lora0",)
    members.joined(BACKEND, served, [page], 1.0)
    (_, replica) = next(iter(members))
    assert replica.resident == frozenset({"lora0"})
    members.adapter_used(replica, "lora3")
    assert replica.resident == frozenset({"lora0", "lora3"})
    page = reading()
    page.max_adapters, page.running_adapters = 2, ("lora4",)
    members.scraped(BACKEND.endpoint, [page], 2.0)
    assert replica.resident == frozenset({"lora3", "lora4"})


def test_drained_stays_drained_through_an_ejection() -> None:
    """An operator's word outlives an outage."""
    members = membership()
    members.joined(BACKEND, SERVED, [reading()], 1.0)
    assert members.drain("10.0.0.1:8000", True)
    members.ejected(BACKEND.endpoint, "refused", 2.0)
    assert set(states(members).values()) == {State.EJECTED}
    members.recovered(BACKEND.endpoint, SERVED, [reading()], False, 3.0)
    assert set(states(members).values()) == {State.DRAINING}
    assert members.drain("10.0.0.1:8000", False)
    assert set(states(members).values()) == {State.READY}
    assert not members.drain("nobody", True)


def test_a_sleeping_engine_gets_nothing() -> None:
    """Its requests would hang; awake again, it is used again."""
    members = membership()
    members.joined(BACKEND, SERVED, [reading()], 1.0)
    asleep = reading()
    asleep.asleep = True
    members.scraped(BACKEND.endpoint, [asleep], 2.0)
    assert set(states(members).values()) == {State.DRAINING}
    members.scraped(BACKEND.endpoint, [reading()], 3.0)
    assert set(states(members).values()) == {State.READY}


def test_gone_is_gone() -> None:
    """An engine that is no longer listed leaves, and one of the same name may come."""
    members = membership()
    members.joined(BACKEND, SERVED, [reading()], 1.0)
    members.gone(BACKEND.endpoint, 2.0)
    assert states(members) == {}
    members.expect([BACKEND], 3.0)
    assert states(members) == {"10.0.0.1:8000": State.JOINING}


def test_one_that_never_answered_leaves_when_it_is_no_longer_listed() -> None:
    """The list is the truth."""
    members = membership()
    members.expect([parse_backend("http://10.0.0.2:8000")], 1.0)
    assert states(members) == {"10.0.0.2:8000": State.JOINING}


def test_others_load_is_seen_after_three_readings() -> None:
    """One reading races with requests on the wire; three that agree are load that is not ours."""
    members = membership()
    members.joined(BACKEND, SERVED, [reading()], 1.0)
    (_, replica) = next(iter(members))
    for _ in range(2):
        members.scraped(BACKEND.endpoint, [Reading(running=6.0, waiting=2.0)], 2.0)
    assert replica.cells[Column.REQUESTS] == 0.0
    members.scraped(BACKEND.endpoint, [Reading(running=6.0, waiting=2.0)], 3.0)
    assert replica.cells[Column.REQUESTS] == 8.0
    assert replica.cells[Column.OUTSIDE_SECONDS] > 0.0
    for _ in range(3):
        members.scraped(BACKEND.endpoint, [reading()], 4.0)
    assert replica.cells[Column.REQUESTS] == 0.0
    assert replica.cells[Column.OUTSIDE_SECONDS] == 0.0


def test_our_own_load_is_not_counted_twice() -> None:
    """What the ledger explains is not outside load, however long it shows in the metrics."""
    members = membership()
    members.joined(BACKEND, SERVED, [reading()], 1.0)
    decision = sent(members._deciding.decide(prompt("x" * 100), 1.0))
    for _ in range(5):
        members.scraped(BACKEND.endpoint, [Reading(running=1.0, waiting=0.0)], 2.0)
    assert decision.replica.cells[Column.REQUESTS] == 1.0


def test_hits_that_fail_to_come_shrink_the_believed_cache() -> None:
    """Where replies tell nothing, the engine's own hit rate corrects the estimate; its token counts may differ."""
    members = membership()
    members.joined(BACKEND, SERVED, [reading(cached_tokens=0.0, prompt_tokens=0.0)], 1.0)
    trust = members.cached("10.0.0.1:8000").trust
    hits = prompts = 0.0
    for second in range(2, 80):
        trust.predicted(9_000.0, 10_000.0)
        hits += 1_500.0 if second < 6 else 13_500.0
        prompts += 15_000.0  # the engine counts half as many tokens again: it must not matter
        members.scraped(BACKEND.endpoint, [reading(cached_tokens=hits, prompt_tokens=prompts)], float(second))
        if second == 5:
            assert trust.share == pytest.approx(0.5**4)
    assert trust.share == 1.0


def test_what_an_engine_does_not_tell_is_named_when_it_joins(caplog: pytest.LogCaptureFixture) -> None:
    """With what it costs."""
    members = membership()
    with caplog.at_level(logging.WARNING):
        members.joined(BACKEND, SERVED, [], 1.0)
    assert "shows no /metrics" in caplog.text
