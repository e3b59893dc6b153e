"""Open and closed loops of single requests."""

from __future__ import annotations

from kvroute.simulator.workloads.naming import parse
from kvroute.simulator.workloads.walk import typical, walk
from tests.simulator.workloads.walked import checked


def test_clients_send_when_they_were_answered() -> None:
    """As many as asked for are under way at any time, and each pauses before its next."""
    jobs = checked(parse("shared-prefix,concurrency=4,pause=0.5", seed=1, requests=200))
    assert [job.at for job in jobs[:5]] == [0.0, 0.0, 0.0, 0.0, min(typical(job) for job in jobs[:4]) + 0.5]
    for job in jobs[4:]:
        assert sum(other.at <= job.at < other.at + typical(other) + 0.5 for other in jobs) in (4, 5)


def test_the_order_of_jobs_does_not_depend_on_the_fleet() -> None:
    """The i-th job to be sent is the same however long answers take."""
    workload = parse("shared-prefix,concurrency=4", seed=1, requests=100)
    quick = [job.request for job in walk(workload)]
    assert quick == [job.request for job in walk(workload, lambda job: 1e3 / job.output_tokens)]


def test_nothing_follows_in_an_open_loop() -> None:
    """And more clients than requests send what there is."""
    workload = parse("summarise", seed=1, requests=3)
    assert all(workload.after(job, 9.0) == () for job in workload.arrivals())
    assert len(checked(parse("summarise,concurrency=50", seed=1, requests=3))) == 3
