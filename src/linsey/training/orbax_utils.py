"""Arguments for Orbax, made from the tree to save or to restore into."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from linsey import serialization
from linsey.errors import InputError, LinseyError
from linsey.extras import MissingPackageError
from linsey.specs import ArraySpec, Spec, spec_of

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

Transforms = TypeVar("Transforms")


def is_multi_device_array(value: object) -> bool:
    """Tell whether an array is sharded, and neither on one device nor replicated.

    Example:
        >>> is_multi_device_array(jax.numpy.ones(2))
        False
    """
    return isinstance(value, jax.Array) and not value.is_fully_replicated


def save_args_from_target(target: object) -> object:
    """Return the arguments for saving a tree with Orbax.

    Args:
        target: the tree.

    Returns:
        A tree of `orbax.checkpoint.SaveArgs`.
    """
    import orbax.checkpoint as ocp

    return jax.tree.map(lambda _: ocp.SaveArgs(), target)


def restore_args_from_target(target: object, mesh: Mesh | None = None) -> object:
    """Return the arguments for restoring a tree: types, dtypes and shardings.

    Args:
        target: a tree like the one to restore.
        mesh: the mesh to restore arrays to. If `None`, they get the shardings of the
            arrays in the target.

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


def restore_args(target: object) -> object:
    """Return the arguments with which Flax restores a checkpoint.

    They are those of `restore_args_from_target` if an array of the target has a
    sharding. Otherwise every array becomes a NumPy array with the stored dtype.

    Args:
        target: a tree like the one to restore.

    Returns:
        A tree of `orbax.checkpoint.RestoreArgs`.
    """
    import orbax.checkpoint as ocp

    leaves = jax.tree.leaves(target)
    if any(getattr(leaf, "sharding", None) is not None for leaf in leaves):
        return restore_args_from_target(target)
    kinds = jax.tree.map(lambda x: str if isinstance(x, str) else np.ndarray, target)
    return jax.tree.map(lambda kind: ocp.RestoreArgs(restore_type=kind), kinds)


def stored_specs(reader: ocp.Checkpointer, path: str) -> Any:
    """Describe the contents of a checkpoint, if possible without reading its arrays.

    Args:
        reader: a checkpointer of Orbax.
        path: the absolute path of the checkpoint.

    Returns:
        A state dict with an `ArraySpec`, or another `Spec`, for each value.

    Raises:
        InputError: Orbax cannot read it.
    """
    with reading(path):
        tree = _metadata(reader, path)
        if tree is None:
            tree = reader.restore(path)
        return serialization.to_state_dict(jax.tree.map(_described, tree))


def stored_arrays(reader: ocp.Checkpointer, path: str) -> Any:
    """Restore a checkpoint as it is stored, whatever devices its arrays were on.

    Args:
        reader: a checkpointer of Orbax.
        path: the absolute path of the checkpoint.

    Returns:
        A state dict of NumPy arrays with the stored dtypes.

    Raises:
        InputError: Orbax cannot read it.
    """
    import orbax.checkpoint as ocp

    def of(leaf: object) -> ocp.RestoreArgs:
        is_array = type(leaf).__name__ == "ArrayMetadata"
        return ocp.RestoreArgs(restore_type=np.ndarray if is_array else None)

    with reading(path):
        tree = _metadata(reader, path)
        args = {} if tree is None else {"restore_args": jax.tree.map(of, tree)}
        return serialization.to_state_dict(reader.restore(path, **args))


def _metadata(reader: ocp.Checkpointer, path: str) -> Any:
    """Return Orbax's metadata for each leaf, or `None` if the checkpoint has none."""
    found: Any = reader.metadata(path)
    found = getattr(found, "item_metadata", found)
    return getattr(found, "tree", found)


def _described(leaf: Any) -> Spec:
    if getattr(leaf, "dtype", None) is not None:
        return ArraySpec.of(leaf)
    return "text" if type(leaf).__name__ == "StringMetadata" else spec_of(leaf)


def is_storable(dtype: object) -> bool:
    """Tell whether Orbax can store arrays of a dtype.

    Example:
        >>> is_storable(np.dtype("float32")), is_storable(np.dtype("datetime64[s]"))
        (True, False)
    """
    import tensorstore

    if not isinstance(dtype, np.dtype):
        return True  # a dtype of random keys, whose key data is stored
    try:
        return bool(tensorstore.dtype(dtype.name))
    except (TypeError, ValueError):
        return False


def without_keys(target: object) -> Any:
    """Replace the random keys in a target with their key data, which Orbax stores."""

    def numbers(leaf: Any) -> object:
        is_key = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and (
            jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        )
        return jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf

    return jax.tree.map(numbers, target)


@contextlib.contextmanager
def reading(path: str, doing: str = "read") -> Iterator[None]:
    """Report any exception of Orbax in a `with` block as an error about a checkpoint.

    Args:
        path: the path of the checkpoint.
        doing: the verb of the message.

    Raises:
        InputError: in place of any other exception.
    """
    _refuse_irregular(path)
    try:
        yield
    except (LinseyError, MissingPackageError):
        raise
    except Exception as error:
        cause = str(error).split("\n")[0][:300] or type(error).__name__
        raise InputError(f"Orbax cannot {doing} it: {cause}", file=path) from error


def _refuse_irregular(path: str) -> None:
    """Refuse a folder that has links or pipes, which Orbax would follow or wait for."""
    for parent, folders, names in os.walk(path):
        for name in (*folders, *names):
            mode = os.lstat(inside := os.path.join(parent, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InputError("not a regular file or folder", file=inside)


def maybe_construct_transformations(
    target: object, transforms: Transforms | None
) -> Transforms | dict[str, object]:
    """Return the given transformations for a restore, or an empty dictionary.

    An empty dictionary restores the entries of the target and omits all others.

    Example:
        >>> maybe_construct_transformations({"x": 1}, None)
        {}
    """
    del target
    return {} if transforms is None else transforms
