"""Memory that the process keeps from step to step, instead of giving it back.

XLA allocates the temporary memory of a program again each time that it runs. The C
library of Linux requests each block of more than 32 MiB from the operating system, and
returns it at the end (`M_MMAP_THRESHOLD` in mallopt(3)), so each step begins with
clearing pages. Memory that is kept is cleared only once. `LINSEY_KEEP_MEMORY=0 python
-m benchmarks.step` shows the time of a step without this.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

SWITCH = "LINSEY_KEEP_MEMORY"  # environment variable; 0 leaves the C library alone
# Options of `mallopt(3)`: how many blocks may be requested one by one, from how many
# free bytes on memory is given back, and how many heaps there are. With several heaps,
# the memory that a program gets depends on its thread, and often was not kept.
OPTIONS = {-4: 0, -1: 2**31 - 1, -8: 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX


@cache
def keep_memory() -> bool:
    """Let the process keep memory that it frees, on Linux with its usual C library.

    It is called when the kernels are loaded. Up to 2 GiB of freed memory then stay with
    the process. Nothing changes if `LINSEY_KEEP_MEMORY` is 0, or if the environment
    has settings of the C library (`MALLOC_*`, `GLIBC_TUNABLES`).

    Returns:
        Whether the C library accepted the settings.

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
