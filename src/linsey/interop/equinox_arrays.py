"""The arrays of an Equinox module, by their names in its tree.

A *model* of Equinox is a tree whose leaves are arrays and other values: functions,
numbers, flags. Its *state*, `eqx.nn.State`, is another tree: a `StateIndex` in the
model is the key under which a layer finds its entry. A `Blueprint` knows both trees
without their arrays, so it can take arrays out of them (`split`) and put others in
(`merge`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from linsey.errors.base import MismatchError
from linsey.extras import require
from linsey.traverse_util import unflatten_dict

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Blueprint:
    """A function that makes an Equinox model, and the names of the model's arrays.

    Attributes:
        make: a function of a random key that returns a model, or a model and its state
            as `eqx.nn.make_with_state` returns them.
        collection: the collection of the state.
    """

    make: Callable[[jax.Array], Any]
    collection: str

    def __reduce__(self) -> tuple[Any, ...]:
        # Leave out the skeleton, which may hold functions that cannot be pickled.
        return type(self), (self.make, self.collection)

    def build(self, key: jax.Array) -> tuple[Any, Any]:
        """Make a model and its state (`None` if it has none)."""
        made = self.make(key)
        if isinstance(made, tuple):
            return made
        if not any(map(_is_index, jax.tree.leaves(made, is_leaf=_is_index))):
            return made, None
        return equinox().nn.make_with_state(lambda: made)()

    @functools.cached_property
    def skeleton(self) -> tuple[Any, Any]:
        """A model and its state, with shapes and dtypes in place of arrays."""
        others: list[Any] = []

        def build(key: jax.Array) -> Any:
            arrays, rest = equinox().partition(self.build(key), _is_array)
            others.append(rest)
            return arrays

        # `eqx.filter_eval_shape` would also drop the values of NumPy arrays.
        arrays = jax.eval_shape(build, jax.random.key(0))
        return equinox().combine(arrays, *others)

    @functools.cached_property
    def indices(self) -> dict[Path, int]:
        """The name of each array, and its index among the leaves of the skeleton."""
        return self._indices(self.skeleton)

    def split(self, model: Any, state: Any = None) -> dict[str, Any]:
        """Return the arrays of a model and its state by collection and name."""
        leaves = jax.tree.leaves((model, state))
        indices = self._indices((model, state))
        return unflatten_dict({path: leaves[at] for path, at in indices.items()})

    def merge(self, variables: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return a model and its state, given arrays by collection and name.

        Raises:
            MismatchError: an array is missing, or has another shape.
        """
        leaves, structure = jax.tree.flatten(self.skeleton)
        for path, at in self.indices.items():
            leaves[at] = _find(variables, path, leaves[at].shape)
        return structure.unflatten(leaves)

    def _indices(self, made: tuple[Any, Any]) -> dict[Path, int]:
        """Name arrays by their path, or by that of their `StateIndex`, in the model."""
        leaves, structure = jax.tree.flatten(made)
        # With numbers as leaves, the tree shows where each leaf is.
        model, state = structure.unflatten(range(len(leaves)))
        names: dict[int, Path] = {}
        for keys, node in jax.tree.leaves_with_path(model, is_leaf=_is_index):
            path = _texts(keys)
            if not _is_index(node):
                names[node] = (_collection_of(leaves[node]), *path)
            elif state is not None:
                for inner, at in jax.tree.leaves_with_path(state.get(node)):
                    names[at] = (self.collection, *path, *_texts(inner))
        return {path: at for at, path in names.items() if _is_array(leaves[at])}


def equinox() -> Any:
    """Import Equinox.

    Raises:
        MissingPackageError: Equinox is not installed.
    """
    return require("equinox", "equinox", "A bridge to Equinox")


def _is_index(node: object) -> bool:
    return isinstance(node, equinox().nn.StateIndex)


def _is_array(leaf: object) -> bool:
    """Tell whether a leaf is a variable; NumPy arrays are constants in Equinox."""
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def _collection_of(leaf: Any) -> str:
    """Return the collection of an array: arrays with gradients are parameters."""
    has_gradient = _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return "params" if has_gradient else "constants"


def _texts(keys: tuple[Any, ...]) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)


def _find(variables: Mapping[str, Any], path: Path, shape: tuple[int, ...]) -> Any:
    value: Any = variables
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None or jnp.shape(value) != shape:
        found = "is missing" if value is None else f"has shape {jnp.shape(value)}"
        raise MismatchError(
            f"`{'/'.join(path)}` {found} among the variables.",
            f"The module of Equinox has an array of shape {shape} there.",
            "Pass all variables, from `init` or `split(model, state)` of this module.",
        )
    return jnp.asarray(value)  # Equinox does not train NumPy arrays
