"""The policy `session-hash`."""

from __future__ import annotations

import numpy as np

from kvroute.scorers.baselines.session_hash import SessionHash
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)


def test_a_session_stays_and_sessions_spread() -> None:
    """One session goes to one replica whatever its prompts and the load; a hundred sessions use all replicas."""
    policy = SessionHash()
    picks = set()
    for session in range(100):
        first = policy.choose(request(session=f"s{session}", anchor=1), candidates(8), 0.0, RNG)
        busy = candidates(8, requests=np.arange(8)[::-1].tolist())
        assert policy.choose(request(session=f"s{session}", anchor=2), busy, 0.0, RNG) == first
        picks.add(first)
    assert picks == set(range(8))


def test_without_a_session_the_prompts_beginning_decides() -> None:
    """Equal beginnings go to one replica, different ones spread."""
    policy = SessionHash()
    anchors = [int(anchor) for anchor in np.random.default_rng(1).integers(1 << 63, size=100)]
    picks = [policy.choose(request(anchor=anchor), candidates(8), 0.0, RNG) for anchor in anchors]
    assert picks == [policy.choose(request(anchor=anchor), candidates(8), 0.0, RNG) for anchor in anchors]
    assert set(picks) == set(range(8))


def test_any_text_is_a_session() -> None:
    """JSON lets a lone surrogate through; it is hashed like any other key."""
    assert 0 <= SessionHash().choose(request(session="\ud800"), candidates(8), 0.0, RNG) < 8
