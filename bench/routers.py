"""The routers that are compared: how each is installed, started and known to be ready."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


class Unavailable(Exception):
    """A router cannot be run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a router needs to know to start: where to listen, whom to serve, where to keep its files."""

    port: int
    spare_port: int
    """For the router's own metrics or control port."""
    backends: Sequence[int]
    folder: Path

    @property
    def urls(self) -> list[str]:
        """The backends' URLs."""
        return [f"http://127.0.0.1:{port}" for port in self.backends]


@dataclass(frozen=True, slots=True)
class Router:
    """One router. `command` may install what it needs first, and raises Unavailable where it cannot."""

    name: str
    command: Callable[[Start], list[str]]
    ready: str
    """Path that answers 200 once it routes."""
    rust_peer: bool = False
    """Counts among the Rust cache-aware routers that kvroute is held against."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def cache_folder() -> Path:
    """Where the peers' environments live between runs."""
    return Path(os.environ.get("KVROUTE_BENCH_CACHE") or Path.home() / ".cache" / "kvroute-bench")


def _installed(package: str, version: str, program: str) -> str:
    """Path of a peer's program, installed into an environment of its own when it is not there yet."""
    home = cache_folder() / f"{package}-{version}"
    path = home / "bin" / program
    if path.exists():
        return str(path)
    print(f"installing {package}=={version} into {home}", file=sys.stderr)
    for step in (
        [sys.executable, "-m", "venv", str(home)],
        [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", f"{package}=={version}"],
    ):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode != 0:
            why = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise Unavailable(f"{package}=={version} cannot be installed: {' '.join(why)}")
    return str(path)


def _kvroute(start: Start) -> list[str]:
    beside = Path(sys.executable).parent / "kvroute"
    found = str(beside) if beside.exists() else shutil.which("kvroute")
    if found is None:
        raise Unavailable("kvroute is not installed: pip install -e .")
    command = [found, "serve", "--host", "127.0.0.1", "--port", str(start.port)]
    command += ["--control-port", str(start.spare_port)]
    for url in start.urls:
        command += ["--backend", url]
    return command


def _nginx(start: Start) -> list[str]:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Unavailable("nginx is not on PATH: install it (apt-get install nginx) to have its column")
    servers = " ".join(f"server 127.0.0.1:{port};" for port in start.backends)
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = " ".join(
        f"{kind}_temp_path {start.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = start.folder / "nginx.conf"
    configuration.write_text(f"""
{user} worker_processes 1; daemon off; pid {start.folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; {temporary}
  client_max_body_size 64m; client_body_buffer_size 1m; keepalive_requests 100000000;
  upstream backends {{ {servers} keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{start.port};
    location / {{
      proxy_pass http://backends; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""")
    return [found, "-p", str(start.folder), "-c", str(configuration), "-e", "stderr"]


def _rust(package: str, version: str, launch: Sequence[str], level: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        options = {
            "--host": "127.0.0.1",
            "--port": str(start.port),
            "--prometheus-port": str(start.spare_port),
            "--policy": "cache_aware",
            "--log-level": level,
            "--worker-startup-check-interval": "1",
        }
        flat = [word for option in options.items() for word in option]
        return [_installed(package, version, package), *launch, *flat, "--worker-urls", *start.urls]

    return command


DIRECT = "direct"
"""No router: the load goes straight to one backend. It shows what the tools themselves can do."""

ROUTERS = (
    Router("nginx", _nginx, "/health"),
    Router("kvroute", _kvroute, "/ready"),
    Router("sglang-router", _rust("sglang-router", "0.3.2", ["launch"], "warn"), "/readiness", rust_peer=True),
    Router("smg", _rust("smg", "1.13.0", ["launch"], "warn"), "/readiness", rust_peer=True),
    Router("vllm-router", _rust("vllm-router", "0.1.17", [], "warning"), "/readiness", rust_peer=True),
)
