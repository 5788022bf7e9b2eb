"""The object face: modules that are pytrees and hold their variables.

The public names are those of treex 0.6 and of the tree functions that it re-exports.

    treeo/       trees: fields, flattening, filter, merge, map, compact methods
    types.py     the kinds of leaves: Parameter, BatchStat, ...; small value classes
    module.py    modules: init, keys, modes
    nn/          the Linen layers as objects, and conversion between both faces
    losses.py, metrics/, regularizers.py, optimizer.py
"""

import sys

from linsey.linen import initializers as initializers
from linsey.treex import contexts as contexts
from linsey.treex import key_seq as key_seq
from linsey.treex import losses, metrics, nn, regularizers
from linsey.treex import module as module
from linsey.treex import optimizer as optimizer
from linsey.treex import treeo as treeo
from linsey.treex import treex as treex
from linsey.treex import types as types
from linsey.treex import utils as utils
from linsey.treex.key_seq import KeySeq
from linsey.treex.losses import Loss
from linsey.treex.metrics import LossAndLogs, Metric
from linsey.treex.module import *  # noqa: F403 (lists its names)
from linsey.treex.nn import *  # noqa: F403
from linsey.treex.nn.flax_module import from_linen as from_linen
from linsey.treex.nn.flax_module import to_linen as to_linen
from linsey.treex.optimizer import Optimizer
from linsey.treex.treeo.compact import *  # noqa: F403
from linsey.treex.treeo.fields import *  # noqa: F403
from linsey.treex.treeo.flatten import *  # noqa: F403
from linsey.treex.treeo.operations import *  # noqa: F403
from linsey.treex.treeo.sentinels import *  # noqa: F403
from linsey.treex.treeo.tree import *  # noqa: F403
from linsey.treex.treex import Filters, Treex
from linsey.treex.types import (
    BatchStat,
    Cache,
    Initializer,
    Inputs,
    Log,
    LossLog,
    MetricLog,
    MetricState,
    ModelState,
    Named,
    OptState,
    Parameter,
    Rng,
    State,
    TreePart,
)
from linsey.treex.utils import Key as Key
from linsey.treex.utils import iter_split as iter_split
from linsey.version import __version__ as __version__

__all__ = [
    "BatchStat",
    "Cache",
    "Filters",
    "Initializer",
    "Inputs",
    "KeySeq",
    "Log",
    "Loss",
    "LossAndLogs",
    "LossLog",
    "Metric",
    "MetricLog",
    "MetricState",
    "ModelState",
    "Named",
    "OptState",
    "Optimizer",
    "Parameter",
    "Rng",
    "State",
    "TreePart",
    "Treex",
    "losses",
    "metrics",
    "nn",
    "regularizers",
]
__all__ += module.__all__
__all__ += treeo.__all__
__all__ += nn.__all__
__all__.remove("GRU")
__all__.remove("recurrent")

# The kinds used to be in a file of their own, which pickles name.
sys.modules[f"{__name__}.kinds"] = types
