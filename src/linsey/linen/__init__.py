"""The functional face: modules whose variables are held outside of them.

The public names are those of Flax Linen. `module` is the module system and `transforms`
holds the lifted transforms; each layer family has a file of its own.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

import importlib
from typing import TYPE_CHECKING

from linsey.core import FrozenDict as FrozenDict
from linsey.core import broadcast as broadcast
from linsey.core import meta as meta
from linsey.core.filters import DenyList as DenyList
from linsey.core.meta import PARTITION_NAME as PARTITION_NAME
from linsey.core.meta import Partitioned as Partitioned
from linsey.core.meta import get_partition_spec as get_partition_spec
from linsey.core.meta import get_sharding as get_sharding
from linsey.core.meta import unbox as unbox
from linsey.core.meta import with_partitioning as with_partitioning
from linsey.linen import activation as activation
from linsey.linen import combinators as combinators
from linsey.linen import dtypes as dtypes
from linsey.linen import initializers as initializers
from linsey.linen import linear as linear
from linsey.linen import module as module
from linsey.linen import normalization as normalization
from linsey.linen import pooling as pooling
from linsey.linen import spmd as spmd
from linsey.linen import stochastic as stochastic
from linsey.linen import summary as summary
from linsey.linen import transforms as transforms
from linsey.linen.activation import *
from linsey.linen.combinators import Sequential as Sequential
from linsey.linen.initializers import ones as ones
from linsey.linen.initializers import ones_init as ones_init
from linsey.linen.initializers import zeros as zeros
from linsey.linen.initializers import zeros_init as zeros_init
from linsey.linen.linear.conv import *
from linsey.linen.linear.dense import *
from linsey.linen.module import Module as Module
from linsey.linen.module import Variable as Variable
from linsey.linen.module import compact_name_scope as compact_name_scope
from linsey.linen.module import share_scope as share_scope
from linsey.linen.module.functional import *
from linsey.linen.module.methods import *
from linsey.linen.normalization import BatchNorm as BatchNorm
from linsey.linen.normalization.example import *
from linsey.linen.normalization.reparameterize import *
from linsey.linen.pooling import *
from linsey.linen.spmd import LogicallyPartitioned as LogicallyPartitioned
from linsey.linen.spmd import get_logical_axis_rules as get_logical_axis_rules
from linsey.linen.spmd import logical_axis_rules as logical_axis_rules
from linsey.linen.spmd import logical_to_mesh as logical_to_mesh
from linsey.linen.spmd import logical_to_mesh_axes as logical_to_mesh_axes
from linsey.linen.spmd import logical_to_mesh_sharding as logical_to_mesh_sharding
from linsey.linen.spmd import set_logical_axis_rules as set_logical_axis_rules
from linsey.linen.spmd import with_logical_constraint as with_logical_constraint
from linsey.linen.spmd import with_logical_partitioning as with_logical_partitioning
from linsey.linen.stochastic import Dropout as Dropout
from linsey.linen.summary import tabulate as tabulate
from linsey.linen.transforms.control import *
from linsey.linen.transforms.execution import *
from linsey.linen.transforms.gradients import *

if TYPE_CHECKING:
    from linsey.linen import attention as attention
    from linsey.linen import batch_apply as batch_apply
    from linsey.linen import experimental as experimental
    from linsey.linen import fp8_ops as fp8_ops
    from linsey.linen import kw_only_dataclasses as kw_only_dataclasses
    from linsey.linen import partitioning as partitioning
    from linsey.linen import recurrent as recurrent
    from linsey.linen.attention import *
    from linsey.linen.batch_apply import BatchApply as BatchApply
    from linsey.linen.fp8_ops import *
    from linsey.linen.recurrent import *

# Names that many programs never use are imported on first access: each module class
# takes about a millisecond to create.
_LATER = {
    "attention": (
        "MultiHeadAttention MultiHeadDotProductAttention SelfAttention combine_masks "
        "dot_product_attention dot_product_attention_weights make_attention_mask "
        "make_causal_mask"
    ),
    "batch_apply": "BatchApply",
    "experimental": "",
    "fp8_ops": (
        "Fp8DirectDotGeneralOp Fp8DotGeneral Fp8DotGeneralOp Fp8Einsum "
        "NANOOFp8DotGeneralOp"
    ),
    "kw_only_dataclasses": "",
    "partitioning": "",
    "recurrent": (
        "RNN Bidirectional ConvLSTMCell GRUCell LSTMCell MGUCell OptimizedLSTMCell "
        "RNNCellBase SimpleCell"
    ),
}
_FILES = {name: file for file in _LATER for name in (file, *_LATER[file].split())}

_NOT_PUBLIC = {"TYPE_CHECKING", "importlib"}


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> object:
        if name == "__all__":  # computed here to avoid listing every name again
            return [n for n in __dir__() if n[0] != "_" and n not in _NOT_PUBLIC]
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_FILES[name]}")
        globals()[name] = module if name == _FILES[name] else getattr(module, name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
