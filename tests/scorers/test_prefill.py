"""The prefill scorer."""

from __future__ import annotations

import pytest

from kvroute.scorers.prefill import Prefill
from kvroute.scorers.testing import candidates, request


def test_uncached_tokens_at_the_replicas_rate_with_attention() -> None:
    """T is the miss at the linear rate, plus c4 times the attention over what precedes each token."""
    given = candidates(2, tokens=1000, hit_tokens=[0, 600], seconds_per_token=[1e-4, 2e-4], seconds_per_quadratic=1e-7)
    assert Prefill().seconds(request(), given, 0.0).tolist() == pytest.approx(
        [1000 * 1e-4 + 1e-7 * 1000 * 500, 400 * 2e-4 + 1e-7 * 400 * 800]
    )


def test_a_full_hit_still_computes_one_token() -> None:
    """The engine recomputes the end of a prompt that it holds whole."""
    given = candidates(1, tokens=1000, hit_tokens=1000, seconds_per_token=1e-4, seconds_per_quadratic=0.0)
    assert Prefill().seconds(request(), given, 0.0).tolist() == pytest.approx([1e-4])


def test_the_answer_is_the_callers() -> None:
    """Changing the answer does not change what the next scorer sees."""
    given = candidates(1)
    answer = Prefill().seconds(request(), given, 0.0)
    answer += 1.0
    assert given.prefill_seconds[0] == pytest.approx(answer[0] - 1.0)
