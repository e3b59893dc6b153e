"""The page about workloads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_made_from_the_options() -> None:
    """docs/workloads.md is what docs/workloads.py prints now."""
    spec = importlib.util.spec_from_file_location("workloads_page", DOCS / "workloads.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page: str = module.page()
    assert (DOCS / "workloads.md").read_text(encoding="utf-8") == page
