"""The backends file."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from kvroute.router.errors import ConfigError
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.static import BackendsFile, read_backends
from tests.router.fleetwatch.fakes import until


def test_lines_comments_and_blanks(tmp_path: Path) -> None:
    """One backend a line, with its options."""
    path = tmp_path / "backends"
    path.write_text("# our rack\n\nhttp://a:1\n  http://b:2,role=decode  \n")
    assert [backend.endpoint.name for backend in read_backends(path)] == ["a:1", "b:2"]


def test_the_line_of_an_error_is_named(tmp_path: Path) -> None:
    """File and line stand before the message."""
    path = tmp_path / "backends"
    path.write_text("http://a:1\nb:2\n")
    with pytest.raises(ConfigError, match=r"backends:2: 'b:2'"):
        read_backends(path)
    path.write_text("http://a:1\nhttp://a:1\n")
    with pytest.raises(ConfigError, match="given twice"):
        read_backends(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_backends(tmp_path / "missing")


async def test_changes_are_followed_and_bad_versions_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken version is logged and the last good one stays in force."""
    path = tmp_path / "backends"
    path.write_text("http://a:1\n")
    told: asyncio.Queue[list[Backend]] = asyncio.Queue()
    follower = BackendsFile(path, told.put_nowait, interval=0.01)
    assert [backend.endpoint.name for backend in follower.start()] == ["a:1"]
    with caplog.at_level(logging.ERROR):
        path.write_text("nonsense\n")
        await until(lambda: bool(caplog.records))
    assert "stay as they were" in caplog.text
    assert told.empty()
    path.write_text("http://a:1\nhttp://b:2\n")
    async with asyncio.timeout(10.0):
        backends = await told.get()
    assert [backend.endpoint.name for backend in backends] == ["a:1", "b:2"]
    await follower.close()
    await follower.close()


async def test_a_bad_file_at_the_start_stops_it(tmp_path: Path) -> None:
    """A router must not begin with a fleet that nobody meant."""
    with pytest.raises(ConfigError):
        BackendsFile(tmp_path / "missing", lambda backends: None).start()


async def test_a_version_that_names_nobody_is_no_fleet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file caught empty, or with its comments only, sends nobody away; one that was empty from the start may fill."""
    path = tmp_path / "backends"
    path.write_text("# our rack\n")
    told: asyncio.Queue[list[Backend]] = asyncio.Queue()
    follower = BackendsFile(path, told.put_nowait, interval=0.01)
    assert follower.start() == []
    path.write_text("# our rack\nhttp://a:1\n")
    async with asyncio.timeout(10.0):
        assert len(await told.get()) == 1
    with caplog.at_level(logging.ERROR):
        for half in ("", "# our rack, rewritten\n"):
            caplog.clear()
            path.write_text(half)
            await until(lambda: bool(caplog.records))
            assert "names no backend; the backends stay as they were" in caplog.text
    assert told.empty()
    path.write_text("http://b:2\n")
    async with asyncio.timeout(10.0):
        assert [backend.endpoint.name for backend in await told.get()] == ["b:2"]
    await follower.close()
