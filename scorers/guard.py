"""Foreign code at run time: what raises or answers nonsense is reported, contributes nothing, and stops no request."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats, Policy, Request, Role, Scorer

OnFault: TypeAlias = Callable[[str, str, str], None]
"""Called as `on_fault(name, distribution, message)` each time a plugin fails; whoever gives it counts and logs."""


def ignore_fault(name: str, distribution: str, message: str) -> None:
    """The `OnFault` of those who do not want to know."""


class GuardedScorer:
    """A scorer whose answer is checked before it is used."""

    __slots__ = ("_on_fault", "distribution", "name", "scorer")

    def __init__(self, scorer: Scorer, name: str, distribution: str, on_fault: OnFault) -> None:
        self.scorer = scorer
        self.name = name
        self.distribution = distribution
        self._on_fault = on_fault

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats | None:
        """The scorer's seconds, or None when it broke its contract."""
        try:
            answer = self.scorer.seconds(request, candidates, now)
            fault = wrong_seconds(answer, len(candidates))
        except Exception as error:  # noqa: BLE001 - somebody else's code: whatever it raises, the request goes on
            fault = f"raised {type(error).__name__}: {error}"
        if fault is None:
            return answer
        self._on_fault(self.name, self.distribution, fault)
        return None


def wrong_seconds(answer: object, count: int) -> str | None:
    """What is wrong with a scorer's answer for `count` candidates, in words; None when nothing is."""
    if not isinstance(answer, np.ndarray):
        return f"returned {type(answer).__name__}, not a numpy array"
    if answer.dtype != np.float64:
        return f"returned dtype {answer.dtype}, not float64"
    if answer.shape != (count,):
        return f"returned shape {answer.shape}, not ({count},)"
    least = answer[answer.argmin()]  # argmin finds a NaN first
    if least >= 0.0:
        return None
    return "returned NaN" if least != least else f"returned a negative number of seconds ({least})"


class GuardedPolicy:
    """A policy that is shown only replicas that may be chosen, and whose choice is checked before it is used."""

    __slots__ = ("_decided", "_fallback", "_on_fault", "_settled", "distribution", "name", "policy")

    def __init__(self, policy: Policy, name: str, distribution: str, fallback: Policy, on_fault: OnFault) -> None:
        self.policy = policy
        self.name = name
        self.distribution = distribution
        self._fallback = fallback
        self._on_fault = on_fault
        self._decided = getattr(policy, "on_decided", None)
        self._settled = getattr(policy, "on_settled", None)

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """The policy's choice; the fallback's when the policy raised or named no candidate."""
        roles = candidates.table[Column.ROLE]
        if not roles[roles.argmax()]:  # every replica runs both phases, the usual case
            return self._choose(request, candidates, now, rng)
        allowed = np.flatnonzero(roles != Role.PREFILL).tolist()
        if not allowed:
            return -1
        index = self._choose(request, candidates.take(allowed), now, rng)
        return allowed[index] if index >= 0 else -1

    def _choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        try:
            index = operator.index(self.policy.choose(request, candidates, now, rng))
        except Exception as error:  # noqa: BLE001 - somebody else's code: whatever it raises, the request goes on
            fault = f"raised {type(error).__name__}: {error}"
        else:
            if -1 <= index < len(candidates):
                return index
            fault = f"chose {index} of {len(candidates)} candidates"
        self._on_fault(self.name, self.distribution, fault)
        return self._fallback.choose(request, candidates, now, rng)

    def on_decided(self, request: Request, candidates: Candidates, index: int, now: float) -> None:
        """Passed on to a policy that defines it."""
        if self._decided is not None:
            self._notify(self._decided, request, candidates, index, now)

    def on_settled(self, request_id: str, name: str, now: float) -> None:
        """Passed on to a policy that defines it."""
        if self._settled is not None:
            self._notify(self._settled, request_id, name, now)

    def _notify(self, hook: Callable[..., object], *arguments: object) -> None:
        try:
            hook(*arguments)
        except Exception as error:  # noqa: BLE001 - as above
            self._on_fault(self.name, self.distribution, f"raised {type(error).__name__}: {error}")
