"""The person at the terminal: what they see, and how they stop a run.

Progress is live on a terminal and plain lines anywhere else. The first Ctrl-C or
SIGTERM sets a flag that the loops check between two steps; the run saves and ends with
exit code 75 (try again). The second one finds the system's default action in place and
ends the process at once, even inside a long compilation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as Bar

EXIT_CODE = 75  # EX_TEMPFAIL: not done, run the command again
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal asked the command to stop; says which."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Show how far a run is: in lines only, or also on a bar that is redrawn.

    Attributes:
        bar: the bar, with one task. If `None`, lines only, for files and pipes.
    """

    bar: Bar | None = None

    def advance(self, step: int, loss: float | None) -> None:
        """Redraw the bar; a line for each step would drown the others."""
        if self.bar is not None:
            shown = "" if loss is None else f"loss {loss:.4f}"
            self.bar.update(self.bar.task_ids[0], completed=step, loss=shown)

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress(title: str, step: int, total: int, plain: bool) -> Iterator[Progress]:
    """Show the progress of a run.

    Args:
        title: what is running.
        step: where it begins.
        total: the last step.
        plain: print lines even on a terminal.

    Yields:
        What to tell the progress to.
    """
    if plain or not sys.stdout.isatty():
        yield Progress()
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[loss]}"),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns) as bar:
        bar.add_task(title, completed=step, total=total, loss="")
        yield Progress(bar)


def show(drawing: RenderableType) -> None:
    """Print something that rich can draw."""
    from rich.console import Console

    # Wide enough for any table where there is no terminal to fit.
    width = None if sys.stdout.isatty() else 120
    Console(width=width).print(drawing)


def show_table(
    headers: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None
) -> None:
    """Print a table."""
    from rich.table import Table

    table = Table(*headers, title=title)
    for row in rows:
        table.add_row(*row)
    show(table)


def warn(text: str) -> None:
    """Print a line about something the user should know."""
    print(f"linsey: warning: {text}", file=sys.stderr, flush=True)


class StopRequest:
    """Whether the run was asked to stop, for use in a `with` statement.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.check()
        Traceback (most recent call last):
        linsey.app.terminal.Stopped: SIGTERM
    """

    def __init__(self) -> None:
        self._signal_name = ""
        self._previous: dict[signal.Signals, Callable[..., object] | int | None] = {}

    def check(self) -> None:
        """Raise `Stopped` if a signal arrived."""
        if self._signal_name:
            raise Stopped(self._signal_name)

    def __enter__(self) -> StopRequest:
        # Python allows handlers in the main thread only; elsewhere the caller's
        # own handlers stay.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signal_name = signal.Signals(number).name
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
