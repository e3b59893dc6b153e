"""A small workload made of a list of jobs, and ready-made ones."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence

from kvroute.scorers.contract import Request
from kvroute.simulator.workloads.contract import Job

KEY_TOKENS = 64


class Listed:
    """Jobs as listed; `follow` names the job that is sent some seconds after another was answered."""

    def __init__(self, jobs: Sequence[Job], follow: dict[str, tuple[float, Job]] | None = None) -> None:
        self.name = "listed"
        self.key_tokens = KEY_TOKENS
        self._jobs = jobs
        self._follow = follow or {}

    def arrivals(self) -> Iterator[Job]:
        """All of them."""
        return iter(self._jobs)

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """The one that follows."""
        found = self._follow.get(job.request.id)
        if found is None:
            return ()
        think, following = found
        return (Job(now + think, following.request, following.output_tokens, following.answer_keys),)


def job(name: str, at: float, prefix: int, blocks: int = 8, shared: int = 4, output: int = 20) -> Job:
    """`blocks` full blocks of which the first `shared` are those of the prefix; half a block behind them."""
    own = zlib.crc32(name.encode()) << 16
    keys = [prefix * 1000 + i for i in range(shared)] + [own + i for i in range(blocks - shared)]
    request = Request(
        id=name, model="m", tokens=blocks * KEY_TOKENS + KEY_TOKENS // 2, keys=keys, block_tokens=float(KEY_TOKENS),
        anchor=prefix, session=f"s{prefix}", stream=True,
    )  # fmt: skip
    return Job(at, request, output)


def poisson(count: int, rate: float, seed: int = 0, prefixes: int = 6) -> list[Job]:
    """Requests at random times, each with one of some prefixes."""
    dice = random.Random(seed)
    jobs: list[Job] = []
    now = 0.0
    for number in range(count):
        now += dice.expovariate(rate)
        jobs.append(
            job(f"r{seed}-{number}", now, dice.randrange(prefixes), dice.randrange(5, 40), 4, dice.randrange(1, 60))
        )
    return jobs
