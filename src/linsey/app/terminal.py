"""What a person sees: live progress on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress(Protocol):
    """Shows how far a run is."""

    def advance(self, step: int, loss: float | None) -> None:
        """Tells the step that was reached and the latest training loss."""

    def say(self, text: str) -> None:
        """Prints a line that stays."""


class PlainProgress:
    """Lines only, for files and pipes."""

    def advance(self, step: int, loss: float | None) -> None:
        """Shows nothing: a line for each step would drown the others."""

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)


class LiveProgress:
    """A bar that is redrawn in place."""

    def __init__(self, bar: Bar, task: TaskID, console: Console) -> None:
        self._bar, self._task, self._console = bar, task, console

    def advance(self, step: int, loss: float | None) -> None:
        """Redraws the bar."""
        shown = "" if loss is None else f"loss {loss:.4f}"
        self._bar.update(self._task, completed=step, loss=shown)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress(title: str, step: int, total: int, plain: bool) -> Iterator[Progress]:
    """Shows the progress of a run.

    Args:
        title: what is running.
        step: where it begins.
        total: the last step.
        plain: lines even on a terminal.

    Yields:
        Takes the news.
    """
    if plain or not sys.stdout.isatty():
        yield PlainProgress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(title, completed=step, total=total, loss="")
        yield LiveProgress(bar, task, console)


def show(table: RenderableType) -> None:
    """Prints something that rich can draw."""
    from rich.console import Console

    # Wide enough for any table where there is no terminal to fit.
    width = None if sys.stdout.isatty() else 120
    Console(width=width).print(table)


def warn(text: str) -> None:
    """Prints a line about something the user should know."""
    print(f"linsey: warning: {text}", file=sys.stderr, flush=True)
