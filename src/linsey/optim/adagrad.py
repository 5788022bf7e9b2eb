"""Adagrad."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from linsey import struct
from linsey.optim.optax_definition import (
    OptaxDefinition,
    Stage,
    learning_rate_stage,
)

__all__ = ["Adagrad"]


@struct.dataclass
class _AdagradHyperParams:
    learning_rate: Any
    eps: Any


@struct.dataclass
class _AdagradParamState:
    G: Any


class Adagrad(OptaxDefinition):
    """Divides the gradient by the root of the sum of all squares so far.

        G += grad**2
        param -= learning_rate * grad / (sqrt(G) + eps)

    Args:
        learning_rate: the length of the first step.
        eps: keeps the quotient finite.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adagrad(0.1).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.8293, -1.8293]

    References:
        Duchi et al. 2011, Adaptive subgradient methods,
        https://jmlr.org/papers/v12/duchi11a.html

    Differs from `optax.adagrad`, whose sum starts at 0.1 and has `eps` inside
    of the root.
    """

    param_state = _AdagradParamState

    def __init__(self, learning_rate: Any = None, eps: Any = 1e-8) -> None:
        super().__init__(_AdagradHyperParams(learning_rate, eps))

    def stages(self, hyper_params: Any) -> list[Stage]:  # noqa: D102
        adagrad = scale_by_root_of_sum(hyper_params.eps)
        return [
            Stage(adagrad, optax.ScaleByRssState, {"sum_of_squares": "G"}),
            learning_rate_stage(self, hyper_params.learning_rate),
        ]


def scale_by_root_of_sum(eps: Any) -> optax.GradientTransformation:
    """Returns the division by the root of the sum of squares, plus `eps`."""

    def init(params: Any) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        total = jax.tree.map(lambda g, s: s + g * g, updates, state.sum_of_squares)
        updates = jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), updates, total)
        return updates, optax.ScaleByRssState(total)

    return optax.GradientTransformation(init, update)
