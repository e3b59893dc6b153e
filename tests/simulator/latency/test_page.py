"""The page about kinds of replicas."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_made_from_the_presets() -> None:
    """docs/presets.md is what docs/presets.py prints now."""
    spec = importlib.util.spec_from_file_location("presets_page", DOCS / "presets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "presets.md").read_text(encoding="utf-8") == module.page()
