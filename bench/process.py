"""A started program: pinned to cores, its CPU and memory read, frozen while others are measured, ended as a tree."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
CPUCLOCK_SCHED = 2


class StartFailed(Exception):
    """A program ended, or did not answer, before it was ready; carries the end of its log."""


class Process:
    """One program and the processes it started, in a process group of their own."""

    def __init__(self, name: str, command: Sequence[str], cores: Sequence[int], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as out:
            self._root = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    def wait_ready(self, url: str, seconds: float) -> None:
        """Return once `url` answers 200.

        Raises:
            StartFailed: it ended, or `seconds` passed.
        """
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self._root.poll() is not None:
                raise StartFailed(f"{self.name} ended with {self._root.returncode}: {self._log_end()}")
            if _answers(url):
                return
            time.sleep(0.05)
        raise StartFailed(f"{self.name} was not ready after {seconds:.0f} s: {self._log_end()}")

    def cpu_seconds(self) -> float:
        """CPU time of the whole tree so far, all threads, ended ones included [seconds].

        From each process's own CPU clock (nanoseconds), for /proc/PID/stat counts in steps of 10 ms.
        """
        return sum(time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED) for pid in self._tree())

    def resident_bytes(self) -> int:
        """Resident memory of the whole tree [bytes]."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in self._tree())

    def freeze(self) -> None:
        """Stop it where it is, so that it takes nothing from the one being measured."""
        os.killpg(self._root.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.killpg(self._root.pid, signal.SIGCONT)

    def stop(self, seconds: float = 5.0) -> str:
        """End it and its children; returns what it wrote."""
        if self._root.poll() is None:
            self.thaw()
            self._root.terminate()
            try:
                self._root.wait(seconds)
            except subprocess.TimeoutExpired:
                self._root.kill()
                self._root.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._root.pid, signal.SIGKILL)
        return self.log.read_text(errors="replace")

    def _tree(self) -> list[int]:
        """The process and its descendants, from /proc."""
        parents: dict[int, int] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path(f"/proc/{entry}/stat").read_text()
                except OSError:
                    continue
                parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
        found = [self._root.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def _log_end(self) -> str:
        return " ".join(self.log.read_text(errors="replace").split())[-300:] or "it wrote nothing"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
