"""Runs are read as they lie on disk, and what is wrong is named: file, line, reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvroute.simulator.fidelity.recording import FidelityError, Line, align, find, read
from tests.simulator.fidelity.recorded import LIMITS, lines, played, timed, write_lines, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run on disk."""
    return write_run(tmp_path, timed(*played(count=20)))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_is_read(tmp_path: Path, folder: Path) -> None:
    """Limits, requests, keys and ticks are there; times count from the first arrival."""
    assert find(tmp_path) == [folder]
    run = read(folder, tmp_path)
    assert (run.name, run.hardware, run.limits, run.blocks_told) == ("GPU/Model-1B", "GPU", LIMITS, True)
    assert run.ahead is None
    assert run.notes == []
    assert run.requests[0].arrival == 0.0
    first = run.asked[0]
    assert len(first.keys) == (first.prompt_tokens + first.output_tokens) // 16
    assert len(run.ticks) == int(max(one.last for one in run.requests))


def test_two_clocks_meet_at_the_least_delay() -> None:
    """Arrivals of the wall clock are brought to the engine's by the quickest hand-over."""
    stamps = timed(*played(count=20))
    given = [Line(**row) for row in lines(stamps)]
    found = align(Path("x"), given)
    assert [one.first for one in found] == pytest.approx([one.first for one in stamps], abs=1e-5)


def test_one_clock_is_left_alone() -> None:
    """Where all times are of one clock, the time before the engine stays."""
    row = lines(timed(*played(count=1)), wall=100.0, monotonic=100.25)[0]
    del row["queued_ts"], row["scheduled_ts"]
    one = align(Path("x"), [Line(**row)])[0]
    assert one.first > 0.25


def test_clocks_that_nothing_joins_are_refused() -> None:
    """Without a hand-over time, wall and monotonic times cannot be compared."""
    row = lines(timed(*played(count=1)))[0]
    del row["queued_ts"], row["scheduled_ts"]
    with pytest.raises(FidelityError, match="different clocks"):
        align(Path("x"), [Line(**row)])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "requests.jsonl, line 3"),
        ('{"input_toks": 3}', "line 3.*output_toks"),
        (
            '{"input_toks": 0, "output_toks": 1, "arrival_time": 1, "first_token_ts": 2, "last_token_ts": 3}',
            "at least 1",
        ),
        (
            '{"input_toks": 5, "output_toks": 1, "arrival_time": 1, "first_token_ts": 4, "last_token_ts": 3}',
            "before its",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, folder: Path, row: str, reason: str) -> None:
    """File, line and reason."""
    path = folder / "requests.jsonl"
    rows = path.read_text().splitlines()
    rows[2] = row
    path.write_text("\n".join(rows))
    with pytest.raises(FidelityError, match=reason):
        read(folder, tmp_path)


def test_unanswered_requests_are_left_out_and_told(tmp_path: Path, folder: Path) -> None:
    """A request without tokens is no fault, but it is said."""
    rows = [json.loads(row) for row in (folder / "requests.jsonl").read_text().splitlines()]
    rows[4] |= {"first_token_ts": None, "last_token_ts": None}
    write_lines(folder / "requests.jsonl", rows)
    run = read(folder, tmp_path)
    assert len(run.requests) == 19
    assert "1 requests without first or last token" in run.notes[0]


def test_a_run_that_tells_little_is_read(tmp_path: Path, folder: Path) -> None:
    """No kv_cache, no workload, no timeseries: each is said."""
    edit(folder / "meta.json", kv_cache=None, dataset_path="workloads/none.jsonl")
    (folder / "timeseries.csv").unlink()
    run = read(folder, tmp_path)
    assert not run.blocks_told
    assert len(run.notes) == 2
    assert all(request.keys == () for request in run.asked)


def test_async_scheduling_is_told(tmp_path: Path, folder: Path) -> None:
    """The resolved configuration says whether the engine schedules ahead, and how prompts are admitted."""
    told = {"scheduler_config": {"async_scheduling": True, "scheduler_reserve_full_isl": False}}
    edit(folder / "meta.json", resolved_config=told)
    run = read(folder, tmp_path)
    assert (run.ahead, run.limits.reserve_prompt) == (True, False)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    """It says what was expected."""
    with pytest.raises(FidelityError, match="no recorded run"):
        find(tmp_path)


def test_a_bad_tick_is_named(tmp_path: Path, folder: Path) -> None:
    """File and line of the time series."""
    path = folder / "timeseries.csv"
    path.write_text(path.read_text() + "x,0,0,1,1,0\n")
    with pytest.raises(FidelityError, match=r"timeseries.csv, line \d+"):
        read(folder, tmp_path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"engine_kwargs": {"max_num_seqs": "many"}}, r"Expected `int.*at `\$.engine_kwargs.max_num_seqs`"),
        ({"engine_kwargs": [1]}, r"Expected `object.*at `\$.engine_kwargs`"),
        ({"kv_cache": {"block_size": "x"}}, r"at `\$.kv_cache.block_size`"),
        ({"kv_cache": {"num_gpu_blocks": 20}}, r"num_gpu_blocks is 20, room for 304 tokens, but 1\d of 20 requests"),
        ({"model": 7}, r"at `\$.model`"),
    ],
)
def test_a_wrong_field_of_the_meta_is_named(tmp_path: Path, folder: Path, changes: dict[str, Any], field: str) -> None:
    """File and field, also where blocks do not hold the requests."""
    edit(folder / "meta.json", **changes)
    with pytest.raises(FidelityError, match=rf"meta\.json: .*{field}"):
        read(folder, tmp_path)
