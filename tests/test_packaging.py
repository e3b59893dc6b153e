"""What an installation puts where: one top-level name, and a package that says it is typed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import kvroute

ROOT = Path(__file__).parent.parent
SHORT_NAMES = ("router", "scorers", "simulator", "tests", "bench", "examples")


def test_exactly_one_top_level_name_is_installed(tmp_path: Path) -> None:
    """Installed, the folders are `kvroute.router` and so on: their short names would collide with other people's."""
    question = (
        "import importlib.util, kvroute;"
        f"print([name for name in {SHORT_NAMES} if getattr(importlib.util.find_spec(name), 'origin', None)])"
    )
    # -P keeps the working directory off the path; a fresh folder keeps this checkout out of reach.
    asked = subprocess.run([sys.executable, "-P", "-c", question], cwd=tmp_path, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip() == "[]"


def test_the_version_is_stated_once() -> None:
    """The installed metadata and the package agree on the version."""
    assert importlib.metadata.version("kvroute") == kvroute.__version__


def test_the_package_is_typed() -> None:
    """`py.typed` stands beside __init__.py, so that type checkers read our annotations."""
    assert Path(str(kvroute.__file__)).with_name("py.typed").exists()


def test_each_code_folder_is_linked_into_the_package() -> None:
    """src/kvroute links to exactly the folders that hold code, relatively: a checkout may be moved."""
    links = {path.name: path.readlink() for path in (ROOT / "src" / "kvroute").iterdir() if path.is_symlink()}
    assert links == {name: Path("../..") / name for name in ("router", "scorers", "simulator")}
