"""What the commands have in common on the command line, and what is made of it."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
import msgspec
import yaml

from kvroute.router.core.document import parse
from kvroute.scorers.errors import PluginError
from kvroute.scorers.plugins import POLICIES, PolicySpec, ScorerSpec, load_policy
from kvroute.simulator.commands.outputs import PagePath, WritablePath
from kvroute.simulator.commands.progress import INTERRUPTED
from kvroute.simulator.errors import SimulatorError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.presets import DEFAULT
from kvroute.simulator.runs.scenario import Lateness, Scenario
from kvroute.simulator.search.case import Source
from kvroute.simulator.slo import Slo
from kvroute.simulator.workloads.options import count

F = TypeVar("F", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number that can be computed with: not NaN, which is in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number to compute with", param, ctx)
        return float(number)


POSITIVE = Number(min=1e-6, max=1e9)
SECONDS = Number(min=0.0, max=1e9)
COUNT = click.IntRange(min=1)


class Whole(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A whole number above 0; 250k and 1m work."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        number = count(str(value))
        if number is None or number != int(number) or number < 1:
            self.fail(f"{value!r} is not a whole number above 0 (250k and 1m work)", param, ctx)
        return int(number)


WORKLOAD = (
    "What is sent: mooncake:PATH, agents:PATH, azure:PATH, log:PATH, or a generator with options, such as"
    " shared-prefix,input=512,output=128."
)


def workload_options(command: F) -> F:
    """--workload, --seed, --requests, --rate, --speedup."""
    return _stack(
        command,
        click.option("--workload", "-w", required=True, help=WORKLOAD),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is random."),
        click.option("--requests", type=Whole(), help="At most this many. [default: as the workload has]"),
        click.option("--rate", type=POSITIVE, help="Mean requests per second. [default: as the workload has]"),
        click.option("--speedup", type=POSITIVE, default=1.0, show_default=True, help="Time runs that much faster."),
    )


def fleet_options(command: F) -> F:
    """--replicas, --preset, --cache-tokens."""
    return _stack(
        command,
        click.option(
            "--replicas",
            "-n",
            default="8",
            show_default=True,
            help="How many; or a mixed fleet such as 4*KIND+2*KIND, roles such as 2*KIND:prefill+6*KIND:decode; or a"
            " file that lists it.",
        ),
        click.option(
            "--preset",
            default=DEFAULT,
            show_default=True,
            help="What they are: a preset's name, a file with a kind, or roofline:MODEL,gpu=NAME.",
        ),
        click.option("--cache-tokens", type=Whole(), help="KV cache of each [tokens]. [default: the preset's]"),
    )


def policy_options(command: F) -> F:
    """--policy, --policy-config."""
    return _stack(
        command,
        click.option("--policy", "-p", help="How to choose: latency, goodput, round-robin, ... [default: latency]"),
        click.option(
            "--policy-config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="YAML with `policy` and `scorers`, as kvroute serve --config takes it; instead of --policy.",
        ),
    )


def router_options(command: F) -> F:
    """--knowledge and what the router learns late."""
    late = Lateness()
    return _stack(
        command,
        click.option(
            "--knowledge",
            type=click.Choice(["expected", "exact"]),
            default=late.knowledge,
            show_default=True,
            help="Caches known from decisions and replies, or from KV events.",
        ),
        click.option(
            "--event-delay", type=SECONDS, default=late.event_seconds, show_default=True,
            help="From a step's end to its KV events [s].",
        ),
        click.option(
            "--scrape-interval", type=POSITIVE, default=late.scrape_seconds, show_default=True,
            help="Between two readings of /metrics [s].",
        ),
        click.option("--routers", type=COUNT, default=late.routers, show_default=True, help="That share the requests."),
        click.option(
            "--share", type=SECONDS,
            help="Delay with which routers hear of each other [s]; Redis: 0.005. [default: they do not]",
        ),
        click.option("--stepwise", is_flag=True, help="Compute every engine step: slower, the reference."),
    )  # fmt: skip


def output_options(rows: str) -> Callable[[F], F]:
    """--json, --csv, --html, --quiet; `rows` says what a line of the CSV is."""

    def add(command: F) -> F:
        return _stack(
            command,
            click.option("--json", "json_path", type=WritablePath(), help="Write the result as JSON (-: to stdout)."),
            click.option("--csv", "csv_path", type=WritablePath(), help=f"Write one line per {rows}."),
            click.option("--html", "html_path", type=PagePath(), help="Write one page with plots."),
            click.option("--quiet", "-q", is_flag=True, help="No table, no progress bar."),
        )

    return add


def jobs_option(command: F) -> F:
    """--jobs."""
    option = click.option("--jobs", "-j", type=COUNT, help="Runs at once. [default: one per core]")
    return option(command)


def jobs_or_cores(jobs: int | None) -> int:
    """As many as asked for, else as this process may use cores."""
    return jobs if jobs is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _stack(command: F, *options: Callable[[F], F]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def told(command: F) -> F:
    """Faults that the user can mend end the command with status 2 and one line, without a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (SimulatorError, PluginError) as error:
            fail(str(error))
        except KeyboardInterrupt:  # before there is anything to tell
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # click ends quietly: whoever read the table has gone
            raise
        except OSError as error:
            fail(f"{error.filename or 'cannot write'}: {error.strerror or error}")

    return run  # type: ignore[return-value]


def fail(message: str) -> None:
    """Say what is wrong and end with status 2."""
    click.echo(f"kvroute: {message}", err=True)
    sys.exit(2)


def source_of(options: Mapping[str, Any]) -> Source:
    """The workload that the flags of `workload_options` name."""
    return Source(*(options[name] for name in ("workload", "seed", "requests", "rate", "speedup")))


def lateness_of(
    knowledge: Literal["expected", "exact"],
    event_delay: float,
    scrape_interval: float,
    routers: int,
    share: float | None,
) -> Lateness:
    """What the router learns late."""
    return Lateness(knowledge, event_delay, scrape_interval, routers, share)


def scenario_of(kinds: tuple[Kind, ...], policy: PolicySpec, options: dict[str, Any]) -> Scenario:
    """The run that the flags of `router_options` and `--seed` describe."""
    late = {name: options[name] for name in ("knowledge", "event_delay", "scrape_interval", "routers", "share")}
    return Scenario(kinds, policy, options["seed"], lateness_of(**late), options["stepwise"])


def policy_names() -> tuple[str, ...]:
    """Every installed policy, the default first, the others by name."""
    found = sorted({point.name for point in entry_points(group=POLICIES)} - {"latency"})
    return ("latency", *found)


def policy_of(name: str | None, path: Path | None) -> PolicySpec:
    """The policy that --policy or --policy-config names.

    Raises:
        PluginError: there is none of that name, or its options are wrong.
        SimulatorError: the file cannot be read, or both were given.
    """
    if path is None:
        spec = PolicySpec(name or "latency")
    elif name is not None:
        raise SimulatorError("--policy and --policy-config both say how to choose; give one of them")
    else:
        spec = read_policy(path)
    load_policy(spec)
    return spec


class _Section(msgspec.Struct, frozen=True):
    """The part of a router's configuration that says how to choose; the rest is not looked at."""

    policy: str | PolicySpec | None = None
    scorers: tuple[ScorerSpec, ...] = ()


def read_policy(path: Path) -> PolicySpec:
    """`policy` and `scorers` of a router's configuration file.

    Raises:
        SimulatorError: the file cannot be read, or says nothing of the policy; names file and key.
    """
    try:
        section = msgspec.convert(parse(path.read_bytes()), _Section)
    except OSError as error:
        raise SimulatorError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SimulatorError(f"{path}: not YAML: {error}") from error
    except msgspec.ValidationError as error:
        raise SimulatorError(
            f"{path}: {error}; it must hold `policy` or `scorers`, as kvroute serve takes them"
        ) from error
    if section.policy is None and not section.scorers:
        raise SimulatorError(f"{path}: it has neither `policy` nor `scorers`")
    given = section.policy if section.policy is not None else "latency"
    spec = PolicySpec(given) if isinstance(given, str) else given
    return msgspec.structs.replace(spec, scorers=(*spec.scorers, *section.scorers))


def slo_of(text: str | None) -> Slo | None:
    """The SLO, where one was given.

    Raises:
        SloError: naming the part that cannot be read.
    """
    return None if text is None else Slo.parse(text)
