"""AdaBelief, with decoupled weight decay."""

from __future__ import annotations

import jax
import optax

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of

__all__ = ["AdaBelief"]


@struct.dataclass
class _AdaBeliefHyperParams:
    learning_rate: LearningRate = None
    beta1: Scalar = 0.9
    beta2: Scalar = 0.999
    eps: Scalar = 1e-16
    weight_decay: Scalar = 0.0


@struct.dataclass
class _AdaBeliefParamState:
    grad_ema: jax.Array
    grad_sq_ema: jax.Array


class AdaBelief(OptaxDefinition):
    """Adam, but with the squared distance between gradient and average gradient.

        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * (grad - m)**2 + eps
        u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)
        param -= learning_rate * (u + weight_decay * param)

    at update t = 1, 2, ...; the state holds m as `grad_ema` and v as `grad_sq_ema`.

    Args:
        learning_rate: the step size.
        beta1: the fraction of m that is kept, in [0, 1).
        beta2: the fraction of v that is kept, in [0, 1).
        eps: keeps the quotient finite; it is added in two places.
        weight_decay: decoupled from the gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = AdaBelief(0.1).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.7721, -1.7721]

    References:
        Zhuang et al. 2020, AdaBelief optimizer, https://arxiv.org/abs/2010.07468
    """

    param_state = _AdaBeliefParamState

    @takes_fields_of(_AdaBeliefHyperParams)
    def __init__(self, hyper_params: _AdaBeliefHyperParams) -> None:
        super().__init__(hyper_params)

    def stages(self, hyper_params: _AdaBeliefHyperParams) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        belief = optax.scale_by_belief(hp.beta1, hp.beta2, hp.eps, hp.eps)
        fields = {"mu": "grad_ema", "nu": "grad_sq_ema"}
        return [
            Stage(belief, optax.ScaleByBeliefState, fields),
            *self.decay_stages(hp.weight_decay),
            self.learning_rate_stage(hp.learning_rate),
        ]
