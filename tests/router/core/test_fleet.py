"""The fleet's life cycle, pools and load columns."""

from __future__ import annotations

import math

import pytest

from kvroute.router.core.fleet import Fleet
from kvroute.router.core.replica import TRANSITIONS, Replica, Spec, State
from kvroute.scorers.contract import Column, Role


def spec(name: str, *models: str, adapters: frozenset[str] = frozenset()) -> Spec:
    """A replica of model `m` unless told otherwise."""
    return Spec(name=name, endpoint=name, models=models or ("m",), adapters=adapters)


def ready(fleet: Fleet, *names: str) -> list[Replica]:
    """Replicas that have joined and are ready."""
    replicas = [fleet.join(spec(name), 0.0) for name in names]
    for replica in replicas:
        fleet.move(replica, State.READY)
    return replicas


def test_only_ready_replicas_take_requests() -> None:
    """Whatever its state before, a replica is in the pool while it is ready and at no other time."""
    fleet = Fleet()
    (replica,) = ready(fleet, "a")
    for state in (State.DRAINING, State.READY, State.EJECTED, State.READY, State.EJECTED, State.DRAINING):
        fleet.move(replica, state)
        pool = fleet.pool("m")
        assert pool is not None
        assert pool.size == (1 if state is State.READY else 0)


@pytest.mark.parametrize("state", list(State))
def test_every_state_but_gone_can_leave(state: State) -> None:
    """GONE is reached from everywhere and left to nowhere."""
    assert (State.GONE in TRANSITIONS[state]) == (state is not State.GONE)


def test_illegal_step_is_refused() -> None:
    """A step that the table does not allow raises and changes nothing."""
    fleet = Fleet()
    replica = fleet.join(spec("a"), 0.0)
    with pytest.raises(ValueError, match="cannot go from joining to joining"):
        fleet.move(replica, State.JOINING)
    assert replica.state is State.JOINING


def test_names_are_unique() -> None:
    """Two replicas of one name cannot both be in the fleet."""
    fleet = Fleet()
    fleet.join(spec("a"), 0.0)
    with pytest.raises(ValueError, match="already"):
        fleet.join(spec("a"), 0.0)


def test_row_is_reused_only_after_the_last_lease() -> None:
    """A replica that left with a request in flight keeps its row until that request ends."""
    fleet = Fleet()
    (old,) = ready(fleet, "a")
    fleet.begin(old, 100.0, 5000.0, 1, now=0.0)
    fleet.move(old, State.GONE)
    (new,) = ready(fleet, "b")
    assert new.row != old.row
    fleet.end(old, 1.0, queued=(100.0, 5000.0), sequences=1)
    (third,) = ready(fleet, "c")
    assert third.row == 0
    assert fleet.table[Column.REQUESTS, third.row] == 0.0


def test_a_reused_row_is_its_new_owners() -> None:
    """What is still to be written of the replica that left does not overwrite the one that came."""
    for _ in range(50):
        fleet = Fleet()
        (old,) = ready(fleet, "a")
        fleet.begin(old, 1.0, 1.0, 1, now=0.0)
        fleet.move(old, State.GONE)
        fleet.write(old, Column.CAPACITY_TOKENS, 5.0)
        fleet.end(old, 1.0, queued=(1.0, 1.0), sequences=1)
        fleet.write(old, Column.CAPACITY_TOKENS, 6.0)
        (new,) = ready(fleet, "b")
        fleet.write(new, Column.CAPACITY_TOKENS, 7.0)
        fleet.write(old, Column.OUTPUT_TOKENS, 9.0)
        assert fleet.table[Column.CAPACITY_TOKENS].tolist()[0] == 7.0
        assert fleet.table[Column.OUTPUT_TOKENS, 0] == 128.0


def test_a_replica_may_be_drained_before_it_has_answered() -> None:
    """An operator's word may come early."""
    fleet = Fleet()
    replica = fleet.join(spec("a"), 0.0)
    fleet.move(replica, State.DRAINING)
    fleet.move(replica, State.READY)


def test_names_that_clients_make_up_are_not_kept() -> None:
    """Memory does not grow with unknown models."""
    fleet = Fleet()
    ready(fleet, "a")
    for i in range(1000):
        fleet.base(f"made-up-{i}")
        fleet.pool(f"made-up-{i}")
    assert len(fleet._bases) + len(fleet._pools) <= 2


def test_a_change_of_role_is_a_leave_and_a_join_with_leases_kept() -> None:
    """The same name may join again at once, in a row of its own, while old requests run on."""
    fleet = Fleet()
    (old,) = ready(fleet, "a")
    fleet.begin(old, 10.0, 50.0, 1, now=0.0)
    fleet.move(old, State.GONE)
    new = fleet.join(Spec(name="a", endpoint="a", models=("m",), role=Role.DECODE), 0.0)
    assert new.row != old.row
    assert old.open == 1
    fleet.end(old, 1.0, queued=(10.0, 50.0), sequences=1)
    assert fleet.get("a") is new


def test_columns_grow_past_any_width() -> None:
    """300 replicas work as 8 do, and keep what was written before the table grew."""
    fleet = Fleet()
    replicas = ready(fleet, *(f"r{i}" for i in range(300)))
    fleet.begin(replicas[3], 7.0, 1.0, 1, now=0.0)
    pool = fleet.pool("m")
    assert pool is not None
    assert pool.size == 300
    assert pool.contiguous
    assert fleet.table[Column.QUEUED_TOKENS, replicas[3].row] == 7.0


def test_load_returns_to_zero() -> None:
    """What a request added is taken away again exactly, with or without a first output."""
    fleet = Fleet()
    (replica,) = ready(fleet, "a")
    fleet.begin(replica, 33.0, 544.5, 1, now=0.0, sequences=4)
    fleet.begin(replica, 34.0, 578.0, 2, now=0.0)
    fleet.prefilled(replica, 33.0, 544.5, 4, now=1.0)
    assert fleet.table[Column.DECODING, replica.row] == 4.0
    fleet.end(replica, 2.0, queued=None, sequences=4)
    fleet.end(replica, 2.0, queued=(34.0, 578.0), sequences=1)
    for column in (Column.QUEUED_TOKENS, Column.QUEUED_QUADRATIC, Column.REQUESTS, Column.DECODING):
        assert fleet.table[column, replica.row] == 0.0


def test_busy_is_the_moving_share_of_time_with_a_request_in_prefill() -> None:
    """30 s of work from idle leaves 1 - 1/e; 30 s of rest leaves that over e."""
    fleet = Fleet()
    (replica,) = ready(fleet, "a")
    fleet.begin(replica, 1.0, 1.0, 1, now=0.0)
    fleet.advance(30.0)
    assert fleet.table[Column.BUSY, replica.row] == pytest.approx(1 - math.exp(-1))
    fleet.prefilled(replica, 1.0, 1.0, 1, now=30.0)
    fleet.advance(60.0)
    assert fleet.table[Column.BUSY, replica.row] == pytest.approx((1 - math.exp(-1)) * math.exp(-1))


def test_rate_falls_with_decodes() -> None:
    """Running decodes take part of each step, so a prefill token costs more."""
    fleet = Fleet()
    (replica,) = ready(fleet, "a")
    before = fleet.table[Column.SECONDS_PER_TOKEN, replica.row]
    fleet.begin(replica, 1.0, 1.0, 1, now=0.0)
    fleet.prefilled(replica, 1.0, 1.0, 100, now=1.0)
    assert fleet.table[Column.SECONDS_PER_TOKEN, replica.row] > before


def test_models_aliases_and_adapters() -> None:
    """A model name finds those that serve it; an alias shares its base; an adapter names its base and itself."""
    fleet = Fleet()
    one = fleet.join(spec("a", "m", "alias", adapters=frozenset({"lora"})), 0.0)
    two = fleet.join(spec("b", "other"), 0.0)
    for replica in (one, two):
        fleet.move(replica, State.READY)
    assert fleet.base("alias") == ("m", None)
    assert fleet.base("lora") == ("m", "lora")
    lora, missing, everyone = fleet.pool("lora"), fleet.pool("nope"), fleet.everyone()
    assert lora is not None
    assert lora.names == ("a",)
    assert missing is None
    assert everyone.names == ("a", "b")
    assert fleet.models() == {"m", "alias", "lora", "other"}


def test_adapter_residency_follows_the_metrics() -> None:
    """An adapter that is served but not on the device costs its loading; unknown counts as resident."""
    fleet = Fleet()
    replicas = [fleet.join(spec(name, adapters=frozenset({"lora"})), 0.0) for name in ("a", "b")]
    for replica in replicas:
        fleet.move(replica, State.READY)
    fleet.set_resident(replicas[0], frozenset())
    pool = fleet.pool("lora")
    assert pool is not None
    assert pool.adapter_resident is not None
    assert pool.adapter_resident.tolist() == [0.0, 1.0]
    base = fleet.pool("m")
    assert base is not None
    assert base.adapter_resident is None
