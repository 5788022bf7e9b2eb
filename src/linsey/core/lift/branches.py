"""Branches between functions of scopes: `cond` and `switch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jax import lax

from linsey.core.filters import Filter
from linsey.core.lift.split import Lifted


def cond(
    pred: Any,
    true_fun: Callable[..., Any],
    false_fun: Callable[..., Any],
    scope: Any,
    *operands: Any,
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Runs `true_fun(scope, *operands)` or `false_fun` by a traced condition.

    Both must write the same variables; to create some, run both functions under `init`.
    """
    lifted = Lifted(scope, (variables,), (variables,), (rngs,))
    branches = map(lifted.plan.pure, (true_fun, false_fun))
    return lifted.call(partial(lax.cond, pred, *branches), *operands)


def switch(
    index: Any,
    branches: Sequence[Callable[..., Any]],
    scope: Any,
    *operands: Any,
    variables: Filter = True,
    rngs: Filter = True,
) -> Any:
    """Runs `branches[index](scope, *operands)`, see `cond`."""
    lifted = Lifted(scope, (variables,), (variables,), (rngs,))
    pure = [lifted.plan.pure(fn) for fn in branches]
    return lifted.call(partial(lax.switch, index, pure), *operands)
