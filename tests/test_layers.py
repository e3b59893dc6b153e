"""The dependency direction, where import-linter (pyproject.toml) cannot look: is its list whole, and who rolls dice."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PURE = sorted(path for folder in ("scorers", "router/core") for path in (ROOT / folder).rglob("*.py"))
NUMPY_RANDOM_TYPES = {"Generator"}
"""What pure code may name of numpy.random: the type of the generator that it is handed."""
MAKES_ITS_OWN = {"scorers/testing.py": {"default_rng"}}
"""The conformance kit hands seeded generators to the policies that it tries."""


def test_every_module_of_router_stands_in_a_layer() -> None:
    """A module directly below kvroute.router that no layer names would escape the layers contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = set(re.findall(r"kvroute\.router\.(\w+)", " ".join(layers)))
    present = {path.stem for path in (ROOT / "router").glob("[!_]*.py")}
    present |= {path.parent.name for path in (ROOT / "router").glob("*/__init__.py")}
    assert not present - named, "add these to the layers contract in pyproject.toml"


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_modules_take_their_dice_as_an_argument(path: Path) -> None:
    """Scorers and the core draw from the generator they are given, never from numpy.random's global functions."""
    allowed = NUMPY_RANDOM_TYPES | MAKES_ITS_OWN.get(str(path.relative_to(ROOT)), set())
    assert not _numpy_random_names(ast.parse(path.read_text())) - allowed


def _numpy_random_names(tree: ast.AST) -> set[str]:
    """What a module takes from numpy.random, by attribute or by import."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="random"), attr=name):
                names.add(name)
            case ast.ImportFrom(module="numpy.random", names=imported):
                names.update(alias.name for alias in imported)
            case ast.ImportFrom(module="numpy", names=imported) if any(alias.name == "random" for alias in imported):
                names.add("random")
    return names


def test_the_search_for_dice_finds_them() -> None:
    """Each way of reaching numpy.random's functions is seen."""
    source = "import numpy as np\nfrom numpy.random import normal\nfrom numpy import random\nnp.random.rand(3)\n"
    assert _numpy_random_names(ast.parse(source)) == {"normal", "random", "rand"}
