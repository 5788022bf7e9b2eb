"""LAMB: Adam with one step length for each leaf."""

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

__all__ = ["LAMB"]


@struct.dataclass
class _LAMBHyperParams:
    learning_rate: Any
    beta1: Any
    beta2: Any
    weight_decay: Any
    eps: Any


@struct.dataclass
class _LAMBParamState:
    grad_ema: Any
    grad_sq_ema: Any


class LAMB(OptaxDefinition):
    r"""Adam's direction, as long as the leaf that it moves.

    With the direction $u = \hat m / (\sqrt{\hat v} + \epsilon) + \lambda p$ of Adam:
    $p \leftarrow p - \eta \, (\|p\| / \|u\|) \, u$, the norms over all of the leaf.
    Where one of them is 0 the ratio is 1.

    Args:
        learning_rate: $\eta$.
        beta1: the fraction of the average gradient that is kept, in [0, 1).
        beta2: the fraction of the average square that is kept, in [0, 1).
        weight_decay: $\lambda$.
        eps: $\epsilon$, outside of the root.

    References:
        You et al. 2020, Large batch optimization for deep learning,
        https://arxiv.org/abs/1904.00962

    *Differs from* Flax before 0.6, whose ratio was 0 where the leaf is 0, so that it
    never moved, and NaN where only the direction is.
    """

    param_state = _LAMBParamState

    def __init__(
        self,
        learning_rate: Any = None,
        beta1: Any = 0.9,
        beta2: Any = 0.999,
        weight_decay: Any = 0,
        eps: Any = 1e-6,
    ) -> None:
        super().__init__(
            _LAMBHyperParams(learning_rate, beta1, beta2, weight_decay, eps)
        )

    def stages(self, hyper_params: Any) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        adam = optax.scale_by_adam(hp.beta1, hp.beta2, hp.eps)
        fields = {"mu": "grad_ema", "nu": "grad_sq_ema"}
        return [
            Stage(adam, optax.ScaleByAdamState, fields),
            *decay_stages(hp.weight_decay),
            Stage(optax.scale_by_trust_ratio()),
            learning_rate_stage(self, hp.learning_rate),
        ]
