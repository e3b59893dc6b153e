"""Logs of engines and of routers become recordings."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kvroute.router.core.decided import Began, Decided
from kvroute.router.core.steptime import StepTime
from kvroute.scorers.plugins import PolicySpec
from kvroute.simulator.fidelity.calibration import calibrate
from kvroute.simulator.fidelity.log import read_log
from kvroute.simulator.fidelity.recording import FidelityError
from tests.simulator.fidelity.recorded import LIMITS, PLAIN, lines, played, timed, write_lines

REPLY = 0.003
"""On the way to the router and back [s]."""


def router_log(path: Path, **changes: object) -> Path:
    """What a router would have written of two replicas."""
    began = Began(1, "0", 1.7e9, 50.0, 0, PolicySpec("latency"), 0, StepTime(), (0.0, 0.0, 0.0), 64)
    rows: list[msgspec.Struct] = [began]
    for name, seed in (("r0", 1), ("r1", 2)):
        for k, one in enumerate(timed(*played(PLAIN, depth=1, count=50 - 5 * seed, seed=seed, rate=1.5))):
            line = Decided(
                1, f"{name}-{k}", 50.0 + one.arrival - REPLY, 50.0 + one.arrival - REPLY, 50.0 + one.last,
                (1, 2, 3), "completed", tokens=one.prompt_tokens, replica=name, stream=True, status=200,
                first=50.0 + one.first, prompt_tokens=one.prompt_tokens, output_tokens=one.output_tokens,
                cached_tokens=0,
            )  # fmt: skip
            rows.append(msgspec.structs.replace(line, **changes))
    path.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows) + b"\n")
    return path


def test_a_log_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    """Requests hours apart, of one output token: no interval between step ends, so there is no kind."""
    rows = [
        {"input_toks": 100, "output_toks": 1, "arrival_time": 1e4 * i, "first_token_ts": at, "last_token_ts": at}
        for i in range(20)
        for at in [1e4 * i + 0.02]
    ]
    log = write_lines(tmp_path / "quiet.jsonl", rows)
    with pytest.raises(FidelityError, match=r"no step time can be read from this log.* 0 intervals"):
        calibrate(read_log(log, LIMITS, told=True, ahead=False), "k")


def test_a_router_log_is_read_per_replica(tmp_path: Path) -> None:
    """The replica with the most requests first, each on one clock."""
    found = read_log(router_log(tmp_path / "d.jsonl"), LIMITS, told=True, ahead=False)
    assert [(one.name, len(one.requests)) for one in found] == [("r0", 45), ("r1", 40)]
    assert all(one.one_clock and one.cached == [0] * len(one.requests) for one in found)


def test_a_router_log_calibrates(tmp_path: Path) -> None:
    """Without being told how it schedules: an engine that waits for each step is seen as one, its step time comes back,
    judged on the other replica too, and the way to the engine is found."""
    found = calibrate(read_log(router_log(tmp_path / "d.jsonl"), LIMITS, told=True, ahead=None), "k")
    assert not found.ahead
    assert found.intervals > 40
    assert found.kind.step.c0 == pytest.approx(PLAIN[0], rel=0.1)
    assert found.kind.step.c3 == pytest.approx(PLAIN[3], rel=0.1)
    assert found.kind.ingress.seconds == pytest.approx(REPLY, abs=0.002)
    assert found.held_out[-1].judged_on == "replica r1"
    assert found.met


def test_a_router_log_without_counts_is_refused(tmp_path: Path) -> None:
    """It says what is lacking."""
    path = router_log(tmp_path / "d.jsonl", output_tokens=None)
    with pytest.raises(FidelityError, match="include_usage"):
        read_log(path, LIMITS, told=True, ahead=None)


def test_known_hits_are_taken_over(tmp_path: Path) -> None:
    """cached_toks of an engine's log stand for the cache."""
    rows = [row | {"cached_toks": 3} for row in lines(timed(*played(count=20)))]
    (found,) = read_log(write_lines(tmp_path / "e.jsonl", rows), LIMITS, told=True, ahead=None)
    assert found.cached == [3] * 20
