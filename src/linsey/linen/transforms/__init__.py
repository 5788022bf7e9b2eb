"""Lifted transforms of modules: JAX transforms that know variables and random streams.

Each takes a module class (and gives a class), or a function whose first argument is a
module, such as a method (and gives a function). `lifting` is the mechanism, `detach`
how modules cross into a transform; what each transform does to variables is in
`linsey.core.lift`.
"""

from linsey.linen.transforms.branches import cond as cond
from linsey.linen.transforms.branches import switch as switch
from linsey.linen.transforms.branches import while_loop as while_loop
from linsey.linen.transforms.compile import checkpoint as checkpoint
from linsey.linen.transforms.compile import jit as jit
from linsey.linen.transforms.compile import remat as remat
from linsey.linen.transforms.gradients import custom_vjp as custom_vjp
from linsey.linen.transforms.gradients import grad as grad
from linsey.linen.transforms.gradients import jvp as jvp
from linsey.linen.transforms.gradients import value_and_grad as value_and_grad
from linsey.linen.transforms.gradients import vjp as vjp
from linsey.linen.transforms.lifting import lift_class as lift_class
from linsey.linen.transforms.lifting import lift_function as lift_function
from linsey.linen.transforms.maps import remat_scan as remat_scan
from linsey.linen.transforms.maps import scan as scan
from linsey.linen.transforms.maps import vmap as vmap
from linsey.linen.transforms.variables import add_metadata_axis as add_metadata_axis
from linsey.linen.transforms.variables import fold_rngs as fold_rngs
from linsey.linen.transforms.variables import map_variables as map_variables
from linsey.linen.transforms.variables import named_call as named_call
