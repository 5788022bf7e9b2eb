"""Memory that the process keeps from step to step, instead of giving it back.

XLA allocates the temporary memory of a program anew each time that it runs. The C
library of Linux asks the operating system for each piece of more than 32 MiB, and gives
it back at the end (`M_MMAP_THRESHOLD` in mallopt(3)); so each step begins with the
clearing of pages. Memory that is kept is cleared once. `LINSEY_KEEP_MEMORY=0 python -m
benchmarks.step` shows what a step takes without.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

SWITCH = "LINSEY_KEEP_MEMORY"  # environment variable; 0 leaves the C library alone
# Of `mallopt(3)`: how many pieces are asked for one by one, from how many free bytes on
# memory is given back, and how many heaps there are. With several, the thread that runs
# a program decides which memory it gets, and often that is none that was kept.
OPTIONS = {-4: 0, -1: 2**31 - 1, -8: 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX


@cache
def keep_memory() -> bool:
    """Let the process keep memory that it frees, on Linux with its usual C library.

    It is called when the kernels are loaded. Up to 2 GiB of freed memory then stay with
    the process. Nothing changes where `LINSEY_KEEP_MEMORY` is 0, or where the
    environment has settings of the C library (`MALLOC_*`, `GLIBC_TUNABLES`).

    Returns:
        Whether the C library took the settings.

    Example:
        >>> keep_memory() in (True, False)
        True
    """
    said = any(name.startswith("MALLOC_") for name in os.environ)
    said = said or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if said or os.environ.get(SWITCH) == "0" or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(option, value) for option, value in OPTIONS.items()])
