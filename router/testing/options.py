"""What a stand-in engine is: its model, its limits, its speed, and which of vLLM's flags it was started with."""

from __future__ import annotations

import msgspec

from kvroute.simulator.engine.limits import Limits


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One stand-in engine. Flags default to vLLM's own defaults: it tells little unless asked."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 picks a free one."""
    model: str = "mock"
    """Served model name."""
    model_folder: str | None = None
    """Folder of a model whose tokenizer and chat template are used; None: a tokenizer of its own."""
    loras: tuple[str, ...] = ()
    """LoRA adapters that are loaded; each is served as a model of its own."""
    data_parallel_size: int = 1
    """Ranks, each with a scheduler and a cache of its own."""
    kv_blocks: int = 4096
    """`num_gpu_blocks` of each rank [blocks]."""
    block_size: int = 16
    """[tokens]"""
    max_model_len: int = 32768
    """Prompt and output together [tokens]; never more than the cache holds."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    prefill_rate: float = 20000.0
    """[tokens/s]"""
    decode_rate: float = 100.0
    """Tokens a second of one sequence."""
    speed: float = 1.0
    """How many engine seconds pass in one real second."""
    startup_seconds: float = 0.0
    """How long connections are refused after start: a model that is still loading."""
    output_tokens: int = 128
    """Length of a reply whose request sets no limit (completions: vLLM's 16)."""
    events_port: int | None = None
    """Publish KV events here, rank n at n ports above; 0 picks free ones."""
    replay_port: int | None = None
    """Answer replays here, rank n at n ports above; 0 picks free ones."""
    events_topic: str = ""
    api_key: str | None = None
    """Demanded of every `/v1` path."""
    enable_prompt_tokens_details: bool = False
    enable_force_include_usage: bool = False
    enable_request_id_headers: bool = False
    enable_server_load_tracking: bool = False

    @property
    def limits(self) -> Limits:
        """What the scheduler may do."""
        return Limits(
            blocks=self.kv_blocks,
            block_size=self.block_size,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
        )

    @property
    def context_tokens(self) -> int:
        """The longest sequence it takes [tokens]."""
        return min(self.max_model_len, (self.kv_blocks - 1) * self.block_size)

    @property
    def models(self) -> tuple[str, ...]:
        """Every name it answers to."""
        return (self.model, *self.loras)
