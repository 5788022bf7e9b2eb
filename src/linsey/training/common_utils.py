"""Small tools for training on several devices with `jax.pmap`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Tree = TypeVar("Tree")


def shard(xs: Tree) -> Tree:
    """Split the leading axis of arrays over the devices of this process.

    Args:
        xs: a tree of arrays of shape (batch, ...).

    Returns:
        A tree of arrays of shape (devices, batch / devices, ...).

    Example:
        >>> shard(jnp.ones((8, 3))).shape[0] == jax.local_device_count()
        True
    """
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape((devices, -1, *x.shape[1:])), xs)


def shard_prng_key(prng_key: jax.Array) -> jax.Array:
    """Make a random key for each device of this process.

    Example:
        >>> shard_prng_key(jax.random.key(0)).shape == (jax.local_device_count(),)
        True
    """
    return jax.random.split(prng_key, jax.local_device_count())


def stack_forest(forest: Sequence[Tree]) -> Tree:
    """Stack the leaves of trees.

    Args:
        forest: trees of the same structure.

    Returns:
        One tree; its leaves have a leading axis, with an entry for each tree.

    Example:
        >>> stack_forest([{"loss": 1.0}, {"loss": 2.0}])["loss"].tolist()
        [1.0, 2.0]
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *forest)


def get_metrics(device_metrics: Sequence[Tree]) -> Tree:
    """Copy the metrics of several steps from the devices to the host.

    Args:
        device_metrics: for each step, a tree of arrays with a leading axis of equal
            entries, one for each device.

    Returns:
        A tree of numpy arrays with a leading axis, with an entry for each step.

    Example:
        >>> steps = [{"loss": jnp.array([3.0])}, {"loss": jnp.array([2.0])}]
        >>> get_metrics(steps)["loss"].tolist()
        [3.0, 2.0]
    """
    first = jax.tree.map(lambda x: x[0], device_metrics)
    return stack_forest(jax.device_get(first))


def onehot(
    labels: ArrayLike, num_classes: int, on_value: float = 1.0, off_value: float = 0.0
) -> jax.Array:
    """Encode labels as one-hot rows.

    Args:
        labels: integers of any shape; a label out of range gives a row of `off_value`.
        num_classes: number of classes.
        on_value: the entry at the label. Defaults to 1.
        off_value: the other entries. Defaults to 0.

    Returns:
        A float32 array of shape (*labels.shape, num_classes).

    Example:
        >>> onehot(jnp.array([0, 2]), 3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    chosen = jnp.expand_dims(labels, -1) == jnp.arange(num_classes)
    return jnp.where(chosen, jnp.float32(on_value), jnp.float32(off_value))
