"""Linear layers: dense maps, convolutions and embeddings.

Each is a list of fields and a short call: parameters are asked for by name and shape,
arrays are brought to one dtype, and a function of `linsey.ops` computes the formula.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

import sys

from linsey.linen import initializers as initializers
from linsey.linen.dtypes import promote_dtype as promote_dtype
from linsey.linen.linear.conv import *
from linsey.linen.linear.dense import *
from linsey.linen.linear.dense import default_embed_init as default_embed_init
from linsey.linen.linear.dense import default_kernel_init as default_kernel_init
from linsey.linen.module import Module as Module  # programs look for it here too
from linsey.linen.module import compact as compact
from linsey.ops.conv import canonicalize_padding as canonicalize_padding
from linsey.typing import *

# Pickles of modules name the files of their classes; these were files once.
for _old in ("einsum", "embed"):
    sys.modules[f"{__name__}.{_old}"] = sys.modules[f"{__name__}.dense"]
