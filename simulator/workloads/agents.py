"""Traces of coding agents: a session a line, in a closed loop, with sub-agents and shared beginnings."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np

from kvroute.simulator.workloads.arrivals import poisson
from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.lines import lines, refuse
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.order import placed
from kvroute.simulator.workloads.recorded import Session, fault
from kvroute.simulator.workloads.replay import Keys, Recorded, Replayed, Shape, recorded
from kvroute.simulator.workloads.sessions import Plan, Sessions
from kvroute.simulator.workloads.single import concurrency
from kvroute.simulator.workloads.source import Source, Wanted
from kvroute.simulator.workloads.trace import SAMPLE, TRUNCATE, sampled

OPTIONS = (
    SAMPLE,
    TRUNCATE,
    Option("rate", None, "requests per second in the long run: sessions start accordingly", float, least=1e-9),
    Option("sessions", 0.1, "sessions that start per second, at random, where no rate is given", float, least=1e-9),
    Option("concurrency", None, "sessions at once instead: as one ends the next begins", least=1),
    Option("think", 1.0, "what think times are multiplied by", float),
    Option("longest_think", math.inf, "seconds to which longer think times are cut", float),
)


def make(wanted: Wanted) -> Workload:
    """The trace as a workload. Sessions carry no dates: they start at random, or so many at once."""
    options = wanted.options
    longest, share = options.whole_or_none("truncate"), options.number("sample")
    shape = Shape(longest, options.number("think") / wanted.speedup, options.number("longest_think") / wanted.speedup)
    sessions, block_size = read(wanted.path, shape, wanted.requests if share >= 1 else None)
    sessions = _first(sampled(sessions, share, wanted.seed), wanted.requests)
    turns = sum(len(session.turns) for session in sessions) / len(sessions)
    rate = options.number("sessions") if wanted.rate is None else wanted.rate / turns
    most = None if longest is None else longest // block_size

    def plans() -> Iterator[Plan]:
        return (Replayed(session, most) for session in sessions)

    def starts() -> Iterator[float]:
        return poisson(rate * wanted.speedup, np.random.default_rng([wanted.seed, 2]))

    return Sessions(wanted.name, block_size, plans, starts, concurrency(wanted))


def read(path: str, shape: Shape, requests: int | None) -> tuple[list[Recorded], int]:
    """The sessions, in the file's order, and the tokens of a block; no further than to hold so many requests.

    Raises:
        WorkloadError: with file, line and reason.
    """
    decoder = msgspec.json.Decoder(Session)
    found: list[Recorded] = []
    keys: Keys | None = None
    held = 0
    for number, text in lines(path):
        try:
            session = decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            refuse(path, number, f"{error}; wanted is a session: id, block_size, requests")
        wrong = fault(session)
        if wrong:
            refuse(path, number, wrong)
        keys = keys or Keys(session.block_size)
        if session.block_size != keys.block_size:
            refuse(path, number, f"block_size is {session.block_size}, but {keys.block_size} in the lines before")
        try:
            found.append(recorded(session, placed(session), keys, shape))
        except ValueError as error:
            refuse(path, number, str(error))
        held += len(found[-1].turns)
        if requests is not None and held >= requests:
            break
    assert keys is not None, "lines() refuses an empty file"
    return found, keys.block_size


def _first(sessions: list[Recorded], requests: int | None) -> list[Recorded]:
    """Those that hold the first so many requests, the last of them cut."""
    if requests is None:
        return sessions
    kept = []
    for session in sessions:
        if requests <= 0:
            break
        kept.append(session if len(session.turns) <= requests else session.first(requests))
        requests -= len(session.turns)
    return kept


SOURCE = Source("sessions of coding agents, one a line of JSON (.jsonl or .jsonl.gz)", OPTIONS, make)
