"""`cond`, `switch` and `while_loop` inside modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jax.typing import ArrayLike

from linsey.core import lift as core_lift
from linsey.core.filters import Filter
from linsey.core.frozen_dict import FrozenDict
from linsey.linen.transforms.lifting import call_direct, call_lifted, function_of_module

__all__ = ["cond", "switch", "while_loop"]

T = TypeVar("T")


def cond(
    pred: ArrayLike,
    true_fun: Callable[..., T],
    false_fun: Callable[..., T],
    mdl: object,
    *operands: object,
    variables: Filter = True,
    rngs: Filter = True,
) -> T:
    """Lift `jax.lax.cond`: run one of two functions of a module by a traced condition.

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
        The result of the function that was chosen.
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
    """Lift `jax.lax.switch`: run `branches[index](mdl, *operands)`, see `cond`."""

    def transform(*runs: Callable[..., T]) -> Callable[..., T]:
        switch = core_lift.switch
        return functools.partial(switch, index, runs, variables=variables, rngs=rngs)

    fns = map(function_of_module, branches)
    return call_lifted(transform, fns, mdl, operands, {})


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
        cond_fn: called as `cond_fn(mdl, carry)`; goes on while it is true.
        body_fn: called as `body_fn(mdl, carry) -> carry`.
        mdl: a module, or a tree of modules.
        init: the first carry.
        carry_variables: collections the step may write; they must exist before.
        broadcast_variables: collections that are only read.
        split_rngs: for each filter whether these streams differ between steps.

    Returns:
        The last carry.
    """
    return call_direct(
        core_lift.while_loop,
        (cond_fn, body_fn),
        mdl,
        (init,),
        carry_variables=carry_variables,
        broadcast_variables=broadcast_variables,
        split_rngs=split_rngs,
    )
