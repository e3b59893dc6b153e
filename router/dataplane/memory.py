"""One process-wide setting of the C library's allocator that large request bodies profit from."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 32 * 1024 * 1024
_MAPPED_BYTES = 4 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Have malloc keep up to 32 MiB of freed memory, and map only blocks of 4 MiB or more.

    By default glibc gives the memory of each body back to the kernel and takes it again for the next one: three page
    faults a request at 64 KB, a third of the system time of such a request. To be called once, by the process that
    owns the data plane. False where the C library has no `mallopt`.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES))
