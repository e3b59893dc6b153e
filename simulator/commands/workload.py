"""`kvroute workload`: what a workload is, and its requests as real text."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import click
import msgspec
import orjson
from rich import box
from rich.table import Table

from kvroute.simulator.commands.options import COUNT, POSITIVE, told
from kvroute.simulator.commands.outputs import WritablePath, write
from kvroute.simulator.commands.progress import Bar
from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.reports.description import Description, described
from kvroute.simulator.reports.distribution import Distribution
from kvroute.simulator.reports.json import document
from kvroute.simulator.reports.terminal import terminal
from kvroute.simulator.reports.units import count, digits, percent, time
from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.naming import known, meanings_of, parse
from kvroute.simulator.workloads.text import body


@click.command()
@click.argument("spec", required=False)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is random.")
@click.option("--requests", type=COUNT, help="At most this many. [default: all of a trace, 1000 of a generator]")
@click.option("--rate", type=POSITIVE, help="Mean requests per second. [default: as the workload has]")
@click.option("--speedup", type=POSITIVE, default=1.0, show_default=True, help="Time runs that much faster.")
@click.option("--options", "explain", is_flag=True, help="Say what SPEC can be told, and do nothing else.")
@click.option("--json", "json_path", type=WritablePath(), help="Write the numbers as JSON (-: to stdout).")
@click.option("--write", "write_path", type=WritablePath(), help="Write its requests, a line of {at, body} each.")
@click.option("--chat", is_flag=True, help="Bodies are chats of one message, not completions.")
@click.option("--model", help="Model that the bodies name. [default: m, or the adapter]")
@told
def workload(
    spec: str | None,
    seed: int,
    requests: int | None,
    rate: float | None,
    speedup: float,
    explain: bool,
    json_path: Path | None,
    write_path: Path | None,
    chat: bool,
    model: str | None,
) -> None:
    """Say what the workload SPEC is: lengths, sessions, and how much of it a cache could hold. Without SPEC, say which
    workloads there are.

    With --write, its requests as real text, for real engines: prompts share text where the workload's
    share blocks. Turns that follow from answers are written with the times that they would have at 20 ms a token.
    """
    if spec is None or explain:
        click.echo(known() if spec is None else meanings_of(spec))
        return
    source = parse(spec, seed=seed, requests=requests, rate=rate, speedup=speedup)
    with contextlib.ExitStack() as stack:
        each = None
        if write_path is not None:
            each = _writer(stack.enter_context(whole_file(write_path)), source.key_tokens, model, chat)
        bar = stack.enter_context(Bar("reading", requests))
        found = described(source, each=each, progress=bar.at)
    if not found.requests:
        raise WorkloadError(f"{spec}: no requests")
    if json_path is not None:
        write(json_path, document(msgspec.to_builtins(found)))
    if "-" not in (str(json_path), str(write_path)):
        terminal().print(table(found))


def _writer(file: IO[bytes], key_tokens: int, model: str | None, chat: bool) -> Callable[[Job], None]:
    def each(job: Job) -> None:
        file.write(orjson.dumps({"at": job.at, "body": body(job, key_tokens, model=model, chat=chat)}))
        file.write(b"\n")

    return each


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, in place once it is whole; if anything goes wrong, what was there before stays."""
    if str(path) == "-" or (path.exists() and not path.is_file()):
        with click.open_file(str(path), "wb") as stream:
            yield stream
        return
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def table(found: Description) -> Table:
    """The numbers, for people."""
    shown = Table(box=box.SIMPLE, show_header=False, title=found.workload, title_justify="left", title_style="bold")
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    rate = "all at once" if found.rate is None else f"{digits(found.rate)} requests/s"
    loop = "closed loop: turns follow answers, here taken to need 20 ms a token" if found.closed else "open loop"
    sessions = "none named"
    if found.turns_mean is not None:
        sessions = f"{found.sessions:,}, {digits(found.turns_mean)} requests each on average"
    answers = f" ({percent(found.reusable_prompts_share)} if answers were not kept)" if found.closed else ""
    rows = [
        ("requests", f"{found.requests:,} in {time(found.seconds)}, {rate}"),
        ("loop", loop),
        ("prompt", _spread(found.prompt, found.prompt_tokens)),
        ("output", _spread(found.output, found.output_tokens)),
        ("sessions", sessions),
        ("reusable", f"{percent(found.reusable_share)} of prompt tokens, by one endless cache{answers}"),
        ("most common beginning", f"{percent(found.common_share)} of requests"),
        ("key", f"{found.key_tokens} tokens"),
    ]
    if found.adapters:
        rows.append(("adapters", f"{found.adapters:,}"))
    for row in rows:
        shown.add_row(*row)
    return shown


def _spread(tokens: Distribution | None, total: int) -> str:
    if tokens is None:
        return "-"
    points = ", ".join(f"{name} {getattr(tokens, name):,.0f}" for name in ("mean", "p50", "p90", "p99", "max"))
    return f"{count(total)} tokens: {points}"
