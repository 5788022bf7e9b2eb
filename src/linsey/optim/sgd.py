"""Gradient descent."""

from __future__ import annotations

from linsey import struct
from linsey.optim.base import LearningRate
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of

__all__ = ["GradientDescent"]


@struct.dataclass
class _GradientDescentHyperParams:
    learning_rate: LearningRate = None


class GradientDescent(OptaxDefinition):
    """Moves against the gradient.

        param -= learning_rate * grad

    Args:
        learning_rate: the step size, as a multiple of the gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = GradientDescent(0.5).create(jnp.array([1.0, 2.0]))
        >>> optimizer.apply_gradient(jnp.array([1.0, -1.0])).target.tolist()
        [0.5, 2.5]
    """

    @takes_fields_of(_GradientDescentHyperParams)
    def __init__(self, hyper_params: _GradientDescentHyperParams) -> None:
        super().__init__(hyper_params)

    def stages(self, hyper_params: _GradientDescentHyperParams) -> list[Stage]:  # noqa: D102
        return [self.learning_rate_stage(hyper_params.learning_rate)]
