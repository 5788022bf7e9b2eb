"""Linear layers: dense maps, convolutions and embeddings.

Each is a list of fields and a short call: parameters are asked for by name and shape,
arrays are brought to one dtype, and a function of `linsey.ops` computes the formula.
"""

from linsey.linen.dtypes import PromoteDtypeFn, promote_dtype
from linsey.linen.linear.conv import Conv, ConvLocal
from linsey.linen.linear.conv_transpose import ConvTranspose
from linsey.linen.linear.dense import Dense, DenseGeneral, default_kernel_init
from linsey.linen.linear.einsum import Einsum
from linsey.linen.linear.embed import Embed, default_embed_init
from linsey.ops.conv import canonicalize_padding
from linsey.typing import (
    Array,
    ConvGeneralDilatedT,
    DotGeneralT,
    Dtype,
    Initializer,
    LaxPadding,
    PaddingLike,
    PrecisionLike,
    PRNGKey,
    Shape,
)

__all__ = [
    "Array",
    "Conv",
    "ConvGeneralDilatedT",
    "ConvLocal",
    "ConvTranspose",
    "Dense",
    "DenseGeneral",
    "DotGeneralT",
    "Dtype",
    "Einsum",
    "Embed",
    "Initializer",
    "LaxPadding",
    "PRNGKey",
    "PaddingLike",
    "PrecisionLike",
    "PromoteDtypeFn",
    "Shape",
    "canonicalize_padding",
    "default_embed_init",
    "default_kernel_init",
    "promote_dtype",
]
