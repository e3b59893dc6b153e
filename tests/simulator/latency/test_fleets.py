"""Fleets as text and as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvroute.scorers.contract import Role
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.fleets import parse_fleet
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.presets import preset

QWEN = "qwen3-32b-h100-tp2"


def test_a_count_is_that_many_of_the_preset() -> None:
    """`8` is eight of the default, or of the preset that is named beside it."""
    assert parse_fleet("8") == parse_fleet(8) == (Kind(),) * 8
    assert parse_fleet("2", QWEN) == (preset(QWEN),) * 2


def test_parts_are_joined_in_order() -> None:
    """Counts and kinds may be mixed."""
    fleet = parse_fleet(f"2*{QWEN} + 1 + llama-3.1-8b-h100+1*roofline:llama-3.1-8b,gpu=l40s,max_num_seqs=64")
    assert [kind.name for kind in fleet] == [QWEN, QWEN, *["llama-3.1-8b-h100"] * 2, "llama-3.1-8b-l40s"]
    assert fleet[-1].limits.max_num_seqs == 64


def test_roles() -> None:
    """A role is written behind the kind, whatever the kind is."""
    fleet = parse_fleet(f"1*{QWEN}:prefill+2*roofline:llama-3.1-8b,gpu=h100:decode+{QWEN}:both")
    assert [kind.role for kind in fleet] == [Role.PREFILL, Role.DECODE, Role.DECODE, Role.BOTH]


def test_cache_tokens_are_blocks_and_the_null_block() -> None:
    """A cache of T tokens has T // block size usable blocks."""
    (kind,) = parse_fleet("1", cache_tokens=100_000)
    assert (kind.limits.blocks, kind.cache_tokens) == (6251, 100_000)


def test_a_file_lists_kinds_with_limits(tmp_path: Path) -> None:
    """Counts, roles and limits; a kind's own file is looked for beside it."""
    (tmp_path / "mine.yaml").write_text("step: {c0: 0.02}\nrole: decode\n")
    path = tmp_path / "fleet.yaml"
    path.write_text(
        "replicas:\n"
        f"  - {{preset: {QWEN}, count: 2, max_num_seqs: 7, max_num_batched_tokens: 99, cache_tokens: 3200, ranks: 2}}\n"
        "  - {preset: mine.yaml, name: theirs, block_size: 32}\n"
        "  - {}\n"
    )
    fleet = parse_fleet(str(path))
    limits = fleet[0].limits
    assert [kind.name for kind in fleet] == [QWEN, QWEN, "theirs", "llama-3.1-8b-h100"]
    assert (limits.max_num_seqs, limits.max_num_batched_tokens, limits.blocks, fleet[0].ranks) == (7, 99, 201, 2)
    assert fleet[0].step.budget == 99
    assert (fleet[2].step.c0, fleet[2].role, fleet[2].limits.block_size) == (0.02, Role.DECODE, 32)
    assert abs(fleet[2].cache_tokens - Kind().cache_tokens) < 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "1 to 10000 replicas, not 0"),
        ("1000000000000", "1 to 10000 replicas"),
        ("x*llama-3.1-8b-h100", "'x' is no count; write a count"),
        ("-1*llama-3.1-8b-h100", "'-1' is no count"),
        ("2*llama-3.1-8b-h200", r"no preset 'llama-3.1-8b-h200' \(did you mean llama-3.1-8b-h100\?\)"),
        ("2*llama-3.1-8b-h100:prefil", "role is one of both, prefill, decode, not 'prefil'"),
        ("2*llama-3.1-8b-h100:prefill", "prefill replicas alone answer nothing"),
        ("2*", "2.: a part names no kind; write a count"),
        ("", "an empty fleet: a part names no kind"),
        ("1+", "a part names no kind"),
        ("none.yaml", r"none\.yaml: No such file"),
        ("1*roofline:llama-3.1-70b,gpu=l4", "141 GB of bf16 weights leave no room.*on 1 x l4"),
    ],
)
def test_a_bad_fleet_is_told(text: str, message: str) -> None:
    """The message says what is wrong and what to do."""
    with pytest.raises(FleetError, match=message):
        parse_fleet(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- {}", "Expected `object`.*it lists `replicas`"),
        ("replicas: [{presets: x}]", r"presets.*\$\.replicas\[0\]"),
        ("replicas: [{count: -1}]", "count is at least 0"),
        ("replicas: [{role: router}]", r"router.*\$\.replicas\[0\]\.role"),
        ("replicas: [{blocks: 1}]", "limits.blocks is at least 2, not 1"),
        ("replicas: [{blocks: 9, cache_tokens: 9}]", "give one of them"),
        ("replicas: [{cache_tokens: 15}]", "at least one block of 16 tokens, not 15"),
        ("replicas: [{max_num_seqs: 4096}]", r"max_num_seqs \(4096\) is above limits.max_num_batched_tokens \(2048\)"),
        ("replicas: []", "1 to 10000 replicas, not 0"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, content: str, message: str) -> None:
    """File and key are named."""
    path = tmp_path / "fleet.yaml"
    path.write_text(content)
    with pytest.raises(FleetError, match=message) as raised:
        parse_fleet(str(path))
    assert str(raised.value).startswith(str(path))
