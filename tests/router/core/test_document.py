"""Numbers in YAML are numbers."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from kvroute.router.core.document import parse


@pytest.mark.parametrize("text", ["1e-9", "1E9", "2.5e-6", "-3e+2", ".5e3", "7.e2", "0.004"])
def test_floats_are_numbers(text: str) -> None:
    """Whatever way of writing them JSON or Python has."""
    assert parse(f"a: {text}") == {"a": float(text)}


@pytest.mark.parametrize("text", ["1e", "e9", "1e9x", "sha-1e9", '"1e-9"'])
def test_text_stays_text(text: str) -> None:
    """What only looks like a number, or is quoted."""
    assert parse(f"a: {text}") == {"a": text.strip('"')}


def test_json_is_read_as_json() -> None:
    """To the last digit."""
    held = {"a": [1e-9, 2.4e-08, 1e22, 3, None, True, "x"], "b": {"c": "1e-9"}}
    assert parse(msgspec.json.encode(held)) == held


def test_it_is_safe() -> None:
    """No objects are made."""
    with pytest.raises(yaml.YAMLError):
        parse("!!python/object/apply:os.getcwd []")
