"""docs/scorers.md runs, and names everything that is installed."""

from __future__ import annotations

import doctest
import inspect
from importlib.metadata import entry_points
from pathlib import Path

import msgspec
import pytest
import yaml

from kvroute.router.config import Config
from kvroute.scorers.pipeline import Pipeline
from kvroute.scorers.plugins import POLICIES, SCORERS, load_policy

PAGE = Path(__file__).parents[2] / "docs" / "scorers.md"


def test_the_examples_run() -> None:
    """Each example prints what the page says it prints."""
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert tried > 20
    assert failed == 0


def test_the_configuration_loads() -> None:
    """The YAML on the page gives the weights that it names."""
    block = PAGE.read_text().split("```yaml\n")[1].split("```")[0]
    policy = load_policy(msgspec.convert(yaml.safe_load(block), Config).policy_spec())
    assert isinstance(policy, Pipeline)
    weights = {one.name: one.weight for one in policy.scorers}
    assert weights["interference"] == 2.0
    assert "wait" not in weights
    assert "queue" in weights


@pytest.mark.parametrize("group", [SCORERS, POLICIES])
def test_every_entry_point_is_documented(group: str) -> None:
    """Each of our scorers and policies has a row in the tables, with its options where it is not a sum."""
    rows = {line.split("|")[1].strip(): line for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    ours = [point for point in entry_points(group=group) if point.value.startswith("kvroute.")]
    assert ours
    for point in ours:
        row = rows[f"`{point.name}`"]
        if point.name not in ("latency", "goodput"):
            assert all(f"`{option}`" in row for option in inspect.signature(point.load()).parameters), row


def test_nothing_else_is_documented() -> None:
    """A row without an entry point would be a promise."""
    names = {line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    assert names <= {point.name for group in (SCORERS, POLICIES) for point in entry_points(group=group)}
