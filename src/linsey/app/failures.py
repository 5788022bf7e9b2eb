"""How errors end the command: what is said of them, and the exit code."""

from __future__ import annotations

import sys
import traceback

from linsey.app import exit_codes
from linsey.app.exit_codes import NotFiniteError
from linsey.app.stopping import Stopped
from linsey.app.terminal import say
from linsey.errors import DiskError, InputError
from linsey.extras import MissingPackageError


def exit_code(error: BaseException) -> int:
    """Say what went wrong, and return the exit code of the process.

    Errors that a user can mend get one line, all others a traceback.
    """
    if isinstance(error, InputError | MissingPackageError):
        complain(error)
        return exit_codes.REFUSED
    if isinstance(error, NotFiniteError):
        if error.is_traced:
            traceback.print_exception(error)
        else:
            complain(error)
        return exit_codes.NOT_FINITE
    if isinstance(error, Stopped):
        say(f"stopped by {error} before there was anything to save", sys.stderr)
        return exit_codes.STOPPED
    if isinstance(error, OSError):
        if not isinstance(error, DiskError):
            error = DiskError(error, error.filename or "the disk or the system")
        complain(error)
        return exit_codes.DISK
    traceback.print_exception(error)
    return exit_codes.FAILED


def complain(error: Exception) -> None:
    """Print an error in one line."""
    say(" ".join(["linsey: error:", *str(error).split("\n")]), sys.stderr)
