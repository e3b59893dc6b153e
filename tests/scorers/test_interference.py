"""The interference scorer."""

from __future__ import annotations

import pytest

from kvroute.scorers.interference import Interference
from kvroute.scorers.testing import candidates, request


def test_each_decoding_request_pays_a_share_of_the_prefill() -> None:
    """T times 0.05 times the requests decoding there; share 1 counts their delay in full."""
    given = candidates(2, tokens=1000, decoding=[0, 10], seconds_per_token=1e-3, seconds_per_quadratic=0)
    assert Interference().seconds(request(), given, 0.0).tolist() == pytest.approx([0.0, 0.5])
    assert Interference(share=1.0).seconds(request(), given, 0.0).tolist() == pytest.approx([0.0, 10.0])


@pytest.mark.parametrize("share", [-0.1, float("inf"), float("nan")])
def test_a_senseless_share_is_refused(share: float) -> None:
    """A share that is negative or not finite stops where it is given."""
    with pytest.raises(ValueError, match="share must be"):
        Interference(share=share)
