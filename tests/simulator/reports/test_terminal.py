"""Where tables are printed."""

from __future__ import annotations

import pytest

from kvroute.simulator.reports.terminal import terminal


def test_a_pipe_has_100_columns_and_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless COLUMNS says otherwise."""
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert terminal().width == 100
    assert not terminal().is_terminal
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal().width == 60
