"""Memory that the compiler leaves behind, returned to the operating system.

Compiling the training step takes a few hundred megabytes. They are free afterwards, but
stay with the process: in each thread's own heap, and in any case if kernels make the
process keep memory (`LINSEY_KEEP_MEMORY`). Later allocations come on top of them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

_ARENA_MAX = -8  # M_ARENA_MAX of `mallopt(3)`


def use_one_heap() -> None:
    """Make all threads take memory from one heap, on Linux with its usual C library.

    With a heap for each thread, memory that one of them frees is of no use to the
    others. Nothing changes if the environment has settings for this library.
    """
    said = any(name.startswith("MALLOC_") for name in os.environ)
    mallopt = _function("mallopt")
    if mallopt is not None and not said:
        mallopt(_ARENA_MAX, 1)


def give_back() -> bool:
    """Return free memory to the operating system; call it after compiling.

    Returns:
        Whether any memory was returned.

    Example:
        >>> give_back() in (True, False)
        True
    """
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


def _function(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)
