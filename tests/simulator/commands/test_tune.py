"""`kvroute tune`: weights that the router takes, judged on what they were not searched on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvroute.router.cli import main
from kvroute.router.config import load
from kvroute.scorers.plugins import PolicySpec, load_policy
from kvroute.simulator.commands import tune
from kvroute.simulator.search import weights
from kvroute.simulator.search.weights import PLAIN, Held, Task, Weights

SMALL = [
    "tune", "--workload", "shared-prefix,input=1500,output=40,prefix=1000", "--requests", "100", "--replicas", "2",
    "--rate", "40", "--trials", "4", "--seeds", "2", "--jobs", "1",
]  # fmt: skip
FOUND = Weights(queue=2.0, wait=1.0, congestion=0.25, share=0.4)
BACKEND = {"backends": ["http://127.0.0.1:8000"]}


def judged(monkeypatch: pytest.MonkeyPatch, verdict: str, relative: float) -> None:
    """Let the search find FOUND and the judgement be that."""

    def judge(task: Task, found: Weights, evaluate: Any) -> tuple[str, float, list[Held]]:
        assert found == FOUND
        return verdict, relative, []

    monkeypatch.setattr(weights.Tuner, "best", lambda self: FOUND)
    monkeypatch.setattr(tune, "judge", judge)


def test_the_file_is_a_configuration_of_the_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found, and nothing else, is what `kvroute serve` would choose by."""
    judged(monkeypatch, "better", 0.1)
    path = tmp_path / "tuned.yaml"
    outcome = CliRunner().invoke(main, [*SMALL, "--out", str(path), "--slo", "ttft_p90<1s"])
    assert outcome.exit_code == 0, outcome.output
    spec = load(path, BACKEND).policy_spec()
    assert spec == PolicySpec("latency", {"queue": 2.0, "congestion": 0.25, "share": 0.4})
    load_policy(spec)
    assert "Better than the default on the last 50%" in path.read_text().replace("\n# ", " ")


@pytest.mark.parametrize(("verdict", "says"), [("worse", "are worse on"), ("not shown", "are not shown to be better")])
def test_what_is_not_better_where_it_was_not_searched_is_not_taken(
    verdict: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default stays, and that is said."""
    judged(monkeypatch, verdict, -0.1)
    path = tmp_path / "tuned.yaml"
    outcome = CliRunner().invoke(main, [*SMALL, "--out", str(path), "--slo", "ttft_p90<1s"])
    assert outcome.exit_code == 0, outcome.output
    assert says in " ".join(outcome.stdout.split())
    assert load(path, BACKEND).policy_spec() == PolicySpec("latency")


def test_a_search_end_to_end(tmp_path: Path) -> None:
    """The default is among the trials with a score of 0; the verdict is of the part held out."""
    path = tmp_path / "tuned.yaml"
    arguments = [*SMALL, "--objective", "ttft_mean", "--out", str(path), "--json", "-"]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, outcome.output
    tuning = json.loads(outcome.stdout)["tuning"]
    plain = [trial for trial in tuning["trials"] if trial["weights"] == tuning["default"]]
    assert plain
    assert all(trial["score"] == 0.0 for trial in plain)
    assert tuning["judged_on"] == "the last 50%, with 6 other seeds"
    assert tuning["chosen"] == (tuning["found"] if tuning["verdict"] == "better" else tuning["default"])
    chosen = load(path, BACKEND).policy_spec()
    assert chosen == Weights(**tuning["chosen"]).policy()


def test_the_default_needs_no_options() -> None:
    """And a weight that is the default's is not written."""
    assert PLAIN.policy() == PolicySpec("latency")
    assert Weights(1.0, 1.0, 1.0, 0.1).policy() == PolicySpec("latency", {"share": 0.1})
