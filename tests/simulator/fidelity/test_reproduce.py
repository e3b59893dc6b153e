"""A folder of runs is fitted on parts and judged on others; runs of one kind are judged on one another."""

from __future__ import annotations

import msgspec
import numpy as np

from kvroute.simulator.fidelity.reproduce import reproduce
from tests.simulator.fidelity.recorded import recording


def test_a_known_engine_meets_all_goals() -> None:
    """Both directions of both splits."""
    result = reproduce([recording(noise=0.001, count=60)])[0]
    assert [trial.split for trial in result.trials] == ["alternate-a", "alternate-b", "early-late", "late-early"]
    assert result.met, {name: one.error for name, one in result.metrics.items()}
    assert all(trial.ahead for trial in result.trials)


def test_runs_of_one_kind_judge_one_another() -> None:
    """The second run of the same hardware and model is fitted for the first, and the other way."""
    results = reproduce([recording(name="a", count=40), recording(name="b", seed=9, count=40)])
    across = [trial for result in results for trial in result.trials if trial.split.startswith("run ")]
    assert [trial.fitted_on for trial in across] == ["all of the run b", "all of the run a"]
    assert all(trial.met for trial in across)


def test_garbage_does_not_meet_the_goals() -> None:
    """A fit that explains nothing fails where it is judged."""
    run = recording(count=30)
    rng = np.random.default_rng(0)
    wild = [
        msgspec.structs.replace(
            one, scheduled=None, queued=None, first=one.arrival + float(a), last=one.arrival + float(a + b)
        )
        for one, a, b in zip(run.requests, rng.exponential(5.0, 30), rng.exponential(50.0, 30), strict=True)
    ]
    assert not reproduce([msgspec.structs.replace(run, requests=wild, ahead=True)])[0].met


def test_too_few_requests_are_not_judged() -> None:
    """Neither met nor judged, and it is said."""
    result = reproduce([recording(count=10)])[0]
    assert not result.met
    assert result.trials == []
    assert "too few" in result.notes[-1]
