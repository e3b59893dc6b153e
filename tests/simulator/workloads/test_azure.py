"""Azure's traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.bound import reusable_tokens
from kvroute.simulator.workloads.naming import parse
from tests.simulator.workloads.traces import trace
from tests.simulator.workloads.walked import jobs_of

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def test_rows_become_jobs(tmp_path: Path) -> None:
    """Times since the first, in whatever order the columns and rows come; no output is one token."""
    path = tmp_path / "t.csv"
    path.write_text(
        "GeneratedTokens,TIMESTAMP,ContextTokens\n0,2023-11-16 18:17:05.4799600,640\n7,2023-11-16 18:17:03.9799600,100"
    )
    first, second = jobs_of(f"azure:{path}")
    assert (first.at, first.request.tokens, first.output_tokens, len(first.request.keys)) == (0.0, 100, 7, 1)
    assert second.at == pytest.approx(1.5)
    assert (second.request.tokens, second.output_tokens, len(second.request.keys)) == (640, 1, 10)


def test_zones_are_understood(tmp_path: Path) -> None:
    """The traces of 2024 name theirs."""
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "2024-05-10 00:00:00.009930+00:00,10,1\r\n2024-05-10 02:00:01.009930+02:00,10,1\r\n")
    assert jobs_of(f"azure:{path}")[1].at == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,2,3\n", ":1: the first line must name the columns"),
        (HEAD, "only the names of columns"),
        (HEAD + "2023-11-16 18:17:03,5\n", ":2: 2 columns"),
        (HEAD + "soon,5,5\n", ":2: TIMESTAMP 'soon' is no date and time"),
        (HEAD + "2023-11-16 18:17:03,-5,5\n", ":2: ContextTokens '-5' is no number of tokens"),
        (HEAD + "2023-11-16 18:17:03,5,nan\n", ":2: GeneratedTokens 'nan' is no number of tokens"),
        (HEAD + "2023-11-16 18:17:03,5,99999999999\n", ":2: GeneratedTokens '99999999999'"),
        (HEAD + "2023-11-16 18:17:03,0,5\n", ":2: ContextTokens is 0"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    """File, line and reason."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(WorkloadError) as raised:
        parse(f"azure:{path}", seed=0)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize(("name", "count"), [("code", 8819), ("conv", 19366)])
def test_the_published_traces_share_nothing(name: str, count: int) -> None:
    """An hour of requests each; nothing is known of their prefixes."""
    jobs = jobs_of(f"azure:{trace(f'AzureLLMInferenceTrace_{name}.csv')}")
    assert len(jobs) == count
    assert 3400 < jobs[-1].at < 3600
    assert reusable_tokens(jobs, 64) == 0
