"""Live picks and simulated picks on the same log are the same, both ways."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvroute.scorers.contract import Request
from kvroute.scorers.plugins import PolicySpec, ScorerSpec
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.runs.redecide import Again, redecide
from kvroute.simulator.runs.run import simulate
from kvroute.simulator.runs.scenario import Scenario
from kvroute.simulator.workloads.contract import Job, Workload
from kvroute.simulator.workloads.decisions import lines
from kvroute.simulator.workloads.naming import parse
from tests.router.running import Running, engines, running
from tests.simulator.live import LiveLoop, Pick

SMALL = Kind(limits=Limits(blocks=4000))
"""A cache of 64,000 tokens: some dozens of prompts fill it, so the engines evict, preempt and queue."""
REQUESTS = 500


def trace(seed: int, replicas: int) -> Workload:
    """Requests with shared beginnings, as many as the fleet is just busy with."""
    spec = "shared-prefix,input=3000,output=120"
    return parse(spec, seed=seed, requests=REQUESTS, rate=5.0 * replicas, speedup=1.0)


class Talks:
    """Conversations in a closed loop; every third answer is not streamed."""

    name = "talks"
    key_tokens = 64

    def arrivals(self) -> Iterator[Job]:
        """First turns, one every 0.1 s."""
        return (self._job(talk, 0, 0.1 * talk) for talk in range(60))

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """Seven more turns each, half a second after an answer."""
        talk, turn = map(int, job.request.id.split("."))
        return [self._job(talk, turn + 1, now + 0.5)] if turn < 7 else []

    def _job(self, talk: int, turn: int, at: float) -> Job:
        blocks = 12 + 5 * turn + talk % 4
        keys = [1 + i if i < 6 else 1000 * (talk + 1) + i for i in range(blocks + 2)]
        request = Request(
            id=f"{talk}.{turn}", model="m", tokens=64 * blocks + 9, keys=keys[:blocks], block_tokens=64.0,
            session=f"s{talk}", anchor=1 + talk % 7, stream=(talk + turn) % 3 > 0,
        )  # fmt: skip
        return Job(at, request, 100 + 10 * (talk % 5), keys[blocks : (request.tokens + 100) // 64])


class Noted:
    """A workload that notes what it has sent."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.name, self.key_tokens = workload.name, workload.key_tokens
        self.sent: list[Job] = []

    def arrivals(self) -> Iterator[Job]:
        """As they are."""
        for job in self._workload.arrivals():
            self.sent.append(job)
            yield job

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """As they are."""
        jobs = self._workload.after(job, now)
        self.sent += jobs
        return jobs


def simulated(workload: Workload, scenario: Scenario) -> dict[str, Pick]:
    """The simulator's picks."""
    noted = Noted(workload)
    outcome = simulate(noted, scenario)
    assert (outcome.refused, outcome.unfinished) == (0, 0)
    rows = outcome.requests
    return {
        job.request.id: Pick(
            outcome.names[rows.replica[i]],
            rows.hit[i],
            rows.best_hit[i],
            rows.predicted[i],
            None if math.isnan(rows.first[i]) else rows.first[i],
            rows.ended[i],
        )
        for i, job in enumerate(sorted(noted.sent, key=lambda job: job.at))
    }


POLICIES = (
    PolicySpec("latency"),
    PolicySpec("goodput"),
    PolicySpec("latency", scorers=(ScorerSpec("congestion", 0.5),)),
    PolicySpec("lmetric"),
    PolicySpec("power-of-two"),
    PolicySpec("chwbl"),
    PolicySpec("session-hash"),
)


@pytest.mark.parametrize("replicas", [4, 20])
@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda spec: "+".join([spec.name, *(one.name for one in spec.scorers)])
)
def test_the_live_loop_picks_as_the_simulator_does(policy: PolicySpec, replicas: int) -> None:
    """One trace through the live router's own objects under a fake clock, and through a run: the same replica for each
    request, believing in the same hits and the same TTFT to the last digit, with answers at the same times."""
    _same(trace(11, replicas), Scenario((SMALL,) * replicas, policy, seed=5), REQUESTS)


@pytest.mark.parametrize("policy", [PolicySpec("latency"), PolicySpec("power-of-two")], ids=lambda spec: spec.name)
def test_conversations_in_a_closed_loop_are_picked_alike(policy: PolicySpec) -> None:
    """Turns that are sent when answers come, of which some are not streamed: what one pick changes, all later see."""
    _same(Talks(), Scenario((SMALL,) * 4, policy, seed=5), 480)


def _same(workload: Workload, scenario: Scenario, count: int) -> None:
    live = LiveLoop(workload, scenario).run()
    offline = simulated(workload, scenario)
    assert len(live) == count
    assert len({pick.replica for pick in live.values()}) > len(scenario.replicas) / 2
    assert {name: pick.replica for name, pick in live.items()} == {n: pick.replica for n, pick in offline.items()}
    for name, pick in live.items():
        assert (
            pick._replace(hit_tokens=int(pick.hit_tokens), best_hit_tokens=int(pick.best_hit_tokens)) == offline[name]
        )


@pytest.mark.parametrize(
    ("policy", "replicas"), [("latency", 4), ("latency", 14), ("lmetric", 4), ("power-of-two", 4), ("session-hash", 4)]
)
async def test_a_live_log_is_decided_again_alike(policy: str, replicas: int, tmp_path: Path) -> None:
    """What a live router wrote while conversations ran, connections broke, a replica was drained and dashboards looked
    is enough to decide every request again: the same replica, the same predicted TTFT."""
    path = tmp_path / "decisions.jsonl"
    settings: dict[str, Any] = {"logging.decisions": str(path), "policy": policy, "seed": 3}
    async with (
        engines(replicas, enable_prompt_tokens_details=True, kv_blocks=600) as some,
        running(*(engine.url for engine in some), **settings) as router,
    ):
        some[1].faults.cut_next()  # one alone: a request that two engines failed on is given up
        await asyncio.gather(*(_talk(router, talk) for talk in range(16)), _operate(router))
    found = list(redecide(lines(str(path))))
    assert len({again.record.id for again in found}) == 16 * 4
    if policy != "session-hash":  # of which chance says whether any session lives there
        assert sum(again.record.attempts > 1 for again in found) > 0
    assert all(again.whole for again in found)
    assert [(again.record.id, again.attempt) for again in found if not again.same] == []
    assert max(map(_off, found)) < 1e-6


async def _talk(router: Running, talk: int) -> None:
    """Four turns, some of them streamed."""
    dice = random.Random(talk)
    text = f"application {talk % 4} " * 400
    for turn in range(4):
        text += f" {talk} asks {turn} " * 30
        stream = dice.random() < 0.6
        body = {"model": "mock", "messages": [{"role": "user", "content": text}], "max_tokens": 6, "stream": stream}
        body |= {"user": f"s{talk}"} | ({"stream_options": {"include_usage": True}} if stream else {})
        async with router.session.post(f"{router.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            await answer.read()
        await asyncio.sleep(0.02 * dice.random())


async def _operate(router: Running) -> None:
    """Somebody looks, and drains a replica for a while."""
    name = next(iter(router.server.deciding.fleet)).name
    for method, path in (("GET", "metrics"), ("POST", f"replicas/{name}/drain"), ("GET", "replicas")):
        async with router.session.request(method, f"{router.control}/{path}") as answer:
            assert answer.status < 300, await answer.text()
        await asyncio.sleep(0.03)


def _off(again: Again) -> float:
    """How far the last attempt's predicted TTFT is from the recorded one [s]."""
    last = again.attempt == again.record.attempts - 1
    return abs(again.predicted_ttft - again.record.predicted_ttft) if last else 0.0
