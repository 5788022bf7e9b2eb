"""Attention: the products, masks, and the layer with several heads.

`dot_product` turns queries, keys and values into averages, `masks` makes and combines
masks, `multi_head` is the layer with its projections and its cache for decoding.
"""

from linsey.linen.attention.dot_product import (
    dot_product_attention,
    dot_product_attention_weights,
)
from linsey.linen.attention.masks import (
    combine_masks,
    make_attention_mask,
    make_causal_mask,
)
from linsey.linen.attention.multi_head import (
    MultiHeadAttention,
    MultiHeadDotProductAttention,
    SelfAttention,
)
from linsey.linen.dtypes import promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear import DenseGeneral, default_kernel_init
from linsey.linen.module import Module, compact, merge_param
from linsey.linen.normalization import LayerNorm
from linsey.typing import (
    Array,
    DotGeneralT,
    Dtype,
    Initializer,
    PrecisionLike,
    PRNGKey,
    Shape,
)

__all__ = [
    "Array",
    "DenseGeneral",
    "DotGeneralT",
    "Dtype",
    "Initializer",
    "LayerNorm",
    "Module",
    "MultiHeadAttention",
    "MultiHeadDotProductAttention",
    "PRNGKey",
    "PrecisionLike",
    "SelfAttention",
    "Shape",
    "combine_masks",
    "compact",
    "default_kernel_init",
    "dot_product_attention",
    "dot_product_attention_weights",
    "make_attention_mask",
    "make_causal_mask",
    "merge_param",
    "promote_dtype",
    "zeros",
]
