"""RMSProp, centered or not."""

from __future__ import annotations

import jax
import optax
from jax.typing import ArrayLike

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import (
    OptaxDefinition,
    Stage,
    takes_fields_of,
    zeros_like,
)

__all__ = ["RMSProp"]


@struct.dataclass
class _RMSPropHyperParams:
    learning_rate: LearningRate = None
    beta2: Scalar = 0.9
    eps: Scalar = 1e-8
    centered: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class _RMSPropParamState:
    v: jax.Array
    mg: jax.Array | None


class RMSProp(OptaxDefinition):
    """Divides the gradient by the root of the average square, or of the variance.

        v = beta2 * v + (1 - beta2) * grad**2
        param -= learning_rate * grad / (sqrt(v) + eps)

    If centered, the root is that of `v - mg**2`, with the average gradient

        mg = beta2 * mg + (1 - beta2) * grad

    Args:
        learning_rate: the step size.
        beta2: the fraction of the averages that is kept, in [0, 1).
        eps: keeps the quotient finite.
        centered: whether to subtract the square of the average gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = RMSProp(0.1).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.4544, -1.4544]

    References:
        Tieleman & Hinton 2012, Lecture 6.5 of Neural Networks for Machine Learning;
        Graves 2013 (centered), https://arxiv.org/abs/1308.0850
    """

    param_state = _RMSPropParamState

    @takes_fields_of(_RMSPropHyperParams)
    def __init__(self, hyper_params: _RMSPropHyperParams) -> None:
        super().__init__(hyper_params)

    def init_param_state(self, param: ArrayLike) -> _RMSPropParamState:
        """Return zeros like the leaf; `mg` is `None` unless centered."""
        mg = zeros_like(param) if self.hyper_params.centered else None
        return _RMSPropParamState(zeros_like(param), mg)

    def stages(self, hyper_params: _RMSPropHyperParams) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        if hp.centered:
            scale = optax.scale_by_stddev(hp.beta2, hp.eps, eps_in_sqrt=False)
            fields = {"mu": "mg", "nu": "v"}
            stage = Stage(scale, optax.ScaleByRStdDevState, fields)
        else:
            scale = optax.scale_by_rms(hp.beta2, hp.eps, eps_in_sqrt=False)
            stage = Stage(scale, optax.ScaleByRmsState, {"nu": "v"})
        return [stage, self.learning_rate_stage(hp.learning_rate)]
