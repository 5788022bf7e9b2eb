"""Lifted transforms of modules: JAX transforms that know variables and random streams.

Each takes a module class (and gives a class), or a function whose first argument is a
module, such as a method (and gives a function). `lifting` is the mechanism; what each
transform does to variables is in `linsey.core.lift`.
"""

# ruff: noqa: F403 (each file lists the names that it offers)

from linsey.linen.transforms.control import *
from linsey.linen.transforms.execution import *
from linsey.linen.transforms.gradients import *
from linsey.linen.transforms.lifting import lift_class as lift_class
from linsey.linen.transforms.lifting import lift_function as lift_function
