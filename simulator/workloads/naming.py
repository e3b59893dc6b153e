"""A workload by its name: `mooncake:PATH`, `shared-prefix,input=512`, ..."""

from __future__ import annotations

import math

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads import (
    agents,
    azure,
    chat,
    coding_agents,
    log,
    mixture,
    mooncake,
    options,
    rag,
    shared_prefix,
    summarise,
)
from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.source import Source, Wanted

TRACES: dict[str, Source] = {
    "mooncake": mooncake.SOURCE,
    "agents": agents.SOURCE,
    "azure": azure.SOURCE,
    "log": log.SOURCE,
}
GENERATORS: dict[str, Source] = {
    "shared-prefix": shared_prefix.SOURCE,
    "chat": chat.SOURCE,
    "rag": rag.SOURCE,
    "coding-agents": coding_agents.SOURCE,
    "summarise": summarise.SOURCE,
}
GENERATORS["mixture"] = mixture.source(dict(GENERATORS))


def parse(
    spec: str, *, seed: int, requests: int | None = None, rate: float | None = None, speedup: float = 1.0
) -> Workload:
    """The workload of that name.

    `requests`: the first so many (a trace that holds fewer gives all it has). `rate`: requests per second on average; a
    trace's times are stretched to it. `speedup`: what times are divided by, after that; think times too.

    Raises:
        WorkloadError: no such workload or option, a value out of range, or a trace that cannot be read.
    """
    _checked(seed, requests, rate, speedup)
    head, pairs = options.split(spec.strip())
    source = _source(head)
    scheme, colon, path = head.partition(":")
    if colon and not path:
        raise WorkloadError(f"{scheme}: names no file: write {scheme}:PATH")
    given = options.read(f"{scheme}:PATH" if colon else head, source.options, pairs)
    if rate is None and "rate" in given.given:
        rate = given.number("rate")
    return source.make(Wanted(spec.strip(), path, given, seed, requests, rate, speedup))


def meanings_of(spec: str) -> str:
    """What a workload can be told, for people; of a trace its name is enough.

    Raises:
        WorkloadError: no such workload.
    """
    head, _ = options.split(spec.strip())
    source = TRACES.get(head) or _source(head)
    return f"{head}: {source.summary}\n{options.meanings(source.options)}"


def _source(head: str) -> Source:
    scheme, colon, _ = head.partition(":")
    source = TRACES.get(scheme) if colon else GENERATORS.get(head)
    if source is None:
        raise WorkloadError(_unknown(scheme if colon else head, bool(colon)))
    return source


def known() -> str:
    """All workloads, one a line, for people."""
    traces = [f"  {name + ':PATH':<16}{source.summary}" for name, source in TRACES.items()]
    generators = [f"  {name:<16}{source.summary}" for name, source in GENERATORS.items()]
    return "\n".join([*traces, *generators])


def _checked(seed: int, requests: int | None, rate: float | None, speedup: float) -> None:
    if seed < 0:
        raise WorkloadError(f"the seed must be at least 0, not {seed}")
    if requests is not None and requests < 1:
        raise WorkloadError(f"a workload of {requests} requests is none: ask for at least 1")
    for name, value in (("rate", rate), ("speedup", speedup)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise WorkloadError(f"the {name} must be above 0, not {value:g}")


def _unknown(name: str, trace: bool) -> str:
    hint = options.close(name, [*TRACES, *GENERATORS])
    if not trace and name in TRACES:
        hint = f": a trace needs its file: {name}:PATH"
    elif trace and name in GENERATORS:
        hint = f": {name} is a generator and takes options, not a file: {name},key=value"
    return f"there is no workload {name!r}{hint}\nThere are:\n{known()}"
