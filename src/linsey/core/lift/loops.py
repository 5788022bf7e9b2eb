"""Loops over functions of scopes: `scan`, `while_loop`, `remat_scan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

from linsey.core import axes_scan
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
    whole = (variable_broadcast, variable_carry)
    rng_axes = tuple(0 if s else axes_scan.broadcast for s in is_split)

    def scanned(scopes: Any, init: Any, *args: Any, **kwargs: Any) -> Any:
        lifted = Lifted(scopes, (*whole, *into), (*whole, *out), tuple(split_rngs))
        shared, carried, *stacked = lifted.variables
        steps = length
        if steps is None:
            steps = lift_axes.axis_length((in_axes, args), (in_list, tuple(stacked)))
        if steps is None:
            raise ValueError("scan got no values to scan over: give `length`.")
        run = lifted.plan.pure(fn)

        def step(shared: Any, carry: Any, stacked: Any, rngs: Any, args: Any) -> Any:
            written, c = carry
            stacked = lift_axes.drop_axis_names(stacked, in_list, metadata_params)
            variables = (shared, _over(carried, written), *stacked)
            if data_transform is not None:
                variables, rngs = data_transform(variables, rngs)
            pair, (new, written, *stacked) = run(variables, rngs, c, *args, **kwargs)
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(
                    "What is scanned must return a pair `(carry, y)`. If there is"
                    " nothing to collect from each step, write `return carry, None`."
                )
            c, y = pair
            return _over(shared, new), (written, c), (y, tuple(stacked))

        # The extra trace also moves the counters of the random streams, as it always
        # has: without streams and broadcast results there is nothing it could change.
        has_streams = any(keys for group in lifted.rngs for keys in group)
        may_change = any(r.mutable & lifted.plan.outputs[0] for r in lifted.plan.roots)
        has_same = axes_scan.broadcast in jax.tree_util.tree_leaves(out_axes)
        check = check_constancy_invariants and (has_streams or may_change or has_same)
        axes = (in_list, rng_axes, in_axes), (out_axes, out_list)
        loop = (steps, reverse, unroll, _split_transpose, check)
        start = (_only_mutable(carried, lifted), init)
        keys = lift_axes.split_keys(lifted.rngs, is_split, steps)
        shared_out, (written, carry), (ys, stacked_out) = axes_scan.scan(
            step, *axes, *loop
        )(shared, start, tuple(stacked), keys, args)
        stacked_out = lift_axes.add_axis_names(stacked_out, out_list, metadata_params)
        lifted.merge((_only_mutable(shared_out, lifted), written, *stacked_out))
        return carry, ys

    return scanned


def _only_mutable(group: Any, lifted: Lifted) -> Any:
    """The part of a group of variables that the function may write."""
    return tuple(
        {col: tree for col, tree in collections.items() if col in root.mutable}
        for collections, root in zip(group, lifted.plan.roots, strict=True)
    )


def _over(group: Any, written: Any) -> Any:
    """A group of variables with the collections that were written put in."""
    return tuple({**old, **new} for old, new in zip(group, written, strict=True))


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
    is_split = tuple(split_rngs.values())
    lifted = Lifted(scope, filters, (carry_variables,), tuple(split_rngs))
    read_only = Lifted(scope, filters, (), tuple(split_rngs))
    condition = read_only.plan.pure(cond_fn)
    step = lifted.plan.pure(body_fn)
    carried, shared = lifted.variables

    def inputs(state: Any) -> tuple[Any, Any, Any]:
        i, written, carry = state
        rngs = lift_axes.fold_keys(lifted.rngs, is_split, i)
        return (_over(carried, written), shared), rngs, carry

    def cond(state: Any) -> Any:
        return condition(*inputs(state))[0]

    def body(state: Any) -> Any:
        carry, (written,) = step(*inputs(state))
        return state[0] + 1, written, carry

    start = (0, _only_mutable(carried, lifted), init)
    _, written, carry = lax.while_loop(cond, body, start)
    lifted.merge((written,))
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
    variables = (variable_axes, variable_broadcast, variable_carry)

    def repeat(body: Callable[..., Any], length: int) -> Callable[..., Any]:
        def step(scope: Any, carry: Any) -> Any:
            return body(scope, carry), ()

        scanned = scan(step, *variables, split_rngs, length=length)
        return lambda scope, carry: scanned(scope, carry)[0]

    *outer, innermost = lengths
    level = repeat(body_fn, innermost)
    for length in reversed(outer):
        level = repeat(remat(level, policy=policy, prevent_cse=False), length)
    return level
