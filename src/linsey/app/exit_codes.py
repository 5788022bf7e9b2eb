"""The exit codes of the command, and the error behind one of them."""

from __future__ import annotations

from linsey.errors import LinseyError

DONE = 0
FAILED = 1
"""Something unexpected, with a traceback; or a program under `run` failed."""
REFUSED = 2
"""Something given is wrong, damaged or in use."""
AUDIT = 3
"""An audit found errors."""
NOT_FINITE = 5
DISK = 6
"""The disk or the system refused to read or write."""
STOPPED = 75
"""Stopped by a signal, after saving: EX_TEMPFAIL, run the command again."""

TABLE = (
    (DONE, "done"),
    (FAILED, "failed unexpectedly, or the program under `run` failed"),
    (REFUSED, "an input is wrong, damaged or in use; nothing was overwritten"),
    (AUDIT, "an audit found errors"),
    (NOT_FINITE, "the run produced NaN or infinite values: see --on-nonfinite"),
    (DISK, "the disk or the system refused to read or write"),
    (STOPPED, "stopped by a signal after saving; run again with --resume"),
)


class NotFiniteError(LinseyError, FloatingPointError):
    """A run met NaN or infinite numbers, and ends.

    Attributes:
        is_traced: whether to print the traceback (`--on-nonfinite raise`).
    """

    is_traced = False
