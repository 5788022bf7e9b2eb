"""LARS: momentum with its own step size for each leaf."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from linsey import struct
from linsey.optim.base import LearningRate, Scalar
from linsey.optim.optax_definition import OptaxDefinition, Stage, takes_fields_of
from linsey.promotion import promote_types

__all__ = ["LARS"]


@struct.dataclass
class _LARSHyperParams:
    learning_rate: LearningRate = None
    beta: Scalar = 0.9
    weight_decay: Scalar = 0
    trust_coefficient: Scalar = 0.001
    eps: Scalar = 0
    nesterov: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class _LARSParamState:
    momentum: jax.Array


class LARS(OptaxDefinition):
    """Momentum of gradients that are scaled by the norm of the leaf.

        below = norm(grad) + weight_decay * norm(param) + eps
        ratio = trust_coefficient * norm(param) / below
        step = learning_rate * ratio * (grad + weight_decay * param)
        momentum = beta * momentum + step
        param -= momentum

    With Nesterov's look-ahead, the last line has `step + beta * momentum`. The norms
    are those of whole leaves; if the norm of the leaf or of its gradient is 0, the
    ratio is 1.

    Args:
        learning_rate: multiplies the whole step.
        beta: the fraction of the sum that is kept, in [0, 1).
        weight_decay: the factor of an L2 penalty.
        trust_coefficient: the length of a step as a fraction of the leaf's norm.
        eps: keeps the quotient finite.
        nesterov: whether to look ahead.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = LARS(1.0, trust_coefficient=0.1).create(jnp.array([1.0, -2.0]))
        >>> for _ in range(2):
        ...     optimizer = optimizer.apply_gradient(jnp.array([1.0, -0.5]))
        >>> [round(x, 4) for x in optimizer.target.tolist()]
        [0.4356, -1.7178]

    References:
        You et al. 2017, Large batch training of convolutional networks,
        https://arxiv.org/abs/1708.03888

    Differs from `optax.lars`, whose ratio is relative to the norm of the sum of
    gradient and weight decay.
    """

    param_state = _LARSParamState

    @takes_fields_of(_LARSHyperParams)
    def __init__(self, hyper_params: _LARSHyperParams) -> None:
        super().__init__(hyper_params)

    def stages(self, hyper_params: _LARSHyperParams) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        ratio = scale_by_layer(hp.weight_decay, hp.trust_coefficient, hp.eps)
        trace = optax.trace(hp.beta, nesterov=hp.nesterov)
        return [
            Stage(ratio),
            self.learning_rate_stage(hp.learning_rate, flip_sign=False),
            Stage(trace, optax.TraceState, {"trace": "momentum"}),
            Stage(optax.scale(-1.0)),
        ]


def scale_by_layer(
    weight_decay: Scalar, trust_coefficient: Scalar, eps: Scalar
) -> optax.GradientTransformation:
    """Return a transformation that adds weight decay and scales by the norm ratio."""

    def scaled(g: Any, p: Any) -> jax.Array:
        g_norm, p_norm = norm(g), norm(p)
        defined = (g_norm > 0) & (p_norm > 0)
        below = g_norm + weight_decay * p_norm + eps
        ratio = trust_coefficient * p_norm / jnp.where(defined, below, 1)
        ratio = jnp.where(defined, ratio, 1)
        return (g + weight_decay * p) * ratio.astype(g.dtype)

    return optax.stateless_with_tree_map(scaled)


def norm(x: jax.Array) -> jax.Array:
    """Return the 2-norm over all axes; half precision is summed in float32."""
    dtype = promote_types(x.dtype, jnp.float32)
    return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(x.astype(dtype)))))
