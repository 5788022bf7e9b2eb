"""A sequence of random keys that is part of its module."""

from __future__ import annotations

import jax

from linsey.errors.treex import NotInitializedError
from linsey.treex.module import Module
from linsey.treex.types import Initializer, Rng
from linsey.treex.utils import as_key
from linsey.typing import AxisName


class KeySeq(Module):
    """Returns a new random key at each call: `key, self.key = split(self.key)`.

    Args:
        key: a seed or a key. If `None`, `init` sets it.
        axis_name: a mapped axis along which keys differ.

    Example:
        >>> import linsey.treex as tx
        >>> keys = tx.KeySeq(42)
        >>> keys().tolist() != keys().tolist()
        True
    """

    key: jax.Array | Initializer = Rng.node()

    def __init__(
        self, key: int | jax.Array | None = None, *, axis_name: AxisName = None
    ) -> None:
        self.key = Initializer(_identity) if key is None else as_key(key)
        self.axis_name = axis_name

    def __call__(self, *, axis_name: AxisName = None) -> jax.Array:
        """Return the next key.

        Args:
            axis_name: a mapped axis along which keys differ.

        Raises:
            NotInitializedError: it has no key yet.
        """
        if isinstance(self.key, Initializer):
            raise NotInitializedError(self)
        key, self.key = jax.random.split(self.key)
        axis_name = axis_name if axis_name is not None else self.axis_name
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        return key


def _identity(key: jax.Array) -> jax.Array:
    return key
