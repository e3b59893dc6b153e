"""Runs of an engine that is known to the last coefficient, as they would have been recorded."""

from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.fidelity.recording import Recording, Timed
from kvroute.simulator.fidelity.rehearsal import Coefficients, Played, Rehearsal

REAL = Path(__file__).parents[4] / "shared" / "data" / "ground_truth" / "vllm019_runs"
TRUTH: Coefficients = (0.012, 5e-5, 7e-8, 4e-5, 2e-9, 6e-8)
PLAIN: Coefficients = (0.012, 5e-5, 7e-8, 4e-5, 2e-9, 0.0)
LIMITS = Limits(blocks=4000, max_num_seqs=32, max_num_batched_tokens=1024)


def requests(count: int = 100, *, seed: int = 1, rate: float = 6.0) -> tuple[list[EngineRequest], list[float]]:
    """Requests of mixed sizes, and when they arrive [s]."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1.0 / rate, count))
    prompts, outputs = rng.integers(20, 1500, count), rng.integers(20, 160, count)
    asked = [EngineRequest(f"bench-{i}", int(p), int(o)) for i, (p, o) in enumerate(zip(prompts, outputs, strict=True))]
    return asked, [float(at) for at in arrivals - arrivals[0]]


def played(
    step: Coefficients = TRUTH, *, depth: int = 2, limits: Limits = LIMITS, **asked: Any
) -> tuple[Rehearsal, Played]:
    """A run under that step time."""
    made, arrivals = requests(**asked)
    rehearsal = Rehearsal(made, arrivals, limits, depth=depth)
    return rehearsal, rehearsal.play(step)


def timed(rehearsal: Rehearsal, run: Played, *, noise: float = 0.0, seed: int = 2) -> list[Timed]:
    """What a log would hold of it. `noise`: standard deviation of a step end [s]."""
    rng = np.random.default_rng(seed)
    ends = [one.end for one in run.stretches]
    moved = {end: end + abs(float(rng.normal(0.0, noise))) if noise else end for end in ends}
    found = []
    for i, request in enumerate(rehearsal.requests):
        at = rehearsal.arrivals[i]
        place = bisect_left(ends, at)
        idle = place == len(ends) or run.stretches[place].start >= at
        queued = at if idle else min(ends[place], run.scheduled[i])
        first, last = moved[run.first[i]], max(moved[run.first[i]], moved[run.last[i]])
        found.append(
            Timed(request.id, request.prompt_tokens, request.output_tokens, at, first, last, queued, run.scheduled[i])
        )
    return found


def recording(
    step: Coefficients = TRUTH, *, depth: int = 2, noise: float = 0.0, name: str = "r", **asked: Any
) -> Recording:
    """A recorded run in memory, which does not say how its engine schedules."""
    rehearsal, run = played(step, depth=depth, **asked)
    stamps = timed(rehearsal, run, noise=noise)
    asked_for = list(rehearsal.requests)
    return Recording(name, "GPU", "test/Model-1B", 1, LIMITS, True, None, stamps, asked_for, [], {}, [])


def lines(stamps: list[Timed], *, wall: float = 1.7e9, monotonic: float = 5000.0) -> list[dict[str, Any]]:
    """The lines of requests.jsonl."""
    return [
        {
            "request_id": one.id,
            "input_toks": one.prompt_tokens,
            "output_toks": one.output_tokens,
            "arrival_time": wall + one.arrival,
            "queued_ts": monotonic + (one.queued or 0.0),
            "scheduled_ts": monotonic + (one.scheduled or 0.0),
            "first_token_ts": monotonic + one.first,
            "last_token_ts": monotonic + one.last,
        }
        for one in stamps
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_run(root: Path, stamps: list[Timed], *, told: bool = True, gpu: str = "GPU", model: str = "Model-1B") -> Path:
    """A run on disk, laid out as recorded ones are; returns the folder of its meta.json."""
    folder = root / gpu / model / "vllm"
    meta: dict[str, Any] = {
        "model": f"test/{model}",
        "engine_kwargs": {
            "tensor_parallel_size": 1,
            "max_num_seqs": LIMITS.max_num_seqs,
            "max_num_batched_tokens": LIMITS.max_num_batched_tokens,
        },
        "dataset_path": "workloads/w.jsonl",
    }
    if told:
        meta["kv_cache"] = {"num_gpu_blocks": LIMITS.blocks, "block_size": 16, "enable_prefix_caching": True}
    write_lines(folder / "requests.jsonl", lines(stamps))
    (folder / "meta.json").write_text(json.dumps(meta))
    ticks = ["t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct"]
    for second in range(1, 1 + int(max(one.last for one in stamps))):
        running = sum(1 for one in stamps if (one.scheduled or 0.0) <= second < one.last)
        waiting = sum(1 for one in stamps if one.arrival <= second < (one.scheduled or 0.0))
        ticks.append(f"{second}.0,0.0,0.0,{running},{waiting},0.0")
    (folder / "timeseries.csv").write_text("\n".join(ticks) + "\n")
    rows = [
        {
            "input_toks": one.prompt_tokens,
            "output_toks": one.output_tokens,
            "arrival_time_ns": int(one.arrival * 1e9),
            "input_tok_ids": [1000 * i + k for k in range(one.prompt_tokens)],
            "output_tok_ids": [7] * one.output_tokens,
        }
        for i, one in enumerate(stamps)
    ]
    write_lines(root / "workloads" / "w.jsonl", rows)
    return folder
