"""The policy `mooncake-ttft`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvroute.scorers.baselines.mooncake_ttft import MooncakeTtft
from kvroute.scorers.testing import candidates, request

RNG = np.random.default_rng(0)
LINEAR: dict[str, Any] = {"seconds_per_token": 1e-3, "seconds_per_quadratic": 0.0}


def test_queue_and_prefill_by_hand() -> None:
    """0.4 + 0.5 s beats 1 s, 0.6 + 0.5 s does not; seconds from outside count as queue."""
    columns: dict[str, Any] = {**LINEAR, "tokens": 1000, "hit_tokens": [500, 0]}
    given = candidates(2, queued_tokens=[400, 0], **columns)
    assert MooncakeTtft().choose(request(), given, 0.0, RNG) == 0
    given = candidates(2, queued_tokens=[600, 0], **columns)
    assert MooncakeTtft().choose(request(), given, 0.0, RNG) == 1
    given = candidates(2, queued_tokens=[400, 0], outside_seconds=[0.2, 0], **columns)
    assert MooncakeTtft().choose(request(), given, 0.0, RNG) == 1


def test_attention_and_rates_count() -> None:
    """A hit saves less where attention to it costs; a slower replica needs longer for the same miss."""
    given = candidates(2, tokens=1000, hit_tokens=[500, 0], seconds_per_token=[3e-3, 1e-3], seconds_per_quadratic=0.0)
    assert MooncakeTtft().choose(request(), given, 0.0, RNG) == 1
    # 500 * (1 ms + 1 us * 750) = 0.875 s against 1000 * (1 ms + 1 us * 500) = 1.5 s
    given = candidates(
        2,
        tokens=1000,
        hit_tokens=[500, 0],
        seconds_per_token=1e-3,
        seconds_per_quadratic=1e-6,
        outside_seconds=[0.62, 0],
    )
    assert MooncakeTtft().choose(request(), given, 0.0, RNG) == 0


def test_moving_the_prefix_is_one_more_option() -> None:
    """The holder waits 2 s: elsewhere 1 s of prefill, or 0.9 s of transfer and 0.1 s, against the third's 0.95 s."""
    given = candidates(
        3,
        tokens=1000,
        hit_tokens=[900, 0, 0],
        queued_tokens=[2000, 0, 0],
        seconds_per_token=[1e-3, 1e-3, 0.95e-3],
        seconds_per_quadratic=0.0,
    )
    assert MooncakeTtft().choose(request(), given, 0.0, RNG) == 2
    # At 0.5 ms a token: 0.45 + 0.1 s and 0.45 + 0.095 s.
    assert MooncakeTtft(transfer=0.5e-3).choose(request(), given, 0.0, RNG) == 2
    quicker = candidates(
        2, tokens=1000, hit_tokens=[900, 500], queued_tokens=[450, 0], outside_seconds=[0.0, 0.02], **LINEAR
    )
    assert MooncakeTtft().choose(request(), quicker, 0.0, RNG) == 1  # 0.55 against 0.52 s
    slower = candidates(2, tokens=1000, hit_tokens=[900, 0], queued_tokens=[450, 0], **LINEAR)
    assert MooncakeTtft().choose(request(), slower, 0.0, RNG) == 0  # 0.55 against 1 s
    assert MooncakeTtft(transfer=0.4e-3).choose(request(), slower, 0.0, RNG) == 1  # 0.55 against 0.36 + 0.1 s


def test_what_was_moved_is_attended_to() -> None:
    """900 * 0.1 ms + 100 * (1 ms + 1 us * 950) = 0.285 s elsewhere, against a queue of 0.08 or 0.1 s and 0.195 s."""
    for queue, chosen in ((0.08, 0), (0.1, 1)):
        given = candidates(
            2,
            tokens=1000,
            hit_tokens=[900, 0],
            outside_seconds=[queue, 0],
            seconds_per_token=1e-3,
            seconds_per_quadratic=1e-6,
        )
        assert MooncakeTtft(transfer=1e-4).choose(request(), given, 0.0, RNG) == chosen


def test_slower_mediums_count() -> None:
    """What is held on disk takes its time to fetch."""
    given = candidates(2, tokens=1000, hit_tokens=[500, 400], fetch_seconds=[0.2, 0.0], **LINEAR)
    assert MooncakeTtft().choose(request(), given, 0.0, RNG) == 1


def test_equals_take_turns() -> None:
    """The least recently chosen of equals."""
    assert MooncakeTtft().choose(request(), candidates(3, chosen=[3, 1, 2]), 0.0, RNG) == 1


def test_a_negative_price_is_refused() -> None:
    """Moving never gives time back."""
    with pytest.raises(ValueError, match="transfer must be at least 0"):
        MooncakeTtft(transfer=-1.0)
