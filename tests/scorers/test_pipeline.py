"""The pipeline adds up scorers' seconds."""

from __future__ import annotations

import numpy as np
import pytest

from kvroute.scorers.contract import Candidates, Floats, Part, Request, Role
from kvroute.scorers.latency import goodput, latency
from kvroute.scorers.pipeline import FEW, Pipeline, Weighted
from kvroute.scorers.prefill import Prefill
from kvroute.scorers.queue import Queue
from kvroute.scorers.testing import candidates, request, varied

RNG = np.random.default_rng(0)


class Fixed:
    """A scorer that answers what it was told."""

    def __init__(self, answer: object, part: Part = "cost") -> None:
        self.part: Part = part
        self.answer = answer

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """Whatever it is, right or wrong."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


class Heard:
    """An `on_fault` that remembers."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str, str]] = []

    def __call__(self, name: str, distribution: str, message: str) -> None:
        self.faults.append((name, distribution, message))


def test_the_cheapest_sum_is_chosen() -> None:
    """A cached prefix is worth a queue that costs less than the cache saves, and not one that costs more."""
    policy = latency()
    short_queue = candidates(2, tokens=4000, hit_tokens=[3900, 0], queued_tokens=[1000, 0])
    long_queue = candidates(2, tokens=4000, hit_tokens=[3900, 0], queued_tokens=[9000, 0])
    assert policy.choose(request(4000), short_queue, 0.0, RNG) == 0
    assert policy.choose(request(4000), long_queue, 0.0, RNG) == 1


@pytest.mark.parametrize("count", [4, FEW, FEW + 1, 65, 300])
def test_any_number_of_replicas(count: int) -> None:
    """The loop for few and the arrays for many find the one replica that holds the prefix."""
    hits = [0.0] * count
    hits[count - 2] = 4000.0
    assert latency().choose(request(4096), candidates(count, tokens=4096, hit_tokens=hits), 0.0, RNG) == count - 2


@pytest.mark.parametrize("count", [2, 20])
def test_excluded_replicas_are_never_chosen(count: int) -> None:
    """-1 when every candidate costs inf; the only one left is chosen however dear."""
    role = [float(Role.PREFILL)] * count
    assert latency().choose(request(), candidates(count, role=role), 0.0, RNG) == -1
    role[-1] = Role.BOTH
    queued = [0.0] * (count - 1) + [1e6]
    assert latency().choose(request(), candidates(count, role=role, queued_tokens=queued), 0.0, RNG) == count - 1


def test_goodput_spares_decoding_requests() -> None:
    """`goodput` goes to the replica with fewer decoding requests where `latency` follows the prefix."""
    given = candidates(2, tokens=4000, hit_tokens=[3000, 0], decoding=[10, 0])
    assert latency().choose(request(4000), given, 0.0, RNG) == 0
    assert goodput().choose(request(4000), given, 0.0, RNG) == 1


def test_weight_zero_removes_a_scorer() -> None:
    """Without the queue's seconds the prefix always wins; no 0 x inf turns a sum into NaN."""
    given = candidates(2, tokens=4000, hit_tokens=[3900, 0], queued_tokens=[90_000, 0])
    assert latency().choose(request(4000), given, 0.0, RNG) == 1
    assert latency(queue=0.0).choose(request(4000), given, 0.0, RNG) == 0
    shut = Weighted(Fixed(np.full(2, np.inf)), 0.0, "shut")
    assert Pipeline([Weighted(Prefill()), shut]).choose(request(4000), given, 0.0, RNG) == 0


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_senseless_weight_is_refused(weight: float) -> None:
    """A weight is a number of at least 0."""
    with pytest.raises(ValueError, match="the weight of queue must be a number >= 0"):
        Pipeline([Weighted(Queue(), weight)])


def test_two_scorers_of_one_name_are_refused() -> None:
    """A breakdown by name needs different names."""
    with pytest.raises(ValueError, match="same name: queue, queue"):
        Pipeline([Weighted(Queue()), Weighted(Queue())])


def test_another_scorer_is_added_to_the_built_in_sum() -> None:
    """A plugin's seconds, times its weight, count like our own; inf excludes."""
    given = candidates(3, tokens=4000, hit_tokens=[3900, 0, 0])
    away = Weighted(Fixed(np.array([0.5, 0.0, np.inf])), 2.0, "away")
    policy = latency().with_scorers([away], Heard())
    assert policy.choose(request(4000), given, 0.0, RNG) == 1
    ours = latency().totals(request(4000), given, 0.0)
    assert policy.totals(request(4000), given, 0.0) == pytest.approx(ours + np.array([1.0, 0.0, np.inf]))


def test_a_scorer_of_the_same_name_takes_the_place() -> None:
    """A weight can be changed by listing the scorer again."""
    policy = latency().with_scorers([Weighted(Queue(), 3.0, "queue")], Heard())
    assert [(one.name, one.weight) for one in policy.scorers if one.name == "queue"] == [("queue", 3.0)]


@pytest.mark.parametrize("count", [3, 40])
def test_the_breakdown_adds_up_to_the_total(count: int) -> None:
    """What is explained is what decided, weights included, one row for each scorer."""
    given = varied(count, np.random.default_rng(3))
    policy = latency(interference=2.0).with_scorers([Weighted(Fixed(np.ones(count)), 0.5, "one")], Heard())
    asked = request(adapter="a")
    rows = policy.breakdown(asked, given, 0.0)
    assert list(rows) == ["queue", "wait", "prefill", "congestion", "interference", "adapter", "role", "one"]
    np.testing.assert_allclose(sum(rows.values(), np.zeros(count)), policy.totals(asked, given, 0.0), rtol=1e-9)


def test_predicted_start_counts_start_parts_unweighted() -> None:
    """Costs to others are no part of the prediction, nor is a weight."""
    given = candidates(1, tokens=1000, seconds_per_token=1e-4, seconds_per_quadratic=0, queued_tokens=1000, busy=0.9)
    extras = [
        Weighted(Fixed(np.array([0.3]), "start"), 5.0, "mine"),
        Weighted(Fixed(np.array([9.0]), "cost"), 1.0, "theirs"),
    ]
    policy = latency(queue=0.5).with_scorers(extras, Heard())
    assert policy.predicted_start(request(), given, 0, 0.0) == pytest.approx(0.1 + 0.1 + 0.3)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (ZeroDivisionError("oops"), "raised ZeroDivisionError: oops"),
        (np.array([0.0, np.nan]), "returned NaN"),
        (np.array([0.0, -1.0]), "returned a negative number of seconds (-1.0)"),
        (np.zeros(3), "returned shape (3,), not (2,)"),
        (np.zeros((2, 1)), "returned shape (2, 1), not (2,)"),
        (np.zeros(2, dtype=np.float32), "returned dtype float32, not float64"),
        ([0.0, 0.0], "returned list, not a numpy array"),
        (None, "returned NoneType, not a numpy array"),
    ],
)
def test_a_failing_scorer_contributes_nothing(answer: object, fault: str) -> None:
    """It is reported by name and distribution each time, and the request goes where it would have gone without."""
    heard = Heard()
    broken = Weighted(Fixed(answer, "start"), 1.0, "broken", "their-package")
    policy = latency().with_scorers([broken], heard)
    given = candidates(2, tokens=4000, hit_tokens=[0, 3900])
    assert policy.choose(request(4000), given, 0.0, RNG) == 1
    assert heard.faults == [("broken", "their-package", fault)]
    assert "broken" not in policy.breakdown(request(4000), given, 0.0)
    assert policy.predicted_start(request(4000), given, 1, 0.0) == pytest.approx(
        latency().predicted_start(request(4000), given, 1, 0.0)
    )
