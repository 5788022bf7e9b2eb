"""Gradient descent with momentum."""

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

__all__ = ["Momentum"]


@struct.dataclass
class _MomentumHyperParams:
    learning_rate: Any
    beta: Any
    weight_decay: Any
    nesterov: bool = struct.field(pytree_node=False)


@struct.dataclass
class _MomentumParamState:
    momentum: Any


class Momentum(OptaxDefinition):
    r"""Moves along a decaying sum of the gradients.

    $g \leftarrow g + \lambda p$, $m \leftarrow \beta m + g$ and
    $p \leftarrow p - \eta m$, or $p \leftarrow p - \eta (g + \beta m)$ with Nesterov's
    look ahead.

    Args:
        learning_rate: $\eta$.
        beta: $\beta$, the fraction of the sum that is kept, in [0, 1).
        weight_decay: $\lambda$, added to the gradient as that of an L2 penalty.
        nesterov: look ahead.

    References:
        Sutskever et al. 2013, On the importance of initialization and momentum in deep
        learning, https://proceedings.mlr.press/v28/sutskever13.html
    """

    param_state = _MomentumParamState

    def __init__(
        self,
        learning_rate: Any = None,
        beta: Any = 0.9,
        weight_decay: Any = 0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            _MomentumHyperParams(learning_rate, beta, weight_decay, nesterov)
        )

    def stages(self, hyper_params: Any) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        trace = optax.trace(hp.beta, nesterov=hp.nesterov)
        return [
            *decay_stages(hp.weight_decay),
            Stage(trace, optax.TraceState, {"trace": "momentum"}),
            learning_rate_stage(self, hp.learning_rate),
        ]
