"""`kvroute fidelity DIR`: how near the simulator comes to real runs that it was not fitted on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvroute.simulator.commands.options import told
from kvroute.simulator.commands.outputs import WritablePath, write
from kvroute.simulator.commands.progress import Bar

if TYPE_CHECKING:
    from kvroute.simulator.fidelity.reproduce import Result


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "json_path", type=WritablePath(), help="Write the result as JSON (-: to stdout).")
@click.option("--plain", is_flag=True, help="Without c5, the extra cost of decodes in steps that also prefill.")
@click.option("--strict", is_flag=True, help="End with status 1 where a goal is missed.")
@click.option("--quiet", "-q", is_flag=True, help="No table, no progress bar.")
@told
def fidelity(folder: Path, json_path: Path | None, plain: bool, strict: bool, quiet: bool) -> None:
    """Reproduce the recorded vLLM runs below DIR and print the error of each metric.

    Runs lie as <GPU>/<model>/vllm/{meta.json,requests.jsonl,timeseries.csv}, the workloads that they name below DIR.
    Each is fitted on one part of its requests and judged on the others, in four ways; runs of the same hardware, model
    and tensor parallelism on one another too.
    """
    from kvroute.simulator.fidelity.measures import GOALS
    from kvroute.simulator.fidelity.recording import find, read
    from kvroute.simulator.fidelity.reproduce import formula, reproduce
    from kvroute.simulator.fidelity.table import show
    from kvroute.simulator.reports.json import document
    from kvroute.simulator.reports.terminal import terminal

    recordings = [read(path, folder) for path in find(folder)]
    with Bar("fitting and judging", None, quiet=quiet) as bar:
        results = reproduce(recordings, mixed=not plain, tick=bar.step)
    met = all(result.met for result in results)
    if not quiet and str(json_path) != "-":
        show(results, terminal())
        click.echo(_verdict(results))
    if json_path is not None:
        write(
            json_path, document({"formula": formula(mixed=not plain), "goals": GOALS, "all_met": met, "runs": results})
        )
    if strict and not met:
        sys.exit(1)


def _verdict(results: Sequence[Result]) -> str:
    judged = [result for result in results if result.trials]
    if not judged:
        return "nothing could be judged: see the notes above"
    left = "" if len(judged) == len(results) else f"; {len(results) - len(judged)} runs could not be judged"
    return ("all goals met" if all(result.met for result in judged) else "goals missed: see above") + left
