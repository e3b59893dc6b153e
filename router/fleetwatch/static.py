"""Backends listed in a file, one a line, read again when the file changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from kvroute.router.errors import ConfigError
from kvroute.router.fleetwatch.backend import Backend, check_distinct, parse_backend
from kvroute.router.fleetwatch.background import run_in_background

log = logging.getLogger(__name__)


def read_backends(path: Path) -> list[Backend]:
    """The backends of a file; blank lines and what follows `#` at a line's start are ignored.

    Raises:
        ConfigError: naming the file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"backends-file: cannot read {path}: {error}") from error
    backends = [
        parse_backend(line, f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    return check_distinct(backends, str(path))


class BackendsFile:
    """Follows a file. A version that cannot be read, or names nobody where one before did, is logged and the last good
    one stays in force: files are caught half-written, and a list that nobody is on sends every replica away."""

    def __init__(self, path: Path, on_change: Callable[[list[Backend]], None], interval: float = 2.0) -> None:
        """`on_change` gets the whole new list; `interval` is the time between looks [seconds]."""
        self._path = path
        self._on_change = on_change
        self._interval = interval
        self._stamp: tuple[int, int, int] | None = None
        self._named = False
        """The version in force names backends."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> list[Backend]:
        """Read it now and follow it from here on. Raises ConfigError when this first reading fails."""
        self._stamp = _stamp(self._path)
        backends = read_backends(self._path)
        self._named = bool(backends)
        self._task = run_in_background(self._follow(), f"follow {self._path}")
        return backends

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            # In a thread: the file may lie on a network share that stalls.
            stamp = await asyncio.to_thread(_stamp, self._path)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                backends = await asyncio.to_thread(read_backends, self._path)
            except ConfigError as error:
                log.error("%s; the backends stay as they were", error)
                continue
            if self._named and not backends:
                log.error("%s names no backend; the backends stay as they were", self._path)
                continue
            self._named = bool(backends)
            log.info("%s changed: %d backends", self._path, len(backends))
            self._on_change(backends)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file does; follows links, as Kubernetes swaps a link to update a mounted file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
