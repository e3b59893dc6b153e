"""A container's first process inherits every orphan of the container, and must take note of their ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

_GRACE_SECONDS = 1.0
"""By then those who wait for their own children have done so."""


def reap_orphans(ours: Callable[[], set[int]]) -> None:
    """From now on let no ended process but `ours` (ids) stay behind as a zombie; does nothing unless this is process 1.

    To be called in the event loop's thread.
    """
    if os.getpid() != 1:
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, loop.call_later, _GRACE_SECONDS, _reap, ours)


def _reap(ours: Callable[[], set[int]]) -> None:
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in ours():
            return
        os.waitpid(ended.si_pid, 0)
