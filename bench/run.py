"""The benchmark: every router under every case, in interleaved rounds, each router pinned to the same core."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import decision, machine, memory, report, summary, tools
from bench.cases import CASES, Case
from bench.measure import Load, Sample, measure
from bench.process import Process, StartFailed
from bench.routers import DIRECT, ROUTERS, Router, Start, Unavailable, free_ports

RESULTS = Path(__file__).parent / "results"
BACKENDS = 4
START_SECONDS = 30.0
MEMORY = "memory"
DECISION = "decision"


@contextmanager
def backend(folder: Path, options: Sequence[str]) -> Iterator[list[int]]:
    """The instant backend, on several ports."""
    ports = free_ports(BACKENDS)
    command = [str(tools.build("backend")), "-p", ",".join(map(str, ports)), *options]
    process = Process("backend", command, machine.cores()[1][:1], folder / "backend.log")
    try:
        process.wait_ready(f"http://127.0.0.1:{ports[0]}/health", 5.0)
        yield ports
    finally:
        process.stop()


@contextmanager
def started(router: Router, ports: Sequence[int], folder: Path) -> Iterator[tuple[Process, int]]:
    """A router in front of the backends, ready, and the port it listens on.

    Raises:
        Unavailable: it cannot be installed.
        StartFailed: it did not start.
    """
    own = folder / router.name
    own.mkdir(exist_ok=True)
    port, spare = free_ports(2)
    command = router.command(Start(port, spare, ports, own))
    process = Process(router.name, command, [machine.cores()[0]], own / "log")
    try:
        process.wait_ready(f"http://127.0.0.1:{port}{router.ready}", START_SECONDS)
        yield process, port
    finally:
        process.stop()


def run_case(
    case: Case, routers: Sequence[Router], rounds: int, seconds: float, load: Load, skipped: dict[str, str]
) -> list[Sample]:
    """All rounds of one case. A router that cannot run is added to `skipped` and left out; one that cannot be had
    is not tried again."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="kvroute-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        bodies = case.write_bodies(tools.BUILD)
        ports = stack.enter_context(backend(folder, case.backend_options()))
        running: list[tuple[str, Process | None, int]] = [(DIRECT, None, ports[0])]
        for router in routers:
            if router.name in skipped:
                continue
            try:
                process, port = stack.enter_context(started(router, ports, folder))
            except (Unavailable, StartFailed) as error:
                known = router.name if isinstance(error, Unavailable) else f"{router.name} in {case.name}"
                skipped[known] = str(error)
                print(f"skipping {known}: {error}", file=sys.stderr)
                continue
            process.freeze()
            running.append((router.name, process, port))
        for round_ in range(rounds):
            for router_name, running_process, port in running:
                sample = measure(load, case, bodies, running_process, router_name, port, round_, seconds)
                samples.append(sample)
                print(report.progress(case, sample), file=sys.stderr)
    return samples


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for; the results as JSON-ready data."""
    skipped: dict[str, str] = {}
    load = Load()
    wanted = [router for router in ROUTERS if router.name in arguments.routers]
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "settings": {"rounds": arguments.rounds, "seconds": arguments.seconds, "backends": BACKENDS},
        "skipped": skipped,
        "samples": [],
        "memory": {},
        "decision": [],
    }
    if DECISION in arguments.only and "kvroute" in arguments.routers:
        results["decision"] = decision.run(arguments.decisions)
    for case in CASES:
        if case.name in arguments.only:
            samples = run_case(case, wanted, arguments.rounds, arguments.seconds, load, skipped)
            results["samples"] += [sample.as_json() for sample in samples]
    if MEMORY in arguments.only:
        with tempfile.TemporaryDirectory(prefix="kvroute-bench-") as name:
            for router in wanted:
                if router.name != "kvroute" and not arguments.memory_of_all:
                    continue
                try:
                    with backend(Path(name), []) as ports, started(router, ports, Path(name)) as (process, port):
                        results["memory"][router.name] = memory.curve(process, port, load, arguments.prompts)
                except (Unavailable, StartFailed) as error:
                    skipped[f"{router.name} in {MEMORY}"] = str(error)
    return results


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = [case.name for case in CASES] + [MEMORY, DECISION]
    routers = [router.name for router in ROUTERS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a measurement")
    parser.add_argument("--only", action="append", choices=names, help="this case (may be given again)")
    parser.add_argument("--routers", default=",".join(routers), help=f"of: {', '.join(routers)}")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=float, help="of load in each slot (default 4)")
    parser.add_argument("--prompts", type=int, help="ever-new prompts of the memory case (default 200000)")
    parser.add_argument("--memory-of-all", action="store_true", help="the memory case for every router")
    parser.add_argument("--output", type=Path, help="the JSON file (default bench/results/DATE.json)")
    arguments = parser.parse_args(words)
    arguments.only = arguments.only or names
    arguments.routers = arguments.routers.split(",")
    unknown = set(arguments.routers) - set(routers)
    if unknown:
        parser.error(f"unknown routers: {', '.join(sorted(unknown))}")
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.seconds = arguments.seconds or (1.5 if arguments.quick else 4.0)
    arguments.decisions = 1000 if arguments.quick else 5000
    arguments.prompts = arguments.prompts or (20_000 if arguments.quick else 200_000)
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    arguments = parse_arguments(words)
    try:
        results = run(arguments)
    except tools.NoCompiler as error:
        sys.exit(str(error))
    report.show(results)
    made = summary.by_case([Sample(**sample) for sample in results["samples"]])
    results["summary"] = {case: [asdict(row) for row in rows] for case, rows in made.items()}
    RESULTS.mkdir(exist_ok=True)
    stamp = results["machine"]["date"].replace(" UTC", "").replace(" ", "T").replace(":", "")
    output = arguments.output or RESULTS / f"{stamp}.json"
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {output}")
