"""How a person or a scheduler stops a run, or makes it save.

SIGINT, SIGTERM and SIGHUP ask to stop, SIGUSR1 asks to save and go on. If nothing has
been written yet, a request to stop ends the work at once, by the exception `Stopped`.
If there is something to save, it sets a flag that the loops check between two steps;
the run saves and ends with exit code 75 (try again). A second signal to stop has its
default action, which ends the process even during a long compilation.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable
from types import FrameType
from typing import ClassVar, Protocol

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RETRY_SECONDS = 0.02


class Stopped(BaseException):
    """A signal asked the command to stop; the message is its name.

    It is not an `Exception`, so that no library mistakes it for a failure of its own.
    """


class Stops(Protocol):
    """Requests to a run, to stop or to save."""

    def check(self, step: int | None = None) -> None:
        """Raise `Stopped` if the run was asked to stop."""
        ...

    def takes_save(self) -> bool:
        """Return whether the run was asked to save since the last call."""
        ...


class StopRequest:
    """Requests to the command by signals, for use in a `with` statement.

    An inner block takes over from an outer one, with the signals that arrived there.

    Args:
        at_once: whether to raise `Stopped` when the signal arrives, and not only when
            `check` is called.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.check()
        Traceback (most recent call last):
        linsey.app.stopping.Stopped: SIGTERM
    """

    _active: ClassVar[list[StopRequest]] = []  # signals belong to the process

    def __init__(self, at_once: bool = False) -> None:
        self._at_once = at_once
        self._signal_name = ""
        self._is_save_asked = False
        self._previous: dict[signal.Signals, Callable[..., object] | int | None] = {}

    @property
    def signal_name(self) -> str:
        """The signal that asked to stop, in any of the current blocks, or empty."""
        return next(
            (each._signal_name for each in self._active if each._signal_name), ""
        )

    @classmethod
    def check(cls, step: int | None = None) -> None:
        """Raise `Stopped` if a signal asked to stop, in any of the current blocks.

        Outer blocks count, since code that swallows exceptions, such as a callback of
        the garbage collector, may have swallowed their `Stopped`.
        """
        for request in cls._active:
            if request._signal_name:
                raise Stopped(request._signal_name)

    def takes_save(self) -> bool:
        """Return whether a signal asked to save since the last call."""
        asked, self._is_save_asked = self._is_save_asked, False
        return asked

    def ignore_others(self) -> None:
        """Ignore signals after the end of the block: nothing is left to be stopped.

        Otherwise a process that ends could report a signal as the cause.
        """
        self._previous = dict.fromkeys(self._previous, signal.SIG_IGN)

    def __enter__(self) -> StopRequest:
        self._active.append(self)
        # Python allows handlers in the main thread only; elsewhere the caller's
        # own handlers stay.
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                # `nohup` lets the run survive its terminal.
                ignored = signal.getsignal(number) is signal.SIG_IGN
                if number is not signal.SIGHUP or not ignored:
                    self._previous[number] = signal.signal(number, self._stop)
            self._previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._save)
        return self

    def __exit__(self, *error: object) -> None:
        if signal.SIGALRM in self._previous:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._active.remove(self)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._signal_name = signal.Signals(number).name
        for each in self._previous.keys() & set(_STOPPING):
            signal.signal(each, signal.SIG_DFL)
        if number == signal.SIGHUP:
            _forget_lost_terminal()
        if self._at_once:
            self._raise_soon(signal.SIGALRM, frame)

    def _raise_soon(self, number: int, frame: FrameType | None) -> None:
        """Raise `Stopped`, but not before the end of an import that is going on.

        Extension modules whose import is interrupted print tracebacks of their own, or
        mistake the exception for a missing module.
        """
        if self is not self._active[-1]:
            return  # an inner block began meanwhile: it checks our flag
        if not _is_importing(frame):
            raise Stopped(self._signal_name)
        self._previous.setdefault(signal.SIGALRM, signal.getsignal(signal.SIGALRM))
        signal.signal(signal.SIGALRM, self._raise_soon)
        signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self._is_save_asked = True


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _forget_lost_terminal() -> None:
    """Discard output to a terminal that is gone, instead of raising errors."""
    for stream in (1, 2):
        # A terminal is a character device, but after a hangup no longer a tty.
        is_device = stat.S_ISCHR(os.fstat(stream).st_mode)
        if is_device and not os.isatty(stream):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream)
            os.close(null)
