"""`kvroute compare`: the same requests for all, differences seed by seed, regimes apart."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvroute.router.cli import main
from kvroute.simulator.commands.options import policy_names

SMALL = [
    "compare", "--workload", "shared-prefix,input=1024,output=32,prefix=512", "--requests", "120", "--replicas", "2",
    "--jobs", "1",
]  # fmt: skip


def run(*arguments: str) -> dict[str, Any]:
    """What the JSON says."""
    outcome = CliRunner().invoke(main, [*SMALL, *arguments, "--json", "-"])
    assert outcome.exit_code == 0, outcome.output
    found: dict[str, Any] = json.loads(outcome.stdout)["comparison"]
    return found


def test_one_table_a_load_and_regimes_apart() -> None:
    """Loads relative to the knee: the lowest is below it, the highest beyond."""
    outcome = CliRunner().invoke(main, [*SMALL, "-p", "latency,round-robin", "--loads", "0.3,4", "--seeds", "2"])
    assert outcome.exit_code == 0, outcome.output
    assert "The knee with latency is at" in outcome.stdout
    below, beyond = outcome.stdout.index("Below the knee"), outcome.stdout.index("Beyond the knee: saturated")
    assert below < beyond
    assert "0.3 of the knee" in outcome.stdout[below:beyond]
    assert "4 of the knee" in outcome.stdout[beyond:]


def test_a_policy_is_no_different_from_itself_but_from_others() -> None:
    """The pairs have the same requests: one prefix per request to one replica is not one to all."""
    found = run("--policies", "latency,random", "--rates", "30", "--seeds", "4", "--slo", "ttft_p90<2s")
    (row,) = found["rows"]
    reference, other = row["cells"]
    assert (found["reference"], found["seeds_change"]) == ("latency", "requests")
    assert (
        "difference" not in reference["figures"]["ttft_mean"] or reference["figures"]["ttft_mean"]["difference"] is None
    )
    difference = other["figures"]["ttft_mean"]["difference"]
    expected = other["figures"]["ttft_mean"]["mean"] - reference["figures"]["ttft_mean"]["mean"]
    assert difference["mean"] == pytest.approx(expected, rel=1e-4)
    assert difference["verdict"] in ("worse", "not shown")
    assert "goodput" in other["figures"]
    assert reference["slo_met_runs"] == 4


def test_a_policy_from_a_file_is_one_more(tmp_path: Path) -> None:
    """Such as kvroute tune writes; the reference stays the first."""
    path = tmp_path / "tuned.yaml"
    path.write_text("policy: {name: latency, options: {share: 0.5}}\n")
    found = run("--policies", "latency", "--policy-config", str(path), "--rates", "5", "--seeds", "1")
    assert [cell["policy"] for cell in found["rows"][0]["cells"]] == ["latency", str(path)]


def test_all_are_all_that_are_installed() -> None:
    """The default is the first, for the others are compared to it."""
    found = run("--rates", "5", "--seeds", "1", "--requests", "20")
    assert [cell["policy"] for cell in found["rows"][0]["cells"]] == list(policy_names())
    assert found["reference"] == "latency"


def test_one_seed_shows_no_difference() -> None:
    """However great it is."""
    found = run("--policies", "latency,round-robin", "--rates", "30", "--seeds", "1")
    verdicts = [figure["difference"]["verdict"] for figure in found["rows"][0]["cells"][1]["figures"].values()]
    assert set(verdicts) == {"not shown"}


def test_a_trace_says_that_seeds_change_dice_only(tmp_path: Path) -> None:
    """Unless it is sampled."""
    trace = tmp_path / "trace.jsonl"
    lines = [
        json.dumps({"timestamp": i * 50, "input_length": 1024, "output_length": 8, "hash_ids": [i % 3, 100 + i]})
        for i in range(60)
    ]
    trace.write_text("\n".join(lines) + "\n")
    arguments = ["compare", "-n", "2", "-p", "latency,random", "--seeds", "2", "--jobs", "1"]
    plain = CliRunner().invoke(main, [*arguments, "-w", f"mooncake:{trace}"])
    assert "The trace is the same for every seed" in plain.stdout, plain.output
    sampled = CliRunner().invoke(main, [*arguments, "-w", f"mooncake:{trace},sample=0.5"])
    assert "The trace is the same for every seed" not in sampled.stdout


def test_one_line_a_run(tmp_path: Path) -> None:
    """Loads x policies x seeds."""
    path = tmp_path / "runs.csv"
    outcome = CliRunner().invoke(
        main, [*SMALL, "-p", "latency,random,lmetric", "--speedups", "1,2", "--seeds", "2", "--csv", str(path)]
    )
    assert outcome.exit_code == 0, outcome.output
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 12
    assert {(row["load"], row["row"]) for row in rows} >= {("speedup 2", "lmetric"), ("speedup 1", "latency")}


def test_the_runs_error_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload that turns out to be unreadable while it is run, say."""
    from kvroute.simulator.errors import WorkloadError
    from kvroute.simulator.search import case

    def fail(*args: object, **options: object) -> None:
        raise WorkloadError("trace.jsonl:7: no such thing")

    monkeypatch.setattr(case, "simulate", fail)
    outcome = CliRunner().invoke(main, [*SMALL, "-p", "random", "--rates", "5"])
    assert outcome.exit_code == 2
    assert "random at 5 req/s, seed 0: trace.jsonl:7: no such thing" in outcome.output


def test_a_page(tmp_path: Path) -> None:
    """Self-contained, with all policies."""
    pytest.importorskip("plotly")
    path = tmp_path / "page.html"
    outcome = CliRunner().invoke(
        main, [*SMALL, "-p", "latency,random", "--rates", "5,20", "--seeds", "2", "--html", str(path)]
    )
    assert outcome.exit_code == 0, outcome.output
    text = path.read_text()
    assert "random" in text
    assert "mean over 2 seeds" in text
    assert "Latency: seed 0 alone" in text
    assert 'src="http' not in text
