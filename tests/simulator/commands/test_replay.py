"""`kvroute replay`: a log beside its simulation, as it was and otherwise."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvroute.router.cli import main
from tests.simulator.workloads.logs import began, day, request, write


def run(log: str, *arguments: str) -> dict[str, Any]:
    """What the JSON says."""
    outcome = CliRunner().invoke(main, ["replay", log, *arguments, "--json", "-"])
    assert outcome.exit_code == 0, outcome.output
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def test_a_log_as_it_was(tmp_path: Path) -> None:
    """On the replicas, caches and slots that it tells of, under its own policy: how far off the simulator is."""
    found = run(day(tmp_path / "log"))
    assert "replayed" not in found
    assert found["measured"]["requests"] == found["control"]["figures"]["requests"] == 60
    assert found["measured"]["ttft"]["mean"] == pytest.approx(0.1)
    (fleet,) = found["control"]["scenario"]["replicas"]
    limits = fleet["kind"]["limits"]
    assert (fleet["count"], limits["blocks"], limits["max_num_seqs"]) == (2, 1000, 64)
    assert found["control"]["scenario"]["policy"]["name"] == "latency"
    ttft = found["control"]["figures"]["ttft"]["mean"]
    assert found["control"]["off_by"]["TTFT mean"] == pytest.approx(ttft / 0.1 - 1.0, rel=1e-3)
    assert found["decided_again"]["decisions"] == 60


def test_another_policy_and_fleet(tmp_path: Path) -> None:
    """Beside the control, on the same requests."""
    found = run(day(tmp_path / "log"), "--policy", "round-robin", "--replicas", "5", "--cache-tokens", "8000")
    scenario, summary = found["replayed"]["scenario"], found["replayed"]["summary"]
    assert (scenario["policy"]["name"], summary["replicas"], summary["completed"]) == ("round-robin", 5, 60)
    assert [one["kind"]["limits"]["blocks"] for one in scenario["replicas"]] == [501]
    assert found["replayed"]["change"]["busiest / mean"] < 0.0
    assert found["control"]["summary"]["replicas"] == 2


def test_a_fleet_of_other_kinds(tmp_path: Path) -> None:
    """Written as for simulate."""
    found = run(day(tmp_path / "log"), "--replicas", "2*llama-3.1-8b-h100+1*llama-3.1-8b-h100", "--requests", "9")
    assert found["replayed"]["summary"]["replicas"] == 3
    assert found["replayed"]["summary"]["requests"] == 9


def test_twice_the_load(tmp_path: Path) -> None:
    """The control keeps the log's own times."""
    found = run(day(tmp_path / "log"), "--speedup", "2")
    rates = [found[name]["summary"]["offered_rate"] for name in ("control", "replayed")]
    assert rates[1] == pytest.approx(2 * rates[0], rel=1e-3)


def test_turns_after_answers(tmp_path: Path) -> None:
    """In a closed loop rows come in another order; figures are of the same requests all the same."""
    found = run(day(tmp_path / "log"), "--closed", "--policy", "power-of-two", "--seed", "3")
    assert found["control"]["figures"]["requests"] == found["replayed"]["figures"]["requests"] == 60
    assert found["replayed"]["scenario"]["seed"] == 3


def test_the_files_of_several_workers(tmp_path: Path) -> None:
    """Are one log, of so many routers."""
    for worker in range(2):
        day(tmp_path / f"log.{worker}", 30)
    found = run(str(tmp_path / "log.*"))
    assert found["measured"]["requests"] == 60
    assert found["control"]["scenario"]["lateness"]["routers"] == 2
    assert found["decided_again"]["decisions"] == 60


def test_the_table_and_files(tmp_path: Path) -> None:
    """What is measured, what is simulated, how far to trust it; a line a request and a page with both runs."""
    log = day(tmp_path / "log")
    files = ["--csv", str(tmp_path / "x.csv"), "--html", str(tmp_path / "x.html")]
    outcome = CliRunner().invoke(main, ["replay", log, "--policy", "lmetric", *files])
    assert outcome.exit_code == 0, outcome.output
    for word in ("measured", "off by", "lmetric", "TTFT p99", "cached", "kvroute calibrate", "picks are the same"):
        assert word in outcome.stdout
    assert len(list(csv.reader((tmp_path / "x.csv").open()))) == 61
    assert "as it was: latency, 2 replicas" in (tmp_path / "x.html").read_text()


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    """For the same log and flags."""
    log = day(tmp_path / "log")
    outcomes = [CliRunner().invoke(main, ["replay", log, "-p", "random", "--json", "-"]).stdout_bytes for _ in range(2)]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none"], "none: No such file or directory"),
        (["log", "--policy", "nonesuch"], "nonesuch"),
        (["log", "--preset", "nonesuch"], "there is no preset 'nonesuch'"),
        (["log", "--replicas", "0"], "1 to 10000 replicas, not 0"),
        (["log", "--model", "other"], "no request for other can be sent again"),
        (["bare"], "no replica of the log was ever ready"),
    ],
)
def test_faults_end_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    """Status 2, nothing written."""
    monkeypatch.chdir(tmp_path)
    day(tmp_path / "log", 6)
    write(tmp_path / "bare", began(), request(1.0, [1, 2]))
    outcome = CliRunner().invoke(main, ["replay", *arguments, "--json", "x.json"])
    assert outcome.exit_code == 2
    assert reason in outcome.stderr
    assert not (tmp_path / "x.json").exists()
