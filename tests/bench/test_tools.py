"""The benchmark's C programs, loading each other without a router between."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import bodies, tools
from bench.routers import free_ports

pytestmark = pytest.mark.skipif(tools.compiler() is None, reason="no C compiler (cc, gcc or clang) on PATH")

EVENTS = 5
PACE_MS = 20.0


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both programs, compiled for this run."""
    folder = tmp_path_factory.mktemp("programs")
    for name in ("backend", "load"):
        tools.build(name, folder)
    return folder


class Backend:
    """A running backend: its ports, and the counts it prints when it ends."""

    def __init__(self, program: Path, *options: str) -> None:
        self.ports = free_ports(2)
        ports = ",".join(map(str, self.ports))
        self._process = subprocess.Popen([str(program), "-p", ports, *options], stdout=subprocess.PIPE, text=True)
        ends = time.monotonic() + 5.0
        while self._process.poll() is None and time.monotonic() < ends:
            try:
                if self.get("/health") == b"":
                    return
            except OSError:
                continue
        raise AssertionError("the backend did not start")

    def get(self, path: str) -> bytes:
        """The body of a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}{path}", timeout=5.0) as reply:
            data: bytes = reply.read()
            return data

    def stop(self) -> dict[str, Any]:
        """End it; its counts, {} when it was ended before."""
        if self._process.stdout is None or self._process.stdout.closed:
            return {}
        self._process.terminate()
        counts: dict[str, Any] = json.loads(self._process.communicate(timeout=5.0)[0])
        return counts


@pytest.fixture
def backend(programs: Path) -> Iterator[Backend]:
    """A backend whose streams run free."""
    running = Backend(programs / "backend", "-k", str(EVENTS))
    yield running
    running.stop()


@pytest.fixture
def paced(programs: Path) -> Iterator[Backend]:
    """A backend whose streams are paced."""
    running = Backend(programs / "backend", "-k", str(EVENTS), "-d", str(PACE_MS))
    yield running
    running.stop()


def run_load(programs: Path, port: int, file: Path, *options: str) -> dict[str, Any]:
    """One run of the load generator; its JSON."""
    command = [str(programs / "load"), "-p", str(port), "-f", str(file), "-c", "8", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30.0)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def chats(folder: Path, *, stream: bool = False, size: int = 1024) -> Path:
    """A small file of bodies."""
    return bodies.write(folder / "chats.jsonl", bodies.chats(size, 10, 2, 1, stream))


def test_closed_loop_counts_what_the_backend_counts(programs: Path, backend: Backend, tmp_path: Path) -> None:
    """Every request of a closed loop is answered once, and the backend saw as many."""
    found = run_load(programs, backend.ports[0], chats(tmp_path, size=65536), "-n", "300", "-S", "cycle")
    counts = backend.stop()
    assert found["requests"] == 300
    assert found["statuses"] == {"200": 300}
    assert found["errors"] == 0
    assert found["latency"]["p50"] <= found["latency"]["p99"] <= found["latency"]["max"]
    assert counts["requests"] == 300
    assert counts["ports"][str(backend.ports[0])] == 300


def test_timed_run_ends_when_it_should(programs: Path, backend: Backend, tmp_path: Path) -> None:
    """A run of one second lasts about that long and sends more than one request."""
    found = run_load(programs, backend.ports[1], chats(tmp_path), "-t", "1")
    assert 1.0 <= found["seconds"] < 5.0
    assert found["requests"] > 1
    assert found["errors"] == 0


def test_streams_are_counted_event_by_event(programs: Path, backend: Backend, tmp_path: Path) -> None:
    """A free-running stream brings all its events and the end marker."""
    found = run_load(programs, backend.ports[0], chats(tmp_path, stream=True), "-n", "50")
    assert found["statuses"] == {"200": 50}
    assert found["events"] == 50 * (EVENTS + 1)


def test_paced_streams_take_their_time(programs: Path, paced: Backend, tmp_path: Path) -> None:
    """A paced stream lasts at least the pauses between its events."""
    found = run_load(programs, paced.ports[0], chats(tmp_path, stream=True), "-n", "16")
    assert found["events"] == 16 * (EVENTS + 1)
    assert found["latency"]["p50"] >= (EVENTS - 1) * PACE_MS * 1e-3


def test_open_loop_counts_latency_from_the_due_time(programs: Path, paced: Backend, tmp_path: Path) -> None:
    """When every connection is taken, waiting for one counts as latency."""
    file = chats(tmp_path, stream=True)
    alone = run_load(programs, paced.ports[0], file, "-n", "5", "-c", "1")
    crowded = run_load(programs, paced.ports[0], file, "-n", "20", "-c", "1", "-r", "1000")
    assert crowded["requests"] == 20
    assert crowded["latency"]["max"] > 10 * alone["latency"]["p50"]


def test_open_loop_keeps_its_rate(programs: Path, backend: Backend, tmp_path: Path) -> None:
    """Requests of an open loop are due at the rate that was asked for, fixed or Poisson."""
    file = chats(tmp_path)
    fixed = run_load(programs, backend.ports[0], file, "-t", "1", "-r", "200")
    drawn = run_load(programs, backend.ports[0], file, "-t", "1", "-r", "200", "-P")
    assert 199 <= fixed["requests"] <= 201
    assert 130 <= drawn["requests"] <= 280
    assert fixed["errors"] == drawn["errors"] == 0


def test_a_dead_server_is_an_error_not_a_hang(programs: Path, tmp_path: Path) -> None:
    """Nobody listening shows as failed connections."""
    found = run_load(programs, free_ports(1)[0], chats(tmp_path), "-t", "0.1")
    assert found["requests"] == 0
    assert found["failures"]["connect"] > 0


def test_backend_speaks_for_an_engine(backend: Backend) -> None:
    """The backend names its model and exports what a router scrapes."""
    assert json.loads(backend.get("/v1/models"))["data"][0]["id"] == "m"
    metrics = backend.get("/metrics").decode()
    assert 'num_gpu_blocks="50000"' in metrics
    assert "vllm:num_requests_running" in metrics
