"""Below, at and beyond the knee."""

from __future__ import annotations

import pytest

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.reports.columns import Columns
from kvroute.simulator.reports.knee import Verdict, closed_loop, crowd, growth, judge
from kvroute.simulator.reports.summary import summarise
from kvroute.simulator.runs.outcome import Outcome, Sample
from tests.simulator.reports.outcomes import NOWHERE, outcome, queue, scenario


def verdict(run: Outcome, kind: Kind = NOWHERE) -> Verdict:
    """What is said of a run."""
    fleet = scenario(len(run.names), kind=kind)
    return judge(run, fleet, Columns(run, fleet))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize(("rho", "regime"), [(0.5, "below"), (0.95, "at"), (1.2, "beyond")])
def test_queues_of_known_load(rho: float, regime: str, replicas: int, seed: int) -> None:
    """M/D/1 at half load, close to the limit, and above it."""
    assert verdict(queue(rho, 4000, seed, replicas=replicas)).regime == regime


@pytest.mark.parametrize("seed", range(5))
def test_random_service_is_no_overload(seed: int) -> None:
    """M/M/1 at 0.9 waits long, and wanders; it is not saturated."""
    assert verdict(queue(0.9, 4000, seed, fixed=False)).regime == "at"


@pytest.mark.parametrize("seed", range(5))
def test_the_slope_of_waiting_is_the_overload(seed: int) -> None:
    """Arrivals 1.5 times as fast as service: each second adds half a second of wait."""
    run = queue(1.5, 3000, seed)
    columns = Columns(run, scenario())
    assert growth(columns.at, columns.queue, 2.0) == pytest.approx(0.5, abs=0.1)
    assert "times as fast as it is done" in verdict(run).reason


def test_short_of_requests_no_trend_is_claimed() -> None:
    """Thirty requests that wait a little longer each show nothing."""
    assert verdict(queue(1.1, 30, 0)).regime != "beyond"


def test_a_run_that_is_too_short_to_judge_says_so() -> None:
    """Nobody waits, but the arrivals end before the first answers are complete."""
    rows = [(0.01 * i, 0.01 * i, 0.01 * i + 0.1, 0.01 * i + 20.0) for i in range(200)]
    found = verdict(outcome(rows))
    assert found.regime == "at"
    assert "too short a run" in found.reason
    longer = [(0.5 * i, 0.5 * i, 0.5 * i + 0.1, 0.5 * i + 20.0) for i in range(2000)]
    assert verdict(outcome(longer)).regime == "below"


def test_refused_requests_are_not_under_way() -> None:
    """Two of three find no room: nobody waits, nothing grows, and it is said how many were refused."""
    rows: list[tuple[float, float | None, float | None, float | None]] = [
        (float(i), float(i), i + 0.1, i + 0.5) if i % 3 == 0 else (float(i), None, None, None) for i in range(300)
    ]
    found = verdict(outcome(rows, refused=200))
    assert found.regime == "below"
    assert "too short" not in found.reason
    assert found.reason.endswith("200 of 300 requests were refused: no replica could be chosen, or had room for them")
    assert "refused" not in verdict(outcome([row for row in rows if row[1] is not None])).reason


def test_a_burst_that_is_worked_off_is_no_saturation() -> None:
    """A hundred at once in the middle of a quiet run."""
    sent = sorted([*(10.0 * i for i in range(400)), *(2000.0 + 0.001 * i for i in range(100))])
    free, rows = 0.0, []
    for at in sent:
        begun = max(at, free)
        free = begun + 1.0
        rows.append((at, begun, free, free))
    assert verdict(outcome(rows, output=1)).regime == "at"


def test_everything_at_once_is_saturated() -> None:
    """Two hundred requests within a second take 200 s: nothing grew, all of it was there at the start."""
    rows = [(0.001 * i, float(i), i + 1.0, i + 1.0) for i in range(50)]
    found = verdict(outcome(rows, output=1))
    assert found.regime == "beyond"
    assert "all requests came within" in found.reason


def test_one_replica_that_gets_too_much_is_named() -> None:
    """Seven replicas idle, one drowns: the mean hides it, its own requests do not."""
    idle = [(float(i), float(i), i + 0.1, i + 0.1) for i in range(4000)]
    drowned = [(float(i), i * 1.25, i * 1.25 + 1.25, i * 1.25 + 1.25) for i in range(0, 4000, 8)]
    rows = sorted([*((*row, 1 + place % 7) for place, row in enumerate(idle)), *((*row, 0) for row in drowned)])
    run = outcome([row[:4] for row in rows], replica=[row[4] for row in rows], replicas=8, output=1)
    found = verdict(run)
    assert found.saturated
    assert found.reason.startswith("replica-0 gets more than can be done there")


def test_waiting_for_the_decode_replica_is_seen() -> None:
    """Where prefill and decode are apart a request may be scheduled at once and wait all the same."""
    rows = [(float(i), float(i), 1.3 * i + 1.0, 1.3 * i + 2.0) for i in range(2000)]
    assert verdict(outcome(rows, replica=[1] * 2000, prefill=0, replicas=2)).saturated
    assert not verdict(outcome(rows)).saturated


def closed(clients: int, slots: int, rounds: int) -> Outcome:
    """Clients that ask again at once, of whom `slots` are served at a time for 10 s each, 1 s of it prefill."""
    free = [0.0] * slots
    ready = [0.0] * clients
    rows = []
    for _ in range(rounds):
        for client in range(clients):
            slot = min(range(slots), key=free.__getitem__)
            begun = max(ready[client], free[slot])
            rows.append((ready[client], begun, begun + 1.0, begun + 10.0))
            ready[client] = free[slot] = begun + 10.0
    rows.sort()
    samples = [Sample(float(t), [min(clients, slots)], [max(clients - slots, 0)], [0.5]) for t in range(100)]
    run = outcome(rows, samples=samples)
    run.followed = len(rows) - clients
    return run


def test_a_closed_loop_is_saturated_when_its_slots_are() -> None:
    """More clients than slots: the queue cannot grow, and still more clients would only wait longer."""
    kind = Kind(limits=Limits(max_num_seqs=4), ingress=NOWHERE.ingress)
    crowded = closed(8, 4, 30)
    assert closed_loop(crowded)
    found = verdict(crowded, kind)
    assert found.saturated
    assert "all slots are taken. In a closed loop" in found.reason
    assert verdict(closed(3, 4, 60), kind).regime == "below"


def test_a_full_cache_and_preemptions_put_a_run_at_the_knee() -> None:
    """Though nobody waits."""
    rows = [(float(i), float(i), i + 0.1, i + 1.0) for i in range(100)]
    full = [Sample(float(t), [1], [0], [0.99 if t > 50 else 0.1]) for t in range(100)]
    assert "KV cache is full 49% of the time" in verdict(outcome(rows, samples=full)).reason
    found = verdict(outcome(rows, preemptions=[1] * 5 + [0] * 95))
    assert found.regime == "at"
    assert "5 preemptions" in found.reason


def test_samples_weigh_by_the_time_they_stand_for() -> None:
    """Nine seconds at half use, one at full use."""
    run = outcome([(0.0, 0.0, 0.1, 1.0)], samples=[Sample(0.0, [0], [0], [0.0]), Sample(9.0, [1], [0], [0.5]),
                                                   Sample(10.0, [1], [0], [1.0])])  # fmt: skip
    found = crowd(run, [NOWHERE])
    assert found.kv_mean == pytest.approx(0.55)
    assert found.kv_peak == 1.0
    assert found.kv_full == pytest.approx(0.1)


def test_saturated_is_beyond() -> None:
    """The summary's two words for it agree."""
    summary = summarise(queue(1.3, 2000, 1), scenario())
    assert summary.saturated
    assert summary.regime == "beyond"
