"""Builds the sdist and, from it, the wheel; checks what is in them; installs the wheel elsewhere and routes a request.

python .ci/wheel_check.py       run by the interpreter of an environment that has the `dev` extra
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
CODE = ("router", "scorers", "simulator")
HANG = 120.0
"""Seconds after which a start counts as hung."""


def main() -> None:
    """Every step; the first that fails ends it with a message."""
    with tempfile.TemporaryDirectory(prefix="kvroute-wheel-") as folder:
        place = Path(folder)
        sdist, wheel = build(place / "dist")
        check_sdist(sdist)
        check_wheel(wheel)
        python = install(wheel, place / "venv")
        smoke(python.with_name("kvroute"), place)
    say("the wheel is whole and works")


def build(dist: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it: what is missing in the one is missing in the other."""
    say("building")
    subprocess.run([sys.executable, "-m", "build", "--outdir", dist, ROOT], check=True, stdout=subprocess.DEVNULL)
    return next(dist.glob("*.tar.gz")), next(dist.glob("*.whl"))


def modules() -> set[str]:
    """Every Python file that git tracks in the code folders, as the path it is installed under."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *(f"{folder}/*.py" for folder in CODE)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    tracked = {f"kvroute/{name}" for name in listed.stdout.split("\0") if name}
    expect(len(tracked) > 10, f"git lists only {sorted(tracked)}")
    return tracked | {"kvroute/__init__.py", "kvroute/py.typed"}


def check_wheel(wheel: Path) -> None:
    """Each module is in it, and nothing beside `kvroute` would land at top level."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expect(not modules() - names, f"not in the wheel: {sorted(modules() - names)}")
    roots = {PurePosixPath(name).parts[0] for name in names}
    roots = {root for root in roots if not root.endswith(".dist-info")}
    expect(roots == {"kvroute"}, f"top-level names in the wheel: {sorted(roots)}")
    say(f"{wheel.name}: {len(modules())} files of code, one top-level name")


def check_sdist(sdist: Path) -> None:
    """It can be built from and tested: code, tests and licence are in it."""
    with tarfile.open(sdist) as archive:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    wanted = {"pyproject.toml", "LICENSE", "README.md", "tests/test_packaging.py"}
    expect(not wanted - names, f"not in the sdist: {sorted(wanted - names)}")


def install(wheel: Path, venv: Path) -> Path:
    """The interpreter of a new environment that has the wheel and nothing of this checkout."""
    say("installing the wheel in a new environment")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel], check=True)
    return python


def smoke(kvroute: Path, place: Path) -> None:
    """Two stand-in engines, the router, one completion, one stream; each ends with status 0 when told to."""
    say("routing a request with it")
    with contextlib.ExitStack() as running:
        engines = []
        for number in range(2):
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            child = running.enter_context(
                server(place, f"engine-{number}", kvroute, "mock-engine", "--port", str(port))
            )
            wait_for(f"{url}/health", child)
            engines.append(url)
        port = free_port()
        backends = [part for engine in engines for part in ("--backend", engine)]
        command = ["serve", "--host", "127.0.0.1", "--port", str(port), "--control-port", str(free_port()), *backends]
        child = running.enter_context(server(place, "router", kvroute, *command))
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/ready", child)
        model = json.loads(get(f"{url}/v1/models"))["data"][0]["id"]
        body = {"model": model, "prompt": "one two three", "max_tokens": 4}
        answer = json.loads(get(f"{url}/v1/completions", body))
        expect(answer["usage"]["completion_tokens"] == 4, f"the answer: {answer}")
        stream = get(f"{url}/v1/completions", body | {"stream": True})
        expect(stream.rstrip().endswith(b"data: [DONE]"), f"the stream: {stream!r}")
        expect(b"kvroute_requests_total" in get(f"{url}/metrics"), "no kvroute_requests_total in /metrics")


@contextlib.contextmanager
def server(place: Path, name: str, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child that runs outside the checkout, with its output shown only if something fails."""
    log = place / f"{name}.log"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with log.open("wb") as output:
        child = subprocess.Popen(command, cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield child
        child.send_signal(signal.SIGTERM)
        status = child.wait(HANG)
        expect(status == 0, f"{name} ended with status {status}")
    except BaseException:
        child.kill()
        child.wait()
        say(f"{name} wrote:\n{log.read_text(errors='replace')}")
        raise


def get(url: str, body: object = None) -> bytes:
    """The body of a 200; an exception otherwise."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=HANG) as reply:
        content: bytes = reply.read()
        return content


def wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    """Returns once the child answers 200."""
    give_up = time.monotonic() + HANG
    while time.monotonic() < give_up and child.poll() is None:
        with contextlib.suppress(OSError):
            get(url)
            return
        time.sleep(0.1)  # between two looks at another process, which cannot tell us
    raise SystemExit(f"wheel-check: {url} did not answer within {HANG:.0f} s, or its process ended")


def free_port() -> int:
    """A loopback TCP port that nobody listens on now.

    From below the range that systems give to outgoing connections, where one of those could take it before its server
    does; at random, so that two runs at once do not meet.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def expect(held: bool, otherwise: str) -> None:
    """Ends the check with a message where something does not hold."""
    if not held:
        raise SystemExit(f"wheel-check: {otherwise}")


def say(what: str) -> None:
    """One line of progress."""
    print(f"wheel-check: {what}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
