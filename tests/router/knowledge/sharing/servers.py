"""Real Redis servers on loopback, kept in memory only and ended by their process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kvroute.router.testing.children import free_ports

STARTING = 10.0
"""A server must answer within so many seconds."""


def binary() -> str:
    """The server's program; skips the test where there is none."""
    cached = Path.home() / ".cache" / "kvroute" / "redis" / "redis-server"
    named = os.environ.get("KVROUTE_REDIS_SERVER")
    if named and not Path(named).exists():
        raise FileNotFoundError(f"KVROUTE_REDIS_SERVER names {named}, which is not there")
    found = named or shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None and cached.exists():
        found = str(cached)
    if found is None:
        pytest.skip("no Redis server: set KVROUTE_REDIS_SERVER, or have redis-server or valkey-server on PATH")
    return found


class Server:
    """One running server."""

    def __init__(self, arguments: Sequence[str], *, port: int, password: str | None = None) -> None:
        self.port = port
        self._password = password
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def tell(self, *words: str | int) -> str:
        """The raw answer to one command, over a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=STARTING) as wire:
            asked = [words] if self._password is None else [("AUTH", self._password), words]
            answer = b""
            for command in asked:
                wire.sendall(_command(command))
                answer = _answer(wire)
        return answer.decode("utf-8", "replace")

    def wait(self) -> None:
        """Returns when it answers."""
        deadline = time.monotonic() + STARTING
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the Redis server ended with {self._process.returncode}")
            try:
                if "PONG" in self.tell("PING"):
                    return
            except OSError:
                pass
            time.sleep(0.01)
        raise RuntimeError("the Redis server did not answer")

    def pause(self) -> None:
        """It keeps its connections and answers nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """At once, with all that it held."""
        self._process.kill()
        self._process.wait()


def _command(words: Sequence[str | int]) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _answer(wire: socket.socket) -> bytes:
    """What came until the server had nothing more to say: enough for short answers."""
    data = wire.recv(1 << 20)
    if data.startswith(b"$") and not data.startswith(b"$-1"):
        head, _, _ = data.partition(b"\r\n")
        while len(data) < len(head) + 4 + int(head[1:]):
            data += wire.recv(1 << 20)
    return data


@contextmanager
def server(*options: str, port: int | None = None, password: str | None = None) -> Iterator[Server]:
    """A server with these options besides loopback only, a free port and no persistence."""
    program = binary()
    port = port if port is not None else free_ports(1)[0]
    with TemporaryDirectory(prefix="kvroute-redis-") as folder:
        arguments = [
            program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no",
            *options,
        ]  # fmt: skip
        running = Server(arguments, port=port, password=password)
        try:
            running.wait()
            yield running
        finally:
            running.kill()


@contextmanager
def cluster(nodes: int = 3) -> Iterator[list[Server]]:
    """Primaries that share the slots evenly; the bus ports lie 10,000 above the others."""
    program = binary()
    ports = _cluster_ports(nodes)
    with TemporaryDirectory(prefix="kvroute-redis-") as folder:
        running: list[Server] = []
        try:
            for port in ports:
                home = Path(folder) / str(port)
                home.mkdir()
                arguments = [
                    program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", "",
                    "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
                ]  # fmt: skip
                running.append(Server(arguments, port=port))
            for node in running:
                node.wait()
            _join(running)
            yield running
        finally:
            for node in running:
                node.kill()


def _cluster_ports(count: int) -> list[int]:
    """Free ports whose bus ports are free as well."""
    found: list[int] = []
    while len(found) < count:
        (port,) = free_ports(1)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port + 10_000))
            found.append(port)
    return found


def _join(nodes: list[Server]) -> None:
    bounds = [16_384 * i // len(nodes) for i in range(len(nodes) + 1)]
    for i, node in enumerate(nodes):
        node.tell("CLUSTER", "ADDSLOTS", *range(bounds[i], bounds[i + 1]))
        if i:
            node.tell("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline:
        told = [node.tell("CLUSTER", "INFO") for node in nodes]
        if all("cluster_state:ok" in t and f"cluster_known_nodes:{len(nodes)}" in t for t in told):
            return
        time.sleep(0.05)
    raise RuntimeError("the cluster did not come together")


@contextmanager
def guarded(
    service: str = "kvroute", password: str | None = None, own: str | None = None
) -> Iterator[tuple[Server, Server, Server]]:
    """A primary, its copy, and the sentinel that makes the copy the primary 0.5 s after the primary falls silent.

    `password` is that of both servers, `own` that of the sentinel.
    """
    secret = ("--requirepass", password, "--masterauth", password) if password else ()
    program = binary()
    first, second, watch = free_ports(3)
    with (
        server(*secret, port=first, password=password) as primary,
        server("--replicaof", "127.0.0.1", str(first), "--repl-diskless-sync", "yes",
               "--repl-diskless-sync-delay", "0", *secret, port=second, password=password) as copy,
        TemporaryDirectory(prefix="kvroute-redis-") as folder,
    ):  # fmt: skip
        deadline = time.monotonic() + STARTING
        while "master_link_status:up" not in copy.tell("INFO", "replication"):
            if time.monotonic() > deadline:
                raise RuntimeError("the copy did not follow its primary")
            time.sleep(0.05)
        config = Path(folder) / "sentinel.conf"
        config.write_text(
            f"port {watch}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor {service} 127.0.0.1 {first} 1\n"
            + (f"requirepass {own}\n" if own else "")
            + (f"sentinel auth-pass {service} {password}\n" if password else "")
            + f"sentinel down-after-milliseconds {service} 500\nsentinel failover-timeout {service} 5000\n"
        )
        sentinel = Server([program, str(config), "--sentinel"], port=watch, password=own)
        try:
            sentinel.wait()
            yield primary, copy, sentinel
        finally:
            sentinel.kill()
