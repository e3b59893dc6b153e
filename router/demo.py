"""`kvroute demo`: four stand-in engines, one chat workload, two policies, one table; under a minute, on a laptop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

import aiohttp
import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from kvroute.router.testing.chatload import ChatLoad, ChatResult, ChatShape
from kvroute.router.testing.children import ChildFailed, Children, free_ports

ENGINES = 4
CACHE_TOKENS = 32768
"""KV cache of each stand-in: together they hold the conversations once, not four times [tokens]."""
PREFILL_RATE = 6000
"""[tokens/s]"""
DECODE_RATE = 50
"""Of one sequence [tokens/s]."""
SEED = 7
NEXT = "kvroute serve --backend http://HOST1:8000 --backend http://HOST2:8000"


class Row(msgspec.Struct, frozen=True):
    """One policy's figures."""

    policy: str
    result: ChatResult
    queried_tokens: float
    hit_tokens: float

    @property
    def cached_rate(self) -> float:
        """Share of the prompt tokens that were found in a cache [0..1]."""
        return self.hit_tokens / self.queried_tokens if self.queried_tokens else 0.0


async def run_demo(
    console: Console,
    policies: Sequence[str] = ("round-robin", "latency"),
    seconds: float = 16.0,
    shape: ChatShape = ChatShape(),  # noqa: B008 - frozen
) -> list[Row]:
    """Drive the same chats through the router, once per policy, over the same engines with their caches cleared.

    Args:
        console: where progress and table go.
        policies: names for `kvroute serve --policy`.
        seconds: how long each policy is driven.
        shape: how the users talk.

    Raises:
        ChildFailed: a process did not come up.
    """
    async with Children() as children:
        ports = free_ports(ENGINES)
        engines = [f"http://127.0.0.1:{port}" for port in ports]
        with console.status(f"starting {ENGINES} stand-in engines"):
            for port in ports:
                children.start("mock-engine", *_engine_options(port))
            await children.answer([f"{engine}/health" for engine in engines])
        rows: list[Row] = []
        with _progress(console) as progress:
            for policy in policies:
                task = progress.add_task(policy, total=seconds, told="")
                rows.append(await _drive(children, engines, policy, seconds, shape, _teller(progress, task)))
                progress.update(task, completed=seconds)
    return rows


def _engine_options(port: int) -> list[str]:
    settings = {
        "--port": port,
        "--model": "demo",
        "--cache-tokens": CACHE_TOKENS,
        "--prefill-rate": PREFILL_RATE,
        "--decode-rate": DECODE_RATE,
    }
    return [str(word) for pair in settings.items() for word in pair]


async def _drive(
    children: Children,
    engines: Sequence[str],
    policy: str,
    seconds: float,
    shape: ChatShape,
    tell: Callable[[ChatResult], None],
) -> Row:
    port, control = free_ports(2)
    backends = [word for engine in engines for word in ("--backend", engine)]
    places = ["--host", "127.0.0.1", "--port", str(port), "--control-port", str(control)]
    router = children.start("serve", *places, *backends, "--policy", policy, "--log-level", "error")
    url = f"http://127.0.0.1:{port}"
    await children.answer([f"{url}/ready"])
    async with aiohttp.ClientSession() as session:
        for engine in engines:
            async with session.post(f"{engine}/reset_prefix_cache"):
                pass
        before = await _cache_counters(session, engines)
        result = await ChatLoad(url, shape, SEED, model="demo").run(seconds, tell)
        after = await _cache_counters(session, engines)
        children.end(router)
        await _until_idle(session, engines)
    return Row(policy, result, after[0] - before[0], after[1] - before[1])


async def _cache_counters(session: aiohttp.ClientSession, engines: Sequence[str]) -> tuple[float, float]:
    """Prompt tokens looked up and found in all caches, as the engines count them."""
    texts = [await _metrics(session, engine) for engine in engines]
    names = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
    queries, hits = (sum(_value(text, name) for text in texts) for name in names)
    return queries, hits


async def _until_idle(session: aiohttp.ClientSession, engines: Sequence[str]) -> None:
    """Wait for the engines to drop the requests that the end of the load cut off."""
    for engine in engines:
        while _value(await _metrics(session, engine), "vllm:num_requests_running"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _metrics(session: aiohttp.ClientSession, engine: str) -> str:
    async with session.get(f"{engine}/metrics") as reply:
        return await reply.text()


def _value(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:12}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
        console=console,
    )


def _teller(progress: Progress, task: TaskID) -> Callable[[ChatResult], None]:
    def tell(result: ChatResult) -> None:
        told = f"{len(result.turns)} answers, TTFT p50 {_ms(result.ttft(50))}"
        progress.update(task, completed=result.seconds, told=told)

    return tell


def table(rows: Sequence[Row]) -> Table:
    """The figures side by side, the best of each column in bold."""
    made = Table(title="the same chats, the same engines, another choice of replica")
    for name in ("policy", "TTFT p50", "TTFT p90", "cached tokens", "requests/s", "failed"):
        made.add_column(name, justify="left" if name == "policy" else "right")
    for row in rows:
        result = row.result
        made.add_row(
            row.policy,
            _ms(result.ttft(50)),
            _ms(result.ttft(90)),
            f"{100 * row.cached_rate:.0f} %",
            f"{result.requests_per_second:.1f}",
            str(result.failures),
        )
    return made


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


async def _interruptible(console: Console, seconds: float) -> list[Row]:
    """The demo as a task that SIGTERM cancels as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run_demo(console, seconds=seconds)


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(min=2), default=16.0, show_default=True, help="How long each policy is driven."
)
def demo(seconds: float) -> None:
    """Compare round-robin with the default policy on four stand-in engines. Needs no GPU and no model."""
    console = Console(highlight=False)
    console.print(
        f"{ENGINES} stand-in engines (no model, no GPU) with {CACHE_TOKENS} tokens of KV cache each; "
        f"{ChatShape().users} users hold multi-turn chats through kvroute."
    )
    try:
        rows = asyncio.run(_interruptible(console, seconds))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped; the engines and the router have ended.")
        raise SystemExit(130) from None
    except ChildFailed as error:
        console.print(f"The demo could not run: {error}", markup=False)
        raise SystemExit(1) from None
    console.print(table(rows))
    console.print(f"With your own vLLM servers:\n  {NEXT}", markup=False)


if __name__ == "__main__":
    demo()
