"""`kvroute simulate`: one run, told as a table and in files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from kvroute.router.cli import main

SMALL = ["simulate", "--workload", "shared-prefix,input=512,output=32", "--requests", "100", "--replicas", "3"]


def run(*arguments: str) -> dict[str, Any]:
    """What the JSON says."""
    outcome = CliRunner().invoke(main, [*SMALL, *arguments, "--json", "-"])
    assert outcome.exit_code == 0, outcome.output
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def test_the_table_alone() -> None:
    """Without a file there is the table, and what it took."""
    outcome = CliRunner().invoke(main, SMALL)
    assert outcome.exit_code == 0, outcome.output
    for word in ("TTFT", "p99", "100 of 100", "replica-2", "the knee", "of CPU"):
        assert word in outcome.stdout


def test_quiet_says_nothing(tmp_path: Path) -> None:
    """The file is written all the same."""
    outcome = CliRunner().invoke(main, [*SMALL, "--quiet", "--json", str(tmp_path / "x.json")])
    assert (outcome.exit_code, outcome.output) == (0, "")
    assert json.loads((tmp_path / "x.json").read_text())["summary"]["completed"] == 100


def test_what_it_says_of_the_run() -> None:
    """Scenario and summary, with the flags in them."""
    found = run("--seed", "4", "--policy", "lmetric", "--rate", "5", "--cache-tokens", "64000", "--slo", "ttft_p90<2s")
    summary, scenario = found["summary"], found["scenario"]
    assert (summary["policy"], summary["seed"], summary["replicas"]) == ("lmetric", 4, 3)
    assert summary["slo_met"] is True
    assert 3.5 < summary["offered_rate"] < 7.0
    assert scenario["replicas"][0]["kind"]["limits"]["blocks"] == 4001
    assert sum(one["requests"] for one in summary["per_replica"]) == 100


def test_twice_the_speed_is_twice_the_rate() -> None:
    """Of the same requests."""
    plain, fast = run("--rate", "5")["summary"], run("--rate", "5", "--speedup", "2")["summary"]
    assert abs(fast["offered_rate"] / plain["offered_rate"] - 2.0) < 1e-3
    assert fast["throughput_prompt_tokens"] > plain["throughput_prompt_tokens"]


def test_one_line_a_request(tmp_path: Path) -> None:
    """With the replica that it went to."""
    path = tmp_path / "requests.csv"
    outcome = CliRunner().invoke(main, [*SMALL, "--csv", str(path)])
    assert outcome.exit_code == 0, outcome.output
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 100
    assert {row["replica"] for row in rows} == {"replica-0", "replica-1", "replica-2"}


def test_the_routers_knowledge_is_a_flag() -> None:
    """Several routers that share, with exact knowledge: all of it is in the scenario."""
    late = run(
        "--knowledge", "exact", "--routers", "2", "--share", "0.005", "--event-delay", "0.01",
        "--scrape-interval", "2", "--stepwise",
    )  # fmt: skip
    assert late["scenario"]["lateness"] == {
        "knowledge": "exact", "event_seconds": 0.01, "scrape_seconds": 2.0, "routers": 2, "share_seconds": 0.005,
    }  # fmt: skip
    assert late["scenario"]["stepwise"] is True
    assert late["summary"]["completed"] == 100


def test_few_requests_tell_no_share_of_decisions() -> None:
    """Of two requests it would say nothing."""
    outcome = CliRunner().invoke(main, ["simulate", "-w", "shared-prefix", "--requests", "2"])
    assert outcome.exit_code == 0, outcome.output
    assert "in decisions" not in outcome.stdout
