"""Memory that is freed is kept by the process for the next allocation, on CPUs.

torch allocates every activation anew on a CPU. By default glibc returns large blocks to the system
when they are freed, and the next ones are made of pages that the system clears and maps one by one:
every step pays for that again. Results do not change. See `mallopt(3)`.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = -1  # of the threshold: as an unsigned number the largest one


def keep_freed_memory() -> bool:
    """Have this process keep what it frees; return whether its C library can do so.

    The process then stays as large as it has been at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt  # glibc; musl has none
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
