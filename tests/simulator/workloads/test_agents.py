"""Recorded sessions of coding agents."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.bound import Bound
from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.naming import parse
from kvroute.simulator.workloads.walk import walk
from tests.simulator.workloads.traces import trace, written
from tests.simulator.workloads.walked import jobs_of

REAL = "agent_sessions_200.jsonl.gz"


def turn(t: float, ids: list[int], rest: int = 0, out: int = 10, **more: Any) -> dict[str, Any]:
    """A request whose prompt is these blocks and a rest."""
    return {"t": t, "type": "n", "in": 64 * len(ids) + rest, "out": out, "hash_ids": ids, "api_time": 1.0} | more


def session(name: str, *requests: dict[str, Any], tools: int = 0, system: int = 0) -> dict[str, Any]:
    """A line of a trace."""
    return {
        "id": name, "block_size": 64, "hash_id_scope": "local", "tool_tokens": tools, "system_tokens": system,
        "requests": list(requests),
    }  # fmt: skip


def keys_of(jobs: list[Job], name: str) -> list[list[int]]:
    """The prompts of one session."""
    return [job.request.keys for job in jobs if job.request.session == name]


def test_ids_are_the_sessions_own(tmp_path: Path) -> None:
    """Equal ids of two sessions are different blocks; within one they are the same."""
    rows = [session(name, turn(0, [1, 2]), turn(9, [1, 2, 3])) for name in "ab"]
    jobs = jobs_of(f"agents:{written(tmp_path / 't.jsonl.gz', rows)}")
    first, second = keys_of(jobs, "a"), keys_of(jobs, "b")
    assert first[1][:2] == first[0]
    assert not {key for keys in first for key in keys} & {key for keys in second for key in keys}


def test_sessions_of_the_same_sizes_share_their_beginning(tmp_path: Path) -> None:
    """Tools first: as many tool tokens, the same tools; and as many system tokens, the same system prompt."""
    rows = [
        session("a", turn(0, [1, 2, 3, 4, 5]), tools=150, system=110),
        session("b", turn(0, [7, 8, 9, 10, 11]), tools=150, system=110),
        session("c", turn(0, [1, 2, 3, 4, 5]), tools=150, system=111),
        session("d", turn(0, [1, 2, 3, 4, 5]), tools=151, system=110),
    ]
    jobs = jobs_of(f"agents:{written(tmp_path / 't.jsonl', rows)}")
    prompts = {name: keys_of(jobs, name)[0] for name in "abcd"}
    shared = {name: sum(a == b for a, b in zip(prompts["a"], prompts[name], strict=True)) for name in "bcd"}
    assert shared == {"b": 4, "c": 2, "d": 0}


def test_another_beginning_within_a_session_is_not_shared(tmp_path: Path) -> None:
    """A request with a system prompt of its own, as for a title, is told by its first block."""
    rows = [
        session(name, turn(0, [50, 51]), turn(5, [1, 2, 3]), turn(9, [1, 2, 3, 4]), tools=64, system=64)
        for name in "ab"
    ]
    jobs = jobs_of(f"agents:{written(tmp_path / 't.jsonl', rows)}")
    first, second = keys_of(jobs, "a"), keys_of(jobs, "b")
    assert [sum(x == y for x, y in zip(*pair, strict=True)) for pair in zip(first, second, strict=True)] == [0, 2, 2]


def test_an_answer_has_keys_where_the_next_prompt_holds_it(tmp_path: Path) -> None:
    """Not where the next prompt leaves it out, is shorter than it, or begins anew."""
    rows = [
        session(
            "a",
            turn(0, [1, 2], 10, 150),
            turn(9, [1, 2, 3, 4, 5, 6], 0, 500),
            turn(20, [1, 2, 3, 4, 5, 6, 7], 5, 64),
            turn(30, [1, 2, 8, 9], 0, 64),
        )
    ]
    jobs = jobs_of(f"agents:{written(tmp_path / 't.jsonl', rows)}")
    first, second, third, last = jobs
    assert tuple(first.answer_keys) == tuple(second.request.keys[2:4])
    assert (tuple(second.answer_keys), tuple(third.answer_keys), tuple(last.answer_keys)) == ((), (), ())


def test_think_times_can_be_changed(tmp_path: Path) -> None:
    """Multiplied, then cut, then divided by the speedup."""
    path = written(tmp_path / "t.jsonl", [session("a", turn(0, [1]), turn(11, [1, 2]), turn(112, [1, 2, 3]))])

    def pauses(spec: str, speedup: float = 1.0) -> list[float]:
        jobs = jobs_of(f"agents:{path},concurrency=1{spec}", speedup=speedup)
        return [round(later.at - earlier.at - 0.2, 6) for earlier, later in pairwise(jobs)]

    assert pauses("") == [10.0, 100.0]
    assert pauses(",think=0.5") == [5.0, 50.0]
    assert pauses(",think=0.5,longest_think=20") == [5.0, 20.0]
    assert pauses(",longest_think=20", speedup=4.0) == [2.5, 5.0]


def test_prompts_are_cut_with_their_keys(tmp_path: Path) -> None:
    """What is cut off has no answer that a later prompt could hold."""
    path = written(tmp_path / "t.jsonl", [session("a", turn(0, [1, 2, 3], 0, 64), turn(9, [1, 2, 3, 4, 5]))])
    first, second = jobs_of(f"agents:{path},truncate=150")
    assert (first.request.tokens, len(first.request.keys), tuple(first.answer_keys)) == (150, 2, ())
    assert second.request.keys == first.request.keys


def test_the_first_requests_are_whole_sessions_but_the_last(tmp_path: Path) -> None:
    """In the file's order, whatever the fleet does; and no line behind them is read."""
    rows = [session(name, turn(0, [1]), turn(9, [1, 2]), turn(20, [1, 2, 3])) for name in "abc"]
    path = written(tmp_path / "t.jsonl", rows)
    with path.open("a") as file:
        file.write("broken\n")
    jobs = jobs_of(f"agents:{path}", requests=5)
    assert sorted(job.request.session or "" for job in jobs) == ["a", "a", "a", "b", "b"]
    with pytest.raises(WorkloadError, match=":4: "):
        parse(f"agents:{path}", seed=0, requests=10)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "a"}, "block_size"),
        (session("a"), "length >= 1"),
        ([1], "object"),
        (session("a", {"t": 0, "type": "n", "out": 3, "hash_ids": []}), "requests[0]: `in` is missing or 0"),
        (session("a", turn(0, [1]) | {"out": -1}), "$.requests[0].out"),
        (session("a", turn(0, [1]) | {"t": "soon"}), "$.requests[0].t"),
        (session("a", turn(0, [1]), turn(9, [1]) | {"in": 20, "hash_ids": [1, 2]}), "requests[1]: 2 hash_ids, but 20"),
        (session("a", turn(0, [1]) | {"hash_ids": []}), "requests[0]: 0 hash_ids, but 64 tokens are 1 blocks"),
        (session("a", turn(9, [1]), turn(3, [1])), "requests[1]: t 3 is before the request above it, 9"),
        (session("a", {"t": 5, "type": "subagent", "requests": []}), "a sub-agent without requests"),
        (session("a", turn(0, [1])) | {"hash_id_scope": "global"}, "hash_id_scope"),
        (session("a", turn(0, [1])) | {"block_size": 16}, "block_size is 16, but 64"),
        (session("a", turn(0, [1, 2, 3]), turn(9, [1, 4, 3])), "not chained"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, reason: str) -> None:
    """File, line and reason; and where in the line."""
    good = session("good", turn(0, [1]))
    path = written(tmp_path / "t.jsonl", [good, row])
    if isinstance(row, dict) and row.get("block_size") == 16:
        row["requests"][0]["in"] = 16
        path = written(tmp_path / "t.jsonl", [good, row])
    with pytest.raises(WorkloadError) as raised:
        parse(f"agents:{path}", seed=0)
    assert f"{path}:2: " in str(raised.value)
    assert reason in str(raised.value)


def test_the_published_sessions() -> None:
    """200 sessions; an endless cache of their prompts alone would hold 96.3 % of them."""
    workload = parse(f"agents:{trace(REAL)}", seed=1)
    prompts, answers = Bound(64, answers=False), Bound(64)
    requests = tokens = known = known_too = 0
    names = set()
    for job in walk(workload):
        requests += 1
        tokens += job.request.tokens
        known += prompts.add(job)
        known_too += answers.add(job)
        names.add(job.request.session)
    assert (requests, len(names)) == (13_616, 200)
    assert known / tokens == pytest.approx(0.963, abs=0.001)
    assert known_too / tokens == pytest.approx(0.965, abs=0.001)


def test_sampling_keeps_sessions_whole(tmp_path: Path) -> None:
    """A tenth of them, each with all of its turns, and drawn by the seed."""
    rows = [session(f"s{i}", *(turn(9 * t, [*range(1, t + 2)]) for t in range(1 + i % 5))) for i in range(100)]
    path = written(tmp_path / "t.jsonl", rows)
    kept = []
    for seed in (1, 2):
        names = [job.request.session for job in jobs_of(f"agents:{path},sample=0.1", seed=seed)]
        kept.append(set(names))
        assert all(names.count(f"s{i}") == 1 + i % 5 for i in range(100) if f"s{i}" in names)
    assert [len(one) for one in kept] == [10, 10]
    assert kept[0] != kept[1]


def test_a_rate_is_of_requests(tmp_path: Path) -> None:
    """Sessions start as often as their mean number of turns makes it; or as `sessions` says."""
    rows = [session(f"s{i}", turn(0, [1]), turn(9, [1, 2]), turn(15, [1, 2, 3])) for i in range(900)]
    path = written(tmp_path / "t.jsonl", rows)
    for spec, rate, expected in (("", 6.0, 2.0), (",sessions=0.5", None, 0.5)):
        starts = [job.at for job in jobs_of(f"agents:{path}{spec}", rate=rate) if job.request.id.endswith(".0")]
        assert len(starts) == 900
        assert 900 / starts[-1] == pytest.approx(expected, rel=0.1)


def test_so_many_at_once() -> None:
    """Never more sessions than that are under way, and the next begins as one ends."""
    jobs = jobs_of(f"agents:{trace(REAL)},concurrency=3,longest_think=5", requests=600)
    spans: dict[str | None, list[float]] = {}
    for job in jobs:
        spans.setdefault(job.request.session, []).append(job.at + 0.02 * job.output_tokens)
    starts = sorted(min(job.at for job in jobs if job.request.session == name) for name in spans)
    ends = sorted(max(times) for times in spans.values())
    assert len(spans) > 5
    assert starts[:3] == [0.0, 0.0, 0.0]
    assert starts[3:] == pytest.approx(ends[: len(starts) - 3])
