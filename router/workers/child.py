"""One worker process as its supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

import msgspec

from kvroute.router.workers import messages
from kvroute.router.workers.messages import Said, Task


class Child:
    """A started worker. It ends when it is told to, and when the socket pair's other side is gone."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, task: Task) -> Child:
        """Run a fresh interpreter with this task.

        It gets a session of its own: a terminal's Ctrl-C reaches the supervisor alone, which tells its workers once.

        Raises:
            OSError: no process can be had.
        """
        # The working directory is searched for modules only where this process does so too.
        options = () if {"", str(Path.cwd())} & {*sys.path} else ("-P",)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *options, "-m", "kvroute.router.workers", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        child = cls(process, reader, writer)
        child.write(task)
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def write(self, message: Task | Said) -> None:
        """Send one message; lost when the worker has ended."""
        if not self._writer.is_closing():
            self._writer.write(messages.line(message))

    async def hear(self) -> Said | None:
        """Its next message; None when it has said its last, also when it talks nonsense."""
        try:
            text = await self._reader.readline()
            return messages.said(text) if text.endswith(b"\n") else None
        except (ConnectionError, ValueError, msgspec.DecodeError):
            return None

    async def ended(self, patience: float) -> int:
        """Its exit status, or minus the signal that ended it; it is killed when it lives on for `patience` seconds."""
        try:
            async with asyncio.timeout(patience):
                status = await self._process.wait()
        except TimeoutError:
            self.kill()
            status = await self._process.wait()
        self._writer.close()
        return status

    def terminate(self) -> None:
        """Have it finish what is under way and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
