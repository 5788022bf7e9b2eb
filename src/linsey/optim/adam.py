"""Adam, with decoupled weight decay."""

from __future__ import annotations

from typing import Any

import optax

from linsey import struct
from linsey.optim.optax_definition import (
    OptaxDefinition,
    Stage,
    decay_stages,
    learning_rate_stage,
)

__all__ = ["Adam"]


@struct.dataclass
class _AdamHyperParams:
    learning_rate: Any
    beta1: Any
    beta2: Any
    eps: Any
    weight_decay: Any


@struct.dataclass
class _AdamParamState:
    grad_ema: Any
    grad_sq_ema: Any


class Adam(OptaxDefinition):
    """Divides the average gradient by the root of the average square.

        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        u = m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)
        param -= learning_rate * (u + weight_decay * param)

    at update t = 1, 2, ...; the state holds m as `grad_ema` and v as `grad_sq_ema`.

    Args:
        learning_rate: the length of a step.
        beta1: the fraction of m that is kept, in [0, 1).
        beta2: the fraction of v that is kept, in [0, 1).
        eps: keeps the quotient finite.
        weight_decay: not part of the gradient.

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

    def __init__(
        self,
        learning_rate: Any = None,
        beta1: Any = 0.9,
        beta2: Any = 0.999,
        eps: Any = 1e-8,
        weight_decay: Any = 0.0,
    ) -> None:
        super().__init__(
            _AdamHyperParams(learning_rate, beta1, beta2, eps, weight_decay)
        )

    def stages(self, hyper_params: Any) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        adam = optax.scale_by_adam(hp.beta1, hp.beta2, hp.eps)
        fields = {"mu": "grad_ema", "nu": "grad_sq_ema"}
        return [
            Stage(adam, optax.ScaleByAdamState, fields),
            *decay_stages(hp.weight_decay),
            learning_rate_stage(self, hp.learning_rate),
        ]
