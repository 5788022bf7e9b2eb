"""The state of a treex object as variables by collection, and the reverse."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import jax

if TYPE_CHECKING:
    from linsey.treex import Module, Tree

_KINDS = {"params": "Parameter", "batch_stats": "BatchStat"}
Variables = Mapping[str, Any]


def is_object(value: object) -> TypeGuard[Module]:
    """Return whether a value is a module of `linsey.treex`."""
    treex = sys.modules.get("linsey.treex")
    return treex is not None and isinstance(value, treex.Module)


def variables_of(model: Module) -> dict[str, Any]:
    """Return parameters and statistics of an object, nested by attribute.

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
            *parents, name = (collection, *map(_name, path))
            inner = variables
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[name] = leaf
    return variables


def with_variables(model: Module, variables: Variables) -> Any:
    """Return a copy of an object with the parameters and statistics that are given."""

    def replaced(path: tuple[Any, ...], leaf: object, collection: str) -> object:
        inner: Any = variables.get(collection, {})
        for name in map(_name, path):
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


def _name(entry: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
