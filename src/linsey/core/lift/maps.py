"""`vmap` over functions of scopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from linsey.core.lift import axes as lift_axes
from linsey.core.lift.split import Lifted


def vmap(
    fn: Callable[..., Any],
    variable_axes: lift_axes.Axes,
    split_rngs: Mapping[Any, bool],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: int | None = None,
    axis_name: str | None = None,
    spmd_axis_name: str | None = None,
    metadata_params: Mapping[Any, Any] = {},
) -> Callable[..., Any]:
    """Maps `fn(scope, *args)` over an axis, with variables of its own or shared.

    Args:
        fn: the function.
        variable_axes: for each filter the axis of these collections; None if all
            instances share them.
        split_rngs: for each filter whether these streams differ between instances.
        in_axes: axes of the arguments, as in `jax.vmap`.
        out_axes: axes of the results.
        axis_size: length of the axis, needed if nothing is mapped on the way in.
        axis_name: name of the axis for collectives.
        spmd_axis_name: see `jax.vmap`.
        metadata_params: passed to `add_axis` and `remove_axis` of metadata boxes.

    Returns:
        A function `(scope, *args, **kwargs)`; keyword arguments are not mapped.
    """
    into, out = lift_axes.split_in_out(variable_axes)
    in_list, out_list = tuple(into.values()), tuple(out.values())
    is_split = tuple(split_rngs.values())

    def mapped(scopes: Any, *args: Any, **kwargs: Any) -> Any:
        lifted = Lifted(scopes, tuple(into), tuple(out), tuple(split_rngs))
        size = axis_size
        if size is None:
            size = lift_axes.axis_length((in_axes, args), (in_list, lifted.variables))
        if size is None:
            raise ValueError(
                "axis_size should be specified manually: neither the arguments nor"
                " the variables have a mapped axis to take it from."
            )
        run = lifted.plan.pure(fn)

        def one(variables: Any, rngs: Any, args: Any) -> Any:
            variables = lift_axes.drop_axis_names(variables, in_list, metadata_params)
            return run(variables, rngs, *args, **kwargs)

        axes_of_keys = tuple(0 if s else None for s in is_split)
        axes = (in_list, axes_of_keys, in_axes), (out_axes, out_list)
        keys = lift_axes.split_keys(lifted.rngs, is_split, size)
        every = jax.vmap(one, *axes, axis_name, size, spmd_axis_name)
        y, variables = every(lifted.variables, keys, args)
        lifted.merge(lift_axes.add_axis_names(variables, out_list, metadata_params))
        return y

    return mapped
