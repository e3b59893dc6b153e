"""A small world for tests of decisions: a fleet, an index, the default policy, and a clock that is a number."""

from __future__ import annotations

import numpy as np

from kvroute.router.core import blocks
from kvroute.router.core.decide import Deciding, Decision, Reason
from kvroute.router.core.fleet import Fleet
from kvroute.router.core.index import Index
from kvroute.router.core.replica import Spec, State
from kvroute.scorers.contract import Policy, Request
from kvroute.scorers.plugins import load_policy


def world(count: int, policy: Policy | None = None, model: str = "m") -> Deciding:
    """`count` ready replicas of one model."""
    fleet = Fleet()
    deciding = Deciding(fleet, Index(), policy or load_policy("latency"), np.random.default_rng(7))
    for i in range(count):
        replica = fleet.join(Spec(name=f"r{i}", endpoint=f"r{i}", models=(model,)), 0.0)
        fleet.move(replica, State.READY)
    return deciding


def prompt(text: str, block: int = 16, **fields: object) -> Request:
    """A request whose blocks are `block` bytes of `text`, a byte being a token."""
    data = text.encode()
    keys = blocks.extend(blocks.root("m", None, None), data, block)
    known = {"id": "q", "model": "m", "stream": True, **fields}
    return Request(tokens=len(data), keys=keys, block_tokens=float(block), **known)  # type: ignore[arg-type]


def sent(outcome: Decision | Reason) -> Decision:
    """The decision, where one must have been made."""
    assert isinstance(outcome, Decision), outcome
    return outcome
