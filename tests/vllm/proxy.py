"""The router under test: `kvroute serve` from the project's own environment, in front of given replicas."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kvroute.router.testing.children import free_ports
from tests.vllm.processes import HANG, Process, samples


class Router(Process):
    """One router process."""

    def __init__(self, backends: Sequence[Process], policy: str, log: Path) -> None:
        self._backends = backends
        command: list[str | Path] = [
            Path(sys.executable).with_name("kvroute"), "serve",
            "--host", "127.0.0.1", "--port", "{port}", "--control-port", str(*free_ports(1)),
            "--policy", policy,
        ]  # fmt: skip
        for backend in backends:
            command += ["--backend", backend.url]
        super().__init__(f"kvroute ({policy})", command, {}, log)

    def wait_until_ready(self) -> None:
        """It answers, and each of its replicas has joined."""
        self.wait_for("/ready")
        self.wait_for_replicas(len(self._backends))

    def wait_for_replicas(self, count: int) -> None:
        """Returns once exactly `count` replicas are ready."""
        give_up = time.monotonic() + HANG
        while self._ready_replicas() != count:
            assert self.alive, f"the router ended:\n{self.log}"
            assert time.monotonic() < give_up, f"{self._ready_replicas()} of {count} replicas are ready:\n{self.log}"
            time.sleep(0.05)  # between two looks at another process, which cannot tell us

    @property
    def in_flight(self) -> float:
        """Requests forwarded and not ended."""
        return sum(value for _, value in samples(self.port, "kvroute_in_flight"))

    @property
    def retries(self) -> float:
        """Attempts that failed and were followed by another."""
        return sum(value for _, value in samples(self.port, "kvroute_retries_total"))

    def _ready_replicas(self) -> float:
        states = samples(self.port, "kvroute_replica_state")
        return sum(value for labels, value in states if labels["state"] == "ready")
