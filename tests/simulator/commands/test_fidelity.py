"""`kvroute fidelity DIR`: errors on a terminal and as JSON, the same bytes each time, faults named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvroute.router.cli import main
from tests.simulator.fidelity.recorded import played, timed, write_run


def run(*args: object) -> Result:
    """The command."""
    return CliRunner().invoke(main, ["fidelity", *map(str, args)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one run."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root, timed(*played(count=24), noise=0.0005))
    return root


def test_json_explains_itself(runs: Path, tmp_path: Path) -> None:
    """Per run: what was fitted on and judged on, coefficients, and each metric, real and simulated, with its goal."""
    out = tmp_path / "out.json"
    result = run(runs, "--json", out, "--strict")
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_bytes())
    assert told["all_met"] is True
    assert told["goals"]["e2e_mean"] == 0.05
    assert "c5" in told["formula"]
    (one,) = told["runs"]
    assert (one["name"], one["requests"], one["met"]) == ("GPU/Model-1B", 24, True)
    assert {"real", "simulated", "error", "goal", "met"} == set(one["metrics"]["ttft_mean"])
    assert set(one["coefficients"]["c0"]) == {"value", "error"}
    assert len(one["trials"]) == 4
    assert all(trial["fitted_on"] != trial["judged_on"] for trial in one["trials"])
    assert "ttft_mean" in result.output


def test_the_same_bytes_each_time(runs: Path, tmp_path: Path) -> None:
    """Two runs of the command write the same file."""
    written = []
    for name in ("a", "b"):
        assert run(runs, "--json", tmp_path / name, "-q", "--plain").exit_code == 0
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_without_c5(runs: Path) -> None:
    """--plain leaves it out."""
    told = json.loads(run(runs, "--json", "-", "--plain").output)
    assert "c5" not in told["formula"]
    assert all(trial["coefficients"]["c5"]["value"] == 0.0 for trial in told["runs"][0]["trials"])


def test_a_missed_goal_fails_only_if_strict(tmp_path: Path) -> None:
    """Requests too few to judge meet nothing."""
    write_run(tmp_path, timed(*played(count=5)))
    assert run(tmp_path, "-q").exit_code == 0
    assert run(tmp_path, "-q", "--strict").exit_code == 1


def test_faults_are_named(tmp_path: Path) -> None:
    """Status 2, one line with file, line and reason."""
    assert "no recorded run" in run(tmp_path).output
    folder = write_run(tmp_path, timed(*played(count=5)))
    (folder / "requests.jsonl").write_text('{"input_toks": 1}\n')
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "requests.jsonl, line 1" in result.output
