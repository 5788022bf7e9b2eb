"""Arguments for Orbax, made from the tree that is saved or restored into."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

Transforms = TypeVar("Transforms")


def is_multi_device_array(value: object) -> bool:
    """Tell whether an array is sharded, not on one device nor replicated.

    Example:
        >>> is_multi_device_array(jax.numpy.ones(2))
        False
    """
    return isinstance(value, jax.Array) and not value.is_fully_replicated


def save_args_from_target(target: object) -> object:
    """Make the arguments to save a tree with Orbax.

    Args:
        target: the tree.

    Returns:
        A tree of `orbax.checkpoint.SaveArgs`.
    """
    import orbax.checkpoint as ocp

    return jax.tree.map(lambda _: ocp.SaveArgs(), target)


def restore_args_from_target(target: object, mesh: Mesh | None = None) -> object:
    """Make the arguments to restore a tree with Orbax: types, dtypes and shardings.

    Args:
        target: a tree like the one to restore.
        mesh: the mesh to restore arrays to. If `None`, they get the sharding of those
            in the target.

    Returns:
        A tree of `orbax.checkpoint.RestoreArgs`.
    """
    import orbax.checkpoint as ocp

    def of(value: object) -> ocp.RestoreArgs:
        dtype = getattr(value, "dtype", None)
        sharding = getattr(value, "sharding", None)
        if sharding is None:
            kind = type(value) if dtype is None else np.ndarray
            return ocp.RestoreArgs(restore_type=kind, dtype=dtype)
        if mesh is not None and isinstance(sharding, NamedSharding):
            sharding = NamedSharding(mesh, sharding.spec)
        return ocp.ArrayRestoreArgs(
            restore_type=jax.Array, sharding=sharding, dtype=dtype
        )

    return jax.tree.map(of, target)


def maybe_construct_transformations(
    target: object, transforms: Transforms | None
) -> Transforms | dict[str, object]:
    """Return the transformations for a restore: those given, or an empty dictionary.

    An empty dictionary restores what the target has and leaves the rest out.

    Example:
        >>> maybe_construct_transformations({"x": 1}, None)
        {}
    """
    del target
    return {} if transforms is None else transforms
