"""Output to the terminal.

Names of files, arrays and classes come from outside: nothing in them acts as a command
to the terminal or as markup. If nobody reads the output any more, as after `| head -1`,
it is discarded and nothing fails.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from linsey.errors.base import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


def width() -> int:
    """Return the number of columns of the terminal.

    If output does not go to a terminal, the number is enough for any table.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 120


def show(drawing: RenderableType) -> None:
    """Print something that rich can draw."""
    from rich.console import Console

    console = Console(width=width())
    with console.capture() as capture:
        console.print(drawing)
    _write(capture.get(), sys.stdout)


def show_table(
    headers: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None
) -> None:
    """Print a table."""
    from rich.table import Column, Table

    columns = [Column(plain(header)) for header in headers]
    table = Table(*columns, title=None if title is None else plain(title))
    for row in rows:
        table.add_row(*map(plain, row))
    show(table)


def number(value: float) -> str:
    """Format a loss with four digits after the point, or shorter if it exploded.

    Example:
        >>> number(0.51234), number(1.042e34), number(float("nan"))
        ('0.5123', '1.042e+34', 'nan')
    """
    return f"{value:.4g}" if abs(value) >= 1e5 else f"{value:.4f}"


def plain(text: str, style: str = "") -> Text:
    """Return a text for rich that is shown literally, in one line."""
    from rich.text import Text

    return Text(printable(text), style)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


_is_hushed = False


def hush() -> None:
    """Print only errors from now on: another process prints everything else."""
    global _is_hushed
    _is_hushed = True


def warn(text: str) -> None:
    """Print a warning to the user."""
    if not _is_hushed:
        say(f"linsey: warning: {text}", sys.stderr)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line; if nobody reads the output any more, the run goes on.

    Args:
        text: one line or several.
        stream: the stream to print to. Defaults to the standard output.
    """
    if stream is not None or not _is_hushed:
        _write(_lines(text) + "\n", stream or sys.stdout)


def flush() -> None:
    """Flush what other code has printed, if anybody reads it."""
    for stream in (sys.stdout, sys.stderr):
        _write("", stream)


def _write(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:  # discard all output from now on, also what is still in the buffer
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
