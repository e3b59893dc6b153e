"""The conformance kit finds what it says it finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvroute.scorers.contract import Candidates, Column, Floats, Part, Request
from kvroute.scorers.testing import candidates, check_policy, check_scorer, request


class Sound:
    """A scorer without fault; the others change one thing."""

    part: Part = "cost"

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """Busy replicas cost."""
        return 0.1 * candidates.column(Column.BUSY)


class Short(Sound):
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        return np.zeros(4)


class Single(Sound):
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Any:
        return np.zeros(len(candidates), dtype=np.float32)


class Unsure(Sound):
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        row = candidates.column(Column.CAPACITY_TOKENS)
        with np.errstate(invalid="ignore"):
            return 1.0 - candidates.column(Column.CACHED_TOKENS) / row + row * 0.0


class Generous(Sound):
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        return candidates.column(Column.BUSY) - 0.5


class Careless(Sound):
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        candidates.table[Column.BUSY] += 1.0
        return np.zeros(len(candidates))


class Retiring(Sound):
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        candidates.tokens += 1
        return np.zeros(len(candidates))


class Lending(Sound):
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        return candidates.column(Column.BUSY)


class Restless(Sound):
    def __init__(self) -> None:
        self.calls = 0.0

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        self.calls += 1.0
        return np.full(len(candidates), self.calls)


class Positional(Sound):
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        return np.arange(len(candidates), dtype=np.float64)


class Partless:
    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        return np.zeros(len(candidates))


class Elsewhere(Sound):
    part: Any = "end"


@pytest.mark.parametrize(
    ("scorer", "sentence"),
    [
        (Short, r"seconds returned shape \(4,\), not \(1,\) \(at 1 candidates\)"),
        (Single, "seconds returned dtype float32, not float64"),
        (Unsure, "seconds returned NaN"),
        (Generous, "seconds returned a negative number of seconds"),
        (Careless, "seconds raised ValueError: .*read-only"),
        (Retiring, "seconds changed the candidates it was given"),
        (Lending, "return a copy"),
        (Restless, "the same input gave two different answers"),
        (Positional, "depends on the order of the candidates"),
        (Partless, "a scorer needs an attribute part"),
        (Elsewhere, "part must be 'start' or 'cost', not 'end'"),
    ],
)
def test_a_broken_scorer_is_named(scorer: Any, sentence: str) -> None:
    """Each way of breaking the contract fails with its sentence."""
    with pytest.raises(AssertionError, match=sentence):
        check_scorer(scorer)


def test_a_sound_scorer_passes_however_it_is_given() -> None:
    """A class, an object or a factory."""
    check_scorer(Sound)
    check_scorer(Sound())
    check_scorer(lambda: Sound())


class First:
    """A policy without fault; the others change one thing."""

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """The first."""
        return 0


class Beyond(First):
    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        return len(candidates)


class Halfway(First):
    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> Any:
        return 0.5


class Meddling(First):
    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        candidates.hit_tokens[:] = 0.5
        return 0


class Renaming(First):
    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        candidates.names = [name.upper() + "!" for name in candidates.names]
        return 0


class Whimsical(First):
    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        return int(np.random.default_rng().integers(len(candidates)))


class Mute:
    """No policy at all."""


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (Beyond, "choose returned 1 for 1 candidates"),
        (Halfway, "choose must return an int, not float"),
        (Meddling, "choose raised ValueError: .*read-only"),
        (Renaming, "choose changed the candidates it was given"),
        (Whimsical, "the same requests and seed gave"),
        (Mute, "a policy needs a method choose"),
    ],
)
def test_a_broken_policy_is_named(policy: Any, sentence: str) -> None:
    """Each way of breaking the contract fails with its sentence."""
    with pytest.raises(AssertionError, match=sentence):
        check_policy(policy)


def test_a_policys_hooks_are_tried() -> None:
    """on_decided and on_settled are called after each choice where they exist."""
    called: list[str] = []

    class Hooked(First):
        def on_decided(self, request: Request, candidates: Candidates, index: int, now: float) -> None:
            called.append("decided")

        def on_settled(self, request_id: str, name: str, now: float) -> None:
            called.append("settled")

    check_policy(Hooked)
    assert set(called) == {"decided", "settled"}


def test_candidates_are_idle_equals_until_told_otherwise() -> None:
    """Columns by lower-case name; a number for all, a sequence for each; no typing error goes unnoticed."""
    given = candidates(3, requests=[1, 2, 3], busy=0.5)
    assert given.column(Column.REQUESTS).tolist() == [1, 2, 3]
    assert given.column(Column.BUSY).tolist() == [0.5, 0.5, 0.5]
    assert len(set(given.names)) == 3
    assert request(5, session="s").session == "s"
    with pytest.raises(TypeError, match="no such column: bussy"):
        candidates(3, bussy=1.0)
