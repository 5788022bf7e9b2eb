"""Adam, with decoupled weight decay."""

from __future__ import annotations

import jax
import optax

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of

__all__ = ["Adam"]


@struct.dataclass
class _AdamHyperParams:
    learning_rate: LearningRate = None
    beta1: Scalar = 0.9
    beta2: Scalar = 0.999
    eps: Scalar = 1e-8
    weight_decay: Scalar = 0.0


@struct.dataclass
class _AdamParamState:
    grad_ema: jax.Array
    grad_sq_ema: jax.Array


class Adam(OptaxDefinition):
    """Divides the average gradient by the root of the average square.

        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)
        param -= learning_rate * (u + weight_decay * param)

    at update t = 1, 2, ...; the state holds m as `grad_ema` and v as `grad_sq_ema`.

    Args:
        learning_rate: the step size.
        beta1: the fraction of m that is kept, in [0, 1).
        beta2: the fraction of v that is kept, in [0, 1).
        eps: keeps the quotient finite.
        weight_decay: decoupled from the gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adam(0.1).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.8, -1.8]

    References:
        Kingma & Ba 2015, Adam, https://arxiv.org/abs/1412.6980; Loshchilov & Hutter
        2019, Decoupled weight decay regularization, https://arxiv.org/abs/1711.05101
    """

    param_state = _AdamParamState

    @takes_fields_of(_AdamHyperParams)
    def __init__(self, hyper_params: _AdamHyperParams) -> None:
        super().__init__(hyper_params)

    def stages(self, hyper_params: _AdamHyperParams) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        adam = optax.scale_by_adam(hp.beta1, hp.beta2, hp.eps)
        fields = {"mu": "grad_ema", "nu": "grad_sq_ema"}
        return [
            Stage(adam, optax.ScaleByAdamState, fields),
            *self.decay_stages(hp.weight_decay),
            self.learning_rate_stage(hp.learning_rate),
        ]
