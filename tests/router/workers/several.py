"""`kvroute serve --workers N` as an operator runs it: a process, its ports, its log."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from kvroute.router.testing.children import free_ports

QUICK = """
watch: {health: {interval: 0.2}, scrape: {interval: 0.2}, discover_retry: 0.05}
limits: {linger_seconds: 0.1}
management: true
"""


class Several:
    """A supervisor that was started."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, port: int, control: int) -> None:
        self.process = process
        self._log = log
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.control = f"http://127.0.0.1:{control}"

    def log(self) -> str:
        """What it and its workers have written so far."""
        return self._log.read_text()

    def workers(self) -> dict[int, int]:
        """Worker -> process id of the one that served last."""
        return {
            int(worker): int(pid) for worker, pid in re.findall(r"worker (\d+) serves \(process (\d+)\)", self.log())
        }

    async def until(self, true: Callable[[], Any], seconds: float = 20.0) -> None:
        """Wait for something that is to become true; fails with the log when it does not."""
        try:
            async with asyncio.timeout(seconds):
                while not true():  # noqa: ASYNC110 - what is waited for is other processes' doing
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it did not come to that; the log:\n{self.log()}") from None

    async def ended(self, seconds: float = 15.0) -> int:
        """Its exit status, once it has ended."""
        return await asyncio.wait_for(self.process.wait(), seconds)

    async def metrics(self, base: str = "") -> dict[tuple[str, str], float]:
        """(metric, worker) -> the sum of that worker's samples, as a Prometheus server reads the page."""
        sums: dict[tuple[str, str], float] = {}
        async with aiohttp.ClientSession() as session, session.get((base or self.control) + "/metrics") as answer:
            assert answer.status == 200
            for family in text_string_to_metric_families(await answer.text()):
                for sample in family.samples:
                    key = (sample.name, sample.labels["worker"])
                    sums[key] = sums.get(key, 0.0) + sample.value
        return sums


@asynccontextmanager
async def several(
    *arguments: str, workers: int = 3, redis: str, up: bool = True, environment: dict[str, str] | None = None
) -> AsyncIterator[Several]:
    """Started with these arguments besides its ports and Redis; all workers serve, if `up`."""
    port, control = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="kvroute-workers-") as folder:
        config, log = Path(folder) / "config.yaml", Path(folder) / "log"
        config.write_text(QUICK)
        command = [sys.executable, "-m", "kvroute.router.cli", "serve", "--config", str(config)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--control-port", str(control)]
        command += ["--workers", str(workers), "--redis", redis, *arguments]
        with log.open("wb") as written:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stderr=written, env={**os.environ, **(environment or {})}
            )
        running = Several(process, log, port, control)
        try:
            if up:
                await running.until(lambda: len(running.workers()) == workers or process.returncode is not None)
            yield running
        finally:
            if process.returncode is None:
                process.terminate()
            await running.ended()


def alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
