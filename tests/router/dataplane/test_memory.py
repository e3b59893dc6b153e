"""The allocator's setting."""

from __future__ import annotations

import platform

from kvroute.router.dataplane.memory import keep_freed_memory


def test_is_set_where_the_c_library_can() -> None:
    """glibc takes it; elsewhere nothing happens."""
    assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")
