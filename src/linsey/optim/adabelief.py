"""AdaBelief, with decoupled weight decay."""

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

__all__ = ["AdaBelief"]


@struct.dataclass
class _AdaBeliefHyperParams:
    learning_rate: Any
    beta1: Any
    beta2: Any
    eps: Any
    weight_decay: Any


@struct.dataclass
class _AdaBeliefParamState:
    grad_ema: Any
    grad_sq_ema: Any


class AdaBelief(OptaxDefinition):
    r"""Adam with the average square of the gradient's distance to its average.

    $m$ as in Adam, $v \leftarrow \beta_2 v + (1 - \beta_2)(g - m)^2 + \epsilon$, both
    corrected for their start, and
    $p \leftarrow p - \eta (\hat m / (\sqrt{\hat v} + \epsilon) + \lambda p)$.

    Args:
        learning_rate: $\eta$.
        beta1: $\beta_1$, the fraction of $m$ that is kept, in [0, 1).
        beta2: $\beta_2$, the fraction of $v$ that is kept, in [0, 1).
        eps: $\epsilon$, both inside of $v$ and outside of the root.
        weight_decay: $\lambda$, not part of the gradient.

    References:
        Zhuang et al. 2020, AdaBelief optimizer, https://arxiv.org/abs/2010.07468
    """

    param_state = _AdaBeliefParamState

    def __init__(
        self,
        learning_rate: Any = None,
        beta1: Any = 0.9,
        beta2: Any = 0.999,
        eps: Any = 1e-16,
        weight_decay: Any = 0.0,
    ) -> None:
        super().__init__(
            _AdaBeliefHyperParams(learning_rate, beta1, beta2, eps, weight_decay)
        )

    def stages(self, hyper_params: Any) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        belief = optax.scale_by_belief(hp.beta1, hp.beta2, hp.eps, hp.eps)
        fields = {"mu": "grad_ema", "nu": "grad_sq_ema"}
        return [
            Stage(belief, optax.ScaleByBeliefState, fields),
            *decay_stages(hp.weight_decay),
            learning_rate_stage(self, hp.learning_rate),
        ]
