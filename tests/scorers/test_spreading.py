"""How the default policy shares work, on a small fleet that reserves at the decision."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from kvroute.scorers.latency import latency
from kvroute.scorers.testing import candidates, request

BLOCK = 16
RATE = 1 / 20_000
QUADRATIC = 1e-9


class Fleet:
    """Equal replicas with unbounded caches. What is believed of their rates is off by up to `noise`: anew at each
    decision, or for good when `steady`."""

    def __init__(self, count: int, noise: float = 0.0, *, steady: bool = False) -> None:
        self.count = count
        self.noise = noise
        self.steady = steady
        self.rng = np.random.default_rng(5)
        self.policy = latency()
        self.now = 0.0
        self.sent = 0
        self.held: list[set[int]] = [set() for _ in range(count)]
        self.queued = np.zeros((2, count))
        self.busy = np.zeros(count)
        self.chosen = np.zeros(count)
        self.picks: Counter[int] = Counter()

    def hit(self, index: int, prefix: int, prefix_tokens: int) -> int:
        """Whole blocks of the prefix that a replica holds [tokens]."""
        return prefix_tokens // BLOCK * BLOCK if prefix in self.held[index] else 0

    def send(self, prefix: int, tokens: int, prefix_tokens: int) -> int:
        """Decide and reserve: the prompt's blocks, its place in the queue and its turn are known at once."""
        hits = [float(self.hit(index, prefix, prefix_tokens)) for index in range(self.count)]
        rng = np.random.default_rng(6) if self.steady else self.rng
        rates = RATE * (1.0 + self.noise * rng.uniform(-1.0, 1.0, self.count))
        given = candidates(
            self.count,
            tokens=tokens,
            hit_tokens=hits,
            queued_tokens=self.queued[0].tolist(),
            queued_quadratic=self.queued[1].tolist(),
            seconds_per_token=rates.tolist(),
            seconds_per_quadratic=QUADRATIC,
            busy=self.busy.tolist(),
            chosen=self.chosen.tolist(),
        )
        index = self.policy.choose(request(tokens), given, self.now, self.rng)
        miss = max(tokens - hits[index], 1.0)
        self.sent += 1
        self.chosen[index] = self.sent
        self.held[index].add(prefix)
        self.queued[:, index] += (miss, miss * (hits[index] + miss / 2))
        self.picks[index] += 1
        return index

    def finish(self, index: int, rest: float = 0.05) -> None:
        """The replica's queue is prefilled, then it decodes for `rest` seconds: time goes on."""
        seconds = self.queued[0, index] * RATE + self.queued[1, index] * QUADRATIC
        self.queued[:, index] = 0.0
        for span, active in ((seconds, True), (rest, False)):
            kept = np.exp(-span / 30.0)
            self.busy *= kept
            if active:
                self.busy[index] += 1.0 - kept
            self.now += span


@pytest.mark.parametrize("tokens", [100, 1000, 30_000])
def test_identical_prompts_follow_their_prefix(tokens: int) -> None:
    """1,000 identical cold prompts, one after another, to 8 idle replicas: all to the replica that got the first."""
    fleet = Fleet(8, noise=0.2)
    for _ in range(1000):
        fleet.finish(fleet.send(0, tokens, tokens))
    assert len(fleet.picks) == 1


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize(("tokens", "noise"), [(60, 0.2), (60, 0.0), (100, 0.15), (400, 0.02), (2000, 0.02)])
def test_different_prompts_spread(tokens: int, noise: float, *, steady: bool) -> None:
    """1,000 short prompts that share nothing, one after another, to 8 equals: within 10 % of even."""
    fleet = Fleet(8, noise, steady=steady)
    for prompt in range(1000):
        fleet.finish(fleet.send(prompt, tokens, tokens))
    assert max(fleet.picks.values()) <= 1.1 * 125
    assert min(fleet.picks.values()) >= 0.9 * 125


def test_a_burst_of_different_prompts_spreads() -> None:
    """200 prompts at the same instant: reservation at the decision keeps the queues even."""
    fleet = Fleet(8, noise=0.02)
    for prompt in range(200):
        fleet.send(prompt, 1000, 1000)
    assert max(fleet.picks.values()) <= 28
    assert min(fleet.picks.values()) >= 22


def test_a_burst_on_one_prefix_spreads_when_the_queue_costs_more() -> None:
    """200 prompts that share a long cached prefix: they queue at its holder until recomputing elsewhere is quicker."""
    fleet = Fleet(8)
    prefix, tokens = 8000, 8100
    fleet.finish(fleet.send(0, tokens, prefix))
    fleet.busy[:] = 0.0
    holder = fleet.picks.most_common(1)[0][0]
    cold = tokens * RATE + QUADRATIC * tokens * tokens / 2
    own = (tokens - prefix) * RATE + QUADRATIC * (tokens - prefix) * (prefix + tokens) / 2
    for _ in range(200):
        queue = fleet.queued[0, holder] * RATE + fleet.queued[1, holder] * QUADRATIC
        cold_ones = sum(not held for held in fleet.held)
        index = fleet.send(0, tokens, prefix)
        if sum(not held for held in fleet.held) < cold_ones:
            assert queue + own > cold
        elif index == holder and cold_ones:
            assert queue + own <= 1.05 * cold  # the tie's share
    assert fleet.picks[holder] > 50
    assert len(fleet.picks) == 8
