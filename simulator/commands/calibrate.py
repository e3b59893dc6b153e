"""`kvroute calibrate LOG`: a kind of replica from what a log says."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import yaml
from rich.console import Console

from kvroute.simulator.commands.options import told
from kvroute.simulator.commands.outputs import WritablePath, write
from kvroute.simulator.commands.progress import Bar

_COUNT = click.IntRange(min=1)


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "json_path", type=WritablePath(), help="Write the result as JSON (-: to stdout).")
@click.option("--out", type=WritablePath(), help="Write the kind as YAML, for kvroute simulate --preset FILE.")
@click.option("--name", help="Of the kind. [default: the log's name]")
@click.option("--replica", help="Which one of a router's log. [default: the one with the most requests]")
@click.option("--max-num-seqs", type=_COUNT, default=256, show_default=True, help="As vLLM was started.")
@click.option("--max-num-batched-tokens", type=_COUNT, default=2048, show_default=True, help="As vLLM was started.")
@click.option("--blocks", type=click.IntRange(min=2), help="vLLM's num_gpu_blocks. [default: ample]")
@click.option("--block-size", type=_COUNT, default=16, show_default=True, help="Tokens a block.")
@click.option("--ahead/--no-ahead", default=None, help="vLLM's async_scheduling. [default: seen from the log]")
@click.option("--requests", type=_COUNT, default=1000, show_default=True, help="At most this many of each replica.")
@click.option("--quiet", "-q", is_flag=True, help="No table, no progress bar.")
@told
def calibrate(
    log: Path,
    json_path: Path | None,
    out: Path | None,
    name: str | None,
    replica: str | None,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    blocks: int | None,
    block_size: int,
    ahead: bool | None,
    requests: int,
    quiet: bool,
) -> None:
    """Fit the step time of an engine to LOG and say how far to trust it.

    LOG is a router's decision log, or JSON lines with input_toks, output_toks, arrival_time, first_token_ts,
    last_token_ts and, if known, queued_ts, scheduled_ts, cached_toks. Next to a meta.json, as recorded runs have it,
    requests.jsonl takes its limits from there.
    """
    from kvroute.simulator.engine.limits import Limits
    from kvroute.simulator.fidelity.calibration import calibrate as fitted
    from kvroute.simulator.fidelity.log import read_log
    from kvroute.simulator.fidelity.recording import FidelityError
    from kvroute.simulator.fidelity.table import show_calibration
    from kvroute.simulator.reports.json import document

    limits = Limits(blocks or 0, block_size, max_num_seqs, max_num_batched_tokens)
    recordings = read_log(log, limits, told=blocks is not None, ahead=ahead, most=requests)
    if replica is not None:
        known = [one.name for one in recordings]
        if replica not in known:
            raise FidelityError(f"{log}: there is no replica {replica!r}; there are: {', '.join(known)}")
        recordings.sort(key=lambda one: one.name != replica)
    with Bar("fitting and judging", None, quiet=quiet) as bar:
        found = fitted(recordings, name or log.stem, bar.step)
    if not quiet and str(json_path) != "-":
        show_calibration(found, Console())
    if json_path is not None:
        write(json_path, document({"calibration": found}))
    if out is not None:
        write(out, yaml.safe_dump(msgspec.to_builtins(found.kind), sort_keys=False).encode())
