"""Conversion between the state of a treex object and variables by collection."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import jax
import numpy as np

if TYPE_CHECKING:
    from linsey.treex import Module, Tree

_KINDS = {"params": "Parameter", "batch_stats": "BatchStat"}
Variables = Mapping[str, Any]


def is_object(value: object) -> TypeGuard[Module]:
    """Tell whether a value is a module of `linsey.treex`."""
    treex = sys.modules.get("linsey.treex")
    return treex is not None and isinstance(value, treex.Module)


def variables_of(model: Module) -> dict[str, Any]:
    """Return the parameters and statistics of an object, nested by attribute.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> model = tx.Sequential(tx.Linear(2), tx.BatchNorm())
        >>> model = model.init(0, jnp.ones((4, 3)))
        >>> variables = variables_of(model)
        >>> variables["batch_stats"]["layers"]["1"]["mean"].shape
        (2,)
    """
    variables: dict[str, Any] = {}
    for collection, kind in _KINDS.items():
        leaves = jax.tree_util.tree_leaves_with_path(_only(model, kind))
        for path, leaf in leaves:
            *parents, name = (collection, *map(entry_name, path))
            inner = variables
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[name] = leaf
    return variables


def with_variables(model: Module, variables: Variables) -> Any:
    """Return a copy of an object with the given parameters and statistics."""

    def replaced(path: tuple[object, ...], leaf: object, collection: str) -> object:
        inner: Any = variables.get(collection, {})
        for name in map(entry_name, path):
            if not isinstance(inner, Mapping) or name not in inner:
                return leaf
            inner = inner[name]
        return inner

    for collection, kind in _KINDS.items():
        part = jax.tree_util.tree_map_with_path(
            lambda path, leaf, collection=collection: replaced(path, leaf, collection),
            _only(model, kind),
        )
        model = model.merge(part)
    return model


def _only(model: Module, kind: str) -> Tree:
    treex = sys.modules["linsey.treex"]
    return model.filter(getattr(treex, kind))


def without_momentum(model: Module) -> Any:
    """Return a copy of an object in which a step replaces the statistics entirely."""
    layers = {one[1:-1] for one in _paths(variables_of(model))}

    def replaced(path: tuple[object, ...], leaf: object) -> object:
        *parents, name = map(entry_name, path)
        is_momentum = name == "momentum" and tuple(parents) in layers
        return np.zeros_like(leaf) if is_momentum else leaf

    return jax.tree_util.tree_map_with_path(replaced, model)


def _paths(variables: Variables) -> list[tuple[str, ...]]:
    stats = jax.tree_util.tree_leaves_with_path({"": variables.get("batch_stats", {})})
    return [tuple(map(entry_name, path)) for path, _ in stats]


def entry_name(entry: object) -> str:
    """Return the name of an entry of a pytree path."""
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
