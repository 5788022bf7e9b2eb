"""Attention: the products, masks, and the layer with several heads.

`dot_product` turns queries, keys and values into averages, `multi_head` is the layer
with its projections and its cache for decoding. Masks are made by
`linsey.ops.attention`.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from linsey.linen.attention.dot_product import *
from linsey.linen.attention.multi_head import *
from linsey.linen.dtypes import promote_dtype as promote_dtype
from linsey.linen.initializers import zeros as zeros
from linsey.linen.linear import DenseGeneral as DenseGeneral
from linsey.linen.linear import default_kernel_init as default_kernel_init
from linsey.linen.module import Module as Module
from linsey.linen.module import compact as compact
from linsey.linen.module import merge_param as merge_param
from linsey.linen.normalization import LayerNorm as LayerNorm
from linsey.ops.attention import *
from linsey.typing import Array as Array
from linsey.typing import DotGeneralT as DotGeneralT
from linsey.typing import Dtype as Dtype
from linsey.typing import Initializer as Initializer
from linsey.typing import PrecisionLike as PrecisionLike
from linsey.typing import PRNGKey as PRNGKey
from linsey.typing import Shape as Shape
