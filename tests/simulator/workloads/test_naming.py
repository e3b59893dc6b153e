"""Workloads by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.naming import GENERATORS, TRACES, known, meanings_of, parse
from tests.simulator.workloads.traces import written
from tests.simulator.workloads.walked import jobs_of


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shared-prefx", "no workload 'shared-prefx'; did you mean 'shared-prefix'?"),
        ("mooncake", "a trace needs its file: mooncake:PATH"),
        ("moncake:x", "no workload 'moncake'; did you mean 'mooncake'?"),
        ("chat:x.jsonl", "chat is a generator and takes options, not a file"),
        ("mooncake:", "names no file"),
        ("", "no workload ''"),
        (",input=5", "no workload ''"),
        ("/some/path.jsonl", "no workload '/some/path.jsonl'"),
    ],
)
def test_an_unknown_name_lists_what_there_is(spec: str, message: str) -> None:
    """With a hint where one comes close."""
    with pytest.raises(WorkloadError, match=re.escape(message)) as raised:
        parse(spec, seed=0)
    if "names no file" not in message:
        assert known() in str(raised.value)


def test_all_names_are_listed() -> None:
    """What can be written is what is shown."""
    for name in (*TRACES, *GENERATORS):
        assert name in known()
        assert meanings_of(name).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"requests": 0}, "0 requests"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"rate": float("nan")}, "rate must be above 0"),
        ({"speedup": -1.0}, "speedup must be above 0"),
        ({"speedup": float("inf")}, "speedup must be above 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    """None of them reaches a generator."""
    with pytest.raises(WorkloadError, match=message):
        parse("chat", **{"seed": 0, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", sorted(GENERATORS))
def test_every_generator_makes_as_many_as_asked_for(spec: str) -> None:
    """In an open loop and in a closed one, and the same ones each time."""
    for loop in ("", ",concurrency=7"):
        jobs = jobs_of(spec + loop, requests=300)
        assert len(jobs) == 300
        assert jobs == jobs_of(spec + loop, requests=300)
        assert jobs != jobs_of(spec + loop, requests=300, seed=2)


@pytest.mark.parametrize("spec", sorted(GENERATORS))
def test_arrivals_begin_anew_at_each_call(spec: str) -> None:
    """Two runs of one workload get the same."""
    workload = parse(spec, seed=3, requests=50)
    first = list(workload.arrivals())
    assert first == list(workload.arrivals())
    assert first


@pytest.mark.parametrize("spec", sorted(GENERATORS))
def test_speedup_divides_all_times(spec: str) -> None:
    """Arrivals and think times alike; what is sent stays the same."""
    slow = jobs_of(f"{spec}", requests=200)
    fast = jobs_of(f"{spec}", requests=200, speedup=4.0)
    assert sorted(job.request.id for job in slow) == sorted(job.request.id for job in fast)
    first, quick = next(iter(parse(spec, seed=1).arrivals())), next(iter(parse(spec, seed=1, speedup=4.0).arrivals()))
    assert quick.at == pytest.approx(first.at / 4, abs=2e-6)
    assert quick.request == first.request


@pytest.mark.parametrize("spec", ["chat,concurrency=3,rate=2", "rag,concurrency=3,arrivals=gamma"])
def test_a_closed_loop_takes_no_rate(spec: str) -> None:
    """It sends when it is answered; a rate that would be ignored is refused."""
    with pytest.raises(WorkloadError, match="cannot be kept too"):
        parse(spec, seed=0)
    with pytest.raises(WorkloadError, match="a rate cannot be kept too"):
        parse("mixture,concurrency=9", seed=0, rate=3.0)


@pytest.mark.parametrize("spec", ["chat", "rag", "mixture"])
def test_the_command_lines_rate_comes_before_the_workloads_own(spec: str) -> None:
    """And the two mean the same."""
    assert jobs_of(f"{spec},rate=3", requests=60, rate=7.0) == jobs_of(f"{spec},rate=7", requests=60)


def test_a_path_may_hold_commas_and_colons(tmp_path: Path) -> None:
    """Only trailing options are cut off."""
    row = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}
    path = written(tmp_path / "a,b:c=d.jsonl", [row])
    (job,) = jobs_of(f"mooncake:{path},truncate=512")
    assert job.request.tokens == 512
