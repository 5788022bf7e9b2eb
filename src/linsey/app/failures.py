"""How errors end the command: the message that is printed, and the exit code."""

from __future__ import annotations

import traceback

from linsey.app import exit_codes
from linsey.app.exit_codes import NotFiniteError
from linsey.app.stopping import Stopped
from linsey.errors import DiskError, InputError
from linsey.extras import MissingPackageError


def report(error: BaseException) -> tuple[int, str]:
    r"""Return the exit code for an error, and the text to print.

    Errors that a user can fix get one line, all others a traceback.

    Example:
        >>> report(InputError("no such file", file=None, key="--data"))
        (2, 'linsey: error: --data: no such file\n')
    """
    if isinstance(error, InputError | MissingPackageError):
        return exit_codes.REFUSED, _line(error)
    if isinstance(error, NotFiniteError):
        is_traced = error.is_traced
        return exit_codes.NOT_FINITE, _trace(error) if is_traced else _line(error)
    if isinstance(error, Stopped):
        return exit_codes.STOPPED, f"stopped by {error} before anything was saved\n"
    if isinstance(error, OSError):
        if not isinstance(error, DiskError):
            error = DiskError(error, error.filename or "the disk or the system")
        return exit_codes.DISK, _line(error)
    return exit_codes.FAILED, _trace(error)


def _line(error: Exception) -> str:
    return " ".join(["linsey: error:", *str(error).split("\n")]) + "\n"


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
