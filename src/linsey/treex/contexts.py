"""Contexts through which `init` and `tabulate` pass values to the running modules.

Each context belongs to the thread and the asynchronous task that entered it.
"""

from __future__ import annotations

import dataclasses
from contextvars import ContextVar

import jax

from linsey._contexts import assigned
from linsey.errors.treex import NoKeyError
from linsey.treex.types import Inputs
from linsey.typing import AxisName


@dataclasses.dataclass
class KeyStream:
    """A source of random keys, which are split off one key.

    Attributes:
        key: the remaining key.
        initializing: whether modules without parameters must create them.
    """

    key: jax.Array
    initializing: bool

    def next(self) -> jax.Array:
        """Return a new key."""
        key, self.key = jax.random.split(self.key)
        return key


@dataclasses.dataclass
class Calls:
    """The first call of each module, by the identity of the module."""

    first: dict[int, tuple[Inputs, object]] = dataclasses.field(default_factory=dict)


KEYS: ContextVar[KeyStream | None] = ContextVar("key_stream", default=None)
CALLS: ContextVar[Calls | None] = ContextVar("recorded_calls", default=None)

entered = assigned


def next_key(*, axis_name: AxisName = None) -> jax.Array:
    """Return the next random key of `init` or `rng_key`.

    Args:
        axis_name: a mapped axis along which keys differ.

    Raises:
        NoKeyError: neither of them is running.
    """
    stream = KEYS.get()
    if stream is None:
        raise NoKeyError()
    key = stream.next()
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    return key
