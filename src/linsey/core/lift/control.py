"""Control flow of functions of scopes: maps, loops and branches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from linsey._contexts import assigned
from linsey.core import axes_scan, meta, tracers
from linsey.core.filters import ALL, Filter
from linsey.core.lift.execution import remat
from linsey.core.lift.split import Filters, Group, Groups, Lifted, update_group
from linsey.core.state import CREATED, KEPT, STEP, Created
from linsey.errors import _texts as texts
from linsey.typing import In, Out

__all__ = ["cond", "remat_scan", "scan", "switch", "vmap", "while_loop"]

T = TypeVar("T")
C = TypeVar("C")
Y = TypeVar("Y")
Params = Mapping[Any, Any]
Axes = Mapping[Any, object]
Split = Mapping[Any, bool]
Args = tuple[object, ...]
State = tuple[ArrayLike, Group, T]  # the step, the variables written, the carry
Carry = tuple[Group, C]  # the variables carried from step to step, and the carry
# Shared variables, the first variables to carry, and values created outside the loop.
Same = tuple[Group, Group | None, list[Any] | None]


class Stacked(Lifted):
    """Variables with an axis of instances or steps, which their metadata names.

    Args:
        scopes: see `Lifted`.
        axes: for each filter the axis of these collections, wrapped in `In` or `Out` if
            they have it only on the way in or out. Metadata boxes lose the name of the
            axis before the transform, and get it back afterwards.
        split: for each filter, whether these streams differ.
        params: passed to `add_axis` and `remove_axis` of metadata boxes.
        *whole: filters of the collections that go in without an axis, and of those
            that come out without one; these groups come before the others.
    """

    def __init__(
        self, scopes: object, axes: Axes, split: Split, params: Params, *whole: Filters
    ):
        into, out = split_in_out(axes)
        whole_in, whole_out = whole or ((), ())
        filters = (*whole_in, *into), (*whole_out, *out), tuple(split)
        super().__init__(scopes, *filters)
        self.in_axes = (*(None for _ in whole_in), *into.values())
        self.out_axes = (*(None for _ in whole_out), *out.values())
        self.is_split, self.params = tuple(split.values()), params
        self.variables = self._rename(meta.remove_axis, self.variables, self.in_axes)

    def merge(self, variables: Groups) -> None:
        """Name the new axes, then write the variables back."""
        super().merge(self._rename(meta.add_axis, variables, self.out_axes))

    def length(
        self,
        in_axes: object,
        args: Args,
        transform: str,
        option: str,
        given: int | None,
    ) -> int:
        """Return the given length, or the common length of all mapped axes.

        Raises:
            ShapeError: the lengths differ.
            OptionError: nothing is mapped, and the option of the transform is missing.
        """
        found: dict[int, tuple[int, ...]] = {}
        leaves = jax.tree_util.tree_leaves((args, self.variables))
        axes = axes_scan.flatten_axes((in_axes, self.in_axes), (args, self.variables))
        for axis, leaf in zip(axes, leaves, strict=True):
            if axis is not None and axis is not axes_scan.broadcast:
                shape = np.shape(leaf)
                found.setdefault(shape[axes_scan.checked_axis(axis, shape)], shape)
        if len(found) > 1:
            raise texts.lengths_differ(found, found.values())
        for length in found if given is None else (given,):
            return length
        raise texts.no_length(transform, option)

    def map_keys(self, fn: Callable[[jax.Array], jax.Array]) -> Groups:
        """Return the keys that go in, changed for the streams that should differ."""
        return tuple(
            jax.tree_util.tree_map(fn, group) if is_split else group
            for group, is_split in zip(self.rngs, self.is_split, strict=True)
        )

    def pure(self, fn: Callable[..., T]) -> Callable[..., tuple[T, Groups]]:
        """Act like `plan.pure`; modules from outside also draw new keys each time."""
        run = self.plan.pure(fn)

        def step(
            variables: Groups, rngs: Groups, /, *args: object, **kwargs: object
        ) -> tuple[T, Groups]:
            roots = itertools.chain(*itertools.compress(rngs, self.is_split))
            keys = {stream: k.rng for root in roots for stream, k in root.items()}
            with assigned(STEP, {**STEP.get(), **keys}):
                return run(variables, rngs, *args, **kwargs)

        return step

    def _rename(
        self, change: Callable[..., Any], groups: Groups, axes: Sequence[object]
    ) -> Groups:
        return tuple(
            change(group, axis, self.params) if isinstance(axis, int) else group
            for group, axis in zip(groups, axes, strict=True)
        )


def vmap(
    fn: Callable[..., T],
    variable_axes: Mapping[Any, object],
    split_rngs: Mapping[Any, bool],
    in_axes: object = 0,
    out_axes: object = 0,
    axis_size: int | None = None,
    axis_name: Hashable | None = None,
    spmd_axis_name: Hashable | None = None,
    metadata_params: Mapping[Any, Any] = {},
) -> Callable[..., T]:
    """Map `fn(scope, *args)` over an axis; variables are mapped too, or shared.

    Args:
        fn: the function.
        variable_axes: for each filter the axis of these collections; `None` if all
            instances share them.
        split_rngs: for each filter whether these streams differ between instances.
        in_axes: axes of the arguments, as in `jax.vmap`.
        out_axes: axes of the results.
        axis_size: length of the axis, needed if no input is mapped.
        axis_name: name of the axis for collectives.
        spmd_axis_name: see `jax.vmap`.
        metadata_params: passed to `add_axis` and `remove_axis` of metadata boxes.

    Returns:
        A function `(scope, *args, **kwargs)`; keyword arguments are not mapped.
    """

    def mapped(scopes: object, *args: object, **kwargs: object) -> T:
        lifted = Stacked(scopes, variable_axes, split_rngs, metadata_params)
        size = lifted.length(in_axes, args, "vmap", "axis_size", axis_size)
        run = lifted.pure(fn)

        def one(variables: Groups, rngs: Groups, args: Args) -> tuple[T, Groups]:
            return run(variables, rngs, *args, **kwargs)

        axes_of_keys = tuple(0 if s else None for s in lifted.is_split)
        axes = (lifted.in_axes, axes_of_keys, in_axes), (out_axes, lifted.out_axes)
        every = jax.vmap(one, *axes, axis_name, size, spmd_axis_name)
        keys = lifted.map_keys(partial(jax.random.split, num=size))
        y, variables = every(lifted.variables, keys, args)
        lifted.merge(variables)
        return y

    return mapped


def add_metadata_axis(
    fn: Callable[..., T],
    variable_axes: Mapping[Any, object] = {},
    metadata_params: Mapping[Any, Any] = {},
) -> Callable[..., T]:
    """Add an axis to the metadata of the variables of `fn(scope, *args)`."""

    def call(scopes: object, *args: object, **kwargs: object) -> T:
        axes = {**variable_axes, ALL: None}  # `True` may be one of them
        lifted = Stacked(scopes, axes, {True: True}, metadata_params)
        return lifted.call(lifted.plan.pure(fn), *args, **kwargs)

    return call


def scan(
    fn: Callable[..., tuple[C, Y]],
    variable_axes: Mapping[Any, object] = {},
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    split_rngs: Mapping[Any, bool] = {},
    in_axes: object = 0,
    out_axes: object = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    _split_transpose: bool = False,
    data_transform: Callable[..., tuple[Groups, Groups]] | None = None,
    metadata_params: Mapping[Any, Any] = {},
    check_constancy_invariants: bool = True,
) -> Callable[..., tuple[C, Y]]:
    """Scan `fn(scope, carry, *args) -> (carry, y)`.

    Args:
        fn: one step.
        variable_axes: for each filter the axis along which these collections are
            stacked, one slice for each step.
        variable_broadcast: collections that are the same at every step; they may be
            created in the first step, and must not depend on the carry or the inputs.
        variable_carry: collections carried from step to step. If they do not exist,
            they begin with the variables that the first step creates.
        split_rngs: for each filter whether these streams differ between steps.
        in_axes: axes of the arguments to scan over, or `broadcast`.
        out_axes: axes along which results are stacked, or `broadcast`.
        length: number of steps, needed if no input is scanned.
        reverse: go from the last element to the first.
        unroll: steps in one iteration of the compiled loop.
        _split_transpose: see `jax.lax.scan`.
        data_transform: called as `data_transform(variables, rngs)` in each step.
        metadata_params: passed to `add_axis` and `remove_axis` of metadata boxes.
        check_constancy_invariants: trace the step once more to compute the values that
            are broadcast.

    Returns:
        A function `(scope, carry, *args, **kwargs) -> (carry, ys)`; keyword arguments
        are the same at every step.
    """
    whole = (variable_broadcast, variable_carry)

    def scanned(scopes: object, init: C, *args: object, **kw: object) -> tuple[C, Y]:
        options = variable_axes, split_rngs, metadata_params, whole, whole
        lifted = Stacked(scopes, *options)
        if None in (*lifted.in_axes[2:], *lifted.out_axes[2:]):
            raise texts.no_scan_axis(variable_axes)
        shared, carried, *stacked = lifted.variables
        steps = lifted.length(in_axes, args, "scan", "length", length)
        roots, (may_share, may_carry, *_) = lifted.plan.roots, lifted.plan.outputs
        # If there is nothing to carry yet, the step creates it in the extra trace.
        has_none = not any(tree for of_root in carried for tree in of_root.values())
        creates = has_none and any(root.mutable & may_carry for root in roots)
        run = lifted.pure(fn)
        created: Created = []

        def step(
            same: Same, carry: Carry[C], stacked: Groups, rngs: Groups, args: Args
        ) -> tuple[Same, Carry[C], tuple[Y, Groups]]:
            (shared, first, made), (written, c) = same, carry
            variables = (shared, update_group(carried, written), *stacked)
            if data_transform is not None:
                variables, rngs = data_transform(variables, rngs)
            kept = KEPT.get() | may_carry if first is None else KEPT.get()
            outside = (tracers.current_trace(), created) if made is None else (None, [])
            with assigned(KEPT, kept), assigned(CREATED, outside):
                pair, (new, written, *y_stacked) = run(variables, rngs, c, *args, **kw)
            try:
                c, y = pair
            except (TypeError, ValueError) as error:
                raise texts.no_pair(pair, error) from None
            if made is None:
                made = [scope.get_variable(*name) for scope, *name in created]
            first = written if first is None else first
            same = update_group(shared, new), first, made
            return same, (written, c), (y, tuple(y_stacked))

        def start(same: Same, carry: Carry[C]) -> Carry[C]:
            for (scope, col, name), value in zip(created, same[2] or (), strict=True):
                scope._mutable_collection(col).pop(name)  # a value of the extra trace
                scope.put_variable(col, name, value)
            return (same[1] or (), carry[1]) if creates else carry

        # The extra trace also advances the counters of the random streams, as it always
        # has. Without streams and broadcast results it would change nothing.
        has_streams = any(keys for group in lifted.rngs for keys in group)
        may_change = any(root.mutable & may_share for root in roots)
        has_same = axes_scan.broadcast in jax.tree_util.tree_leaves(out_axes)
        # Under `init` the step may create variables of modules from outside.
        has_same |= any(("initializing", True) in root.flags for root in roots)
        check = check_constancy_invariants and (has_streams or may_change or has_same)
        check = check or creates
        rng_axes = tuple(0 if s else axes_scan.broadcast for s in lifted.is_split)
        axes_in = (lifted.in_axes[2:], rng_axes, in_axes)
        axes_out = (out_axes, lifted.out_axes[2:])
        loop = (steps, reverse, unroll, _split_transpose, check)
        keys = lifted.map_keys(partial(jax.random.split, num=steps))
        run_all = axes_scan.scan(step, axes_in, axes_out, *loop, start)
        same = (shared, None if creates else (), None if check else [])
        carry = lifted.only_mutable(carried)
        result = run_all(same, (carry, init), tuple(stacked), keys, args)
        (shared_out, *_), (written, c), (ys, stacked_out) = result
        if not check_constancy_invariants:
            shared_out = shared  # without the check, no step may have created more
        lifted.merge((lifted.only_mutable(shared_out), written, *stacked_out))
        return c, ys

    return scanned


def remat_scan(
    body_fn: Callable[..., T],
    lengths: Sequence[int],
    policy: Callable[..., bool] | None = None,
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    variable_axes: Mapping[Any, object] = {True: 0},
    split_rngs: Mapping[Any, bool] = {True: True},
    metadata_params: Mapping[Any, Any] = {meta.PARTITION_NAME: None},
) -> Callable[..., T]:
    """Nest scans of `body_fn(scope, x) -> x`, recomputing each step for gradients.

    For `lengths = (n, m)` the body runs `n * m` times, and only `n + m` of the
    intermediate values are kept for the backward pass. The new axes of partitioned
    variables are not sharded unless `metadata_params` specifies how.
    """
    variables = (variable_axes, variable_broadcast, variable_carry)

    def repeat(body: Callable[..., T], length: int) -> Callable[..., T]:
        def step(scope: object, carry: T) -> tuple[T, tuple[()]]:
            return body(scope, carry), ()

        params = {"metadata_params": metadata_params}
        scanned = scan(step, *variables, split_rngs, length=length, **params)
        return lambda scope, carry: scanned(scope, carry)[0]

    *outer, innermost = lengths
    level = repeat(body_fn, innermost)
    for length in reversed(outer):
        level = repeat(remat(level, policy=policy, prevent_cse=False), length)
    return level


def cond(
    pred: ArrayLike,
    true_fun: Callable[..., T],
    false_fun: Callable[..., T],
    scope: object,
    *operands: object,
    variables: Filter = True,
    rngs: Filter = True,
) -> T:
    """Run `true_fun(scope, *operands)` or `false_fun`, depending on a traced condition.

    Both must write the same variables. To create variables, run both under `init`.
    """
    lifted = Lifted(scope, (variables,), (variables,), (rngs,))
    branches = map(lifted.plan.pure, (true_fun, false_fun))
    return lifted.call(partial(lax.cond, pred, *branches), *operands)


def switch(
    index: ArrayLike,
    branches: Sequence[Callable[..., T]],
    scope: object,
    *operands: object,
    variables: Filter = True,
    rngs: Filter = True,
) -> T:
    """Run `branches[index](scope, *operands)`; see `cond`."""
    lifted = Lifted(scope, (variables,), (variables,), (rngs,))
    pure = [lifted.plan.pure(fn) for fn in branches]
    return lifted.call(partial(lax.switch, index, pure), *operands)


def while_loop(
    cond_fn: Callable[..., ArrayLike],
    body_fn: Callable[..., T],
    scope: object,
    init: T,
    carry_variables: Filter = False,
    broadcast_variables: Filter = True,
    split_rngs: Mapping[Any, bool] = {},
) -> T:
    """Run `body_fn(scope, carry)` while `cond_fn(scope, carry)` is true.

    Args:
        cond_fn: the condition; it may read but not write variables.
        body_fn: the step.
        scope: scopes of the variables.
        init: the first carry.
        carry_variables: collections the step may write; they must exist already.
        broadcast_variables: collections that are only read.
        split_rngs: for each filter whether these streams differ between steps.

    Returns:
        The last carry.
    """
    filters = (carry_variables, broadcast_variables)
    lifted = Stacked(scope, {}, split_rngs, {}, filters, (carry_variables,))
    read_only = Stacked(scope, {}, split_rngs, {}, filters, ())
    condition = read_only.pure(cond_fn)
    step = lifted.pure(body_fn)
    carried, shared = lifted.variables

    def inputs(state: State[T]) -> tuple[Groups, Groups, T]:
        i, written, carry = state
        rngs = lifted.map_keys(partial(jax.random.fold_in, data=i))
        return (update_group(carried, written), shared), rngs, carry

    def cond(state: State[T]) -> ArrayLike:
        return condition(*inputs(state))[0]

    def body(state: State[T]) -> State[T]:
        carry, (written,) = step(*inputs(state))
        return state[0] + 1, written, carry

    start: State[T] = (0, lifted.only_mutable(carried), init)
    _, written, carry = lax.while_loop(cond, body, start)
    lifted.merge((written,))
    return carry


def split_in_out(axes: Mapping[Any, object]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return the axes of the collections that go in, and of those that come out."""
    bare = {col: getattr(axis, "axis", axis) for col, axis in axes.items()}
    into = {col: bare[col] for col, axis in axes.items() if not isinstance(axis, Out)}
    out = {col: bare[col] for col, axis in axes.items() if not isinstance(axis, In)}
    return into, out
