"""Lifted transforms: JAX transforms of functions that use scopes.

All stand on one mechanism, `split.Lifted`; each adds only its axis logic. `axes` holds
what they share about axes, `compile`, `maps`, `loops`, `branches`, `gradients` and
`variables` the transforms.
"""

from linsey.core.filters import (
    CollectionFilter,
    DenyList,
    Filter,
    PRNGSequenceFilter,
    group_collections,
    in_filter,
    intersect_filters,
    is_filter_empty,
    subtract_filters,
    union_filters,
)
from linsey.core.lift.branches import cond, switch
from linsey.core.lift.compile import checkpoint, jit, remat
from linsey.core.lift.gradients import custom_vjp, jvp, value_and_grad, vjp
from linsey.core.lift.loops import remat_scan, scan, while_loop
from linsey.core.lift.maps import vmap
from linsey.core.lift.split import Lifted, Plan
from linsey.core.lift.variables import fold_rngs, map_variables, swap_collection
from linsey.core.rng import LazyRng
from linsey.core.scope import Scope
from linsey.typing import In, Out

__all__ = [
    "CollectionFilter",
    "DenyList",
    "Filter",
    "In",
    "LazyRng",
    "Lifted",
    "Out",
    "PRNGSequenceFilter",
    "Plan",
    "Scope",
    "checkpoint",
    "cond",
    "custom_vjp",
    "fold_rngs",
    "group_collections",
    "in_filter",
    "intersect_filters",
    "is_filter_empty",
    "jit",
    "jvp",
    "map_variables",
    "remat",
    "remat_scan",
    "scan",
    "subtract_filters",
    "swap_collection",
    "switch",
    "union_filters",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
