"""The policy `dynamo-cost`."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvroute.scorers.baselines.dynamo_cost import DynamoCost
from kvroute.scorers.testing import candidates, request


def test_blocks_to_prefill_and_blocks_that_decode() -> None:
    """(160 + 1600 - 800) / 16 + 320 / 16 = 80 beats 0 + 1600 / 16 = 100; 640 tokens more in decode and it does not."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"queued_tokens": [160, 0], "active_tokens": [320, 0]}
    given = candidates(2, tokens=1600, hit_tokens=[800, 0], **columns)
    assert DynamoCost().choose(request(1600), given, 0.0, rng) == 0
    columns["active_tokens"] = [960, 0]
    given = candidates(2, tokens=1600, hit_tokens=[800, 0], **columns)
    assert DynamoCost().choose(request(1600), given, 0.0, rng) == 1


def test_the_weights_are_options() -> None:
    """Without credit for what is cached, or without a price for prefill, the emptier replica wins."""
    rng = np.random.default_rng(0)
    given = candidates(2, tokens=1600, hit_tokens=[1600, 0], active_tokens=[1000, 0])
    assert DynamoCost().choose(request(1600), given, 0.0, rng) == 0
    assert DynamoCost(credit=0.0).choose(request(1600), given, 0.0, rng) == 1
    assert DynamoCost(prefill_scale=0.5).choose(request(1600), given, 0.0, rng) == 1


def test_prefill_is_never_negative() -> None:
    """A hit worth more than the prompt does not pay for decode: equals, so both are drawn."""
    rng = np.random.default_rng(0)
    given = candidates(2, tokens=1000, hit_tokens=[1000, 500])
    picks = [DynamoCost(credit=2.0).choose(request(), given, 0.0, rng) for _ in range(100)]
    assert set(picks) == {0, 1}


def test_equals_are_drawn() -> None:
    """About half each of two equals, none for the third."""
    rng = np.random.default_rng(0)
    given = candidates(3, active_tokens=[1, 0, 0])
    counts = np.bincount([DynamoCost().choose(request(), given, 0.0, rng) for _ in range(2000)], minlength=3)
    assert counts[0] == 0
    assert counts[1:].min() > 900
