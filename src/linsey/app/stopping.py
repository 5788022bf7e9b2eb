"""How a person or a scheduler stops a run, or has it save.

SIGINT, SIGTERM and SIGHUP ask to stop, SIGUSR1 asks to save and go on. Where nothing
has been written yet, a request to stop ends the work at once, by the exception
`Stopped`. Where there is something to save it sets a flag that the loops look at
between two steps; the run saves and ends with exit code 75 (try again). The second
signal finds the action of the system in place and ends the process, even inside of a
long compilation.
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
    """A signal asked the command to stop; says which.

    It is no `Exception`, so that no library takes it for a failure of its own.
    """


class Stops(Protocol):
    """Whether a run was asked to stop, or to save."""

    def check(self, step: int | None = None) -> None:
        """Raise `Stopped` if it was asked to stop."""
        ...

    def takes_save(self) -> bool:
        """Return whether it was asked to save since this was called before."""
        ...


class StopRequest:
    """Whether the command was asked to stop, for use in a `with` statement.

    An inner one takes over from an outer one, with what has arrived there.

    Args:
        at_once: raise `Stopped` where the signal arrives, not where `check` is called.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.check()
        Traceback (most recent call last):
        linsey.app.stopping.Stopped: SIGTERM
    """

    _active: ClassVar[list[StopRequest]] = []  # signals are those of the process

    def __init__(self, at_once: bool = False) -> None:
        self._at_once = at_once
        self._signal_name = ""
        self._is_save_asked = False
        self._previous: dict[signal.Signals, Callable[..., object] | int | None] = {}

    @property
    def signal_name(self) -> str:
        """The signal that asked to stop, in any block that we are in; or nothing."""
        return next(
            (each._signal_name for each in self._active if each._signal_name), ""
        )

    @classmethod
    def check(cls, step: int | None = None) -> None:
        """Raise `Stopped` if a signal asked for it, in any block that we are in.

        An outer one counts: code that swallows exceptions, such as a callback of the
        garbage collector, may have kept its `Stopped` from arriving.
        """
        for request in cls._active:
            if request._signal_name:
                raise Stopped(request._signal_name)

    def takes_save(self) -> bool:
        """Return whether a signal asked to save since this was called before."""
        asked, self._is_save_asked = self._is_save_asked, False
        return asked

    def ignore_others(self) -> None:
        """Ignore signals from the end of the block on: nothing is left to be stopped.

        For the end of the process, which would else report a signal as its end.
        """
        self._previous = dict.fromkeys(self._previous, signal.SIG_IGN)

    def __enter__(self) -> StopRequest:
        self._active.append(self)
        # Python allows handlers in the main thread only; elsewhere the caller's
        # own handlers stay.
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                # `nohup` has the run survive its terminal.
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
        """Raise `Stopped`, after an import that is going on.

        Extension modules that are imported halfway print tracebacks of their own, or
        take the exception for a missing module.
        """
        if self is not self._active[-1]:
            return  # an inner block began meanwhile: it looks at our flag
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
    """Let output that went to a terminal which is gone go nowhere, without errors."""
    for stream in (1, 2):
        # A terminal is a character device; one that hung up does not say so any more.
        is_device = stat.S_ISCHR(os.fstat(stream).st_mode)
        if is_device and not os.isatty(stream):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream)
            os.close(null)
