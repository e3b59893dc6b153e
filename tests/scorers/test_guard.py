"""Foreign policies are watched at run time."""

from __future__ import annotations

import numpy as np
import pytest

from kvroute.scorers.contract import Candidates, Request, Role
from kvroute.scorers.guard import GuardedPolicy
from kvroute.scorers.latency import latency
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


class Says:
    """A policy that answers what it was told, and remembers what it was shown."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.shown: list[tuple[str, ...]] = []

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Whatever it is, right or wrong."""
        self.shown.append(tuple(candidates.names))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


class Listens(Says):
    """A policy with hooks that fail."""

    def on_decided(self, request: Request, candidates: Candidates, index: int, now: float) -> None:
        """Fails."""
        raise KeyError("decided")

    def on_settled(self, request_id: str, name: str, now: float) -> None:
        """Fails."""
        raise KeyError("settled")


def guarded(policy: Says) -> tuple[GuardedPolicy, list[tuple[str, str, str]]]:
    """The policy under guard, and where its faults are written."""
    faults: list[tuple[str, str, str]] = []
    return GuardedPolicy(policy, "says", "their-package", latency(), lambda *fault: faults.append(fault)), faults


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (ValueError("oops"), "raised ValueError: oops"),
        (4, "chose 4 of 4 candidates"),
        (-2, "chose -2 of 4 candidates"),
        (None, "raised TypeError: 'NoneType' object cannot be interpreted as an integer"),
        (1.0, "raised TypeError: 'float' object cannot be interpreted as an integer"),
    ],
)
def test_a_failing_policy_falls_back_to_the_default(answer: object, fault: str) -> None:
    """The fault is reported and the default policy chooses."""
    policy, faults = guarded(Says(answer))
    given = candidates(4, tokens=4000, hit_tokens=[0, 0, 3900, 0])
    assert policy.choose(request(4000), given, 0.0, RNG) == 2
    assert faults == [("says", "their-package", fault)]


def test_a_sound_choice_stands() -> None:
    """An index, numpy's integers too, and -1 for nobody."""
    for answer in (1, np.int64(1), -1):
        policy, faults = guarded(Says(answer))
        assert policy.choose(request(), candidates(4), 0.0, RNG) == answer
        assert not faults


def test_prefill_only_replicas_are_not_shown() -> None:
    """A policy that knows nothing of roles cannot choose a replica that only prefills."""
    says = Says(1)
    policy, _ = guarded(says)
    given = candidates(4, role=[Role.PREFILL, Role.BOTH, Role.PREFILL, Role.DECODE])
    assert policy.choose(request(), given, 0.0, RNG) == 3
    assert says.shown == [(given.names[1], given.names[3])]
    says.answer = -1
    assert policy.choose(request(), given, 0.0, RNG) == -1
    assert policy.choose(request(), candidates(2, role=Role.PREFILL), 0.0, RNG) == -1


def test_failing_hooks_are_reported() -> None:
    """on_decided and on_settled are passed on where they exist, and cannot hurt the request."""
    policy, faults = guarded(Listens(0))
    policy.on_decided(request(), candidates(2), 0, 0.0)
    policy.on_settled("request-1", "name", 0.0)
    assert [message for _, _, message in faults] == ["raised KeyError: 'decided'", "raised KeyError: 'settled'"]
    silent, faults = guarded(Says(0))
    silent.on_decided(request(), candidates(2), 0, 0.0)
    silent.on_settled("request-1", "name", 0.0)
    assert not faults
