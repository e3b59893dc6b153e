"""`kvroute mock-engine`: a stand-in engine that speaks vLLM's HTTP surface and KV events, without a model."""

from __future__ import annotations

import asyncio
import os
import signal

import click
import msgspec

from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options

_DEFAULT = Options()


@click.command("mock-engine")
@click.option("--host", default=_DEFAULT.host, show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=8000, show_default=True, help="Port to listen on; 0 picks a free one.")
@click.option("--model", default=_DEFAULT.model, show_default=True, help="Served model name.")
@click.option("--model-folder", help="Use the tokenizer and chat template in this model's folder.")
@click.option("--lora", "loras", multiple=True, help="A LoRA adapter that is loaded; may be repeated.")
@click.option(
    "--data-parallel-size", type=click.IntRange(1), default=1, show_default=True, help="Ranks, each with its own cache."
)
@click.option("--kv-blocks", type=int, help=f"KV cache size in blocks. [default: {_DEFAULT.kv_blocks}]")
@click.option("--cache-tokens", type=int, help="KV cache size in tokens, instead of --kv-blocks.")
@click.option("--block-size", type=int, default=_DEFAULT.block_size, show_default=True, help="Tokens a block.")
@click.option("--max-model-len", type=int, default=_DEFAULT.max_model_len, show_default=True, help="Longest sequence.")
@click.option("--prefill-rate", type=float, default=_DEFAULT.prefill_rate, show_default=True, help="Prompt tokens/s.")
@click.option(
    "--decode-rate", type=float, default=_DEFAULT.decode_rate, show_default=True, help="Tokens/s of a sequence."
)
@click.option("--max-num-seqs", type=int, default=_DEFAULT.max_num_seqs, show_default=True, help="Largest batch.")
@click.option(
    "--max-num-batched-tokens",
    type=int,
    default=_DEFAULT.max_num_batched_tokens,
    show_default=True,
    help="Tokens a step.",
)
@click.option(
    "--output-tokens", type=int, default=_DEFAULT.output_tokens, show_default=True, help="Unlimited reply's length."
)
@click.option("--speed", type=float, default=_DEFAULT.speed, show_default=True, help="Engine seconds per real second.")
@click.option(
    "--startup-seconds", type=float, default=0.0, show_default=True, help="Refuse connections for so long after start."
)
@click.option("--events-port", type=int, help="Publish KV events here (ZMQ PUB), rank n at n above.")
@click.option("--replay-port", type=int, help="Answer KV event replays here (ZMQ ROUTER).")
@click.option("--events-topic", default="", help="Topic of the KV events.")
@click.option("--api-key-env", help="Environment variable that holds the API key to demand.")
@click.option("--enable-prompt-tokens-details", is_flag=True, help="Tell cached tokens in usage.")
@click.option("--enable-force-include-usage", is_flag=True, help="Tell usage in every stream.")
@click.option("--enable-request-id-headers", is_flag=True, help="Echo X-Request-Id.")
@click.option("--enable-server-load-tracking", is_flag=True, help="Count requests in flight in /load.")
def mock_engine(
    kv_blocks: int | None, cache_tokens: int | None, api_key_env: str | None, loras: tuple[str, ...], **settings: object
) -> None:
    """Run a stand-in engine: vLLM's HTTP surface and KV events, with a simulated scheduler and cache."""
    block_size = settings["block_size"]
    assert isinstance(block_size, int)
    if kv_blocks is None:
        kv_blocks = _DEFAULT.kv_blocks if cache_tokens is None else cache_tokens // block_size + 1
    key = None
    if api_key_env is not None:
        key = os.environ.get(api_key_env)
        if not key:
            raise click.UsageError(f"--api-key-env: the variable {api_key_env} is not set")
    fields = {"kv_blocks": kv_blocks, "loras": loras, "api_key": key} | settings
    asyncio.run(_serve(msgspec.convert(fields, Options)))


async def _serve(options: Options) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with StandInEngine(options) as engine:
        tokens = (options.kv_blocks - 1) * options.block_size
        click.echo(
            f"stand-in engine {options.model} on {engine.url}: cache of {tokens} tokens, no real model behind it"
        )
        for rank in engine.service.ranks:
            if rank.publisher is not None:
                ports = f"port {rank.publisher.events_port}, replay on {rank.publisher.replay_port}"
                click.echo(f"KV events of rank {rank.number} on {ports}")
        await stopped.wait()


if __name__ == "__main__":
    mock_engine()
