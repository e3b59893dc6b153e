"""The benchmark's rounds, without a router, and what is made of their samples."""

from __future__ import annotations

import dataclasses

import pytest

from bench import goals, report, summary, tools
from bench.cases import CASES, Case, Figure
from bench.markdown import lines
from bench.measure import Load, Sample
from bench.routers import Start, Unavailable, _nginx
from bench.run import parse_arguments, run_case

needs_compiler = pytest.mark.skipif(tools.compiler() is None, reason="no C compiler (cc, gcc or clang) on PATH")
CASE = {case.name: case for case in CASES}


def sample(case: str, router: str, *, cpu: float | None, round_: int = 0, p50: float = 0.001) -> Sample:
    """A slot in which 1,000 requests and as many events came through in a second."""
    return Sample(case, router, round_, 1000, 0, {"200": 1000}, 1000, 1.0, cpu, 10_000_000, p50, p50, p50)


@needs_compiler
@pytest.mark.parametrize("name", ["1k", "sse", "paced", "open"])
def test_every_kind_of_case_runs_without_a_router(name: str) -> None:
    """A short slot of each kind comes through without errors when the load goes straight to a backend."""
    case = dataclasses.replace(CASE[name], chunks=8)
    made = run_case(case, [], 1, 0.3, Load(), {})
    assert [one.router for one in made] == ["direct"]
    assert made[0].requests > 0
    assert made[0].errors == 0
    assert made[0].cpu is None
    assert made[0].figure(case.figure) is None


@pytest.mark.parametrize(
    ("figure", "expected"),
    [(Figure.REQUESTS, 2000.0), (Figure.CHUNKS, 2000.0), (Figure.REQUEST_COST, 500.0), (Figure.CHUNK_COST, 500.0)],
)
def test_figures_are_per_cpu_second(figure: Figure, expected: float) -> None:
    """1,000 of them in half a CPU-second are 2,000 per CPU-second, or 500 microseconds each."""
    assert sample("1k", "nginx", cpu=0.5).figure(figure) == expected


def test_best_round_is_the_cheapest() -> None:
    """More is better where work per CPU-second counts, less where cost counts."""
    rounds = [sample("1k", "nginx", cpu=cpu, round_=n) for n, cpu in enumerate((0.5, 0.25, 1.0))]
    assert summary.rows(CASE["1k"], rounds)[0].best == 4000.0
    assert summary.rows(CASE["1k"], rounds)[0].median == 2000.0
    assert summary.rows(CASE["open"], rounds)[0].best == 250.0


def test_added_latency_is_over_direct() -> None:
    """What the load generator sees without a router is taken off."""
    made = summary.rows(
        CASE["open"],
        [sample("open", "direct", cpu=None, p50=0.001), sample("open", "nginx", cpu=0.1, p50=0.0015)],
    )
    assert made[0].added_p50 is None
    assert made[1].added_p50 == pytest.approx(0.0005)


def test_goals_are_held_against_the_best_rust_peer_and_nginx() -> None:
    """Four times the better of two peers is met; 1.6 times nginx's cost is not."""
    samples = [
        sample("1k", "nginx", cpu=0.1),
        sample("1k", "kvroute", cpu=0.16),
        sample("1k", "smg", cpu=1.0),
        sample("1k", "sglang-router", cpu=0.64),
    ]
    found = list(goals.check(summary.by_case(samples), None, []))
    assert [goal.met for goal in found] == [True, False]
    assert "sglang-router" in found[0].text


def test_results_print_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the Markdown name each router with its figures, and what was skipped."""
    samples = [sample("1k", "direct", cpu=None), sample("1k", "nginx", cpu=0.1), sample("1k", "kvroute", cpu=0.2)]
    results = {
        "machine": {"date": "2000-01-01"},
        "settings": {"rounds": 1, "seconds": 1.0},
        "skipped": {"smg": "no network"},
        "samples": [one.as_json() for one in samples],
        "memory": {"kvroute": {"idle": 1e7, "prompt_bytes": 4096, "points": [{"requests": 1, "resident": 1}]}},
        "decision": [],
    }
    results["memory"]["kvroute"]["errors"] = 0  # type: ignore[index]
    report.show(results)
    shown = capsys.readouterr().out
    markdown = "\n".join(lines(results))
    for text in (shown, markdown):
        assert "kvroute" in text
        assert "10,000" in text
        assert "no network" in text


def test_missing_nginx_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without nginx its column is skipped with the reason."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="nginx is not on PATH"):
        _nginx(Start(1, 2, [3], tmp_path_factory.mktemp("nginx")))


def test_quick_is_one_short_round() -> None:
    """`--quick` shortens what is not said otherwise."""
    quick = parse_arguments(["--quick", "--only", "1k", "--routers", "nginx,kvroute"])
    assert (quick.rounds, quick.only, quick.routers) == (1, ["1k"], ["nginx", "kvroute"])
    assert parse_arguments(["--quick", "--rounds", "3"]).rounds == 3
    assert parse_arguments([]).rounds == 5


def test_cases_are_named_once() -> None:
    """`--only` can tell them apart."""
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(isinstance(case, Case) for case in CASES)
