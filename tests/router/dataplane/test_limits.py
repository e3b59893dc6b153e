"""Limits as settings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kvroute.router.dataplane.limits import Limits


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"head_bytes": 0}, "head_bytes"),
        ({"connect_seconds": -1.0}, "connect_seconds"),
        ({"body_bytes": "big"}, "body_bytes"),
        ({"no_such": 1}, "no_such"),
        ({"low_water_bytes": 10, "high_water_bytes": 5}, "low_water_bytes"),
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, Any], named: str) -> None:
    """A limit that makes no sense is refused when it is read, by its name."""
    with pytest.raises(msgspec.ValidationError, match=named):
        msgspec.convert(setting, Limits)


def test_defaults_are_what_the_documentation_says() -> None:
    """The stated defaults: 64 MiB bodies, 64 KiB pipelined, 1 s to connect, at most half a second between sweeps."""
    limits = Limits()
    assert limits.body_bytes == 64 * 1024 * 1024
    assert limits.pipelined_bytes == 64 * 1024
    assert limits.connect_seconds == 1.0
    assert limits.sweep_seconds == 0.5
    assert limits.pool_idle_seconds < 5.0
