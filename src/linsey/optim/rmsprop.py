"""RMSProp, centered or not."""

from __future__ import annotations

from typing import Any

import optax

from linsey import struct
from linsey.optim.optax_definition import (
    OptaxDefinition,
    Stage,
    learning_rate_stage,
    zeros_like,
)

__all__ = ["RMSProp"]


@struct.dataclass
class _RMSPropHyperParams:
    learning_rate: Any
    beta2: Any
    eps: Any
    centered: bool = struct.field(pytree_node=False)


@struct.dataclass
class _RMSPropParamState:
    v: Any
    mg: Any


class RMSProp(OptaxDefinition):
    r"""Divides the gradient by the root of the average square, or of the variance.

    $v \leftarrow \beta v + (1 - \beta) g^2$ and
    $p \leftarrow p - \eta g / (\sqrt{v} + \epsilon)$; if centered, with $v - m^2$ for
    $v$ under the root, where $m \leftarrow \beta m + (1 - \beta) g$.

    Args:
        learning_rate: $\eta$.
        beta2: $\beta$, the fraction of the averages that is kept, in [0, 1).
        eps: $\epsilon$, outside of the root.
        centered: subtract the square of the average gradient.

    References:
        Tieleman & Hinton 2012, Lecture 6.5 of Neural Networks for Machine Learning;
        Graves 2013 (centered), https://arxiv.org/abs/1308.0850
    """

    param_state = _RMSPropParamState

    def __init__(
        self,
        learning_rate: Any = None,
        beta2: Any = 0.9,
        eps: Any = 1e-8,
        centered: bool = False,
    ) -> None:
        super().__init__(_RMSPropHyperParams(learning_rate, beta2, eps, centered))

    def init_param_state(self, param: Any) -> _RMSPropParamState:
        """Returns zeros like the leaf; `mg` is None unless centered."""
        centered = self.hyper_params.centered
        return _RMSPropParamState(
            zeros_like(param), zeros_like(param) if centered else None
        )

    def stages(self, hyper_params: Any) -> list[Stage]:  # noqa: D102
        hp = hyper_params
        if hp.centered:
            scale = optax.scale_by_stddev(hp.beta2, hp.eps, eps_in_sqrt=False)
            fields = {"mu": "mg", "nu": "v"}
            stage = Stage(scale, optax.ScaleByRStdDevState, fields)
        else:
            scale = optax.scale_by_rms(hp.beta2, hp.eps, eps_in_sqrt=False)
            stage = Stage(scale, optax.ScaleByRmsState, {"nu": "v"})
        return [stage, learning_rate_stage(self, hp.learning_rate)]
