"""Gradient descent with momentum."""

from __future__ import annotations

import jax
import optax

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of

__all__ = ["Momentum"]


@struct.dataclass
class _MomentumHyperParams:
    learning_rate: LearningRate = None
    beta: Scalar = 0.9
    weight_decay: Scalar = 0
    nesterov: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class _MomentumParamState:
    momentum: jax.Array


class Momentum(OptaxDefinition):
    """Moves along a decaying sum of the gradients.

        grad += weight_decay * param
        momentum = beta * momentum + grad
        param -= learning_rate * momentum

    With Nesterov's look-ahead, the last line has `grad + beta * momentum`.

    Args:
        learning_rate: the step size, as a multiple of the sum.
        beta: the fraction of the sum that is kept, in [0, 1).
        weight_decay: the factor of an L2 penalty.
        nesterov: whether to look ahead.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Momentum(0.1).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.71, -1.855]

    References:
        Sutskever et al. 2013, On the importance of initialization and momentum in deep
        learning, https://proceedings.mlr.press/v28/sutskever13.html
    """

    param_state = _MomentumParamState

    @takes_fields_of(_MomentumHyperParams)
    def __init__(self, hyper_params: _MomentumHyperParams) -> None:
        super().__init__(hyper_params)

    def stages(self, hyper_params: _MomentumHyperParams) -> list[Stage]:  # noqa: D102
        trace = optax.trace(hyper_params.beta, nesterov=hyper_params.nesterov)
        return [
            *self.decay_stages(hyper_params.weight_decay),
            Stage(trace, optax.TraceState, {"trace": "momentum"}),
            self.learning_rate_stage(hyper_params.learning_rate),
        ]
