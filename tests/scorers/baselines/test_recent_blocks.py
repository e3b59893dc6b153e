"""The policy `recent-blocks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvroute.scorers.baselines.recent_blocks import RecentBlocks
from kvroute.scorers.contract import Candidates
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)
PROMPT = request(1600)  # 100 blocks of 16


def given(count: int = 2, **columns: Any) -> Candidates:
    """Replicas for the prompt of 100 blocks."""
    return candidates(count, tokens=1600, **columns)


def test_missed_and_active_blocks_by_hand() -> None:
    """100 - 40 + 30 = 90 beats 100 + 0; with 41 blocks active it does not; with a weight of 2 it does again."""
    policy = RecentBlocks()
    assert policy.choose(PROMPT, given(hit_tokens=[640, 0], active_tokens=[480, 0]), 0.0, RNG) == 0
    busier = given(hit_tokens=[640, 0], active_tokens=[656, 0])
    assert policy.choose(PROMPT, busier, 0.0, RNG) == 1
    assert RecentBlocks(weight=2.0).choose(PROMPT, busier, 0.0, RNG) == 0


def test_only_full_blocks_count() -> None:
    """A prompt of 31 tokens has one block: 1 missed there and 0 with a hit of 16."""
    short = candidates(2, tokens=31, hit_tokens=[0, 16], active_tokens=[0, 15])
    assert RecentBlocks().choose(request(31), short, 0.0, RNG) == 1


def test_a_pick_without_a_full_block_leaves_nothing() -> None:
    """15 tokens are no block: the least recently chosen is next, whoever had it."""
    policy = RecentBlocks()
    short = candidates(2, tokens=15, chosen=[1, 2])
    policy.on_decided(request(15), short, 0, 0.0)
    assert policy.choose(request(15), short, 0.0, RNG) == 0


def test_a_pick_counts_and_fades() -> None:
    """100 blocks missed at the first replica; picks at a third leave 0.97 of them each: 23 picks later below 50."""
    policy = RecentBlocks()
    policy.on_decided(PROMPT, given(), 0, 0.0)
    other = given(3, hit_tokens=[0, 0, 1600])
    rivals = given(active_tokens=[0, 800])  # 50 blocks active at the second
    for _ in range(22):  # 100 * 0.97 ** 22 = 51.2
        policy.on_decided(PROMPT, other, 2, 0.0)
    assert policy.choose(PROMPT, rivals, 0.0, RNG) == 1
    policy.on_decided(PROMPT, other, 2, 0.0)  # 49.6
    assert policy.choose(PROMPT, rivals, 0.0, RNG) == 0


@pytest.mark.parametrize("remembers", [True, False])
def test_one_after_another_the_work_is_shared(remembers: bool) -> None:
    """448 turns of agents' sessions, never two at a time, to two idle replicas: without `recent` it is 448 : 0.

    All sessions share a system prompt, so the replica that got the first has the longest hit for each new one.
    """
    policy = RecentBlocks()
    held: list[dict[int, int]] = [{}, {}]
    counts = [0, 0]
    for turn in range(448):
        session, blocks = turn % 56, 60 + 10 * (turn // 56)
        hits = [float(max(own.get(session, 0), 40 if own else 0)) * 16 for own in held]
        offered = candidates(2, tokens=blocks * 16, hit_tokens=hits)
        asked = request(blocks * 16)
        index = policy.choose(asked, offered, 0.0, RNG)
        if remembers:
            policy.on_decided(asked, offered, index, 0.0)
        held[index][session] = blocks
        counts[index] += 1
    assert min(counts) >= 190 if remembers else min(counts) == 0


def test_the_least_active_of_equals_then_the_least_recent() -> None:
    """40 missed and 60 active against 100 missed, and idle equals."""
    even = given(hit_tokens=[960, 0], active_tokens=[960, 0], chosen=[1, 2])
    assert RecentBlocks().choose(PROMPT, even, 0.0, RNG) == 1
    assert RecentBlocks().choose(PROMPT, given(3, chosen=[3, 1, 2]), 0.0, RNG) == 1


def test_replicas_that_are_gone_are_forgotten() -> None:
    """30,000 picks of ever new replicas leave what the last thousands of picks can still tell."""
    policy = RecentBlocks()
    asked, table = request(160), given(1).table
    for number in range(30_000):
        one = Candidates([f"replica-{number}"], table, np.zeros(1), 160)
        policy.on_decided(asked, one, 0, 0.0)
    assert len(policy._recent) < 6000


def test_rescaling_changes_no_choice() -> None:
    """Before and after the unit is brought back to 1 the same rest is compared."""
    policy = RecentBlocks()
    for turn in range(20_000):
        even = given(hit_tokens=[0.0, 0.0])
        policy.on_decided(PROMPT, even, turn % 2, 0.0)
        if turn > 100:  # the last pick's replica has 1/0.97 times what the other has
            assert policy.choose(PROMPT, even, 0.0, RNG) == (turn + 1) % 2


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    """At 1 nothing would ever be forgotten."""
    with pytest.raises(ValueError, match="decay must be between 0 and 1"):
        RecentBlocks(decay=decay)
