"""`kvroute workload`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvroute.router.cli import main


def called(*arguments: str) -> Result:
    """What the command said."""
    return CliRunner().invoke(main, ["workload", *arguments], catch_exceptions=False)


def test_without_a_name_it_lists_all() -> None:
    """Traces and generators."""
    said = called().output
    for name in ("mooncake:PATH", "agents:PATH", "azure:PATH", "log:PATH", "shared-prefix", "chat", "mixture"):
        assert name in said


def test_options_are_explained() -> None:
    """Of a trace its name is enough."""
    assert "turns of a conversation" in called("chat", "--options").output
    assert "share of the sessions" in called("mooncake", "--options").output
    assert called("chad", "--options").exit_code == 2


def test_it_tells_what_a_workload_is() -> None:
    """Lengths, loop, sessions, bound."""
    said = called("chat", "--requests", "200").output
    for part in ("200 in", "closed loop", "reusable", "if answers were", "most common beginning", "64 tokens"):
        assert part in said


def test_json_is_the_same_each_time(tmp_path: Path) -> None:
    """Numbers by their names."""
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        assert called("shared-prefix,concurrency=4", "--requests", "100", "--json", str(path)).exit_code == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    told = json.loads(paths[0].read_text())
    assert (told["requests"], told["closed"], told["sessions"]) == (100, True, 0)


def test_requests_are_written_as_text(tmp_path: Path) -> None:
    """A line each, in the order in which they are sent."""
    path = tmp_path / "out.jsonl"
    called("chat,concurrency=2", "--requests", "30", "--write", str(path), "--chat", "--model", "x")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 30
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert {line["body"]["model"] for line in lines} == {"x"}
    assert all(line["body"]["messages"][0]["content"] for line in lines)


@pytest.mark.parametrize("spec", ["mooncake:{path}", "chat,turns=0"])
def test_a_fault_leaves_no_file(tmp_path: Path, spec: str) -> None:
    """Status 2, one message, nothing half-written; what was there before stays."""
    trace, out = tmp_path / "t.jsonl", tmp_path / "out.jsonl"
    trace.write_text("broken\n")
    out.write_text("before")
    result = called(spec.format(path=trace), "--write", str(out))
    assert result.exit_code == 2
    assert result.output.startswith("kvroute: ")
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "t.jsonl"]
