"""How trees flatten just now: which fields are children, and whether leaves are named.

Each context belongs to the thread, and the asynchronous task, that entered it.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from linsey.errors.base import OptionError

T = TypeVar("T")


class FlattenMode(enum.Enum):
    """Which fields are children of a tree.

    `normal`: those declared nodes. `all_fields`: every attribute. `no_fields`: none.
    """

    no_fields = 1
    normal = 2
    all_fields = 3


class Entered:
    """How many of these contexts are entered, in all threads together.

    While the number is zero, flattening need not ask for any of them.
    """

    def __init__(self) -> None:
        self.number = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """Count contexts that are entered or, with a negative number, left."""
        with self._lock:
            self.number += number


MODE: ContextVar[FlattenMode | None] = ContextVar("flatten_mode", default=None)
NAMED_LEAVES: ContextVar[bool] = ContextVar("add_field_info", default=False)
ENTERED = Entered()


@contextmanager
def _entered(variable: ContextVar[T], value: T) -> Iterator[None]:
    token = variable.set(value)
    ENTERED.add(1)
    try:
        yield
    finally:
        ENTERED.add(-1)
        variable.reset(token)


def as_mode(mode: FlattenMode | str) -> FlattenMode:
    """Return the mode of a name; a mode is returned as it is."""
    if isinstance(mode, FlattenMode):
        return mode
    try:
        return FlattenMode[mode]
    except KeyError:
        names = ", ".join(repr(known.name) for known in FlattenMode)
        raise OptionError(
            f"Unknown flatten mode {mode!r}.",
            "A mode says which fields are children of a tree.",
            f"Write one of {names}.",
        ) from None


@contextmanager
def flatten_mode(mode: FlattenMode | str | None) -> Iterator[None]:
    """Set which fields are children; `None` keeps what is set.

    Example:
        >>> import jax, linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.node(2.0)
        ...     power: int = tx.static(3)
        >>> with tx.flatten_mode("all_fields"):
        ...     jax.tree.leaves(Line())
        [3, 2.0]
    """
    if mode is None:
        yield
        return
    with _entered(MODE, as_mode(mode)):
        yield


@contextmanager
def add_field_info() -> Iterator[None]:
    """Make the leaves of trees `FieldInfo`s while it is entered.

    Example:
        >>> import jax, linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.Parameter.node(2.0)
        >>> with tx.add_field_info():
        ...     [leaf] = jax.tree.leaves(Line())
        >>> leaf.name, leaf.value, leaf.kind.__name__
        ('slope', 2.0, 'Parameter')
    """
    with _entered(NAMED_LEAVES, True):
        yield


@contextmanager
def bare_leaves() -> Iterator[None]:
    """Make leaves bare again inside of `add_field_info`."""
    with _entered(NAMED_LEAVES, False):
        yield


def current_mode() -> FlattenMode:
    """Return the mode that is set. Defaults to `normal`."""
    return MODE.get() or FlattenMode.normal
