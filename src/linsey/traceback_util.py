"""Tracebacks that show the user's own code.

Between the failing line of a model and the call of `apply` there are several frames of
this library for each module. They are removed from tracebacks, unless the flag
`filter_frames` is off (`LINSEY_FILTER_FRAMES=0`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from linsey.config import config

__all__ = ["api_boundary", "hide_flax_in_tracebacks", "show_flax_in_tracebacks"]

F = TypeVar("F", bound=Callable[..., Any])

_ROOT = str(Path(__file__).parent)


def api_boundary(fun: F) -> F:
    """Remove the frames of this library from exceptions that pass through.

    Example:
        >>> @api_boundary
        ... def double(x):
        ...     return 2 * x
        >>> double(2)
        4
    """

    @functools.wraps(fun)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        try:
            return fun(*args, **kwargs)
        except Exception as error:
            if config.filter_frames:
                error.__traceback__ = _without_own_frames(error.__traceback__)
            raise

    return bounded  # type: ignore[return-value]


def hide_flax_in_tracebacks() -> None:
    """Remove the frames of this library from tracebacks, which is the default."""
    config.update("filter_frames", True)


def show_flax_in_tracebacks() -> None:
    """Show the frames of this library in tracebacks."""
    config.update("filter_frames", False)


def _without_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    kept = []
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(_ROOT):
            kept.append(traceback)
        traceback = traceback.tb_next
    filtered = None
    for tb in reversed(kept):
        filtered = TracebackType(filtered, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)
    return filtered
