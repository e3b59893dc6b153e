"""Decisions: what is looked up, reserved and refused, and how traffic spreads."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core.decide import Deciding, Decision, Reason
from kvroute.router.core.replica import Spec, State
from kvroute.scorers.contract import Column
from kvroute.scorers.plugins import load_policy
from tests.router.core.deciding import prompt, sent, world


def serve(deciding: Deciding, decision: Decision, at: float, ttft: float, tokens: int = 4) -> None:
    """Let a decided request run to its end at once."""
    deciding.ledger.first_output(decision.lease, at + ttft)
    deciding.settle(prompt("x"), decision, at + ttft, completed=True, output_tokens=tokens)


def test_a_prefix_brings_a_request_back_to_its_holder() -> None:
    """The second turn goes where the first went, and says how much it expects to hit there."""
    deciding = world(8)
    first = sent(deciding.decide(prompt("a" * 3200), 0.0))
    serve(deciding, first, 0.0, 0.1)
    second = sent(deciding.decide(prompt("a" * 3200 + "b" * 320), 1.0))
    assert second.replica is first.replica
    assert second.hit_tokens == 3200.0 == second.best_hit_tokens


def test_identical_cold_prompts_follow_the_prefix_to_one_replica() -> None:
    """1,000 identical prompts sent one after another to 8 idle replicas end up at one."""
    deciding = world(8)
    seen: Counter[str] = Counter()
    for i in range(1000):
        decision = sent(deciding.decide(prompt("system prompt " * 100), i * 1.0))
        seen[decision.replica.name] += 1
        serve(deciding, decision, i * 1.0, 0.05)
    assert len(seen) == 1


def test_short_distinct_prompts_spread_evenly_although_rates_are_noisy() -> None:
    """1,000 short prompts that share no block, over 8 equal replicas: within 10 % of even."""
    deciding = world(8)
    rng = np.random.default_rng(3)
    seen: Counter[str] = Counter()
    for i in range(1000):
        decision = sent(deciding.decide(prompt(f"{i:08d} question {i}"), i * 0.05))
        seen[decision.replica.name] += 1
        work = decision.lease.work
        serve(deciding, decision, i * 0.05, 0.02 + work * rng.uniform(0.8, 1.25))
    assert sum(seen.values()) == 1000
    assert 0.9 * 125 <= min(seen.values()) <= max(seen.values()) <= 1.1 * 125


def test_a_burst_on_one_cached_prefix_spreads_when_queueing_costs_more_than_recomputing() -> None:
    """200 prompts sharing a long prefix that one of 8 holds: the first go there, the rest elsewhere, all at once."""
    deciding = world(8)
    shared = "p" * 16_000
    first = sent(deciding.decide(prompt(shared), 0.0))
    serve(deciding, first, 0.0, 0.4)
    picks = [sent(deciding.decide(prompt(f"{shared}{i:05d}" + "q" * 400), 1.0)) for i in range(200)]
    assert picks[0].replica is first.replica
    assert picks[1].replica is first.replica
    seen = Counter(pick.replica.name for pick in picks)
    assert len(seen) == 8
    queued = deciding.fleet.table[Column.QUEUED_TOKENS, :8]
    assert queued.max() - queued.min() <= 16_000  # nobody waits longer than computing the prefix again would take


def test_the_reservation_is_visible_to_the_very_next_decision() -> None:
    """Two equal requests at the same instant go to two replicas."""
    deciding = world(2)
    one = sent(deciding.decide(prompt("a" * 5000), 0.0))
    two = sent(deciding.decide(prompt("b" * 5000), 0.0))
    assert one.replica is not two.replica


def test_predicted_ttft_counts_what_is_queued_before_it() -> None:
    """A request behind another expects that one's prefill and its own."""
    deciding = world(1)
    alone = sent(deciding.decide(prompt("a" * 4000), 0.0)).predicted_ttft
    behind = sent(deciding.decide(prompt("b" * 4000), 0.0)).predicted_ttft
    assert behind == pytest.approx(2 * alone)


def test_unknown_model_and_unready_fleet_are_told_apart() -> None:
    """Nobody serves it; those that serve it are not ready; the fleet is not known yet."""
    deciding = world(1)
    assert deciding.decide(prompt("x", model="nope"), 0.0) is Reason.UNKNOWN_MODEL
    replica = deciding.fleet.get("r0")
    assert replica is not None
    deciding.fleet.move(replica, State.EJECTED)
    assert deciding.decide(prompt("x"), 0.0) is Reason.NOT_READY
    deciding.fleet.join(Spec(name="new", endpoint="new", models=()), 0.0)
    assert deciding.decide(prompt("x", model="nope"), 0.0) is Reason.NOT_READY


def test_a_retry_avoids_those_tried() -> None:
    """Tried replicas are left out; when all were tried, that is the reason."""
    deciding = world(3)
    tried: frozenset[str] = frozenset()
    for _ in range(3):
        decision = sent(deciding.decide(prompt("x"), 0.0, tried))
        assert decision.replica.name not in tried
        deciding.settle(prompt("x"), decision, 0.0, completed=False)
        tried |= {decision.replica.name}
    assert deciding.decide(prompt("x"), 0.0, tried) is Reason.ALL_TRIED


def test_all_infinite_is_a_refusal() -> None:
    """When the policy excludes every replica there is no decision and nothing is reserved."""

    class Nobody:
        def choose(self, *_: object) -> int:
            return -1

    deciding = world(2, policy=Nobody())
    assert deciding.decide(prompt("x"), 0.0) is Reason.EXCLUDED
    assert len(deciding.ledger) == 0


def test_a_request_that_failed_leaves_no_prefix_behind() -> None:
    """What a request was expected to bring is withdrawn when it never got a first output."""
    deciding = world(2)
    decision = sent(deciding.decide(prompt("a" * 3200), 0.0))
    deciding.settle(prompt("x"), decision, 1.0, completed=False)
    again = sent(deciding.decide(prompt("a" * 3200), 2.0))
    assert again.best_hit_tokens == 0.0


def test_a_restarted_replica_is_forgotten_at_once() -> None:
    """After `drop` its blocks are gone, and a request still running there settles without harm."""
    deciding = world(2)
    first = sent(deciding.decide(prompt("a" * 3200), 0.0))
    deciding.ledger.first_output(first.lease, 0.1)
    deciding.drop(first.replica)
    second = sent(deciding.decide(prompt("a" * 3200), 1.0))
    assert second.best_hit_tokens == 0.0
    deciding.settle(prompt("x"), first, 2.0, completed=True, output_tokens=5)
    deciding.settle(prompt("x"), second, 2.0, completed=True, output_tokens=5)
    assert len(deciding.ledger) == 0
    assert deciding.fleet.table[Column.REQUESTS].tolist()[:2] == [0.0, 0.0]


def test_a_late_end_does_not_fill_a_restarted_replicas_cache() -> None:
    """What a request of the engine's earlier life weighed is no part of the new one."""
    deciding = world(1)
    decision = sent(deciding.decide(prompt("a" * 3200), 0.0))
    deciding.drop(decision.replica)
    deciding.settle(prompt("x"), decision, 1.0, completed=True, output_tokens=5)
    assert decision.replica.cells[Column.ACTIVE_TOKENS] == decision.replica.cells[Column.CACHED_TOKENS] == 0.0


def test_an_unknown_model_is_unknown_although_one_backend_never_comes_up() -> None:
    """A replica that was listed a minute ago and does not answer is no reason to say 503."""
    deciding = world(1)
    deciding.fleet.join(Spec(name="dead", endpoint="dead", models=()), 0.0)
    assert deciding.decide(prompt("x", model="nope"), 1.0) is Reason.NOT_READY
    assert deciding.decide(prompt("x", model="nope"), 61.0) is Reason.UNKNOWN_MODEL


def test_a_choice_that_is_not_the_policys_is_told_to_it_too() -> None:
    """Decided and settled come in pairs, so that a policy's own counts return to zero."""
    count = 0

    class Counting:
        def choose(self, *_: object) -> int:
            return 0

        def on_decided(self, *_: object) -> None:
            nonlocal count
            count += 1

        def on_settled(self, *_: object) -> None:
            nonlocal count
            count -= 1

    deciding = world(2, policy=Counting())
    replica = deciding.fleet.get("r1")
    assert replica is not None
    decision = deciding.at(prompt("x"), replica, 0.0)
    assert count == 1
    deciding.settle(prompt("x"), decision, 1.0, completed=True)
    assert count == 0


def test_hooks_are_called_after_the_reservation_and_at_the_end() -> None:
    """A policy that keeps state of its own hears of its choices and of their end."""
    heard: list[tuple[str, object]] = []

    class Listening:
        def choose(self, *_: object) -> int:
            return 1

        def on_decided(self, request: object, candidates: object, index: int, now: float) -> None:
            heard.append(("decided", index))

        def on_settled(self, request_id: str, name: str, now: float) -> None:
            heard.append(("settled", name))

    deciding = world(2, policy=Listening())
    request = prompt("x", id="q7")
    decision = sent(deciding.decide(request, 0.0))
    deciding.settle(request, decision, 1.0, completed=True)
    deciding.settle(request, decision, 1.0, completed=True)
    assert heard == [("decided", 1), ("settled", "r1")]


@pytest.mark.parametrize("count", [1, 4, 65, 300])
def test_any_width_of_fleet(count: int) -> None:
    """65 and 300 replicas work as 8 do."""
    deciding = world(count)
    first = sent(deciding.decide(prompt("a" * 3200), 0.0))
    serve(deciding, first, 0.0, 0.1)
    assert sent(deciding.decide(prompt("a" * 3200), 1.0)).replica is first.replica


@pytest.mark.parametrize(
    "name",
    [
        "latency",
        "goodput",
        "round-robin",
        "random",
        "least-requests",
        "power-of-two",
        "session-hash",
        "chwbl",
        "lmetric",
    ],
)
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans(), st.booleans()), max_size=60))
def test_leases_and_load_sum_to_zero_whatever_happens(name: str, steps: list[tuple[int, int, bool, bool]]) -> None:
    """Under every policy, after any mixture of ends, nothing is left of any request but what is cached."""
    deciding = world(3, policy=load_policy(name))
    running: list[Decision] = []
    now = 0.0
    for what, which, stream, completed in steps:
        now += 0.01
        if what < 3 or not running:
            request = prompt(f"{which}" * 40, stream=stream, session=str(which), sequences=1 + which % 3)
            running.append(sent(deciding.decide(request, now)))
        elif what < 5:
            decision = running.pop(which % len(running))
            deciding.settle(prompt("x"), decision, now, completed=completed, output_tokens=which)
        else:
            deciding.ledger.first_output(running[which % len(running)].lease, now)
        assert len(deciding.ledger) == len(running)
    for decision in running:
        deciding.settle(prompt("x"), decision, now, completed=False)
    assert len(deciding.ledger) == 0
    for column in (
        Column.REQUESTS,
        Column.DECODING,
        Column.QUEUED_TOKENS,
        Column.QUEUED_QUADRATIC,
        Column.ACTIVE_TOKENS,
    ):
        assert not deciding.fleet.table[column].any(), column
