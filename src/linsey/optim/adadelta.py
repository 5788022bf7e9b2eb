"""Adadelta, with decoupled weight decay."""

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

__all__ = ["Adadelta"]


@struct.dataclass
class _AdadeltaHyperParams:
    learning_rate: Any
    rho: Any
    eps: Any
    weight_decay: Any


@struct.dataclass
class _AdadeltaParamState:
    sq_avg: Any
    acc_delta: Any


class Adadelta(OptaxDefinition):
    r"""Gives the gradient the units of the parameter.

    $s \leftarrow \rho s + (1 - \rho) g^2$,
    $d = g \sqrt{a + \epsilon} / \sqrt{s + \epsilon}$,
    $p \leftarrow p - \eta (d + \lambda p)$ and
    $a \leftarrow \rho a + (1 - \rho) d^2$.

    Args:
        learning_rate: $\eta$.
        rho: $\rho$, the fraction of the averages that is kept, in [0, 1).
        eps: $\epsilon$, inside of the roots.
        weight_decay: $\lambda$, not part of the gradient.

    References:
        Zeiler 2012, ADADELTA, https://arxiv.org/abs/1212.5701
    """

    param_state = _AdadeltaParamState

    def __init__(
        self,
        learning_rate: Any = None,
        rho: Any = 0.9,
        eps: Any = 1e-6,
        weight_decay: Any = 0.0,
    ) -> None:
        super().__init__(_AdadeltaHyperParams(learning_rate, rho, eps, weight_decay))

    def stages(self, hyper_params: Any) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        adadelta = optax.scale_by_adadelta(hp.rho, hp.eps)
        fields = {"e_g": "sq_avg", "e_x": "acc_delta"}
        return [
            Stage(adadelta, optax.ScaleByAdaDeltaState, fields),
            *decay_stages(hp.weight_decay),
            learning_rate_stage(self, hp.learning_rate),
        ]
