"""Control flow of modules: maps, loops and branches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from jax.typing import ArrayLike

from linsey.core import lift as core_lift
from linsey.core.filters import Filter
from linsey.core.frozen_dict import FrozenDict
from linsey.linen.transforms.lifting import Methods, call_direct, lifted

__all__ = ["cond", "remat_scan", "scan", "switch", "vmap", "while_loop"]

T = TypeVar("T")
Target = TypeVar("Target")


@lifted(core_lift.vmap, "Vmap")
def vmap(
    target: Target,
    variable_axes: Mapping[Any, object] = FrozenDict(),
    split_rngs: Mapping[Any, bool] = FrozenDict(),
    in_axes: object = 0,
    out_axes: object = 0,
    axis_size: int | None = None,
    axis_name: Hashable | None = None,
    spmd_axis_name: Hashable | None = None,
    metadata_params: Mapping[Any, Any] = {},
    methods: Methods = None,
) -> Target:
    """Lift `jax.vmap`: run many instances of a module in parallel.

    Example:
        An ensemble of four layers, each with its own parameters:

        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> Ensemble = nn.vmap(
        ...     nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True},
        ...     in_axes=None, axis_size=4)
        >>> variables = Ensemble(2).init(jax.random.key(0), jnp.ones((1, 3)))
        >>> variables["params"]["kernel"].shape
        (4, 3, 2)

    Args:
        target: a module class, or a function of a module.
        variable_axes: for each filter, the axis of these collections; `None` if the
            instances share them. Collections that match no filter cannot be used.
        split_rngs: for each filter, whether these streams differ between instances.
            Streams that match no filter cannot be used.
        in_axes: axes of the arguments (without the module).
        out_axes: axes of the results.
        axis_size: number of instances, needed if no argument or variable is mapped.
        axis_name: name of the axis, e.g. for `BatchNorm(axis_name=...)`.
        spmd_axis_name: see `jax.vmap`.
        metadata_params: for metadata boxes, e.g. `{nn.PARTITION_NAME: "layers"}`.
        methods: the methods of a class to lift. If `None`, `__call__`.

    Returns:
        A class or function like `target`.
    """
    return target


@lifted(core_lift.scan, "Scan")
def scan(
    target: Target,
    variable_axes: Mapping[Any, object] = FrozenDict(),
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    split_rngs: Mapping[Any, bool] = FrozenDict(),
    in_axes: object = 0,
    out_axes: object = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    data_transform: Callable[..., Any] | None = None,
    metadata_params: Mapping[Any, Any] = {},
    methods: Methods = None,
    _split_transpose: bool = False,
    check_constancy_invariants: bool = True,
) -> Target:
    """Lift `jax.lax.scan`: apply a module repeatedly.

    The module is called as `module(carry, *xs) -> (carry, y)`.

    Example:
        Three layers, compiled once, with parameters stacked along axis 0:

        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> class Block(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, _):
        ...         return nn.relu(nn.Dense(4)(x)), None
        >>> Stack = nn.scan(
        ...     Block, variable_axes={"params": 0}, split_rngs={"params": True},
        ...     length=3)
        >>> variables = Stack().init(jax.random.key(0), jnp.ones((1, 4)), None)
        >>> variables["params"]["Dense_0"]["kernel"].shape
        (3, 4, 4)

    Args:
        target: a module class, or a function of a module.
        variable_axes: for each filter, the axis along which these collections are
            stacked, one slice for each step.
        variable_broadcast: collections that all steps share, e.g. the parameters of a
            recurrent cell.
        variable_carry: collections passed from step to step, e.g. `batch_stats`.
        split_rngs: for each filter, whether these streams differ between steps.
        in_axes: axes of the arguments after the carry, or `nn.broadcast`.
        out_axes: axes of the results after the carry.
        length: number of steps, needed if no argument or variable is scanned over.
        reverse: whether to go from the last element to the first.
        unroll: number of steps in one iteration of the compiled loop.
        data_transform: called as `data_transform(variables, rngs)` in each step.
        metadata_params: for metadata boxes, e.g. `{nn.PARTITION_NAME: "layers"}`.
        methods: the methods of a class to lift. If `None`, `__call__`.
        _split_transpose: see `jax.lax.scan`.
        check_constancy_invariants: whether to trace the step once more, to compute
            the values that are broadcast.

    Returns:
        A class or function like `target`.
    """
    return target


@lifted(core_lift.remat_scan, "Remat_scan")
def remat_scan(
    target: Target,
    lengths: Sequence[int] | None = (),
    policy: Callable[..., bool] | None = None,
    variable_broadcast: Filter = False,
    variable_carry: Filter = False,
    variable_axes: Mapping[Any, object] = FrozenDict({True: 0}),
    split_rngs: Mapping[Any, bool] = FrozenDict({True: True}),
) -> Target:
    """Nest `scan`s with `remat`, for deep stacks in little memory.

    For `lengths=(n, m)` the module `x -> x` is applied `n * m` times, and `n + m`
    intermediate values are kept for the backward pass.

    Args:
        target: a module class, or a function of a module.
        lengths: the lengths of the nested loops.
        policy: chooses further values to keep; see `jax.checkpoint`.
        variable_broadcast: collections that all steps share.
        variable_carry: collections passed from step to step.
        variable_axes: the axis along which collections are stacked, in each loop.
        split_rngs: whether streams differ between steps.

    Returns:
        A class or function like `target`.
    """
    return target


def cond(
    pred: ArrayLike,
    true_fun: Callable[..., T],
    false_fun: Callable[..., T],
    mdl: object,
    *operands: object,
    variables: Filter = True,
    rngs: Filter = True,
) -> T:
    """Lift `jax.lax.cond`: run one of two module functions by a traced condition.

    Both functions must write the same variables. Parameters that only one of them uses
    must be created beforehand, e.g. by running both if `mdl.is_initializing()`.

    Args:
        pred: the condition, a scalar.
        true_fun: called as `true_fun(mdl, *operands)`.
        false_fun: called as `false_fun(mdl, *operands)`.
        mdl: a module, or a tree of modules.
        *operands: arguments of the functions.
        variables: collections they may use.
        rngs: streams they may use.

    Returns:
        The result of the chosen function.
    """
    choose = functools.partial(core_lift.cond, pred)
    fns = (true_fun, false_fun)
    return call_direct(choose, fns, mdl, operands, variables=variables, rngs=rngs)


def switch(
    index: ArrayLike,
    branches: Sequence[Callable[..., T]],
    mdl: object,
    *operands: object,
    variables: Filter = True,
    rngs: Filter = True,
) -> T:
    """Lift `jax.lax.switch`: run `branches[index](mdl, *operands)`; see `cond`."""
    count = len(branches)

    def choose(*args: Any, **filters: Filter) -> T:
        return core_lift.switch(index, args[:count], *args[count:], **filters)

    return call_direct(choose, branches, mdl, operands, variables=variables, rngs=rngs)


def while_loop(
    cond_fn: Callable[[Any, T], ArrayLike],
    body_fn: Callable[[Any, T], T],
    mdl: object,
    init: T,
    carry_variables: Filter = False,
    broadcast_variables: Filter = True,
    split_rngs: Mapping[Any, bool] = FrozenDict(),
) -> T:
    """Lift `jax.lax.while_loop`.

    Args:
        cond_fn: called as `cond_fn(mdl, carry)`; the loop runs while it is true.
        body_fn: called as `body_fn(mdl, carry) -> carry`.
        mdl: a module, or a tree of modules.
        init: the first carry.
        carry_variables: collections that `body_fn` may write; they must exist already.
        broadcast_variables: collections that are only read.
        split_rngs: for each filter, whether these streams differ between steps.

    Returns:
        The last carry.
    """

    def loop(check: Any, step: Callable[..., T], scopes: object, init: T) -> T:
        filters = carry_variables, broadcast_variables, split_rngs
        return core_lift.while_loop(check, step, scopes, init, *filters)

    return call_direct(loop, (cond_fn, body_fn), mdl, (init,))
