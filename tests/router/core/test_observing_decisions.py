"""Decisions on what KV events told, beside what is expected."""

from __future__ import annotations

import numpy as np

from kvroute.router.core.changes import Medium
from kvroute.router.core.decide import Deciding, Decision
from kvroute.router.core.ledger import Phase
from kvroute.router.core.replica import Replica
from kvroute.router.core.sources import Source
from kvroute.scorers.contract import Request
from tests.router.core.deciding import prompt, sent, world

LONG = "x" * 168


def observe(deciding: Deciding, row: int, request: Request, medium: int = Medium.GPU, blocks: int = 99) -> None:
    """The engine in this row tells of the request's blocks; its hashes are our keys."""
    keys = np.array(request.keys[:blocks], np.uint64)
    deciding.index.observed.store(row, medium, keys, keys)


def phase(decision: Decision) -> Phase:
    """What the decision's lease weighs now."""
    return decision.lease.phase


def exact(deciding: Deciding, name: str = "r0") -> Replica:
    """A replica whose KV events tell all."""
    replica = deciding.fleet.get(name)
    assert replica is not None
    deciding.sourced(replica, Source.EXACT, 0.0)
    return replica


def test_what_was_observed_draws_the_request() -> None:
    """A prompt that nobody was sent goes to the replica whose events tell of it, at any number of replicas."""
    for count in (2, 4, 65, 300):
        deciding = world(count)
        request = prompt(LONG)
        observe(deciding, count - 1, request)
        decision = sent(deciding.decide(request, 0.0))
        assert (decision.replica.row, decision.hit_tokens) == (count - 1, 160.0)


def test_expected_and_observed_blocks_make_one_prefix() -> None:
    """The beginning of a prompt known from events and its middle known from a running request add up."""
    deciding = world(1)
    exact(deciding)
    request = prompt(LONG)
    observe(deciding, 0, request, blocks=4)
    first = sent(deciding.decide(prompt(LONG[:112]), 0.0))
    assert first.hit_tokens == 64.0
    assert sent(deciding.decide(request, 0.0)).hit_tokens == 112.0


def test_what_is_not_confirmed_is_withdrawn() -> None:
    """Blocks that the events never tell of are no longer believed in soon after their request's end, not before."""
    deciding = world(1)
    exact(deciding)
    request = prompt(LONG)
    decision = sent(deciding.decide(request, 0.0))
    assert sent(deciding.decide(prompt(LONG, id="again", stream=False), 1e6)).hit_tokens == 160.0
    for lease in (decision.lease,):
        deciding.ledger.settle(lease, 1e6, completed=True)
    assert sent(deciding.decide(prompt(LONG, id="third"), 1e6 + 10.0)).hit_tokens == 160.0


def test_released_blocks_lapse_where_events_tell_all() -> None:
    """Two seconds after its request's end a block counts only if the events told of it."""
    deciding = world(1)
    exact(deciding)
    request = prompt(LONG)
    decision = sent(deciding.decide(request, 0.0))
    observe(deciding, 0, request, blocks=3)
    deciding.settle(request, decision, 1.0, completed=True)
    assert sent(deciding.decide(request, 10.0)).hit_tokens == 48.0


def test_losing_the_events_brings_back_what_runs() -> None:
    """When what was observed is forgotten, the blocks of running requests are still expected, the known ones too."""
    deciding = world(1)
    replica = exact(deciding)
    request = prompt(LONG)
    observe(deciding, 0, request)
    sent(deciding.decide(request, 0.0))
    deciding.index.observed.clear(0)
    deciding.sourced(replica, Source.RECOVERING, 0.0)
    assert sent(deciding.decide(request, 0.0)).hit_tokens == 160.0


def test_a_restart_leaves_what_events_told_to_the_events() -> None:
    """They tell of it in their own order, and may have told of the new engine's blocks already; who leaves holds
    nothing."""
    deciding = world(1)
    replica = exact(deciding)
    request = prompt(LONG)
    observe(deciding, 0, request)
    deciding.drop(replica)
    assert deciding.index.observed.blocks(0) == 10
    deciding.occupancy.leave(0)
    assert deciding.index.observed.blocks(0) == 0


def test_slower_mediums_are_priced() -> None:
    """A prefix on the GPU is better than on the CPU, that better than on disk, that better than none."""
    order = []
    deciding = world(4)
    request = prompt("y" * 16_000)
    observe(deciding, 1, request, Medium.DISK, 1000)
    observe(deciding, 2, request, Medium.CPU, 1000)
    observe(deciding, 3, request, Medium.GPU, 1000)
    tried: frozenset[str] = frozenset()
    for _ in range(4):
        decision = sent(deciding.decide(request, 0.0, tried))
        order.append(decision.replica.row)
        deciding.settle(request, decision, 0.0, completed=False)
        tried |= {decision.replica.name}
    assert order == [3, 2, 1, 0]


def test_the_event_of_the_last_block_ends_a_prefill() -> None:
    """A reply that is not streamed has been prefilled when events tell of its prompt's last block, and trains TTFT."""
    deciding = world(1)
    replica = exact(deciding)
    request = prompt(LONG, stream=False)
    decision = sent(deciding.decide(request, 0.0))
    deciding.stored(replica, request.keys[:5], 0.001)
    assert phase(decision) == Phase.PREFILL
    deciding.stored(replica, request.keys[5:], 0.002)
    assert phase(decision) == Phase.DECODE
    deciding.settle(request, decision, 1.0, completed=True)
    assert not deciding.ledger.awaits(replica.row)


def test_others_leases_weigh_as_our_own() -> None:
    """What another router sent to a replica queues there, is expected there, and is gone when settled."""
    deciding = world(2)
    busy = deciding.fleet.get("r0")
    assert busy is not None
    foreign = prompt("z" * 100_001)
    lease = deciding.foreign(foreign, busy, 0.0, 5.0, 0.0)
    assert sent(deciding.decide(prompt(LONG), 0.0)).replica.name == "r1"
    assert sent(deciding.decide(foreign, 0.0)).best_hit_tokens == 100_000.0
    deciding.others.settle(lease, 1.0, completed=True)
    assert (len(deciding.others), len(deciding.ledger)) == (0, 2)


def test_an_engine_computes_the_end_of_a_full_hit_again() -> None:
    """Of a prompt of whole blocks that is held entirely the last block is not found: its last token is computed."""
    deciding = world(1)
    request = prompt("x" * 160)
    observe(deciding, 0, request)
    assert sent(deciding.decide(request, 0.0)).hit_tokens == 144.0


def test_events_that_another_router_told_say_nothing_of_speed() -> None:
    """They end the prefill, late as they are, and train no rate."""
    deciding = world(1)
    replica = exact(deciding)
    request = prompt(LONG, stream=False)
    decision = sent(deciding.decide(request, 0.0))
    deciding.stored(replica, request.keys, 0.001, timely=False)
    assert phase(decision) == Phase.DECODE
    assert deciding.estimate.rate(replica).observed == 0


def test_events_train_the_rate_of_a_replica_that_had_one_prefill_only() -> None:
    """What events time is a step: of prompts that are computed in one, neither says how fast the replica is."""
    deciding = world(1)
    replica = exact(deciding)
    estimate = deciding.estimate
    for turn in range(16):
        now = float(turn)
        pair = [prompt(f"{turn} {which}" + "x" * 4000, id=which, stream=False) for which in ("a", "b")]
        first, second = (sent(deciding.decide(one, now)) for one in pair)
        for request, decision in zip(pair, (first, second), strict=True):
            deciding.stored(replica, request.keys, now + 0.5)
            deciding.settle(request, decision, now + 0.6, completed=True)
    assert estimate.rate(replica).observed == 16
