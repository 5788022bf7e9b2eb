"""Linear layers: dense maps, convolutions and embeddings.

Each is a list of fields and a short `__call__`: it declares parameters by name and
shape, converts arrays to a common dtype, and calls a function of `linsey.ops` that
computes the formula.
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

# Pickles of modules name the files of their classes; these two used to be files.
for _old in ("einsum", "embed"):
    sys.modules[f"{__name__}.{_old}"] = sys.modules[f"{__name__}.dense"]
