"""Clients that were not written here work against the router as they do against a replica, unchanged."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.vllm.engine import MODEL, OFFLINE, Engine
from tests.vllm.environment import Environment
from tests.vllm.processes import HANG, Process
from tests.vllm.proxy import Router

HERE = Path(__file__).parent
REQUESTS = 24


def _run(environment: Environment, script: str, *arguments: str | Path) -> str:
    """Runs a script with the engine's interpreter; -P keeps this folder's modules off its path."""
    ran = subprocess.run(
        [environment.python, "-P", HERE / script, *arguments],
        env=os.environ | OFFLINE,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def _openai(environment: Environment, server: Process) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(_run(environment, "openai_client.py", f"{server.url}/v1", MODEL))
    return answer


def test_the_openai_client_gets_the_same_from_the_router_as_from_a_replica(
    environment: Environment, engines: list[Engine], router: Router
) -> None:
    """Chat, completion, streams, concurrent streams, the list of models, and the client's own exception types."""
    routed = _openai(environment, router)
    assert routed["raised"] == {
        "unknown model": ["NotFoundError", 404, True],
        "bad parameter": ["BadRequestError", 400, True],
    }
    assert routed["streamed"] == routed["chat"]
    assert routed["streamed_tokens"] == routed["completion_tokens"] == 24
    assert routed == _openai(environment, engines[0])


def test_vllm_bench_serve_runs_against_the_router(
    environment: Environment, engines: list[Engine], router: Router, tmp_path: Path
) -> None:
    """vLLM's own benchmark client completes every request, and the replicas shared them."""
    before = [engine.tokens_looked_up for engine in engines]
    _run(
        environment, "bench_client.py", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions",
        "--base-url", router.url, "--model", MODEL, "--tokenizer", environment.model,
        "--dataset-name", "random", "--random-input-len", "200", "--random-output-len", "16",
        "--num-prompts", str(REQUESTS), "--max-concurrency", "4", "--disable-tqdm",
        "--save-result", "--result-dir", tmp_path, "--result-filename", "result.json",
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (REQUESTS, 0)
    assert result["total_output_tokens"] == 16 * REQUESTS
    assert all(engine.tokens_looked_up > seen for engine, seen in zip(engines, before, strict=True))
