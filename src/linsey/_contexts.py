"""Context variables: values of a thread or task, set for the duration of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def assigned(variable: ContextVar[T], value: T) -> Iterator[T]:
    """Give a context variable a value inside a `with` block.

    Args:
        variable: the variable, which gets its old value back afterwards.
        value: its value inside the block, which `with ... as` receives too.

    Example:
        >>> depth = ContextVar("depth", default=0)
        >>> with assigned(depth, 3):
        ...     depth.get()
        3
        >>> depth.get()
        0
    """
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


BY_DEFINITION: ContextVar[bool] = ContextVar("linsey_by_definition", default=False)
"""Whether programs are compiled without the CPU kernels."""
