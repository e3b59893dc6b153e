"""Prompts with shared prefixes."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.keys import UNIQUE
from kvroute.simulator.workloads.naming import parse
from tests.simulator.workloads.walked import jobs_of

COUNT = 20_000


def test_lengths_and_rate_are_as_asked_for() -> None:
    """On average: 512 in with the prefix, 128 out, 10 a second."""
    jobs = list(parse("shared-prefix,input=512,output=128", seed=1, requests=COUNT).arrivals())
    assert math.fsum(job.request.tokens for job in jobs) / COUNT == pytest.approx(512, rel=0.02)
    assert math.fsum(job.output_tokens for job in jobs) / COUNT == pytest.approx(128, rel=0.02)
    assert COUNT / jobs[-1].at == pytest.approx(10, rel=0.03)
    assert min(job.request.tokens for job in jobs) > 256


def test_without_spread_all_lengths_are_alike() -> None:
    """Fixed lengths, for where queues are compared with theory."""
    jobs = jobs_of("shared-prefix,spread=0", requests=50)
    assert {(job.request.tokens, job.output_tokens) for job in jobs} == {(512, 128)}


def test_prefixes_are_drawn_by_rank() -> None:
    """The i-th is drawn in proportion to rank**-skew; all of a prefix have its keys and its anchor."""
    jobs = list(parse("shared-prefix,prefixes=4,skew=1,prefix=200", seed=1, requests=COUNT).arrivals())
    counts = Counter(tuple(job.request.keys[:3]) for job in jobs)
    assert [counts[keys] / COUNT for keys in sorted(counts)] == pytest.approx([0.48, 0.24, 0.16, 0.12], abs=0.02)
    assert len({job.request.anchor for job in jobs}) == 4
    assert all(key >= UNIQUE for job in jobs[:100] for key in job.request.keys[3:])


def test_without_a_prefix_nothing_is_shared() -> None:
    """Nor do prompts look alike to a policy that reads their beginning."""
    jobs = jobs_of("shared-prefix,prefix=0,input=40", requests=100)
    assert len({job.request.anchor for job in jobs}) == 100


def test_adapters_go_with_prefixes() -> None:
    """Each prefix has one, so keys of different adapters differ."""
    jobs = jobs_of("shared-prefix,prefixes=10,adapters=3", requests=500)
    of_prefix: dict[int, set[str | None]] = {}
    for job in jobs:
        of_prefix.setdefault(job.request.keys[0], set()).add(job.request.adapter)
    assert all(len(adapters) == 1 for adapters in of_prefix.values())
    assert {job.request.adapter for job in jobs} == {"adapter-0", "adapter-1", "adapter-2"}


def test_a_prefix_that_leaves_nothing_is_refused() -> None:
    """The input counts the prefix too."""
    with pytest.raises(WorkloadError, match="prefix=512 leaves nothing of input=512"):
        parse("shared-prefix,prefix=512", seed=0)


def test_requests_are_made_when_they_are_asked_for() -> None:
    """A billion of them cost nothing until then."""
    arrivals = parse("shared-prefix", seed=0, requests=1_000_000_000).arrivals()
    assert [next(arrivals).request.id for _ in range(3)] == ["0", "1", "2"]
