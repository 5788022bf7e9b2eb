"""Ranks that share their fate: all continue, all stop, or all end.

The processes of a job compute in collectives, in which each waits for all others. If
one of them raises an exception, is killed, hangs, or stops alone, the others would wait
forever. Inside `shared_fate`, they end together, with the cause last on the screen, and
stop together at the same step.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Literal

from linsey.distributed import life, start
from linsey.distributed.life import Life
from linsey.distributed.link import Link, Reporter, full_traceback
from linsey.errors import OptionError

Asked = Literal["", "save", "stop"]
_ACTIONS: dict[str, int] = {"save": life.SAVE, "stop": life.STOP}
_WORDS: dict[int, Asked] = {life.SAVE: "save", life.STOP: "stop"}
_DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_WAIT = 0.001
STOPPED = 75
"""The exit code of a process that stopped normally and should be started again."""


class Fate:
    """The interface of a rank inside `shared_fate`.

    Attributes:
        rank: number of this process, from 0 on.
        processes: number of processes.
        is_stopped: whether `step` has returned "stop".
    """

    def __init__(
        self, step_timeout: float, first_step_timeout: float, link: Link | None
    ) -> None:
        self.rank = 0 if link is None else link.job.rank
        self.processes = 1 if link is None else link.job.processes
        self.is_stopped = False
        self._link = link
        self._life = Life() if link is None else link.life
        self._words = self._life.words
        self._asked: set[int] = set()
        self._calls = 0  # in this block
        self._timeout, self._limit, self._allowed = (
            step_timeout,
            first_step_timeout,
            0.0,
        )
        self._tell_limit()
        self.beat()
        self._words[life.LEFT] = 0

    def step(self, step: int) -> Asked:
        """Begin a step: give a sign of life, and let all ranks act together.

        All ranks must call this in the same order and equally often, in training as
        well as in evaluation.

        Args:
            step: the number of the step, for messages.

        Returns:
            "stop" or "save" if a rank was asked for it, otherwise "". All ranks get the
            same answer in the same call. After "stop", each call returns "stop".
        """
        words = self._words
        calls = words[life.CALLS] + 1
        words[life.STEP] = step
        words[life.SIGN] = time.monotonic_ns()
        words[life.CALLS] = calls
        self._calls += 1
        if self._calls == 2:  # the first step, with its compilation, is done
            self._limit = self._timeout
            self._tell_limit()
        if self._link is None:
            return self._alone()
        if self.is_stopped:
            return "stop"
        if words[life.PROPOSED] == calls and self._is_decided(calls):
            return self._act(words[life.ACTION])
        return ""

    def _is_decided(self, calls: int) -> bool:
        """Wait until it is decided whether all ranks can act in this call."""
        words = self._words
        words[life.WAITS] = calls
        while words[life.DECIDED] != calls:
            if words[life.PROPOSED] != calls:
                return False  # a rank had passed this call; a later one is proposed
            time.sleep(_WAIT)
            words[life.SIGN] = time.monotonic_ns()
        return True

    def _act(self, action: int) -> Asked:
        self._asked.discard(action)
        self.is_stopped = action == life.STOP
        return _WORDS[action]

    def _alone(self) -> Asked:
        if self.is_stopped or life.STOP in self._asked:
            return self._act(life.STOP)
        return self._act(life.SAVE) if self._asked else ""

    def beat(self, doing: str | None = None) -> None:
        """Give a sign of life between two steps.

        Args:
            doing: what the rank is about to do, for messages such as "rank 1 hangs at
                step 5, in data loading". If `None`, the last description is kept.
        """
        if doing is not None:
            self._life.doing = doing
        self._words[life.SIGN] = time.monotonic_ns()

    @contextlib.contextmanager
    def allow(self, seconds: float, doing: str | None = None) -> Iterator[None]:
        """Allow this rank, and those that wait for it, to exceed the step timeout.

        Args:
            seconds: how long the block may take without a sign of life.
            doing: what the rank does in the block, as in `beat`.
        """
        before, did = self._allowed, self._life.doing
        self.beat(doing)
        self._allowed = max(before, seconds)
        self._tell_limit()
        try:
            yield
        finally:
            self.beat(did)
            self._allowed = before
            self._tell_limit()

    def ask(self, action: Literal["save", "stop"]) -> None:
        """Request that all ranks save or stop, at the next call of `step` possible.

        Any rank may call this, also in a signal handler, and any number of times.

        Raises:
            OptionError: the action is neither "save" nor "stop".
        """
        if action not in _ACTIONS:
            raise OptionError(
                f"`action` is {action!r}.", "Ranks can save or stop together.",
                'Write `ask("save")` or `ask("stop")`.',
            )  # fmt: skip
        number = _ACTIONS[action]
        if number not in self._asked:
            self._asked.add(number)
            if self._link is not None:
                self._link.ask(number)

    def _tell_limit(self) -> None:
        self._words[life.LIMIT] = int(1000 * max(self._limit, self._allowed))


class shared_fate:  # noqa: N801 (used as a function)
    """Share the fate of all ranks inside a `with` statement.

    If a rank raises an exception, it prints its traceback after all others have ended.
    If a rank is killed, or gives no sign of life, all ranks end within five seconds. If
    any rank receives a signal, all ranks stop, or save, at the same step. In each case
    no process is left over.

    Enter the block directly after `initialize`, and outermost: in a job of several
    processes, an exception that leaves the block ends the process. A single process has
    the same interface, but exceptions propagate as usual.

    Args:
        step_timeout: seconds that a rank may go without a sign of life. Being in JAX's
            compiler counts as a sign of life.
        first_step_timeout: the same, before the second call of `step` on every rank.
        signals: the signals that request a stop, except SIGUSR1, which requests a save
            without stopping. After a stop was requested, the next signal has its
            default action.
        on_error: function from an exception to the exit code of all ranks and the text
            that is printed last. Defaults to 1 and the traceback. A `SystemExit` with a
            code other than 0 and 75 counts as an exception, with its own code.

    Returns:
        A `Fate`, whose `step` is called at each step.

    Example:
        >>> with shared_fate(step_timeout=60) as fate:
        ...     for step in range(3):
        ...         if fate.step(step) == "stop":
        ...             break
        ...         fate.ask("stop")
        >>> step, fate.is_stopped
        (1, True)
    """

    def __init__(
        self,
        step_timeout: float = 300.0,
        *,
        first_step_timeout: float = 1800.0,
        signals: Sequence[signal.Signals] = _DEFAULT_SIGNALS,
        on_error: Reporter | None = None,
    ) -> None:
        self._timeouts = (step_timeout, max(first_step_timeout, step_timeout))
        self._signals = signals
        self._on_error = on_error or full_traceback
        self._previous: dict[
            signal.Signals, Callable[[int, FrameType | None], object] | int | None
        ] = {}

    def __enter__(self) -> Fate:
        self._link = start.link()
        self._fate = Fate(*self._timeouts, self._link)
        # Python allows signal handlers only in the main thread.
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._previous[number] = signal.signal(number, self._take)
        return self._fate

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._link is None:
            return
        if error is None or _is_orderly(error):
            self._link.leave()
            return
        if isinstance(error, SystemExit):
            code, text = _exit_code(error)
        else:
            code, text = self._on_error(error)
        self._link.fail(error, code, lambda: _print_last(text))

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._fate.ask("save")
        else:
            for each in self._previous.keys() - {signal.SIGUSR1}:
                signal.signal(each, signal.SIG_DFL)
            self._fate.ask("stop")


def _is_orderly(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0, STOPPED)


def _exit_code(error: SystemExit) -> tuple[int, str]:
    """Return the exit code and the text that Python would give a `SystemExit`."""
    if isinstance(error.code, int):
        return error.code, ""
    return 1, f"{error.code}\n"


def _print_last(text: str) -> None:
    sys.stderr.write(text if not text or text.endswith("\n") else f"{text}\n")
