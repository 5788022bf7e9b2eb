"""The object face: modules that are pytrees and carry their variables.

Public names are those of treex 0.6 and of the tree functions that it re-exports.

    treeo/       trees: fields, kinds, flattening, filter, merge, map, compact methods
    kinds.py     what leaves are for: Parameter, BatchStat, ...
    module.py    modules: init, keys, modes
    nn/          the Linen layers as objects
    convert.py   between both faces
    losses/, metrics/, regularizers.py, optimizer.py
"""

import importlib.util

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
from linsey.treex.convert import from_linen as from_linen
from linsey.treex.convert import to_linen as to_linen
from linsey.treex.key_seq import KeySeq
from linsey.treex.kinds import (
    BatchStat,
    Cache,
    Log,
    LossLog,
    MetricLog,
    MetricState,
    ModelState,
    OptState,
    Parameter,
    Rng,
    State,
    TreePart,
)
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
from linsey.treex.optimizer import Optimizer
from linsey.treex.treeo import (
    MISSING,
    NOTHING,
    Apply,
    ArrayLike,
    Compact,
    Copy,
    Extensions,
    FieldInfo,
    FieldMetadata,
    Filter,
    FlattenMode,
    Hashable,
    KindMixin,
    Map,
    Merge,
    Missing,
    Nothing,
    Opaque,
    OpaquePredicate,
    Repr,
    ToDict,
    ToString,
    Tree,
    TreeMeta,
    add_field_info,
    apply,
    compact,
    copy,
    field,
    filter,
    flatten_mode,
    in_compact,
    map,
    merge,
    node,
    static,
    to_dict,
    to_string,
)
from linsey.treex.treex import Filters, Treex
from linsey.treex.types import Initializer, Inputs, Named
from linsey.treex.utils import Key as Key
from linsey.treex.utils import iter_split as iter_split
from linsey.version import __version__ as __version__

__all__ = [
    "MISSING",
    "MLP",
    "NOTHING",
    "Apply",
    "ArrayLike",
    "BatchNorm",
    "BatchStat",
    "Cache",
    "Compact",
    "Conv",
    "ConvTranspose",
    "Copy",
    "Dropout",
    "Embed",
    "Extensions",
    "FieldInfo",
    "FieldMetadata",
    "Filter",
    "Filters",
    "Flatten",
    "FlattenMode",
    "FlaxModule",
    "GroupNorm",
    "Hashable",
    "Initializer",
    "Inputs",
    "KeySeq",
    "KindMixin",
    "Lambda",
    "LayerNorm",
    "Linear",
    "Log",
    "Loss",
    "LossAndLogs",
    "LossLog",
    "Map",
    "Merge",
    "Metric",
    "MetricLog",
    "MetricState",
    "Missing",
    "ModelState",
    "Module",
    "ModuleMeta",
    "Named",
    "Nothing",
    "Opaque",
    "OpaquePredicate",
    "OptState",
    "Optimizer",
    "Parameter",
    "Repr",
    "Rng",
    "Sequential",
    "State",
    "ToDict",
    "ToString",
    "Tree",
    "TreeMeta",
    "TreePart",
    "Treex",
    "add_field_info",
    "apply",
    "compact",
    "compact_module",
    "copy",
    "field",
    "filter",
    "flatten_mode",
    "in_compact",
    "losses",
    "map",
    "merge",
    "metrics",
    "next_key",
    "nn",
    "node",
    "preserve_state",
    "regularizers",
    "rng_key",
    "sequence",
    "static",
    "to_dict",
    "to_string",
]

if importlib.util.find_spec("haiku") is not None:
    from linsey.treex.nn.haiku_module import HaikuModule as HaikuModule

    __all__ += ["HaikuModule"]
