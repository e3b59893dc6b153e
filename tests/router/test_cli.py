"""The command line as a user meets it: faults told in one line, readiness, draining, a second signal."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from kvroute.router.cli import main, named_tokenizers
from tests.router.running import engines


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "backends: none given"),
        (["--backend", "localhost:8000"], "backends[0]: 'localhost:8000': the URL must start with http"),
        (["--backend", "http://a:1", "--policy", "nope"], "no policy is called 'nope'; there are: affinity-gate"),
        (["--backend", "http://a:1", "--config", "nowhere.yaml"], "cannot read nowhere.yaml: No such file"),
        (["--backend", "http://a:1", "--backend-api-key-env", "NOT_SET_X"], "NOT_SET_X is not set"),
        (["--backend", "http://a:1", "--tls-cert", "c.pem"], "listen.tls_cert"),
        (["--backend", "http://a:1", "--port", "99999"], "listen.port: 99999"),
        (["--bogus"], "No such option"),
    ],
)
def test_wrong_arguments_are_told_in_a_line_and_end_with_2(arguments: list[str], says: str) -> None:
    """No traceback, the fault and its place."""
    outcome = CliRunner().invoke(main, ["serve", *arguments])
    assert outcome.exit_code == 2
    assert says in outcome.output
    assert "Traceback" not in outcome.output


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    """With the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = [
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--control-port",
            "0",
            "--backend",
            "http://127.0.0.1:9",
        ]
        outcome = CliRunner().invoke(main, ["serve", *arguments])
    assert outcome.exit_code == 2
    assert f"{port}" in outcome.output
    assert "address already in use" in outcome.output


def test_explain_without_a_router_says_what_to_do(tmp_path: Path) -> None:
    """The control port's address and the flag that names another."""
    body = tmp_path / "body.json"
    body.write_text("{}")
    outcome = CliRunner().invoke(main, ["explain", str(body), "--control", "http://127.0.0.1:9"])
    assert outcome.exit_code == 2
    assert "--control" in outcome.output


@asynccontextmanager
async def serving(*backends: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`kvroute serve` as a process of its own, ready: the process and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kvroute.router.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--control-port", "0", *(part for url in backends for part in ("--backend", url))]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        await _ready(f"http://127.0.0.1:{port}/ready")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ready(url: str) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # not listening yet
            await asyncio.sleep(0.05)


STREAM = {"model": "mock", "prompt": "x", "max_tokens": 40, "stream": True}


async def test_sigterm_lets_streams_end_and_then_exits_with_0() -> None:
    """What is under way is finished, what is new finds nobody listening."""
    async with engines(1, decode_rate=40.0) as (engine,), serving(engine.url) as (process, url):
        async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/completions", json=STREAM) as answer:
            await answer.content.readline()
            process.send_signal(signal.SIGTERM)
            assert (await answer.text()).endswith("data: [DONE]\n\n")
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_second_signal_ends_at_once() -> None:
    """Even with a stream under way."""
    endless = {**STREAM, "max_tokens": 4000}
    async with (
        engines(1, decode_rate=40.0) as (engine,),
        serving(engine.url) as (process, url),
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json=endless) as answer,
    ):
        await answer.content.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"draining" not in await asyncio.wait_for(process.stderr.readline(), 10):
            pass
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 130


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ((), None),
        (("/models/a",), "/models/a"),
        (("a=/models/a", "b=none"), {"a": "/models/a", "b": "none"}),
        (("a=/models/a", "none"), {"a": "/models/a", "*": "none"}),
    ],
)
def test_tokenizers_are_for_all_models_or_named(given: tuple[str, ...], read: object) -> None:
    """`--tokenizer X` is for all, `--tokenizer MODEL=X` for one; both together name the others'."""
    assert named_tokenizers(given) == read
