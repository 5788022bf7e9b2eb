"""Branches between functions of scopes, `cond` and `switch`, and `while_loop`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from jax import lax
from jax.typing import ArrayLike

from linsey.core.filters import Filter
from linsey.core.lift.maps import fold_keys
from linsey.core.lift.split import Group, Groups, Lifted, update_group

__all__ = ["cond", "switch", "while_loop"]

T = TypeVar("T")
State = tuple[ArrayLike, Group, T]  # the step, the variables written, the carry


def cond(
    pred: ArrayLike,
    true_fun: Callable[..., T],
    false_fun: Callable[..., T],
    scope: object,
    *operands: object,
    variables: Filter = True,
    rngs: Filter = True,
) -> T:
    """Run `true_fun(scope, *operands)` or `false_fun` by a traced condition.

    Both must write the same variables; to create some, run both functions under `init`.
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
    """Run `branches[index](scope, *operands)`, see `cond`."""
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

    def inputs(state: State[T]) -> tuple[Groups, Groups, T]:
        i, written, carry = state
        rngs = fold_keys(lifted.rngs, is_split, i)
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
