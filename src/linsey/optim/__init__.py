"""The classic optimizers: parameters, state and rule in one immutable object.

This is the API of `flax.optim`, which Flax removed in version 0.6, on optax: a
*definition* (`Adam(learning_rate=1e-3)`) creates an *optimizer* that holds the
parameters as its `target`; `apply_gradient` returns the next one.

    optimizer = optim.Adam(learning_rate=1e-3).create(params)
    grads = jax.grad(loss)(optimizer.target)
    optimizer = optimizer.apply_gradient(grads)

The rules are computed by optax, states are stored as they always were, and both ways
to plain optax are open: `OptimizerDef.to_optax`, `from_optax`, `to_train_state`.
"""

import sys

try:
    import optax as _optax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "`linsey.optim` computes with optax, which is not installed. "
        "Write `pip install 'linsey[optim]'`.",
        name="optax",
    ) from error

from linsey.optim import (
    adabelief,
    adadelta,
    adafactor,
    adagrad,
    adam,
    base,
    dynamic_scale,
    lamb,
    lars,
    momentum,
    optax_bridge,
    rmsprop,
    sgd,
    weight_norm,
)
from linsey.optim.adabelief import AdaBelief
from linsey.optim.adadelta import Adadelta
from linsey.optim.adafactor import Adafactor
from linsey.optim.adagrad import Adagrad
from linsey.optim.adam import Adam
from linsey.optim.base import (
    ModelParamTraversal,
    MultiOptimizer,
    Optimizer,
    OptimizerDef,
    OptimizerState,
)
from linsey.optim.dynamic_scale import DynamicScale
from linsey.optim.lamb import LAMB
from linsey.optim.lars import LARS
from linsey.optim.momentum import Momentum
from linsey.optim.optax_bridge import (
    from_optax,
    from_train_state,
    restore_train_state,
    to_train_state,
)
from linsey.optim.rmsprop import RMSProp
from linsey.optim.sgd import GradientDescent
from linsey.optim.weight_norm import WeightNorm

# Old pickles name the files in which the classes of `base` stood before.
for _file in ("definition", "multi", "optimizer", "replicated"):
    sys.modules[f"{__name__}.{_file}"] = base

__all__ = [
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "DynamicScale",
    "GradientDescent",
    "LAMB",
    "LARS",
    "ModelParamTraversal",
    "Momentum",
    "MultiOptimizer",
    "Optimizer",
    "OptimizerDef",
    "OptimizerState",
    "RMSProp",
    "WeightNorm",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "base",
    "dynamic_scale",
    "from_optax",
    "from_train_state",
    "lamb",
    "lars",
    "momentum",
    "optax_bridge",
    "restore_train_state",
    "rmsprop",
    "sgd",
    "to_train_state",
    "weight_norm",
]
