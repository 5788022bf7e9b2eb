"""Gradient descent."""

from __future__ import annotations

from typing import Any

from linsey import struct
from linsey.optim.optax_definition import OptaxDefinition, Stage, learning_rate_stage

__all__ = ["GradientDescent"]


@struct.dataclass
class _GradientDescentHyperParams:
    learning_rate: Any


class GradientDescent(OptaxDefinition):
    """Moves against the gradient.

        param -= learning_rate * grad

    Args:
        learning_rate: the length of a step, as a multiple of the gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = GradientDescent(0.5).create(jnp.array([1.0, 2.0]))
        >>> optimizer.apply_gradient(jnp.array([1.0, -1.0])).target.tolist()
        [0.5, 2.5]
    """

    def __init__(self, learning_rate: Any = None) -> None:
        super().__init__(_GradientDescentHyperParams(learning_rate))

    def stages(self, hyper_params: Any) -> list[Stage]:  # noqa: D102
        return [learning_rate_stage(self, hyper_params.learning_rate)]
