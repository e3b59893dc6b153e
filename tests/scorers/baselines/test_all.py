"""What holds for every policy of the field."""

from __future__ import annotations

from importlib.metadata import entry_points

import numpy as np
import pytest

from kvroute.scorers.contract import Column, Role
from kvroute.scorers.plugins import POLICIES, load_policy
from kvroute.scorers.testing import DEFAULTS, candidates, check_policy, request, varied

FIELD = (
    "round-robin", "random", "least-requests", "power-of-two", "session-hash", "chwbl", "cache-aware-threshold",
    "weighted-sum", "affinity-gate", "dynamo-cost", "lmetric", "lpwl", "recent-blocks", "preble-e2", "mooncake-ttft",
    "smetric",
)  # fmt: skip
"""Every named policy of the field that the default is compared with."""
KEYED = ("session-hash", "chwbl")
"""Those that go by what the prompt is."""


def test_every_policy_of_the_field_is_installed() -> None:
    """Each by its name, as one of our entry points, and nothing else but the defaults."""
    ours = {point.name for point in entry_points(group=POLICIES) if point.value.startswith("kvroute.")}
    assert ours == {*FIELD, "latency", "goodput"}


@pytest.mark.parametrize("name", FIELD)
def test_the_conformance_kit_passes(name: str) -> None:
    """Nothing is changed, the same seed chooses the same, 1 to 300 replicas, unknown capacities."""
    check_policy(lambda: load_policy(name))


@pytest.mark.parametrize("name", FIELD)
def test_no_fault_is_hidden_by_the_fallback(name: str) -> None:
    """The guard has nothing to report on varied replicas, with and without a prompt."""
    faults: list[str] = []
    policy = load_policy(name, lambda *fault: faults.append(": ".join(fault)))
    rng = np.random.default_rng(3)
    for turn in range(200):
        tokens = int(rng.choice([0, 1, 15, 16, 1000, 100_000]))
        given = varied(int(rng.integers(1, 20)), rng, tokens=tokens)
        asked = request(tokens, anchor=int(rng.integers(1 << 62)))
        index = policy.choose(asked, given, float(turn), rng)
        assert 0 <= index < len(given)
        policy.on_decided(asked, given, index, float(turn))  # type: ignore[attr-defined]
        policy.on_settled(asked.id, given.names[index], float(turn))  # type: ignore[attr-defined]
    assert faults == []


@pytest.mark.parametrize("name", FIELD)
def test_replicas_that_only_prefill_are_not_chosen(name: str) -> None:
    """The only ones that may be chosen are, however busy; where there is none, nobody is."""
    policy = load_policy(name)
    rng = np.random.default_rng(4)
    roles = [Role.PREFILL, Role.BOTH, Role.PREFILL, Role.DECODE]
    loads = [0.0, 5000.0, 0.0, 5000.0]
    given = candidates(4, hit_tokens=[900, 0, 900, 0], role=roles, queued_tokens=loads, requests=[0, 50, 0, 50])
    assert {policy.choose(request(anchor=turn), given, 0.0, rng) for turn in range(50)} <= {1, 3}
    assert policy.choose(request(), candidates(2, role=Role.PREFILL), 0.0, rng) == -1


@pytest.mark.parametrize("count", [2, 8, 65])
@pytest.mark.parametrize("name", [name for name in FIELD if name not in KEYED])
def test_idle_equals_share_the_work(name: str, count: int) -> None:
    """Different cold prompts, one after another, to equal idle replicas: nobody gets twice his share or half of it."""
    policy = load_policy(name)
    rng = np.random.default_rng(5)
    chosen = np.zeros(count)
    picks = np.zeros(count, int)
    lot = name in ("random", "least-requests", "power-of-two", "dynamo-cost")
    for turn in range(1, (200 if lot else 20) * count + 1):
        given = candidates(count, chosen=chosen.tolist())
        index = policy.choose(request(), given, float(turn), rng)
        policy.on_decided(request(), given, index, float(turn))  # type: ignore[attr-defined]
        chosen[index] = turn
        picks[index] += 1
    assert picks.max() <= 2 * picks.mean()
    assert picks.min() >= 0.5 * picks.mean()


@pytest.mark.parametrize("name", FIELD)
def test_an_order_of_the_list_is_no_preference(name: str) -> None:
    """Turned round, the same replica is chosen, save where the dice or equal shares of the ring decide."""
    if name in ("random", "power-of-two"):
        pytest.skip("chooses by lot")
    rng = np.random.default_rng(6)
    for _ in range(30):
        given = varied(12, rng)
        asked = request(anchor=int(rng.integers(1 << 62)))
        order = rng.permutation(12).tolist()
        index = load_policy(name).choose(asked, given, 0.0, np.random.default_rng(1))
        turned = load_policy(name).choose(asked, given.take(order), 0.0, np.random.default_rng(1))
        assert given.names[index] == given.take(order).names[turned]


def test_the_defaults_of_the_kit_are_idle() -> None:
    """What the tests above call idle is: nothing queued, running, held or busy."""
    for column in (Column.QUEUED_TOKENS, Column.REQUESTS, Column.ACTIVE_TOKENS, Column.CACHED_TOKENS, Column.BUSY):
        assert DEFAULTS[column] == 0.0
