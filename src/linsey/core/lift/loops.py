"""Loops over functions of scopes: `scan`, `while_loop`, `remat_scan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

from linsey.core import axes_scan
from linsey.core.axes_scan import broadcast
from linsey.core.filters import Filter
from linsey.core.lift import axes as lift_axes
from linsey.core.lift.compile import remat
from linsey.core.lift.split import Lifted


def scan(
    fn: Callable[..., Any],
    variable_axes: Mapping[Any, Any] = {},
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    split_rngs: Mapping[Any, bool] = {},
    in_axes: Any = 0,
    out_axes: Any = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    _split_transpose: bool = False,
    data_transform: Callable[..., Any] | None = None,
    metadata_params: Mapping[Any, Any] = {},
    check_constancy_invariants: bool = True,
) -> Callable[..., Any]:
    """Scans `fn(scope, carry, *args) -> (carry, y)`.

    Args:
        fn: one step.
        variable_axes: for each filter the axis along which these collections are
            stacked, one slice for each step.
        variable_broadcast: collections that are the same at every step; they may be
            created in the first, and must not depend on carry or inputs.
        variable_carry: collections handed from step to step; they must exist before.
        split_rngs: for each filter whether these streams differ between steps.
        in_axes: axes of the arguments to scan over, or `broadcast`.
        out_axes: axes along which results are stacked, or `broadcast`.
        length: number of steps, needed if nothing is scanned over.
        reverse: go from the last element to the first.
        unroll: steps in one iteration of the compiled loop.
        _split_transpose: see `jax.lax.scan`.
        data_transform: called as `data_transform(variables, rngs)` in each step.
        metadata_params: passed to `add_axis` and `remove_axis` of metadata boxes.
        check_constancy_invariants: trace the step once more to compute what is
            broadcast.

    Returns:
        A function `(scope, carry, *args, **kwargs) -> (carry, ys)`; keyword arguments
        are the same at every step.
    """
    into, out = lift_axes.split_in_out(variable_axes)
    in_list, out_list = tuple(into.values()), tuple(out.values())
    is_split = tuple(split_rngs.values())
    rng_axes = tuple(0 if s else broadcast for s in is_split)

    def scanned(scopes: Any, init: Any, *args: Any, **kwargs: Any) -> Any:
        lifted = Lifted(
            scopes,
            (variable_broadcast, variable_carry, *into),
            (variable_broadcast, variable_carry, *out),
            tuple(split_rngs),
        )
        shared, carried, *stacked = lifted.variables
        steps = length
        if steps is None:
            steps = lift_axes.axis_length([(in_axes, args), (in_list, tuple(stacked))])
        if steps is None:
            raise ValueError("scan got no values to scan over: give `length`.")
        run = lifted.plan.pure(fn)
        merge = [
            {c: t for c, t in group.items() if c not in lifted.plan.roots[i][2]}
            for i, group in enumerate(carried)
        ]
        carried = _only_mutable(carried, lifted)

        def step(shared: Any, carry: Any, stacked: Any, rngs: Any, args: Any) -> Any:
            carried, c = carry
            stacked = lift_axes.drop_axis_names(stacked, in_list, metadata_params)
            whole = tuple({**a, **b} for a, b in zip(carried, merge, strict=True))
            variables = (shared, whole, *stacked)
            if data_transform is not None:
                variables, rngs = data_transform(variables, rngs)
            pair, new = run(variables, rngs, c, *args, **kwargs)
            c, y = _carry_and_output(pair)
            new_shared, new_carried, *new_stacked = new
            shared = tuple({**a, **b} for a, b in zip(shared, new_shared, strict=True))
            return shared, (new_carried, c), (y, tuple(new_stacked))

        # The extra trace also moves the counters of the random streams, as it always
        # has: without streams and broadcast results there is nothing it could change.
        has_streams = any(keys for group in lifted.rngs for keys in group)
        check = check_constancy_invariants and (
            has_streams or _may_change(shared, lifted) or _has_broadcast(out_axes)
        )
        shared_out, (carried, carry), (ys, stacked_out) = axes_scan.scan(
            step,
            in_axes=(in_list, rng_axes, in_axes),
            out_axes=(out_axes, out_list),
            length=steps,
            reverse=reverse,
            unroll=unroll,
            _split_transpose=_split_transpose,
            check_constancy_invariants=check,
        )(
            shared,
            (carried, init),
            tuple(stacked),
            lift_axes.split_keys(lifted.rngs, is_split, steps),
            args,
        )
        stacked_out = lift_axes.add_axis_names(stacked_out, out_list, metadata_params)
        lifted.merge((_only_mutable(shared_out, lifted), carried, *stacked_out))
        return carry, ys

    return scanned


def _carry_and_output(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(
            "What is scanned must return a pair `(carry, y)`. If there is nothing to"
            " collect from each step, write `return carry, None`."
        )
    return pair[0], pair[1]


def _only_mutable(group: Any, lifted: Lifted) -> Any:
    """The part of a group of variables that the function may write."""
    return tuple(
        {col: tree for col, tree in collections.items() if col in mutable}
        for collections, (_, _, mutable, _) in zip(
            group, lifted.plan.roots, strict=True
        )
    )


def _may_change(group: Any, lifted: Lifted) -> bool:
    """Whether collections of the broadcast group can be written or created."""
    broadcast_filter = lifted.plan.outputs[0]
    return any(mutable & broadcast_filter for _, _, mutable, _ in lifted.plan.roots)


def _has_broadcast(axes: Any) -> bool:
    return any(
        axis is broadcast
        for axis in jax.tree_util.tree_leaves(axes, is_leaf=lambda x: x is None)
    )


def while_loop(
    cond_fn: Callable[[Any, Any], Any],
    body_fn: Callable[[Any, Any], Any],
    scope: Any,
    init: Any,
    carry_variables: Filter = False,
    broadcast_variables: Filter = True,
    split_rngs: Mapping[Any, bool] = {},
) -> Any:
    """Runs `body_fn(scope, carry)` while `cond_fn(scope, carry)` is true.

    Args:
        cond_fn: the condition; it may read but not write variables.
        body_fn: the step.
        scope: scopes of the variables.
        init: the first carry.
        carry_variables: collections the step may write; they must exist before.
        broadcast_variables: collections that are only read.
        split_rngs: for each filter whether these streams differ between steps.

    Returns:
        The last carry.
    """
    filters = (carry_variables, broadcast_variables)
    streams = tuple(split_rngs)
    is_split = tuple(split_rngs.values())
    lifted = Lifted(scope, filters, (carry_variables,), streams)
    read_only = Lifted(scope, filters, (), streams)
    condition = read_only.plan.pure(cond_fn)
    step = lifted.plan.pure(body_fn)
    everything, shared = lifted.variables
    carried = _only_mutable(everything, lifted)

    def whole(carried: Any) -> Any:
        return tuple({**a, **b} for a, b in zip(everything, carried, strict=True))

    def cond(state: Any) -> Any:
        i, carried, carry = state
        rngs = lift_axes.fold_keys(lifted.rngs, is_split, i)
        return condition((whole(carried), shared), rngs, carry)[0]

    def body(state: Any) -> Any:
        i, carried, carry = state
        rngs = lift_axes.fold_keys(lifted.rngs, is_split, i)
        carry, (carried,) = step((whole(carried), shared), rngs, carry)
        return i + 1, carried, carry

    _, carried, carry = lax.while_loop(cond, body, (0, carried, init))
    lifted.merge((carried,))
    return carry


def remat_scan(
    body_fn: Callable[..., Any],
    lengths: Sequence[int],
    policy: Callable[..., bool] | None = None,
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    variable_axes: Mapping[Any, Any] = {True: 0},
    split_rngs: Mapping[Any, bool] = {True: True},
) -> Callable[..., Any]:
    """Nested scans of `body_fn(scope, x) -> x`, each step recomputed for gradients.

    For `lengths = (n, m)` the body runs `n * m` times, and only `n + m` of the values
    between are kept for the backward pass.
    """
    lift = {
        "variable_broadcast": variable_broadcast,
        "variable_carry": variable_carry,
        "variable_axes": variable_axes,
        "split_rngs": split_rngs,
    }

    def level(scope: Any, carry: Any) -> Any:
        if len(lengths) == 1:

            def inner(scope: Any, carry: Any) -> Any:
                return body_fn(scope, carry), ()
        else:
            nested = remat_scan(body_fn, lengths[1:], policy, **lift)

            def inner(scope: Any, carry: Any) -> Any:
                step = remat(nested, policy=policy, prevent_cse=False)
                return step(scope, carry), ()

        return scan(inner, length=lengths[0], **lift)(scope, carry)[0]

    return level
