"""Lines that wait for a file: what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from kvroute.router.control.decisions import DecisionLog
from kvroute.scorers.contract import Request
from tests.router.control.decisionlogs import began, lines, requests, written
from tests.router.running import until


async def test_a_full_disk_drops_lines_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are counted and said; the next lines that fit rest on nothing that was lost."""
    path = tmp_path / "log"
    log = DecisionLog(str(path), began)
    request = Request("a", "m", 100, keys=[1, 2, 3])
    full = True
    append = log._lines._file.append

    def refuse(lines: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        append(lines)

    log._lines._file.append = refuse  # type: ignore[method-assign]
    log.start()
    log.refused(request, 1.0)
    await until(lambda: log.counts.dropped == 1)
    full = False
    log.refused(request, 2.0)
    await log.close()
    (line,) = requests(lines(path))
    assert (line.at, line.keys) == (2.0, [1, 2, 3])
    assert "No space left on device" in caplog.text


async def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs costs lines, not memory."""
    monkeypatch.setattr("kvroute.router.control.lines.MOST_LINES", 3)
    log = DecisionLog(str(tmp_path / "log"), began)
    await written(log, [Request(str(i), "m", 1) for i in range(5)])
    assert (log.counts.written, log.counts.dropped) == (3, 2)


async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither requests, of which lines are dropped in the end, nor the router's own end. (A pipe that nobody reads.)"""
    monkeypatch.setattr("kvroute.router.control.lines.MOST_LINES", 1000)
    monkeypatch.setattr("kvroute.router.control.lines.LAST_SECONDS", 0.2)
    os.mkfifo(tmp_path / "log")
    log = DecisionLog(str(tmp_path / "log"), began)
    log.start()
    for number in range(3000):
        log.refused(Request(str(number), "m", 100, keys=list(range(50))), 1.0)
        if number % 100 == 0:
            await asyncio.sleep(0.03)
    assert log.counts.dropped > 500
    begun = time.monotonic()
    await log.close()
    assert time.monotonic() - begun < 2.0


@pytest.mark.parametrize(
    "odd", [{"session": "\ud800"}, {"priority": 10**5000}, {"id": "\udfff", "max_output_tokens": 1 << 70}]
)
async def test_what_clients_choose_cannot_break_a_line(tmp_path: Path, odd: dict[str, Any]) -> None:
    """Lone surrogates and endless numbers are replaced."""
    path = tmp_path / "log"
    await written(DecisionLog(str(path), began), [Request(**{"id": "a", "model": "m", "tokens": 1, **odd})])
    assert len(requests(lines(path))) == 1


async def test_closing_waits_for_the_last_lines(tmp_path: Path) -> None:
    """A router that ends leaves nothing unsaid."""
    path = tmp_path / "log"
    log = DecisionLog(str(path), began)
    await written(log, [Request(str(i), "m", 1) for i in range(100)])
    await asyncio.sleep(0)
    assert [line.id for line in requests(lines(path))] == [str(i) for i in range(100)]
