"""Retrieved chunks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.draws import Zipf
from kvroute.simulator.workloads.naming import parse
from kvroute.simulator.workloads.rag import _distinct
from tests.simulator.workloads.walked import jobs_of


def test_prompts_share_as_far_as_their_chunks_do() -> None:
    """Instructions always; a chunk's blocks where it and all before it are the same."""
    jobs = jobs_of("rag,documents=3,chunks=2,chunk=128,system=64,question=10,skew=0", requests=500)
    first = Counter(job.request.keys[1] for job in jobs)
    second = Counter(job.request.keys[3] for job in jobs)
    assert len({job.request.keys[0] for job in jobs}) == 1
    assert len(first) == 3
    assert len(second) == 6
    assert all(len(job.request.keys) == job.request.tokens // 64 for job in jobs)


def test_blocks_over_the_edge_of_a_chunk_belong_to_the_later_one() -> None:
    """100 tokens of instructions and a chunk of 100: block 1 holds tokens of both."""
    jobs = jobs_of("rag,documents=2,chunks=1,chunk=100,system=100,question=80", requests=200)
    assert len({job.request.keys[0] for job in jobs}) == 1
    assert len({job.request.keys[1] for job in jobs}) == 2
    assert len({job.request.keys[2] for job in jobs}) == 2
    assert len({job.request.keys[3] for job in jobs if len(job.request.keys) > 3}) > 100


def test_no_prompt_holds_a_document_twice() -> None:
    """Even where few are drawn again and again; which are frequent stays so."""
    rows = _distinct(Zipf(6, 2.0), 5, np.random.default_rng(1))
    assert all(len(set(row)) == 5 for row in rows.tolist())
    assert Counter(rows[:, 0].tolist()).most_common(1)[0][0] == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [("rag,documents=3,chunks=4", "needs as many documents"), ("rag,chunk=65k,key=16", "make `key` larger")],
)
def test_what_cannot_be_is_refused(spec: str, message: str) -> None:
    """Before anything is drawn."""
    with pytest.raises(WorkloadError, match=message):
        parse(spec, seed=0)


def test_few_documents_are_found_more_often() -> None:
    """The bound rises as fewer documents are drawn."""
    from kvroute.simulator.workloads.bound import reusable_tokens

    shares: list[Any] = []
    for documents in (20, 200, 20_000):
        jobs = jobs_of(f"rag,documents={documents}", requests=1000)
        shares.append(reusable_tokens(jobs, 64) / sum(job.request.tokens for job in jobs))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 2 * shares[2]
