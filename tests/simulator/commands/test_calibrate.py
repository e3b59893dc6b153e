"""`kvroute calibrate LOG`: a kind that simulate takes, its errors, and what the log does not tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvroute.router.cli import main
from kvroute.simulator.latency.presets import load
from tests.simulator.fidelity.recorded import LIMITS, PLAIN, TRUTH, lines, played, timed, write_lines

GIVEN = ["--max-num-seqs", LIMITS.max_num_seqs, "--max-num-batched-tokens", LIMITS.max_num_batched_tokens]


def run(*args: object) -> Result:
    """The command."""
    return CliRunner().invoke(main, ["calibrate", *map(str, args)])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of an engine with known coefficients."""
    path = tmp_path_factory.mktemp("logs") / "engine.jsonl"
    return write_lines(path, lines(timed(*played(TRUTH, depth=1, count=60))))


def test_a_kind_comes_out(log: Path, tmp_path: Path) -> None:
    """The YAML is a preset file with the engine's step time and limits; the hold-out score is printed."""
    kind_path, out = tmp_path / "kind.yaml", tmp_path / "out.json"
    result = run(log, *GIVEN, "--blocks", LIMITS.blocks, "--out", kind_path, "--json", out, "--name", "mine")
    assert result.exit_code == 0, result.output
    kind = load(kind_path)
    assert kind.name == "mine"
    assert kind.limits == LIMITS
    assert kind.step.c0 == pytest.approx(TRUTH[0], rel=0.05)
    assert kind.step.c3 == pytest.approx(TRUTH[3], rel=0.05)
    assert kind.step.c5 == pytest.approx(TRUTH[5], rel=0.3)
    told = json.loads(out.read_bytes())["calibration"]
    assert told["met"]
    assert len(told["held_out"]) == 2
    assert told["ahead"] is False
    assert "held out" in result.output
    simulated = CliRunner().invoke(
        main, ["simulate", "-w", "chat", "--requests", "20", "--preset", str(kind_path), "--replicas", "1"]
    )
    assert simulated.exit_code == 0, simulated.output


def test_what_is_not_told_is_said(tmp_path: Path) -> None:
    """Requests of one size, one at a time, say nothing of the batch; the fit leans on what is usual and says so."""
    stamps = timed(*played(PLAIN, depth=1, count=40, rate=0.002), noise=0.003)
    path = write_lines(tmp_path / "quiet.jsonl", lines(stamps))
    result = run(path, *GIVEN, "--no-ahead", "--json", "-")
    told = json.loads(result.output)["calibration"]
    assert not told["told"]["c1"]
    assert any("does not tell" in note and "c1" in note for note in told["notes"])
    assert told["coefficients"]["c1"]["value"] < 2e-4


def test_faults_are_named(tmp_path: Path) -> None:
    """Too few requests, and lines that are none."""
    few = write_lines(tmp_path / "few.jsonl", lines(timed(*played(count=5))))
    assert "too few" in run(few).output
    few.write_text("no json\n")
    result = run(few)
    assert result.exit_code == 2
    assert "few.jsonl, line 1" in result.output


def test_limits_that_no_engine_has_are_told(log: Path) -> None:
    """Before anything is fitted, with the flags that say otherwise."""
    result = run(log, "--max-num-seqs", 256, "--max-num-batched-tokens", 128)
    assert result.exit_code == 2
    assert "256 sequences with 128 tokens a step; give --max-num-seqs" in result.stderr
