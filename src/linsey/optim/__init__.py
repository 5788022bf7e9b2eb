"""The classic optimizers: parameters, state and rule in one immutable object.

This is the API of `flax.optim`, which Flax removed in version 0.6, based on optax: a
*definition* (`Adam(learning_rate=1e-3)`) creates an *optimizer* that holds the
parameters as its `target`; `apply_gradient` returns the next optimizer.

    optimizer = optim.Adam(learning_rate=1e-3).create(params)
    grads = jax.grad(loss)(optimizer.target)
    optimizer = optimizer.apply_gradient(grads)

The rules are computed by optax, states are stored in the format of `flax.optim`, and
conversion to and from plain optax is possible: `OptimizerDef.to_optax`, `from_optax`,
`to_train_state`.
"""

import sys as _sys

from linsey.extras import missing as _missing

try:
    import optax as _optax  # noqa: F401
except ModuleNotFoundError as error:
    raise _missing(error, "optim", "`linsey.optim`") from error

from linsey.optim import adabelief as adabelief
from linsey.optim import adadelta as adadelta
from linsey.optim import adafactor as adafactor
from linsey.optim import adagrad as adagrad
from linsey.optim import adam as adam
from linsey.optim import base as base
from linsey.optim import dynamic_scale as dynamic_scale
from linsey.optim import lamb as lamb
from linsey.optim import lars as lars
from linsey.optim import momentum as momentum
from linsey.optim import optax_bridge as optax_bridge
from linsey.optim import optax_definition as optax_definition
from linsey.optim import rmsprop as rmsprop
from linsey.optim import sgd as sgd
from linsey.optim import state as state
from linsey.optim import weight_norm as weight_norm
from linsey.optim.adabelief import AdaBelief as AdaBelief
from linsey.optim.adadelta import Adadelta as Adadelta
from linsey.optim.adafactor import Adafactor as Adafactor
from linsey.optim.adagrad import Adagrad as Adagrad
from linsey.optim.adam import Adam as Adam
from linsey.optim.base import ModelParamTraversal as ModelParamTraversal
from linsey.optim.base import MultiOptimizer as MultiOptimizer
from linsey.optim.base import Optimizer as Optimizer
from linsey.optim.base import OptimizerDef as OptimizerDef
from linsey.optim.base import OptimizerState as OptimizerState
from linsey.optim.dynamic_scale import DynamicScale as DynamicScale
from linsey.optim.lamb import LAMB as LAMB
from linsey.optim.lars import LARS as LARS
from linsey.optim.momentum import Momentum as Momentum
from linsey.optim.optax_bridge import from_optax as from_optax
from linsey.optim.optax_bridge import from_train_state as from_train_state
from linsey.optim.optax_bridge import restore_train_state as restore_train_state
from linsey.optim.optax_bridge import to_train_state as to_train_state
from linsey.optim.rmsprop import RMSProp as RMSProp
from linsey.optim.sgd import GradientDescent as GradientDescent
from linsey.optim.weight_norm import WeightNorm as WeightNorm

# Old pickles refer to the files that used to contain the classes of `base`.
for _file in ("definition", "multi", "optimizer", "replicated"):
    _sys.modules[f"{__name__}.{_file}"] = base

__all__ = [_name for _name in globals() if not _name.startswith("_")]
