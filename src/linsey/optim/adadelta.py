"""Adadelta, with decoupled weight decay."""

from __future__ import annotations

import jax
import optax

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of

__all__ = ["Adadelta"]


@struct.dataclass
class _AdadeltaHyperParams:
    learning_rate: LearningRate = None
    rho: Scalar = 0.9
    eps: Scalar = 1e-6
    weight_decay: Scalar = 0.0


@struct.dataclass
class _AdadeltaParamState:
    sq_avg: jax.Array
    acc_delta: jax.Array


class Adadelta(OptaxDefinition):
    """Scales the gradient so that a step has the units of the parameter.

        sq_avg = rho * sq_avg + (1 - rho) * grad**2
        d = sqrt(acc_delta + eps) / sqrt(sq_avg + eps) * grad
        param -= learning_rate * (d + weight_decay * param)
        acc_delta = rho * acc_delta + (1 - rho) * d**2

    Args:
        learning_rate: the step size; 1 in the paper.
        rho: the fraction of the averages that is kept, in [0, 1).
        eps: keeps the quotient finite, and the first steps from being 0.
        weight_decay: decoupled from the gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adadelta(1.0).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.9936, -1.9936]

    References:
        Zeiler 2012, ADADELTA, https://arxiv.org/abs/1212.5701
    """

    param_state = _AdadeltaParamState

    @takes_fields_of(_AdadeltaHyperParams)
    def __init__(self, hyper_params: _AdadeltaHyperParams) -> None:
        super().__init__(hyper_params)

    def stages(self, hyper_params: _AdadeltaHyperParams) -> list[Stage]:  # noqa: D102
        adadelta = optax.scale_by_adadelta(hyper_params.rho, hyper_params.eps)
        fields = {"e_g": "sq_avg", "e_x": "acc_delta"}
        return [
            Stage(adadelta, optax.ScaleByAdaDeltaState, fields),
            *self.decay_stages(hyper_params.weight_decay),
            self.learning_rate_stage(hyper_params.learning_rate),
        ]
