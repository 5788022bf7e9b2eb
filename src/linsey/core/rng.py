"""Random streams: one root key per stream and a static path folded into it.

A stream's root key is never split on the way down the module tree. Each scope appends
its name to a *suffix* of static items, and each draw appends the scope's counter for
that stream. Only then does one `fold_in` with a hash of the suffix make the key. A key
therefore depends only on the path and on the number of draws in that scope.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import TypeGuard

import jax
import numpy as np

from linsey.config import config
from linsey.typing import PRNGFoldable

Suffix = tuple[PRNGFoldable, ...]


def hash_suffix(suffix: Suffix, separate: bool) -> int:
    """Return the first four bytes (big-endian) of the SHA-1 hash of a suffix.

    Args:
        suffix: strings (hashed as UTF-8) and non-negative integers (minimal big-endian
            bytes).
        separate: put a zero byte before each item, so that ("a", "b") and ("ab",)
            differ.
    """
    digest = hashlib.sha1()
    for item in suffix:
        if separate:
            digest.update(b"\00")
        if isinstance(item, str):
            digest.update(item.encode("utf-8"))
        elif isinstance(item, int):
            digest.update(item.to_bytes((item.bit_length() + 7) // 8, "big"))
        else:
            raise ValueError(f"Expected int or string in an RNG suffix, got {item!r}")
    return int.from_bytes(digest.digest()[:4], "big")


def fold_in_static(rng: jax.Array, suffix: Suffix) -> jax.Array:
    """Fold static items into a key; an empty suffix leaves it unchanged."""
    if not suffix:
        return rng
    data = np.uint32(hash_suffix(suffix, config.flax_fix_rng_separator))
    if jax.dtypes.issubdtype(rng.dtype, jax.dtypes.prng_key):
        # The same as `fold_in` with a single typed key, traced in a third of the time.
        # On a mesh the key may vary by device, and then the data has to vary too.
        if jax.sharding.get_abstract_mesh().empty:
            return _fold_in_primitive()(rng, data)
    return jax.random.fold_in(rng, data)


@functools.cache
def _fold_in_primitive() -> Callable[..., jax.Array]:
    # `jax.extend` loads a lot that is not needed otherwise, so the import is deferred.
    from jax.extend.core.primitives import random_fold_in_p

    return random_fold_in_p.bind


@jax.tree_util.register_dataclass
@dataclasses.dataclass(slots=True, eq=False)
class LazyRng:
    """A root key and the suffix that has yet to be folded into it."""

    rng: jax.Array
    suffix: Suffix = dataclasses.field(default=(), metadata={"static": True})

    def as_jax_rng(self) -> jax.Array:
        """Return the JAX key: the suffix folded into the root key."""
        return fold_in_static(self.rng, self.suffix)

    @staticmethod
    def create(rng: jax.Array | LazyRng, *suffix: PRNGFoldable) -> LazyRng:
        """Append to the suffix of `rng`, a `LazyRng` or a JAX key."""
        if isinstance(rng, LazyRng):
            return LazyRng(rng.rng, rng.suffix + suffix)
        return LazyRng(rng, suffix)

    def clear_suffix(self) -> LazyRng:
        """Fold the suffix into the root key; return the same key with no suffix."""
        return LazyRng(self.as_jax_rng(), ())


def is_rng_key(value: object) -> TypeGuard[jax.Array]:
    """Return whether a value is a JAX key: typed, or a raw `uint32` array of its width.

    Abstract keys (`ShapeDtypeStruct`, tracers) count as well.
    """
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return False
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.shape == ()
    impl = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    return np.dtype(value.dtype) == np.uint32 and value.shape == _raw_key_shape(impl)


@functools.cache
def _raw_key_shape(impl: str) -> tuple[int, ...]:
    return jax.eval_shape(lambda: jax.random.PRNGKey(0, impl=impl)).shape
