"""The display of a run's progress.

On a terminal a bar is redrawn; otherwise a line is printed about every ten seconds, so
that a log shows that something happens and does not fill up. Several runs that belong
together share one `Progress`: each is a part of it, and the time left is that of all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from linsey.app.terminal import number, plain, say
from linsey.errors.base import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

INTERVAL = 10.0
"""Seconds between two lines if there is no bar."""
_LEAST_BAR = 5
_MOST_BAR = 40


@dataclasses.dataclass(frozen=True)
class Moment:
    """The progress of a run after one of its steps.

    Attributes:
        step: the step.
        total: the last step.
        epoch: passes over the data so far.
        loss: the loss of the last steps; `None` if all of them were skipped.
        speed: examples per second; `None` while it is not known.
    """

    step: int
    total: int
    epoch: float
    loss: float | None
    speed: float | None


class Remaining:
    """An estimate of how long the remaining steps will take, from those already done.

    Evaluations and saves between steps count. The first step does not, because it waits
    for the compiler.

    Args:
        now: the clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start: float | None = None
        self._done = 0

    def count(self) -> None:
        """Count a step."""
        if self._start is None:
            self._start = self._now()
        else:
            self._done += 1

    def text(self, left: int) -> str:
        """Say how long a number of steps will take; empty while that is not known."""
        if self._start is None or not self._done or not left:
            return ""
        seconds = (self._now() - self._start) / self._done * left
        return f"{duration(seconds)} left"


class Progress:
    """A display of how far a run is, in lines or with a bar.

    Args:
        total: number of steps of all runs.
        bar: the bar, with one task. If `None`, only lines, for files and pipes.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        total: int,
        bar: Bar | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bar = bar
        self._total, self._now = total, now
        self._told = now()
        self._remaining = Remaining(now)
        self._part, self._offset = "", 0

    def begin_part(self, name: str, offset: int) -> None:
        """Begin one of several runs, whose details are not printed.

        Args:
            name: the name of the run.
            offset: number of steps of the runs before it.
        """
        self._part, self._offset = name, offset
        self._draw((name,), offset)

    def advance(self, moment: Moment) -> None:
        """Count a step: redraw the bar, or print a line if it is time to."""
        self._remaining.count()
        if self.bar is None and self._now() - self._told < INTERVAL:
            return
        at = self._offset + moment.step
        loss = "" if moment.loss is None else f"loss {number(moment.loss)}"
        left = self._remaining.text(self._total - at)
        speed = moment.speed
        if self.bar is not None:
            parts = (
                self._part, f"{moment.step}/{moment.total}", loss,
                "" if speed is None else f"{speed:,.0f}/s", left,
            )  # fmt: skip
            self._draw(parts, at)
            return
        shown = (
            self._part, f"step {moment.step:>6}/{moment.total}",
            f"epoch {moment.epoch:6.2f}", loss,
            "" if speed is None else f"{speed:,.0f} examples/s",
            f"{left} of all runs" if self._part and left else left,
        )  # fmt: skip
        self.say("  ".join(part for part in shown if part))

    def busy(
        self, text: str, is_told: bool = True
    ) -> contextlib.AbstractContextManager[None]:
        """Say what is being done in a block without steps; see the function `busy`.

        Args:
            text: what is being done.
            is_told: whether it is said at the beginning, too.
        """
        name = f"{self._part}: " if self._part else ""
        begin = self.detail if is_told else _keep_silent
        return busy(text, begin, lambda again: self.say(f"{name}{again}"))

    def left(self, done: int) -> str:
        """Say how long the rest takes after a number of steps; empty if not known."""
        return self._remaining.text(self._total - done)

    def _draw(self, parts: Sequence[str], at: int) -> None:
        if self.bar is not None:
            task = self.bar.task_ids[0]
            self.bar.update(task, completed=at, parts=tuple(filter(None, parts)))

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        self._told = self._now()
        if self.bar is None:
            say(text)
        else:
            lines = map(plain, text.split("\n"))
            self.bar.console.print(*lines, sep="\n", soft_wrap=True)

    def detail(self, text: str) -> None:
        """Print a line unless the run is one of several."""
        if not self._part:
            self.say(text)


def _keep_silent(text: str) -> None:
    pass


@contextlib.contextmanager
def busy(
    text: str,
    begin: Callable[[str], None] = say,
    again: Callable[[str], None] = say,
    interval: float = INTERVAL,
) -> Iterator[None]:
    """Say what is being done in a block, and repeat it while the block lasts.

    Args:
        text: what is being done.
        begin: called with the text at the beginning.
        again: called with each later text, from another thread.
        interval: seconds between two texts.
    """
    begin(f"{text} ...")
    start, done = time.monotonic(), threading.Event()

    def repeat() -> None:
        while not done.wait(interval):
            again(f"{text}: {duration(time.monotonic() - start)} so far")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def progress(step: int, total: int, plain: bool) -> Iterator[Progress]:
    """Show the progress of a run, or of several.

    Args:
        step: the step at which it begins.
        total: the last step, of all runs.
        plain: whether to print lines even on a terminal.

    Yields:
        The `Progress`, to be told of each step.
    """
    if plain or not sys.stdout.isatty():
        yield Progress(total)
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    console = Console()

    class Line(rich.ProgressColumn):
        """A bar and the text beside it, in one line of the terminal."""

        def render(self, task: rich.Task) -> Text:
            fraction = task.completed / max(1, task.total or 0)
            mark = "━" if console.encoding.startswith("utf") else "="
            parts = task.fields["parts"]
            return Text(bar_line(console.width, fraction, parts, mark), no_wrap=True)

    with rich.Progress(Line(), console=console) as bar:
        bar.add_task("", completed=step, total=total, parts=(f"{step}/{total}",))
        yield Progress(total, bar)


def bar_line(width: int, fraction: float, parts: Sequence[str], mark: str) -> str:
    """Fit a bar and the texts beside it into a line.

    If the terminal is too narrow, the bar is dropped first, then the parts between the
    first and the last, from the end: a time that is cut off would be a wrong one.

    Args:
        width: columns of the terminal.
        fraction: the fraction that is done, in [0, 1].
        parts: the texts; the last one is the most important.
        mark: the character of the bar.

    Example:
        >>> parts = ["330/660", "loss 0.0123", "4,300/s", "0:01:23 left"]
        >>> bar_line(60, 0.5, parts, "=")
        '=======         330/660  loss 0.0123  4,300/s  0:01:23 left'
        >>> bar_line(30, 0.5, parts, "=")
        '===     330/660  0:01:23 left'
    """
    kept = [printable(part) for part in parts]
    while len(kept) > 1 and len("  ".join(kept)) >= width:
        del kept[-2]
    text = "  ".join(kept)
    free = min(_MOST_BAR, width - len(text) - 3)
    if free < _LEAST_BAR:
        return text
    done = round(free * min(1.0, fraction))
    return f"{mark * done}{' ' * (free - done)}  {text}"


def duration(seconds: float) -> str:
    """Write a time as hours, minutes and seconds.

    Example:
        >>> duration(83.4), duration(360_000)
        ('0:01:23', '100:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
