"""How several workers end: by signals, with their supervisor, or because they cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from kvroute.router.cli import main
from kvroute.router.config import load
from kvroute.router.workers import place
from kvroute.router.workers.supervisor import Supervisor
from tests.router.knowledge.sharing.servers import server
from tests.router.running import engines, until
from tests.router.workers.several import alive, several


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    with server() as running:
        yield running.url


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "3"], "(--redis redis://HOST:PORT), or use one worker"),
        (["--workers", "0"], "workers: 0 is out of range"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], says: str) -> None:
    """With the reason and a way out, before any process is started."""
    outcome = CliRunner().invoke(main, ["serve", "--backend", "http://127.0.0.1:9", *arguments])
    assert outcome.exit_code == 2
    assert says in outcome.output


async def test_a_second_signal_ends_at_once(redis: str) -> None:
    """Streams or not."""
    endless = {"model": "mock", "prompt": "x", "max_tokens": 4000, "stream": True}
    async with (
        engines(1, decode_rate=40.0) as (engine,),
        several("--backend", engine.url, workers=2, redis=redis) as router,
        aiohttp.ClientSession() as session,
        session.post(f"{router.url}/v1/completions", json=endless) as answer,
    ):
        await answer.content.readline()
        router.process.send_signal(signal.SIGINT)
        await router.until(lambda: "draining: 1 requests under way" in router.log())
        router.process.send_signal(signal.SIGINT)
        assert await router.ended() == 130
        await router.until(lambda: not any(alive(pid) for pid in router.workers().values()))


async def test_workers_do_not_outlive_their_supervisor(redis: str) -> None:
    """Even if it is killed."""
    async with engines(1) as (engine,), several("--backend", engine.url, workers=2, redis=redis) as router:
        router.process.kill()
        await router.ended()
        await router.until(lambda: not any(alive(pid) for pid in router.workers().values()))
        assert router.log().count("the supervisor is gone") == 2


async def test_a_fault_that_only_workers_find_is_told_once(redis: str) -> None:
    """And nobody tries again."""
    arguments = ("--backend", "http://127.0.0.1:9", "--policy", "nope")
    async with several(*arguments, workers=2, redis=redis, up=False) as router:
        assert await router.ended() == 2
        assert router.log().count("kvroute: no policy is called 'nope'") == 1
        assert "started anew" not in router.log()


async def test_workers_that_die_at_their_start_end_all(redis: str, tmp_path: Path) -> None:
    """After some tries, with what is known of their end."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'kvroute.router.workers' in sys.orig_argv:\n    os._exit(7)\n"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    async with several(
        "--backend", "http://127.0.0.1:9", workers=2, redis=redis, up=False, environment=environment
    ) as router:
        assert await router.ended() == 2
        assert "ended with status 7 before it served" in router.log().splitlines()[-1]
        assert 2 <= router.log().count("started anew") <= 8


async def test_a_worker_that_hangs_is_replaced(redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its share of the connections would hang with it."""
    monkeypatch.setattr(place, "LOOK_EVERY", 0.2)
    monkeypatch.setattr(place, "SILENT_SECONDS", 1.0)
    given = {"backends": ["http://127.0.0.1:9"], "workers": 2, "redis.url": redis}
    given |= {"listen.host": "127.0.0.1", "listen.port": 0, "listen.control_port": 0}
    supervisor = Supervisor(load(None, given))
    running = asyncio.create_task(supervisor.run())
    try:
        await until(lambda: all(supervisor.addresses.values()), 20.0)
        (hanging, *_) = supervisor.pids()
        os.kill(hanging, signal.SIGSTOP)
        await until(lambda: not alive(hanging) and sum(supervisor.restarts.values()) > 0, 20.0)
    finally:
        supervisor.stop()
        await asyncio.wait_for(running, 20.0)


def test_a_containers_first_process_reaps_orphans() -> None:
    """What loses its parent in the container becomes the child of process 1."""
    program = """if True:
        import asyncio, os, subprocess
        from kvroute.router.workers import orphans
        orphans._GRACE_SECONDS = 0.1
        async def main():
            orphans.reap_orphans(set)
            subprocess.run(["sh", "-c", "sleep 0.1 & echo $!"], check=True)
            await asyncio.sleep(0.5)
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                print("none left")
        asyncio.run(main())
    """
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets nobody be process 1")
    done = subprocess.run([*unshare, sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "none left"
