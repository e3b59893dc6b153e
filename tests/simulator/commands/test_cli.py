"""What all commands of the simulator do alike: faults in one line, files whole or not at all, Ctrl-C."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvroute.router.cli import main

SMALL = ["--workload", "shared-prefix,input=512,output=32", "--requests", "60", "--replicas", "2"]
ALL = ("simulate", "compare", "plan", "tune")
SLO = {"plan": ["--slo", "ttft_p90<2s"]}

STOPS_AT = """
import signal, sys
from kvroute.simulator.search import case
real = case.parse
at, times = int(sys.argv[1]), int(sys.argv[2])
class Interrupting:
    def __init__(self, whole):
        self.name, self.key_tokens, self.after, self._whole = whole.name, whole.key_tokens, whole.after, whole
    def arrivals(self):
        for number, job in enumerate(self._whole.arrivals()):
            if number == at:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            yield job
case.parse = lambda *args, **options: Interrupting(real(*args, **options))
from kvroute.router.cli import main
main(sys.argv[3:])
"""
"""Runs a command in a process that is interrupted while job number `at` is about to be sent."""

STOPS_AFTER = """
import signal, sys
from kvroute.simulator.commands import processes
real, at, answers = processes._answer, int(sys.argv[1]), []
def answer(*args):
    answers.append(real(*args))
    if len(answers) == at:
        signal.raise_signal(signal.SIGINT)
    return answers[-1]
processes._answer = answer
from kvroute.router.cli import main
main(sys.argv[2:])
"""
"""Runs a command in a process that is interrupted when the answer number `at` has come from the other processes."""


def interrupted(at: int, times: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """How a command ends that hears Ctrl-C so many times."""
    command = [sys.executable, "-c", STOPS_AT, str(at), str(times), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workload", "shared-prefi"], "there is no workload 'shared-prefi'; did you mean 'shared-prefix'?"),
        (["--workload", "mooncake:/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--workload", "shared-prefix", "--requests", "0"], "--requests"),
        (["--workload", "shared-prefix", "--rate", "-1"], "--rate"),
        (["--workload", "shared-prefix", "--rate", "nan"], "'nan' is no number to compute with"),
        (["--workload", "shared-prefix", "--speedup", "0"], "--speedup"),
        (["--workload", "shared-prefix", "--replicas", "0"], "replicas"),
        (["--workload", "shared-prefix", "--slo", "ttft<2s"], "SLO 'ttft<2s'"),
        (["--workload", "shared-prefix", "--json", "/nowhere/x.json"], "there is no folder /nowhere"),
        (["--workload", "shared-prefix", "--csv", "/"], "is a directory"),
        (["--workload", "shared-prefix", "--knowledge", "all"], "'expected', 'exact'"),
        (["--workload", "shared-prefix", "--share", "-1"], "--share"),
        (["--bogus"], "No such option"),
        ([], "Missing option '--workload'"),
    ],
)
def test_wrong_flags_are_told_and_end_with_2(command: str, arguments: list[str], says: str) -> None:
    """No traceback, the fault and what there is to choose from."""
    more = [] if "--slo" in arguments else SLO.get(command, [])
    outcome = CliRunner().invoke(main, [command, *arguments, *more])
    assert outcome.exit_code == 2, outcome.output
    assert says in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["simulate", *SMALL, "--policy", "nope"], "no policy is called 'nope'; there are: "),
        (["simulate", *SMALL, "--preset", "nope"], "there is no preset 'nope'"),
        (["simulate", *SMALL, "--cache-tokens", "3"], "at least one block of 16 tokens"),
        (["compare", *SMALL, "--policies", "latency,nope"], "no policy is called 'nope'"),
        (["compare", *SMALL, "--policies", ","], "names with commas between"),
        (["compare", *SMALL, "--rates", "1,x"], "'x' is no number"),
        (["compare", *SMALL, "--rates", "1", "--loads", "1"], "both say what loads there are"),
        (["plan", *SMALL, "--slo", "ttft_p90<1s", "--rate", "3"], "--rate and --replicas"),
        (["plan", *SMALL, "--slo", "ttft_p90<1s", "--price", "b=3"], "--price names 'b'"),
        (["plan", *SMALL, "--slo", "ttft_p90<1s", "--price", "b"], "'b' is not NAME=PRICE"),
        (["plan", *SMALL, "--slo", "ttft_p90<1s", "--cache-tokens", "1.5"], "'1.5' is no whole number"),
        (["tune", *SMALL, "--objective", "goodput"], "say with --slo what makes one good"),
        (["tune", "--workload", "chat,concurrency=4"], "leave no part to hold out"),
        (["tune", *SMALL, "--objective", "fun"], "there is no measure 'fun'"),
        (["tune", *SMALL, "--out", "/nowhere/x.yaml"], "there is no folder /nowhere"),
    ],
)
def test_each_commands_own_faults(arguments: list[str], says: str) -> None:
    """Told before anything is run."""
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 2, outcome.output
    assert says in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("command", ALL)
def test_pages_need_the_extra_and_say_so_before_the_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = [*SMALL, *SLO.get(command, []), "--html", str(tmp_path / "page.html")]
    outcome = CliRunner().invoke(main, [command, *arguments])
    assert outcome.exit_code == 2
    assert "pip install 'kvroute[report]'" in outcome.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("policy: [", "not YAML"),
        ("listen: {port: 80}", "neither `policy` nor `scorers`"),
        ("policy: 3", "$.policy"),
        ("policy: nope", "no policy is called 'nope'"),
        ("scorers: [{name: nope}]", "no scorer is called 'nope'"),
    ],
)
def test_a_policy_file_that_is_none_is_told(text: str, says: str, tmp_path: Path) -> None:
    """Which file, and what it lacks."""
    (tmp_path / "policy.yaml").write_text(text)
    outcome = CliRunner().invoke(main, ["simulate", *SMALL, "--policy-config", str(tmp_path / "policy.yaml")])
    assert outcome.exit_code == 2
    assert says in outcome.output


def test_a_policy_file_is_a_part_of_the_routers_configuration(tmp_path: Path) -> None:
    """Other sections are left alone; --policy beside it is a contradiction."""
    path = tmp_path / "policy.yaml"
    path.write_text("listen: {port: 9000}\npolicy: goodput\nscorers:\n  - {name: queue, weight: 2}\n")
    arguments = ["simulate", *SMALL, "--policy-config", str(path), "--json", "-"]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.stdout)["summary"]["policy"] == "goodput+queue*2"
    assert CliRunner().invoke(main, [*arguments, "--policy", "random"]).exit_code == 2


def test_ctrl_c_tells_what_is_known_so_far(tmp_path: Path) -> None:
    """The run ends, its files are marked, the status is 130."""
    path = tmp_path / "run.json"
    done = interrupted(1000, 1, "simulate", *SMALL[:2], "--requests", "3000", "--json", str(path))
    assert done.returncode == 130, done.stderr
    assert "stopped early, " in done.stdout
    assert "of 3,000 requests" in done.stdout
    assert "TTFT" in done.stdout
    assert "Traceback" not in done.stderr
    written = json.loads(path.read_text())
    assert written["stopped_early"].startswith("stopped early, ")
    assert 0 < written["summary"]["completed"] < 3000


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """Nothing is printed, nothing is written."""
    path = tmp_path / "run.json"
    done = interrupted(1000, 2, "simulate", *SMALL[:2], "--requests", "3000", "--json", str(path))
    assert (done.returncode, done.stdout) == (130, "")
    assert not path.exists()


def test_ctrl_c_tells_which_cells_are_known_and_leaves_no_process_behind(tmp_path: Path) -> None:
    """Runs under way elsewhere are dropped; a process left behind would keep the pipes open and time out here."""
    arguments = [*SMALL, "--policies", "latency,random,lmetric", "--seeds", "2", "--rates", "5", "--jobs", "2"]
    command = [sys.executable, "-c", STOPS_AFTER, "3", "compare", *arguments, "--json", str(tmp_path / "x.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert "stopped early" in done.stdout
    assert "Traceback" not in done.stderr
    comparison = json.loads((tmp_path / "x.json").read_text())["comparison"]
    assert comparison["unfinished"] is True
    assert 1 <= len(comparison["rows"][0]["cells"]) < 3


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no half file beside it."""
    path = tmp_path / "run.json"
    path.write_text("before")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(os, "replace", fail)
    outcome = CliRunner().invoke(main, ["simulate", *SMALL, "--json", str(path)])
    assert outcome.exit_code == 2
    assert f"{path}: No space left on device" in outcome.output
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "before"


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", *SMALL],
        ["compare", *SMALL, "--policies", "latency,power-of-two", "--rates", "5,50", "--seeds", "2"],
        ["plan", *SMALL[:4], "--slo", "ttft_p90<100ms", "--rate", "60", "--most", "4"],
        ["tune", *SMALL, "--trials", "2", "--seeds", "1", "--rate", "50"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_same_bytes_whatever_hash_seed_and_number_of_processes(arguments: list[str]) -> None:
    """Two processes with different hash seeds; where there are --jobs, one of them with two."""
    jobs = [[], []] if arguments[0] == "simulate" else [["--jobs", "1"], ["--jobs", "2"]]
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "kvroute.router.cli", *arguments, *more, "--json", "-"],
            env={**os.environ, "PYTHONHASHSEED": str(i + 1)},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for i, more in enumerate(jobs)
    ]
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0])["kvroute"]


def test_limits_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    """One line that says what to change, whoever reads the kind or the fleet."""
    kind, fleet = tmp_path / "kind.yaml", tmp_path / "fleet.yaml"
    kind.write_text("limits: {max_num_batched_tokens: 128}\n")
    fleet.write_text("replicas: [{count: 2, max_num_batched_tokens: 128}]\n")
    for given in (
        ["--preset", str(kind)],
        ["--replicas", str(fleet)],
        ["-n", "roofline:llama-3.1-8b,gpu=h100,max_num_batched_tokens=128"],
    ):
        outcome = CliRunner().invoke(main, ["simulate", *SMALL, *given])
        assert outcome.exit_code == 2, outcome.output
        assert "max_num_seqs (256) is above limits.max_num_batched_tokens (128)" in outcome.stderr
        assert outcome.stderr.count("\n") == 1
