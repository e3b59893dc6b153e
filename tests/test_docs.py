"""Documents that cannot rot: each setting, flag and command is where it should be."""

from __future__ import annotations

import importlib.util
import re
import typing
from pathlib import Path

import click
import pytest

from kvroute.router.cli import main
from kvroute.router.core import decided

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_configuration_page_is_made_from_the_settings() -> None:
    """docs/configuration.md is what docs/configuration.py prints now."""
    spec = importlib.util.spec_from_file_location("configuration", ROOT / "docs" / "configuration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page: str = module.page()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page


def test_every_command_is_in_the_readme() -> None:
    """And no command that does not exist."""
    context = click.Context(main)
    rows = "".join(line for line in README.splitlines() if line.startswith("| `kvroute"))
    assert set(re.findall(r"`kvroute ([a-z-]+)", rows)) == set(main.list_commands(context))


def test_every_flag_says_what_it_does() -> None:
    """--help leaves no flag without a word."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        assert command.help
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of every page exists."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_is_short() -> None:
    """At most about 150 lines."""
    assert len(README.splitlines()) <= 150


def test_invariants_name_tests_that_exist() -> None:
    """A test that an invariant rests on is there, by that name."""
    text = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
    for path, name in re.findall(r"`(tests/[\w/]+(?:\.py)?/?)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        if name:
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


def test_every_field_of_the_decision_log_is_told() -> None:
    """docs/decision-log.md names each line and each of its fields."""
    page = (ROOT / "docs" / "decision-log.md").read_text(encoding="utf-8")
    for line in (*typing.get_args(decided.Line), decided.Attempt):
        names = [*line.__struct_fields__, *filter(None, [line.__struct_config__.tag])]
        for name in names:
            assert f"`{name}`" in page, f"{line.__name__}.{name}"
