"""The object face: modules that are pytrees and carry their variables.

Public names are those of treex 0.6 and of the tree functions that it re-exports.

    treeo/       trees: fields, flattening, filter, merge, map, compact methods
    types.py     what leaves are for: Parameter, BatchStat, ...; small values
    module.py    modules: init, keys, modes
    nn/          the Linen layers as objects, and between both faces
    losses/, metrics/, regularizers.py, optimizer.py
"""

import importlib.util
import sys

from linsey.linen import initializers as initializers
from linsey.treex import contexts as contexts
from linsey.treex import key_seq as key_seq
from linsey.treex import losses as losses
from linsey.treex import metrics as metrics
from linsey.treex import module as module
from linsey.treex import nn as nn
from linsey.treex import optimizer as optimizer
from linsey.treex import regularizers as regularizers
from linsey.treex import treeo as treeo
from linsey.treex import treex as treex
from linsey.treex import types as types
from linsey.treex import utils as utils
from linsey.treex.key_seq import KeySeq
from linsey.treex.losses import Loss
from linsey.treex.metrics import LossAndLogs, Metric
from linsey.treex.module import (
    Module,
    ModuleMeta,
    compact_module,
    next_key,
    preserve_state,
    rng_key,
)
from linsey.treex.nn import (
    MLP,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dropout,
    Embed,
    Flatten,
    FlaxModule,
    GroupNorm,
    Lambda,
    LayerNorm,
    Linear,
    Sequential,
    sequence,
)
from linsey.treex.nn.flax_module import from_linen as from_linen
from linsey.treex.nn.flax_module import to_linen as to_linen
from linsey.treex.optimizer import Optimizer
from linsey.treex.treeo import *  # noqa: F403 (exactly what it lists)
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
    *treeo.__all__,
    "MLP",
    "BatchNorm",
    "BatchStat",
    "Cache",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "Embed",
    "Filters",
    "Flatten",
    "FlaxModule",
    "GroupNorm",
    "Initializer",
    "Inputs",
    "KeySeq",
    "Lambda",
    "LayerNorm",
    "Linear",
    "Log",
    "Loss",
    "LossAndLogs",
    "LossLog",
    "Metric",
    "MetricLog",
    "MetricState",
    "ModelState",
    "Module",
    "ModuleMeta",
    "Named",
    "OptState",
    "Optimizer",
    "Parameter",
    "Rng",
    "Sequential",
    "State",
    "TreePart",
    "Treex",
    "compact_module",
    "losses",
    "metrics",
    "next_key",
    "nn",
    "preserve_state",
    "regularizers",
    "rng_key",
    "sequence",
]

if importlib.util.find_spec("haiku") is not None:
    from linsey.treex.nn.haiku_module import HaikuModule as HaikuModule

    __all__ += ["HaikuModule"]

# The kinds were in a file of their own; pickles name it.
sys.modules[f"{__name__}.kinds"] = types
