"""Transforms of what a module sees: its variables, its keys, its profiler name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from linsey.core import lift as core_lift
from linsey.core import meta
from linsey.core.filters import Filter
from linsey.core.frozen_dict import FrozenDict
from linsey.core.lift.control import split_in_out
from linsey.core.lift.variables import Collections
from linsey.linen.transforms.lifting import Methods, lift

__all__ = ["add_metadata_axis", "fold_rngs", "map_variables", "named_call"]

Target = TypeVar("Target")


def map_variables(
    target: Target,
    mapped_collections: Filter = True,
    trans_in_fn: Callable[[Any], Any] = lambda x: x,
    trans_out_fn: Callable[[Any], Any] = lambda x: x,
    init: bool = False,
    mutable: bool = False,
    rngs: Filter = True,
    variables: Filter = True,
    methods: Methods = None,
) -> Target:
    """Let a module see transformed variables, e.g. tied or normalized weights.

    Args:
        target: a module class, or a function of a module.
        mapped_collections: the collections that are transformed.
        trans_in_fn: maps `{collection: tree}` as stored to what the module sees.
        trans_out_fn: the inverse, for what the module creates or writes.
        init: whether the module may create these variables.
        mutable: whether it may write them.
        rngs: streams it may use.
        variables: the other collections it may use.
        methods: the methods of a class to lift. If `None`, `__call__`.

    Returns:
        A class or function like `target`.
    """
    return lift(
        core_lift.map_variables,
        "Map_variables",
        target,
        methods,
        mapped_collections=mapped_collections,
        map_in_fn=trans_in_fn,
        map_out_fn=trans_out_fn,
        init=init,
        mutable=mutable,
        rngs=rngs,
        variables=variables,
    )


def fold_rngs(target: Target, variables: Filter = True, rngs: Filter = True) -> Target:
    """Run a module on keys drawn once, at the call, from its streams."""
    return lift(core_lift.fold_rngs, "Fold_rngs", **locals())


def add_metadata_axis(
    target: Target,
    variable_axes: Mapping[Any, object] = FrozenDict(),
    metadata_params: Mapping[Any, Any] = {},
) -> Target:
    """Add an axis to the metadata of variables, as `vmap` and `scan` do.

    The arrays are left as they are: for transforms that add the axis by other means.

    Args:
        target: a module class, or a function of a module.
        variable_axes: for each filter the index of the new axis.
        metadata_params: passed to `add_axis` of the metadata boxes.

    Returns:
        A class or function like `target`.
    """
    into, out = split_in_out(variable_axes)

    def change(
        fn: Callable[..., object], axes: Mapping[Any, object], collections: Collections
    ) -> Collections:
        changed = dict(collections)
        for cols, axis in axes.items():
            for col in changed:
                if core_lift.in_filter(cols, col) and axis is not None:
                    changed[col] = fn(changed[col], axis, dict(metadata_params))
        return changed

    add = functools.partial(change, meta.add_axis, out)
    remove = functools.partial(change, meta.remove_axis, into)
    return map_variables(target, True, remove, add, init=True, mutable=True)


def named_call(class_fn: Target, force: bool = True) -> Target:
    """Return its target: every method of a module has a profiler name already."""
    del force
    return class_fn
