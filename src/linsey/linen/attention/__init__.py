"""Attention: the products, masks, and the layer with several heads.

`dot_product` turns queries, keys and values into averages, `multi_head` is the layer
with its projections and its cache for decoding. Masks are made by
`linsey.ops.attention_masks`.
"""

from linsey.linen.attention.dot_product import (
    dot_product_attention as dot_product_attention,
)
from linsey.linen.attention.dot_product import (
    dot_product_attention_weights as dot_product_attention_weights,
)
from linsey.linen.attention.multi_head import MultiHeadAttention as MultiHeadAttention
from linsey.linen.attention.multi_head import (
    MultiHeadDotProductAttention as MultiHeadDotProductAttention,
)
from linsey.linen.attention.multi_head import SelfAttention as SelfAttention
from linsey.linen.dtypes import promote_dtype as promote_dtype
from linsey.linen.initializers import zeros as zeros
from linsey.linen.linear import DenseGeneral as DenseGeneral
from linsey.linen.linear import default_kernel_init as default_kernel_init
from linsey.linen.module import Module as Module
from linsey.linen.module import compact as compact
from linsey.linen.module import merge_param as merge_param
from linsey.linen.normalization import LayerNorm as LayerNorm
from linsey.ops.attention_masks import combine_masks as combine_masks
from linsey.ops.attention_masks import make_attention_mask as make_attention_mask
from linsey.ops.attention_masks import make_causal_mask as make_causal_mask
from linsey.typing import Array as Array
from linsey.typing import DotGeneralT as DotGeneralT
from linsey.typing import Dtype as Dtype
from linsey.typing import Initializer as Initializer
from linsey.typing import PrecisionLike as PrecisionLike
from linsey.typing import PRNGKey as PRNGKey
from linsey.typing import Shape as Shape
