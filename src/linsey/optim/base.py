"""The classes that all optimizers share, under the name that programs import."""

from __future__ import annotations

from linsey.optim.definition import OptimizerDef
from linsey.optim.multi import MultiOptimizer
from linsey.optim.optimizer import Optimizer
from linsey.optim.replicated import ReplicatedOptimizer
from linsey.optim.state import OptimizerState
from linsey.traverse_util import ModelParamTraversal

__all__ = [
    "ModelParamTraversal",
    "MultiOptimizer",
    "Optimizer",
    "OptimizerDef",
    "OptimizerState",
    "ReplicatedOptimizer",
]
