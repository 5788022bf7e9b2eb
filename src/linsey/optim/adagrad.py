"""Adagrad."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of

__all__ = ["Adagrad"]


@struct.dataclass
class _AdagradHyperParams:
    learning_rate: LearningRate = None
    eps: Scalar = 1e-8


@struct.dataclass
class _AdagradParamState:
    G: jax.Array


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

    Differs from `optax.adagrad`, whose sum starts at 0.1 and has `eps` inside the
    root.
    """

    param_state = _AdagradParamState

    @takes_fields_of(_AdagradHyperParams)
    def __init__(self, hyper_params: _AdagradHyperParams) -> None:
        super().__init__(hyper_params)

    def stages(self, hyper_params: _AdagradHyperParams) -> list[Stage]:  # noqa: D102
        adagrad = scale_by_root_of_sum(hyper_params.eps)
        return [
            Stage(adagrad, optax.ScaleByRssState, {"sum_of_squares": "G"}),
            self.learning_rate_stage(hyper_params.learning_rate),
        ]


def scale_by_root_of_sum(eps: Scalar) -> optax.GradientTransformation:
    """Return a transformation that divides by the root of the sum of squares."""

    def init(params: optax.Params) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: Any, params: object = None
    ) -> tuple[optax.Updates, optax.ScaleByRssState]:
        total = jax.tree.map(lambda g, s: s + g * g, updates, state.sum_of_squares)
        updates = jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), updates, total)
        return updates, optax.ScaleByRssState(total)

    return optax.GradientTransformation(init, update)
