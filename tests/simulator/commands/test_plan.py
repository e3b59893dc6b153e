"""`kvroute plan`: the fewest replicas, the greatest load, the cheapest kind, the best split."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvroute.router.cli import main

SMALL = ["plan", "--workload", "shared-prefix,input=2000,output=30", "--requests", "120", "--jobs", "1"]
SLO = ["--slo", "ttft_p90<150ms"]


def run(*arguments: str) -> dict[str, Any]:
    """What the JSON says."""
    outcome = CliRunner().invoke(main, [*SMALL, *arguments, "--json", "-"])
    assert outcome.exit_code == 0, outcome.output
    found: dict[str, Any] = json.loads(outcome.stdout)["plan"]
    return found


def test_the_fewest_replicas_and_their_neighbours() -> None:
    """The answer meets the SLO, the next below was tried and does not."""
    (answer,) = run(*SLO, "--rate", "50")["answers"]
    met = {point["replicas"]: point["met"] for point in answer["curve"]}
    assert answer["replicas"] > 1
    assert met[answer["replicas"]]
    assert not met[answer["replicas"] - 1]
    assert met[answer["replicas"] + 1]
    assert answer["monotone"]


def test_what_nothing_meets() -> None:
    """Within --most: said, and no fewest is named."""
    outcome = CliRunner().invoke(main, [*SMALL, "--slo", "ttft_p90<1ms", "--rate", "10", "--most", "3"])
    assert outcome.exit_code == 0, outcome.output
    assert "3 replicas do not meet the SLO either" in outcome.stdout


def test_the_greatest_load_of_a_fleet() -> None:
    """A rate that meets the SLO, close below one that does not."""
    (answer,) = run(*SLO, "--replicas", "2")["answers"]
    loads = {point["load"]: point["met"] for point in answer["curve"]}
    assert answer["knob"] == "rate"
    assert loads[answer["load"]]
    assert any(answer["load"] < load <= answer["load"] * 1.04 and not met for load, met in loads.items())


def test_the_load_that_fleets_of_several_sizes_take() -> None:
    """A row each, with what one replica takes of it."""
    outcome = CliRunner().invoke(main, [*SMALL, *SLO, "--replicas", "1,2"])
    assert outcome.exit_code == 0, outcome.output
    rows = [line.split() for line in outcome.stdout.splitlines() if line.split()[:1] == ["llama-3.1-8b-h100"]]
    assert [row[1] for row in rows] == ["1", "2"]
    assert float(rows[0][2]) < float(rows[1][2])
    assert "Take " not in outcome.stdout, "without a price no size is the one to take"


def test_kinds_and_prices() -> None:
    """The cheapest meets the SLO at the least price; each kind with each cache."""
    names = "llama-3.1-8b-h100"
    found = run(*SLO, "--rate", "30", "--presets", names, "--price", f"{names}=2.5", "--cache-tokens", "20k,400k")
    costs = {answer["variant"]: answer["cost"] for answer in found["answers"]}
    assert [answer["cache_tokens"] for answer in found["answers"]] == [20_000, 400_000]
    assert all(answer["cost"] == 2.5 * answer["replicas"] for answer in found["answers"])
    assert costs[found["cheapest"]] == min(costs.values())


def test_splits_into_roles() -> None:
    """Every split of the answer's number is tried, beside all doing both."""
    (answer,) = run(*SLO, "--rate", "50", "--roles")["answers"]
    tried = {point["prefill"] for point in answer["splits"]}
    assert {None, 1} <= tried
    assert answer["best_split"] in answer["splits"]


def test_one_line_a_run(tmp_path: Path) -> None:
    """Of all that was tried, with each seed."""
    path = tmp_path / "runs.csv"
    arguments = [*SMALL, *SLO, "--rate", "20", "--seeds", "2", "--most", "2", "--csv", str(path)]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, outcome.output
    rows = list(csv.DictReader(path.open()))
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert {row["replicas"] for row in rows} == {"1", "2"}


def test_a_page(tmp_path: Path) -> None:
    """With the answer on top."""
    pytest.importorskip("plotly")
    path = tmp_path / "page.html"
    outcome = CliRunner().invoke(main, [*SMALL, *SLO, "--rate", "20", "--most", "4", "--html", str(path)])
    assert outcome.exit_code == 0, outcome.output
    assert "replicas</b>" in path.read_text()


def test_runs_that_are_too_short_are_said_to_be() -> None:
    """With --requests the plan keeps to them, and says how many would do."""
    outcome = CliRunner().invoke(main, [*SMALL, *SLO, "--rate", "50"])
    assert outcome.exit_code == 0, outcome.output
    assert "Too short to tell whether the fleet keeps up" in outcome.stdout


def test_a_rate_too_small_to_compute_with() -> None:
    """Is refused with the range, not with a warning from within."""
    outcome = CliRunner().invoke(main, [*SMALL, *SLO, "--rate", "1e-300"])
    assert outcome.exit_code == 2
    assert "1e-300 is not in the range" in outcome.stderr
