"""Private names of `serialization`, `core.scope`, `jax_utils` and metric writers."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar

import jax
import numpy as np

from linsey import msgpack_format, serialization, struct
from linsey.core import meta, rng
from linsey.core.filters import Filter, in_filter
from linsey.core.frozen_dict import FrozenDict, unfreeze
from linsey.core.state import Scope

# For annotations such as `def replace(self: TNode) -> TNode`.
TNode = TypeVar("TNode", bound=struct.PyTreeNode)
TAxisMetadata = TypeVar("TAxisMetadata", bound=meta.AxisMetadata[Any])

fold_in_static = rng.fold_in_static
is_valid_rng = rng.is_rng_key
ext_pack = serialization._pack_unknown
ndarray_to_bytes = serialization._array_to_bytes
chunk = serialization._chunk
registry = serialization._REGISTRY


def ext_unpack(code: int, data: bytes) -> object:
    """Decode a MessagePack extension type."""
    return msgpack_format.Reader(len(data)).extension(code, data, ())


def ndarray_from_bytes(data: bytes) -> object:
    """Decode an array from its serialized shape, dtype and data."""
    return ext_unpack(msgpack_format.ARRAY, data)


def unchunk(data: dict[str, Any]) -> np.ndarray:
    """Join the chunks of an array."""
    return msgpack_format.Reader().joined(data)


def unchunk_leaves(tree: Any) -> Any:
    """Join all chunked arrays in nested dictionaries, in place."""
    if not isinstance(tree, dict):
        return tree
    if msgpack_format.CHUNKED in tree:
        return unchunk(tree)
    tree.update({key: unchunk_leaves(value) for key, value in tree.items()})
    return tree


def dtype_from_name(name: str | bytes) -> np.dtype:
    """Return the dtype with a given name, including the dtypes of `ml_dtypes`."""
    return np.dtype(name.decode() if isinstance(name, bytes) else name)


def chunk_leaves(d: Any) -> Any:
    """Split large arrays in nested dictionaries into chunks, in place."""
    return serialization._chunk_leaves(d, in_place=True)


def np_convert_in_place(d: Any) -> Any:
    """Replace JAX arrays in nested dictionaries with NumPy arrays, in place."""
    if isinstance(d, dict):
        d.update({key: np_convert_in_place(value) for key, value in d.items()})
        return d
    return np.asarray(d) if isinstance(d, jax.Array) else d


def dict_state_dict(xs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the state dict of a dictionary."""
    return serialization.to_state_dict(dict(xs))


def restore_dict(xs: Mapping[Any, Any], states: Mapping[str, Any]) -> dict[Any, Any]:
    """Restore a dictionary from its state dict."""
    return serialization.from_state_dict(dict(xs), states)


def list_state_dict(xs: list[Any]) -> dict[str, Any]:
    """Return the state dict of a list."""
    return serialization.to_state_dict(list(xs))


def restore_list(xs: list[Any], state_dict: Mapping[str, Any]) -> list[Any]:
    """Restore a list from its state dict."""
    return serialization.from_state_dict(list(xs), state_dict)


def namedtuple_state_dict(nt: Any) -> dict[str, Any]:
    """Return the state dict of a named tuple."""
    return serialization.to_state_dict(nt)


def restore_namedtuple(xs: Any, state_dict: Mapping[str, Any]) -> Any:
    """Restore a named tuple from its state dict."""
    return serialization.from_state_dict(xs, state_dict)


def unfreeze_variables(variables: Mapping[str, Any], mutable: Filter) -> Any:
    """Unfreeze the mutable collections; leave the others as they are."""
    return {
        name: unfreeze(tree) if in_filter(mutable, name) else tree
        for name, tree in variables.items()
    }


def scope_collection(self: Scope, col: str) -> Mapping[str, Any]:
    """Return the part of a collection that belongs to a scope."""
    node = self._node(col)
    return FrozenDict({}) if node is None else node


def get_params_dict(inputs: Any) -> Any:
    """Return nested dictionaries as plain ones, ready to be traversed."""
    if not isinstance(inputs, Mapping):
        raise ValueError(
            "Can only traverse a flax Model instance or a nested dict, not "
            f"{type(inputs)}"
        )
    return unfreeze(dict(inputs))


def sorted_items(x: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """List the entries of a dictionary, sorted by key."""
    return sorted(x.items(), key=lambda item: item[0])


def pmap_device_order() -> list[jax.Device]:
    """List the devices in the order of `jax.pmap`."""
    return jax.local_devices()


def flatten_dict(
    input_dict: Mapping[str, Any], parent_key: str = "", sep: str = "."
) -> dict[str, Any]:
    """Flatten a dictionary of hyper-parameters; convert other types to strings.

    Example:
        >>> flatten_dict({"lr": 0.1, "model": {"sizes": [1, 2]}})
        {'lr': 0.1, 'model.sizes': '[1, 2]'}
    """
    flat: MutableMapping[str, Any] = {}
    for key, value in input_dict.items():
        name = parent_key + sep + key if parent_key else key
        if isinstance(value, dict):
            flat.update(flatten_dict(value, name, sep))
        elif isinstance(value, int | float | str | bool):
            flat[name] = value
        else:
            flat[name] = str(value)
    return dict(flat)
