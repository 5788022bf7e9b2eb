"""LAMB: Adam with its own step size for each leaf."""

from __future__ import annotations

import jax
import optax

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of

__all__ = ["LAMB"]


@struct.dataclass
class _LAMBHyperParams:
    learning_rate: LearningRate = None
    beta1: Scalar = 0.9
    beta2: Scalar = 0.999
    weight_decay: Scalar = 0
    eps: Scalar = 1e-6


@struct.dataclass
class _LAMBParamState:
    grad_ema: jax.Array
    grad_sq_ema: jax.Array


class LAMB(OptaxDefinition):
    """Moves in Adam's direction, with a length proportional to that of the leaf.

        u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)
        u += weight_decay * param
        param -= learning_rate * norm(param) / norm(u) * u

    with m and v as in `Adam`. The norms are those of whole leaves; if one of them is 0,
    their ratio is 1.

    Args:
        learning_rate: the step size, as a fraction of the norm of the leaf.
        beta1: the fraction of m that is kept, in [0, 1).
        beta2: the fraction of v that is kept, in [0, 1).
        weight_decay: decoupled from the gradient.
        eps: keeps the quotient finite.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = LAMB(0.1).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.6987, -1.6987]

    References:
        You et al. 2020, Large batch optimization for deep learning,
        https://arxiv.org/abs/1904.00962

    Differs from Flax before 0.6, whose ratio was 0 if the leaf is 0, so that it never
    moved, and NaN if only the direction is 0.
    """

    param_state = _LAMBParamState

    @takes_fields_of(_LAMBHyperParams)
    def __init__(self, hyper_params: _LAMBHyperParams) -> None:
        super().__init__(hyper_params)

    def stages(self, hyper_params: _LAMBHyperParams) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        adam = optax.scale_by_adam(hp.beta1, hp.beta2, hp.eps)
        fields = {"mu": "grad_ema", "nu": "grad_sq_ema"}
        return [
            Stage(adam, optax.ScaleByAdamState, fields),
            *self.decay_stages(hp.weight_decay),
            Stage(optax.scale_by_trust_ratio()),
            self.learning_rate_stage(hp.learning_rate),
        ]
