"""Stopping a run from outside: Ctrl-C and SIGTERM.

The first signal sets a flag that the loops read between two steps; the run saves
and ends with exit code 75 (try again). The second one finds the system's default
action in place and ends the process at once, even inside a long compilation.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL: not done, run the command again
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the run was asked to stop, for use in a `with` statement.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.signal_name
        'SIGTERM'
    """

    def __init__(self) -> None:
        self.signal_name = ""
        self._previous: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    def __enter__(self) -> StopRequest:
        # Python allows handlers in the main thread only; elsewhere the caller's
        # own handlers stay.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
