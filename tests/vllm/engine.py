"""One replica: the real vLLM on the CPU, as light as it gets, on loopback."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from kvroute.router.testing.children import free_ports
from tests.vllm.environment import Environment
from tests.vllm.processes import HANG, Process, samples

MODEL = "tiny"
"""The name that the model is served under."""

CACHE_BYTES = 67_108_864
"""KV cache of one replica, about 7,000 tokens here: four chats of 1,600 tokens fit, five do not."""

BLOCK_TOKENS = 32
"""The smallest block that the CPU build takes [tokens]."""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
}
LIGHT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


class Engine(Process):
    """A replica that publishes its KV events, and what its /metrics says."""

    def __init__(self, name: str, environment: Environment, log: Path, flags: Sequence[str] = ()) -> None:
        self.events_port, self.replay_port = free_ports(2)
        events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"tcp://*:{self.events_port}",  # without the star it would connect, not bind
            "replay_endpoint": f"tcp://*:{self.replay_port}",
            "topic": "kv",
        }
        command: list[str | Path] = [
            environment.python, "-m", "vllm.entrypoints.openai.api_server",
            "--model", environment.model, "--served-model-name", MODEL,
            "--host", "127.0.0.1", "--port", "{port}",
            "--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni",
            "--block-size", str(BLOCK_TOKENS), "--max-model-len", "4096", "--kv-cache-memory-bytes", str(CACHE_BYTES),
            "--enable-prefix-caching", "--kv-events-config", json.dumps(events), *flags,
        ]  # fmt: skip
        super().__init__(name, command, OFFLINE | LIGHT, log)

    def wait_until_ready(self) -> None:
        """Its weights are loaded and it answers."""
        self.wait_for("/health")

    def sample(self, name: str) -> float:
        """The sum over labels of one of its metrics, by the sample's full name."""
        return sum(value for _, value in samples(self.port, name))

    @property
    def running(self) -> float:
        """Requests that hold a slot or wait for one."""
        return self.sample("vllm:num_requests_running") + self.sample("vllm:num_requests_waiting")

    def wait_until(self, running: bool) -> None:
        """Returns once some request holds a slot, or once none does."""
        give_up = time.monotonic() + HANG
        while (self.running > 0) is not running:
            assert time.monotonic() < give_up, f"{self.name} has {self.running} requests running"
            time.sleep(0.05)  # between two looks at another process, which cannot tell us

    @property
    def tokens_looked_up(self) -> float:
        """Prompt tokens that it has looked for in its prefix cache since it started."""
        return self.sample("vllm:prefix_cache_queries_total")

    @property
    def tokens_found(self) -> float:
        """Prompt tokens of those that were cached."""
        return self.sample("vllm:prefix_cache_hits_total")
