"""Child processes of the suite: each has a port and a log file, is waited for until it answers, and surely ends."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from kvroute.router.testing.children import free_ports

HANG = 600.0
"""Seconds after which a start counts as hung. A guard, not a measure: a contended machine may take minutes."""


def get(port: int, path: str, wait: float = 30.0) -> tuple[int, bytes]:
    """Status and body of a GET on loopback; OSError where nobody answers within `wait` seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=wait)
    with contextlib.closing(connection):
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()


def samples(port: int, name: str) -> list[tuple[dict[str, str], float]]:
    """The samples of that full name in /metrics: labels and value of each."""
    status, body = get(port, "/metrics", wait=HANG)
    assert status == 200, body
    families = text_string_to_metric_families(body.decode())
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]


class Process:
    """One server on loopback, with its output in `log`. Its port stays the same over restarts."""

    def __init__(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        (self.port,) = free_ports(1)
        self._command = [str(part) for part in command]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def log(self) -> str:
        """The last 4,000 characters that it wrote."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def start(self) -> None:
        """Starts it in a process group of its own, so that its workers end with it."""
        with self._log.open("ab") as output:
            self._child = subprocess.Popen(
                [part.replace("{port}", str(self.port)) for part in self._command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, path: str) -> None:
        """Returns once GET `path` answers 200; AssertionError with the log's tail if the process ends or hangs."""
        give_up = time.monotonic() + HANG
        while time.monotonic() < give_up:
            assert self.alive, f"{self.name} ended before {path} answered:\n{self.log}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(self.port, path)[0] == 200:
                    return
            time.sleep(0.2)  # between two looks at another process, which cannot tell us
        raise AssertionError(f"{self.name} did not answer {path} within {HANG:.0f} s:\n{self.log}")

    def kill(self) -> None:
        """SIGKILL to it and its workers: it gets no chance to say goodbye."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int | None:
        """SIGTERM, then SIGKILL after half a minute. Its exit status; None if it was never started."""
        if self._child is None:
            return None
        self._signal(signal.SIGTERM)
        try:
            return self._child.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._child.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, number)
            if number is signal.SIGKILL:
                self._child.wait()
