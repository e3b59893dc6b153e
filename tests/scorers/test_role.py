"""The role scorer."""

from __future__ import annotations

from kvroute.scorers.contract import Role
from kvroute.scorers.role import RoleFilter
from kvroute.scorers.testing import candidates, request


def test_a_prefill_only_replica_must_not_be_chosen() -> None:
    """inf where the replica cannot decode; a decode replica also runs whole requests."""
    given = candidates(3, role=[Role.BOTH, Role.PREFILL, Role.DECODE])
    assert RoleFilter().seconds(request(), given, 0.0).tolist() == [0.0, float("inf"), 0.0]
