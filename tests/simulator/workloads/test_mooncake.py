"""Mooncake's traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.bound import reusable_tokens
from kvroute.simulator.workloads.mooncake import Sessions
from kvroute.simulator.workloads.naming import parse
from tests.simulator.workloads.traces import trace, written
from tests.simulator.workloads.walked import jobs_of


def row(at: float, tokens: int, ids: list[int], output: int = 5) -> dict[str, Any]:
    """A line of a trace."""
    return {"timestamp": at, "input_length": tokens, "output_length": output, "hash_ids": ids}


def test_rows_become_jobs(tmp_path: Path) -> None:
    """Milliseconds become seconds since the first; only full blocks have keys; no output is one token."""
    path = written(tmp_path / "t.jsonl", [row(1000, 1100, [7, 8, 9]), row(3500, 512, [7], 0)])
    first, second = jobs_of(f"mooncake:{path}")
    assert (first.at, second.at) == (0.0, 2.5)
    assert len(first.request.keys) == 2
    assert second.request.keys == first.request.keys[:1]
    assert (first.output_tokens, second.output_tokens) == (5, 1)
    assert first.request.anchor == second.request.anchor


def test_ids_of_blocks_alone_are_chained(tmp_path: Path) -> None:
    """Where the same id stands behind different ones, keys differ: such a block cannot be shared."""
    path = written(tmp_path / "t.jsonl", [row(0, 1024, [1, 5]), row(1, 1024, [2, 5])])
    first, second = jobs_of(f"mooncake:{path}")
    assert not set(first.request.keys) & set(second.request.keys)


def test_rows_out_of_order_are_sorted(tmp_path: Path) -> None:
    """They do not depend on each other, so their order in the file means nothing."""
    path = written(tmp_path / "t.jsonl", [row(5000, 600, [1, 2]), row(1000, 700, [1, 3]), row(9000, 800, [1, 4])])
    jobs = jobs_of(f"mooncake:{path}")
    assert [(job.at, job.request.tokens) for job in jobs] == [(0.0, 700), (4.0, 600), (8.0, 800)]


def test_the_rate_is_that_of_the_rows_taken(tmp_path: Path) -> None:
    """The first N, stretched to the wanted rate, then sped up."""
    path = written(tmp_path / "t.jsonl", [row(1000 * i * i, 600, [i, 9]) for i in range(20)])
    jobs = jobs_of(f"mooncake:{path}", requests=11, rate=2.0)
    assert len(jobs) == 11
    assert jobs[-1].at == pytest.approx(5.0)
    assert jobs[1].at == pytest.approx(0.05)
    assert jobs_of(f"mooncake:{path}", requests=11, rate=2.0, speedup=2.0)[-1].at == pytest.approx(2.5)
    assert jobs_of(f"mooncake:{path},rate=2", requests=11) == jobs
    assert len(jobs_of(f"mooncake:{path}", requests=10_000)) == 20


def test_a_rate_needs_times(tmp_path: Path) -> None:
    """All at one moment cannot be stretched."""
    path = written(tmp_path / "t.jsonl", [row(0, 600, [1, 2])] * 3)
    with pytest.raises(WorkloadError, match="come at one moment"):
        parse(f"mooncake:{path}", seed=0, rate=1.0)


def test_truncation_cuts_prompts_and_keys(tmp_path: Path) -> None:
    """To whole keys of what is left."""
    path = written(tmp_path / "t.jsonl", [row(0, 2000, [1, 2, 3, 4]), row(1, 700, [1, 2])])
    first, second = jobs_of(f"mooncake:{path},truncate=1500")
    assert (first.request.tokens, len(first.request.keys)) == (1500, 2)
    assert (second.request.tokens, len(second.request.keys)) == (700, 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"timestamp": 0}', "input_length"),
        ("not json", "malformed"),
        ("[1, 2]", "object"),
        ('{"timestamp": "0", "input_length": 5, "output_length": 5, "hash_ids": []}', "timestamp"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 5, "hash_ids": []}', "malformed"),
        ('{"timestamp": -1, "input_length": 5, "output_length": 5, "hash_ids": []}', ">= 0"),
        ('{"timestamp": 1e999, "input_length": 5, "output_length": 5, "hash_ids": []}', "range"),
        ('{"timestamp": 0, "input_length": 0, "output_length": 5, "hash_ids": []}', ">= 1"),
        ('{"timestamp": 0, "input_length": 5.5, "output_length": 5, "hash_ids": []}', "int"),
        ('{"timestamp": 0, "input_length": 5, "output_length": -5, "hash_ids": []}', ">= 0"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1, 2]}', "2 hash_ids, but 5 tokens"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": ["a"]}', "hash_ids"),
        ('{"timestamp": 0, "input_length": 2000, "output_length": 5, "hash_ids": [1]}', "1 hash_ids, but 2000 tokens"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1', "truncated"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """File, line and reason, even where only the first requests are asked for."""
    path = tmp_path / "t.jsonl"
    good = '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]}'
    path.write_text(f"{good}\n\n{line}\n{good}\n")
    with pytest.raises(WorkloadError) as raised:
        parse(f"mooncake:{path}", seed=0, requests=1)
    assert f"{path}:3: " in str(raised.value)
    assert reason in str(raised.value)


def test_a_prompt_that_continues_an_earlier_one_is_its_next_turn() -> None:
    """All of an earlier prompt, of two blocks at least; sharing the first block alone means nothing."""
    sessions = Sessions()
    told = [[1, 2, 3], [1, 4, 5], [1, 2, 3, 6, 7], [1], [1, 2, 8], [1, 2, 3, 6, 7, 9], [1, 4, 5, 1]]
    assert [sessions.of(keys) for keys in told] == [0, 1, 0, 2, 3, 0, 1]


def test_sampling_keeps_sessions_whole() -> None:
    """Every request of a session that is kept is kept, and about as many sessions as asked for."""
    path = trace("mooncake_conversation.jsonl")
    everything, some = jobs_of(f"mooncake:{path}"), jobs_of(f"mooncake:{path},sample=0.1")
    sizes = {job.request.session: 0 for job in some}
    sessions = {job.request.session for job in everything}
    for job in everything:
        if job.request.session in sizes:
            sizes[job.request.session] += 1
    assert sum(sizes.values()) == len(some)
    assert len(sizes) == round(0.1 * len(sessions))
    assert max(sizes.values()) > 5
    other = jobs_of(f"mooncake:{path},sample=0.1", seed=2)
    assert {job.request.session for job in other} != set(sizes)


def test_the_published_conversations() -> None:
    """12,031 requests; of their prompt tokens 37.3 % could be found in an endless cache, by full blocks."""
    jobs = jobs_of(f"mooncake:{trace('mooncake_conversation.jsonl')}")
    assert len(jobs) == 12_031
    tokens = sum(job.request.tokens for job in jobs)
    assert reusable_tokens(jobs, 512) / tokens == pytest.approx(0.374, abs=0.001)
    assert len({job.request.anchor for job in jobs}) == 1
