"""Lifted transforms: JAX transforms of functions that use scopes.

All stand on one mechanism, `split.Lifted`; each adds only its axis logic. `axes` holds
what they share about axes, `compile`, `maps`, `loops`, `branches`, `gradients` and
`variables` the transforms.
"""

from linsey.core.filters import CollectionFilter as CollectionFilter
from linsey.core.filters import DenyList as DenyList
from linsey.core.filters import Filter as Filter
from linsey.core.filters import PRNGSequenceFilter as PRNGSequenceFilter
from linsey.core.filters import group_collections as group_collections
from linsey.core.filters import in_filter as in_filter
from linsey.core.filters import intersect_filters as intersect_filters
from linsey.core.filters import is_filter_empty as is_filter_empty
from linsey.core.filters import subtract_filters as subtract_filters
from linsey.core.filters import union_filters as union_filters
from linsey.core.lift.branches import cond as cond
from linsey.core.lift.branches import switch as switch
from linsey.core.lift.compile import checkpoint as checkpoint
from linsey.core.lift.compile import jit as jit
from linsey.core.lift.compile import remat as remat
from linsey.core.lift.gradients import custom_vjp as custom_vjp
from linsey.core.lift.gradients import jvp as jvp
from linsey.core.lift.gradients import value_and_grad as value_and_grad
from linsey.core.lift.gradients import vjp as vjp
from linsey.core.lift.loops import remat_scan as remat_scan
from linsey.core.lift.loops import scan as scan
from linsey.core.lift.loops import while_loop as while_loop
from linsey.core.lift.maps import vmap as vmap
from linsey.core.lift.split import Lifted as Lifted
from linsey.core.lift.split import Plan as Plan
from linsey.core.lift.split import pack as pack
from linsey.core.lift.variables import fold_rngs as fold_rngs
from linsey.core.lift.variables import map_variables as map_variables
from linsey.core.lift.variables import swap_collection as swap_collection
from linsey.core.rng import LazyRng as LazyRng
from linsey.core.scope import Scope as Scope
from linsey.typing import In as In
from linsey.typing import Out as Out
