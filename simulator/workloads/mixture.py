"""Several generators at once, each with its share of the requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from operator import attrgetter

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads import arrivals
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.draws import SPREAD
from kvroute.simulator.workloads.keys import KEYS_EACH
from kvroute.simulator.workloads.options import Option, Options
from kvroute.simulator.workloads.single import KEY, concurrency, rate_of
from kvroute.simulator.workloads.source import DEFAULT_REQUESTS, Source, Wanted

USUAL = {"chat": 0.5, "rag": 0.3, "summarise": 0.2}
"""Shares where none are given."""
COMMON = (
    KEY,
    SPREAD,
    *arrivals.OPTIONS,
    Option("concurrency", None, "clients and sessions at once, divided as the requests are", least=1),
)


def source(generators: Mapping[str, Source]) -> Source:
    """The mixture of these."""
    shares = [Option(name, None, f"share of {name}", float, most=1e6) for name in generators]
    inner = [
        option._replace(name=f"{name}.{option.name}")
        for name, generator in generators.items()
        for option in generator.options
        if option.name not in {"rate", "concurrency", "key"}
    ]
    return Source(
        "several generators at once: mixture,chat=0.5,rag=0.3,summarise=0.2,chat.turns=8",
        (*shares, *COMMON, *inner),
        lambda wanted: _make(wanted, generators),
    )


class Mixture:
    """Workloads side by side. The part that a job comes from is the beginning of its id."""

    def __init__(self, name: str, key_tokens: int, parts: Mapping[str, Workload]) -> None:
        self.name = name
        self.key_tokens = key_tokens
        self._parts = dict(parts)

    def arrivals(self) -> Iterator[Job]:
        """Those of all parts, by time."""
        return merge(*[part.arrivals() for part in self._parts.values()], key=attrgetter("at"))

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """What follows in the job's own part."""
        return self._parts[job.request.id.partition("/")[0]].after(job, now)


def _make(wanted: Wanted, generators: Mapping[str, Source]) -> Workload:
    options = wanted.options
    shares = {name: share for name in generators if (share := options.number_or_none(name))} or USUAL
    whole = sum(shares.values())
    counts = divided(DEFAULT_REQUESTS if wanted.requests is None else wanted.requests, list(shares.values()))
    at_once = concurrency(wanted)
    if at_once is not None and at_once < len(shares):
        raise WorkloadError(f"{wanted.name}: concurrency={at_once} leaves nothing for some of {len(shares)} parts")
    clients = [None] * len(shares) if at_once is None else divided(at_once, list(shares.values()))
    parts: dict[str, Workload] = {}
    for place, (name, share) in enumerate(shares.items()):
        if not counts[place]:
            continue
        given = _options(options, name, generators[name].options)
        part_clients = clients[place]
        if part_clients is not None:
            given = given.changed(concurrency=max(1, part_clients))
        parts[name] = generators[name].make(
            wanted._replace(
                name=f"{wanted.name} ({name})",
                options=given,
                seed=wanted.seed + ((place + 1) << 64),
                requests=counts[place],
                rate=rate_of(wanted) * share / whole if at_once is None else None,
                tag=f"{name}/",
                first_key=1 + place * KEYS_EACH,
            )
        )
    return Mixture(wanted.name, options.whole("key"), parts)


def _options(options: Options, name: str, declared: Sequence[Option]) -> Options:
    """A part's own: what was said for it, else what was said for all, else its defaults."""
    values = {}
    for option in declared:
        own = f"{name}.{option.name}"
        for told in (own, option.name):
            if told in options.given:
                values[option.name] = options.value(told)
                break
        else:
            values[option.name] = option.default
    values["key"] = options.value("key")
    return Options(values)


def divided(count: int, shares: Sequence[float]) -> list[int]:
    """`count` in whole numbers in these proportions: the largest remainders are rounded up."""
    whole = sum(shares)
    exact = [count * share / whole for share in shares]
    found = [int(part) for part in exact]
    order = sorted(range(len(shares)), key=lambda place: (found[place] - exact[place], place))
    for place in order[: count - sum(found)]:
        found[place] += 1
    return found
