"""What `init` and `tabulate` tell the modules that run inside of them.

Each context belongs to the thread, and the asynchronous task, that entered it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax

from linsey.errors.treex import NoKeyError


@dataclasses.dataclass
class KeyStream:
    """Where keys come from: each is split off the rest.

    Attributes:
        key: the rest.
        initializing: whether modules that have no parameters are to make them.
    """

    key: Any
    initializing: bool

    def next(self) -> Any:
        """A key that was not given before."""
        key, self.key = jax.random.split(self.key)
        return key


@dataclasses.dataclass
class Calls:
    """The first call of each module, by the identity of the module."""

    first: dict[int, tuple[Any, Any]] = dataclasses.field(default_factory=dict)


KEYS: ContextVar[KeyStream | None] = ContextVar("key_stream", default=None)
CALLS: ContextVar[Calls | None] = ContextVar("recorded_calls", default=None)


@contextmanager
def entered(variable: ContextVar[Any], value: Any) -> Iterator[Any]:
    """Sets a context variable for a while."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


def next_key(*, axis_name: Any = None) -> jax.Array:
    """The next random key of `init` or `rng_key`.

    Args:
        axis_name: a mapped axis along which keys shall differ.

    Raises:
        NoKeyError: there is neither around.
    """
    stream = KEYS.get()
    if stream is None:
        raise NoKeyError()
    key = stream.next()
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    return key
