"""Whatever stands in a trace: it is a workload, or it is refused with file and line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.naming import parse
from tests.simulator.workloads.walked import checked

NUMBERS = st.one_of(st.integers(0, 300), st.integers(), st.floats(), st.just(1e308), st.none(), st.text(max_size=3))
SCALARS = st.one_of(st.integers(0, 200), NUMBERS)
IDS = st.one_of(st.lists(st.integers(0, 6), max_size=4), st.lists(NUMBERS, max_size=3))


def fields(names: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of these fields."""
    return st.fixed_dictionaries({}, optional=names)


MOONCAKE = fields({"timestamp": SCALARS, "input_length": SCALARS, "output_length": SCALARS, "hash_ids": IDS})
TURN = fields({
    "t": SCALARS, "type": st.sampled_from(["n", "s", "subagent"]), "in": SCALARS, "out": SCALARS, "hash_ids": IDS,
    "api_time": SCALARS, "duration_ms": SCALARS,
})  # fmt: skip
GOOD_TURN = st.builds(
    lambda t, ids, out, kind, inner: {
        "t": t, "type": kind, "in": 64 * len(ids) + 5, "out": out, "hash_ids": ids, "api_time": out / 10,
        "duration_ms": 500, "requests": inner,
    },
    st.integers(0, 50), st.lists(st.integers(0, 3), max_size=3, unique=True).map(sorted), st.integers(0, 200),
    st.sampled_from(["n", "n", "subagent"]), st.just([{"t": 0, "type": "n", "in": 5, "out": 1, "hash_ids": []}]),
)  # fmt: skip
TURNS = st.one_of(
    st.lists(GOOD_TURN, min_size=1, max_size=6).map(lambda turns: sorted(turns, key=lambda turn: float(turn["t"]))),
    st.lists(st.one_of(GOOD_TURN, TURN), max_size=3),
)
AGENTS = st.builds(
    lambda turns, size, tools: {"id": "s", "block_size": size, "requests": turns, "tool_tokens": tools},
    TURNS, st.sampled_from([64, 64, 64, 64, 0, "x"]), st.one_of(st.integers(0, 200), SCALARS),
)  # fmt: skip
CELLS = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from(["2023-11-16 18:17:03.97", "7", "9" * 5000])), max_size=4
)


def accepted_or_refused(spec: str, name: str, data: bytes) -> None:
    """Nothing but a WorkloadError that names the file comes out of a trace, and no job that is not well-formed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            workload = parse(f"{spec}:{path}", seed=1)
        except WorkloadError as error:
            refused = str(error)
        else:
            refused = str(path)
            checked(workload)
        assert str(path) in refused


@settings(deadline=None)
@given(st.lists(MOONCAKE, max_size=4))
def test_mooncake(rows: list[Any]) -> None:
    """Fields of any kind, or none."""
    accepted_or_refused("mooncake", "t.jsonl", "\n".join(map(json.dumps, rows)).encode())


@settings(deadline=None)
@given(st.lists(AGENTS, max_size=3))
def test_agents(rows: list[Any]) -> None:
    """Sessions of any kind of turns and sub-agents."""
    accepted_or_refused("agents", "t.jsonl", "\n".join(map(json.dumps, rows)).encode())


@settings(deadline=None)
@given(st.lists(CELLS, max_size=4))
def test_azure(rows: list[list[str]]) -> None:
    """Any cells behind a good first line."""
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    accepted_or_refused("azure", "t.csv", (head + "\n".join(map(",".join, rows))).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("spec", ["mooncake", "agents", "azure"])
@given(data=st.binary(max_size=200))
@settings(deadline=None)
def test_bytes(spec: str, data: bytes) -> None:
    """Not even text, plain or as what should have been compressed."""
    accepted_or_refused(spec, "t.jsonl", data)
    accepted_or_refused(spec, "t.jsonl.gz", data)


@pytest.mark.parametrize("spec", ["mooncake", "agents"])
def test_deep_nesting(spec: str) -> None:
    """Is refused, not run into."""
    accepted_or_refused(spec, "t.jsonl", b'{"other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
