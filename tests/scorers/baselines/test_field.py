"""What is known of the field's policies, shown on a small cluster that reserves at the decision."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from kvroute.scorers.contract import Candidates, Column, Policy, Request
from kvroute.scorers.plugins import load_policy
from kvroute.scorers.testing import candidates, request

BLOCK = 512
"""Tokens of a block, as in the Mooncake traces."""
PER_TOKEN = 1 / 20_000
DECODE_SECONDS = 2.0


class LongestMatch:
    """The most cached tokens, whatever the load; equals take turns."""

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the longest holder."""
        return int(np.lexsort((candidates.table[Column.CHOSEN], -candidates.hit_tokens))[0])


@dataclass
class Replica:
    """One prefill after another, any number of decodes, a cache without bounds."""

    held: set[tuple[int, ...]] = field(default_factory=set)
    running: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Of each request: when its prefill begins, when it ends, its missed tokens, all its tokens."""
    free_at: float = 0.0
    chosen: float = 0.0
    requests: int = 0

    def hit(self, prompt: tuple[int, ...]) -> int:
        """Leading blocks that it holds [tokens]."""
        depth = 0
        while depth < len(prompt) and prompt[: depth + 1] in self.held:
            depth += 1
        return depth * BLOCK

    def begin(self, prompt: tuple[int, ...], now: float) -> float:
        """The prompt is queued; seconds until its first token."""
        tokens = len(prompt) * BLOCK + 1
        miss = tokens - self.hit(prompt)
        start = max(now, self.free_at)
        self.free_at = start + miss * PER_TOKEN
        self.running.append((start, self.free_at, miss, tokens))
        self.held.update(prompt[: depth + 1] for depth in range(len(prompt)))
        self.requests += 1
        return self.free_at - now

    def load(self, now: float) -> tuple[float, float, float, float]:
        """Queued tokens, requests, those that decode, and the tokens of all of them."""
        self.running = [one for one in self.running if one[1] + DECODE_SECONDS > now]
        queued = sum(miss for _, end, miss, _ in self.running if end > now)
        decoding = sum(1 for _, end, _, _ in self.running if end <= now)
        return queued, len(self.running), decoding, sum(tokens for *_, tokens in self.running)


class Cluster:
    """Equal replicas behind one policy. `refresh`: seconds that load is shown unchanged for; 0 = reserved at once."""

    def __init__(self, policy: str | Policy, count: int = 8, refresh: float = 0.0) -> None:
        self.policy = load_policy(policy) if isinstance(policy, str) else policy
        self.replicas = [Replica() for _ in range(count)]
        self.refresh = refresh
        self.rng = np.random.default_rng(11)
        self.shown: list[tuple[float, float, float, float, float]] = []
        self.shown_at = -np.inf
        self.sent = 0
        self.hits = 0
        self.tokens = 0
        self.waits: list[float] = []

    def send(self, prompt: tuple[int, ...], now: float, session: int = 0) -> int:
        """Decide for one prompt, given as its blocks."""
        if now >= self.shown_at + self.refresh:
            self.shown = [(*one.load(now), one.chosen) for one in self.replicas]
            self.shown_at = now
        queued, running, decoding, active, chosen = (list(column) for column in zip(*self.shown, strict=True))
        tokens = len(prompt) * BLOCK + 1
        given = candidates(
            len(self.replicas),
            tokens=tokens,
            hit_tokens=[one.hit(prompt) for one in self.replicas],
            queued_tokens=queued,
            requests=running,
            decoding=decoding,
            active_tokens=active,
            cached_tokens=[len(one.held) * BLOCK for one in self.replicas],
            capacity_tokens=1e7,
            chosen=chosen,
            seconds_per_token=PER_TOKEN,
            seconds_per_quadratic=0.0,
        )
        asked = request(tokens, block_tokens=float(BLOCK), session=str(session))
        index = self.policy.choose(asked, given, now, self.rng)
        if hasattr(self.policy, "on_decided"):
            self.policy.on_decided(asked, given, index, now)
        replica = self.replicas[index]
        self.sent += 1
        self.hits += replica.hit(prompt)
        self.tokens += tokens
        replica.chosen = self.sent
        self.waits.append(replica.begin(prompt, now))
        return index

    @property
    def hit_rate(self) -> float:
        """Share of all prompt tokens that were cached where they went."""
        return self.hits / self.tokens

    @property
    def largest_share(self) -> float:
        """Share of the requests that the busiest replica got."""
        return max(one.requests for one in self.replicas) / self.sent

    @property
    def p90(self) -> float:
        """90th percentile of the time to the first token [seconds]."""
        return sorted(self.waits)[int(0.9 * len(self.waits))]


def strangers(cluster: Cluster, turns: int = 300, gap: float = 0.1) -> None:
    """Prompts of ten blocks that share nothing but block 0."""
    for turn in range(turns):
        cluster.send((0, *(10 * turn + depth for depth in range(1, 10))), turn * gap)


def conversations(cluster: Cluster, turns: int = 400, sessions: int = 24, gap: float = 0.03) -> None:
    """Sessions, some busier than others, each prompt its session's last one and two new blocks; all begin with
    block 0."""
    lengths = [0] * sessions
    rng = np.random.default_rng(12)
    for turn in range(turns):
        session = int(sessions * rng.random() ** 2)
        lengths[session] += 2
        own = tuple(1000 * (session + 1) + depth for depth in range(lengths[session]))
        cluster.send((0, *own), turn * gap, session)


def second_looks(cluster: Cluster, share: float, prompts: int = 40, gap: float = 3.0) -> None:
    """Prompts of 100 blocks, each followed by one that shares so much of it, when it is computed."""
    same = round(100 * share)
    for number in range(prompts):
        first = tuple(range(200 * number, 200 * number + 100))
        cluster.send(first, 2 * number * gap)
        cluster.send(first[:same] + tuple(block + 100 for block in first[same:]), (2 * number + 1) * gap)


SPREADING = (
    "latency", "cache-aware-threshold", "weighted-sum", "affinity-gate", "dynamo-cost", "lmetric", "lpwl",
    "recent-blocks", "preble-e2", "mooncake-ttft", "smetric",
)  # fmt: skip


def test_pure_longest_match_sends_a_shared_block_to_one_replica() -> None:
    """As on the whole Mooncake conversation trace: every prompt begins with block 0."""
    cluster = Cluster(LongestMatch())
    strangers(cluster)
    assert cluster.largest_share == 1.0


@pytest.mark.parametrize("name", SPREADING)
def test_no_policy_of_the_field_does(name: str) -> None:
    """A tenth of the prompt is no reason to queue: nobody gets more than three times his share."""
    cluster = Cluster(name)
    strangers(cluster)
    assert cluster.largest_share <= 3 / 8


@pytest.mark.parametrize("name", SPREADING)
def test_conversations_find_their_cache(name: str) -> None:
    """Each hits more and answers sooner than round-robin does, without one replica for all."""
    blind, knowing = Cluster("round-robin"), Cluster(name)
    conversations(blind)
    conversations(knowing)
    assert knowing.hit_rate > blind.hit_rate + 0.05
    assert knowing.p90 < blind.p90
    assert knowing.largest_share <= 0.6


@pytest.mark.parametrize("name", ["latency", "smetric", "preble-e2"])
def test_at_the_same_hit_rate_balance_decides(name: str) -> None:
    """A hash of the session hits as often, but its busiest replica makes the slowest tenth wait twice as long."""
    hashed, weighed = Cluster("session-hash"), Cluster(name)
    for cluster in (hashed, weighed):
        conversations(cluster, sessions=12, gap=0.02)
    assert hashed.hit_rate == pytest.approx(weighed.hit_rate, abs=0.01)
    assert hashed.p90 > 2 * weighed.p90


def test_a_hit_of_79_percent_is_nothing_to_the_affinity_gate() -> None:
    """On an idle cluster the others take it; the gate wants 80 %."""
    for share, hit_rates in ((0.79, (0.0, 0.395)), (0.81, (0.405, 0.405))):
        for name, hit_rate in zip(("affinity-gate", "latency"), hit_rates, strict=True):
            cluster = Cluster(name)
            second_looks(cluster, share)
            assert cluster.hit_rate == pytest.approx(hit_rate, abs=0.001)


@pytest.mark.parametrize(
    "name", ["latency", "weighted-sum", "affinity-gate", "dynamo-cost", "lmetric", "lpwl", "smetric"]
)
def test_stale_load_herds(name: str) -> None:
    """The same policy, with load that is a second old instead of reserved at the decision."""
    reserved, stale = Cluster(name), Cluster(name, refresh=1.0)
    strangers(reserved, gap=0.05)
    strangers(stale, gap=0.05)
    assert stale.p90 > 5 * reserved.p90


@pytest.mark.parametrize("name", ["recent-blocks", "preble-e2"])
def test_a_policy_that_remembers_its_picks_herds_less(name: str) -> None:
    """What they sent themselves they know at once, however old the load that they are shown."""
    stale, herded = Cluster(name, refresh=1.0), Cluster("lmetric", refresh=1.0)
    strangers(stale, gap=0.05)
    strangers(herded, gap=0.05)
    assert stale.p90 < 0.5 * herded.p90
