"""Lifted transforms of modules: JAX transforms that know variables and random streams.

Each takes a module class (and gives a class), or a function whose first argument is a
module, such as a method (and gives a function). `lifting` is the mechanism, `detach`
how modules cross into a transform; what each transform does to variables is in
`linsey.core.lift`.
"""

from linsey.linen.transforms.branches import cond, switch, while_loop
from linsey.linen.transforms.compile import checkpoint, jit, remat
from linsey.linen.transforms.gradients import (
    custom_vjp,
    grad,
    jvp,
    value_and_grad,
    vjp,
)
from linsey.linen.transforms.lifting import lift_class, lift_function
from linsey.linen.transforms.maps import remat_scan, scan, vmap
from linsey.linen.transforms.variables import (
    add_metadata_axis,
    fold_rngs,
    map_variables,
    named_call,
)

__all__ = [
    "add_metadata_axis",
    "checkpoint",
    "cond",
    "custom_vjp",
    "fold_rngs",
    "grad",
    "jit",
    "jvp",
    "lift_class",
    "lift_function",
    "map_variables",
    "named_call",
    "remat",
    "remat_scan",
    "scan",
    "switch",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
