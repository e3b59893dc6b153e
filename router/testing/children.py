"""Child processes of one command: started together, waited for by HTTP, and gone when the block is left."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO

import aiohttp


class ChildFailed(Exception):
    """A child ended early or did not come up; the message holds its last words."""


class Children:
    """kvroute commands as subprocesses: `async with Children() as children: children.start("serve", ...)`.

    They are in a session of their own, so that Ctrl-C reaches this process only, which then ends them.
    """

    def __init__(self) -> None:
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes], str]] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run `kvroute ARGUMENTS`."""
        words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        child = subprocess.Popen(
            [sys.executable, "-m", "kvroute.router.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._running.append((child, words, f"kvroute {arguments[0]}"))
        return child

    async def answer(self, urls: Sequence[str], patience: float = 30.0) -> None:
        """Wait until each URL answers 200, at most `patience` seconds.

        Raises:
            ChildFailed: a child ended, or one URL did not answer in time.
        """
        deadline = time.monotonic() + patience
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            for url in urls:
                while not await _answers(session, url):
                    self._check()
                    if time.monotonic() > deadline:
                        raise ChildFailed(f"{url} did not answer within {patience:g} s")
                    await asyncio.sleep(0.05)

    def end(self, child: subprocess.Popen[bytes] | None = None) -> None:
        """End one child, or all: politely first, for three seconds."""
        ending = [entry for entry in self._running if child is None or entry[0] is child]
        for process, _, _ in ending:
            process.terminate()
        deadline = time.monotonic() + 3.0
        for process, words, _ in ending:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            words.close()
        self._running = [entry for entry in self._running if entry not in ending]

    def _check(self) -> None:
        for process, words, name in self._running:
            if process.poll() is not None:
                words.seek(0)
                said = words.read().decode("utf-8", "replace").strip()[-2000:]
                raise ChildFailed(f"{name} ended with status {process.returncode}:\n{said}")


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as reply:
            return reply.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listens on now.

    From below the range that systems give to outgoing connections, where one of those could take it before its server
    does; at random, so that two runs at once do not meet.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = random.randrange(20_000, 32_000)
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found
