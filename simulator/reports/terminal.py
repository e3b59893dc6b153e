"""Where tables are printed: as wide as the terminal, and WIDTH where there is none."""

from __future__ import annotations

import os

from rich.console import Console

WIDTH = 100
"""Of a pipe or a file [columns]: all tables fit. COLUMNS overrides it."""


def terminal() -> Console:
    """Standard output; colours only on a terminal, and none with NO_COLOR."""
    found = Console(highlight=False)
    if found.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return found
    return Console(highlight=False, width=WIDTH)
